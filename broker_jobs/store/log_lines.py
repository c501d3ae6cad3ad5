"""Keeps the lines that jobs write while they run."""

from __future__ import annotations

import zlib
from collections.abc import Iterable

from sqlalchemy import select, text

from broker_jobs.clock import Instant
from broker_jobs.store import schema
from broker_jobs.store.columns import clean_text
from broker_jobs.store.connections import Reading, WriteConnection
from broker_jobs.store.records import LogLineRow

_LINE = text(
    "INSERT INTO log_lines (job_id, attempt, at, digest, text) VALUES (:job_id, :attempt, :at, :digest, :text)"
    " ON CONFLICT (job_id, attempt, at, digest) DO NOTHING"
)


class LogLineStore:
    """Lines of jobs, in a transaction."""

    __slots__ = ("_connection",)

    def __init__(self, connection: WriteConnection) -> None:
        self._connection = connection

    def add(self, lines: Iterable[tuple[str, Instant, int, str]]) -> None:
        """Keep (job id, at, attempt, text) of lines that jobs wrote; the same line again changes nothing."""
        values = []
        for job_id, at, attempt, line in lines:
            words = clean_text(line)
            digest = zlib.crc32(words.encode())
            values.append({"job_id": clean_text(job_id), "at": at, "attempt": attempt, "digest": digest, "text": words})
        self._connection.write_many(_LINE, values)  # at once: there may be thousands


class LogLineReader:
    """Lines of jobs, for a reader."""

    __slots__ = ("_reading",)

    def __init__(self, reading: Reading) -> None:
        self._reading = reading

    def of(self, id: str, limit: int | None = None) -> list[LogLineRow]:
        """What a job wrote while it ran, in order; with `limit` the last so many lines."""
        lines = schema.log_lines.c
        query = select(lines.at, lines.attempt, lines.text).where(lines.job_id == id)
        newest_first = query.order_by(lines.attempt.desc(), lines.at.desc(), lines.n.desc()).limit(limit)
        with self._reading() as connection:
            return [LogLineRow(*line) for line in connection.execute(newest_first)][::-1]
