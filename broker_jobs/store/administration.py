"""Keeps what the store holds beside jobs: schedules, queues, workers, dead letters, applied commands, job lines."""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from pydantic_core import to_json
from sqlalchemy import Connection, Row, Table, bindparam, delete, or_, select, text

from broker_jobs.clock import Instant
from broker_jobs.store import schema
from broker_jobs.store.columns import clean_text
from broker_jobs.store.records import DeadLetterRow, ScheduleRow, SubscriptionRow, WorkerRow
from broker_jobs.store.views import ComponentRow, FunctionRow

_PAUSE = text(
    "INSERT INTO queues (name, paused) VALUES (:name, :paused)"
    " ON CONFLICT (name) DO UPDATE SET paused = excluded.paused WHERE queues.paused <> excluded.paused"
)
_DECLARE = text("INSERT INTO queues (name, paused) VALUES (:name, 0) ON CONFLICT (name) DO NOTHING")
_AUDITED = text("SELECT detail FROM audit WHERE id = :id")
_NOTE = text("UPDATE audit SET detail = :detail WHERE id = :id")
_LINE = text(
    "INSERT INTO log_lines (job_id, attempt, at, digest, text) VALUES (:job_id, :attempt, :at, :digest, :text)"
    " ON CONFLICT (job_id, attempt, at, digest) DO NOTHING"
)


def upsert(table: Table, *, replace: bool) -> Any:
    """The statement that inserts a row of a table by named columns; an older one is replaced, or stays."""
    names = [column.name for column in table.columns]
    key = ", ".join(column.name for column in table.primary_key.columns)
    changes = ", ".join(f"{name} = excluded.{name}" for name in names if not table.columns[name].primary_key)
    return text(
        f"INSERT INTO {table.name} ({', '.join(names)}) VALUES ({', '.join(f':{name}' for name in names)})"  # noqa: S608
        f" ON CONFLICT ({key}) DO " + (f"UPDATE SET {changes}" if replace else "NOTHING")
    )


CHUNK = 500
"""Values of one IN list."""
_SCHEDULES_NAMED = select(schema.schedules).where(schema.schedules.c.name.in_(bindparam("names", expanding=True)))
_SAVE_SCHEDULE = upsert(schema.schedules, replace=True)
_SAVE_WORKER = upsert(schema.workers, replace=True)
_ADD_WORKER = upsert(schema.workers, replace=False)
_AUDIT = upsert(schema.audit, replace=False)
_SUBSCRIBE = upsert(schema.subscriptions, replace=True)
_SAVE_FUNCTION = upsert(schema.functions, replace=True)
_FORGET_FUNCTIONS = text("DELETE FROM functions WHERE origin = :origin AND seen_at < :before")
_SAVE_COMPONENT = text(
    "INSERT INTO components (id, kind, host, pid, version, active, seen_at)"
    " VALUES (:id, :kind, :host, :pid, :version, :active, :seen_at)"
    " ON CONFLICT (id, kind) DO UPDATE SET host = excluded.host, pid = excluded.pid, version = excluded.version,"
    " active = excluded.active, seen_at = excluded.seen_at WHERE components.seen_at <= excluded.seen_at"
)
_STAND_BY = text("UPDATE components SET active = 0 WHERE kind = 'coordinator' AND id <> :id AND active = 1")
_MARK = upsert(schema.poison_marks, replace=False)
_DEAD_LETTERS_KEPT = text("SELECT count(*) AS n, sum(size) AS size FROM dead_letters WHERE at >= :before")
_OLDEST_DEAD_LETTERS = text("SELECT id, at, size FROM dead_letters ORDER BY at, id LIMIT :limit")
_DEAD_LETTER = upsert(schema.dead_letters, replace=False)


def schedule_of(row: Row[Any]) -> ScheduleRow:
    """The value of a row of the schedules table."""
    values: dict[str, Any] = row._asdict() | {"paused": bool(row.paused)}
    return ScheduleRow(**values)


def worker_of(row: Row[Any]) -> WorkerRow:
    """The value of a row of the workers table."""
    values: dict[str, Any] = row._asdict()
    queues = tuple(name for name in values["queues"].split(",") if name)
    return WorkerRow(**values | {"queues": queues, "lost": bool(values["lost"])})


def _worker_values(row: WorkerRow) -> dict[str, Any]:
    return asdict(row) | {"queues": ",".join(row.queues), "lost": int(row.lost)}


def dead_letter_of(row: Row[Any]) -> DeadLetterRow:
    """The value of a row of the dead-lettered table."""
    values: dict[str, Any] = row._asdict() | {"body": bytes(row.body), "dead_lettered": bool(row.dead_lettered)}
    del values["size"]
    return DeadLetterRow(**values)


class Administration:
    """The half of a transaction that keeps everything but jobs."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._wrote = False
        self._schedules: dict[str, ScheduleRow | None] = {}
        """As they are in this transaction, as far as they were asked for."""
        self._unsaved: dict[str, ScheduleRow] = {}

    def schedule(self, name: str) -> ScheduleRow | None:
        """The recurring job of a name, or None."""
        if name not in self._schedules:
            self.know_schedules([name])
        return self._schedules[name]

    def know_schedules(self, names: Iterable[str]) -> None:
        """Read the recurring jobs of these names at once, as they will be asked for: thousands fire in one second."""
        unknown = [name for name in dict.fromkeys(names) if name not in self._schedules]
        for start in range(0, len(unknown), CHUNK):
            chunk = unknown[start : start + CHUNK]
            self._schedules |= dict.fromkeys(chunk)
            for row in self._connection.execute(_SCHEDULES_NAMED, {"names": chunk}):
                self._schedules[row.name] = schedule_of(row)

    def schedules(self) -> list[ScheduleRow]:
        """All recurring jobs, by name."""
        self.write_schedules()
        return [schedule_of(row) for row in self._connection.execute(SCHEDULES)]

    def save_schedule(self, row: ScheduleRow) -> None:
        """Add a recurring job, or replace the one of this name; at the commit, all of them at once."""
        self._schedules[row.name] = self._unsaved[row.name] = row

    def write_schedules(self) -> None:
        """Write the recurring jobs that were saved."""
        if self._unsaved:
            values = [asdict(row) | {"paused": int(row.paused)} for row in self._unsaved.values()]
            cleaned = [{k: clean_text(v) if isinstance(v, str) else v for k, v in row.items()} for row in values]
            self._connection.execute(_SAVE_SCHEDULE, cleaned)
            self._unsaved.clear()
            self._wrote = True

    def remove_schedule(self, name: str) -> bool:
        """Remove a recurring job; False: there was none."""
        self.write_schedules()
        self._schedules[name] = None
        return self._write(delete(schema.schedules).where(schema.schedules.c.name == name))

    def subscriptions(self, event: str) -> list[SubscriptionRow]:
        """Who gets a job for an event."""
        query = select(schema.subscriptions).where(schema.subscriptions.c.event == event)
        return [SubscriptionRow(*row) for row in self._connection.execute(query.order_by("origin", "job"))]

    def save_subscriptions(self, origin: str, rows: Iterable[SubscriptionRow]) -> None:
        """These are the subscriptions of an origin, and no others."""
        self._write(delete(schema.subscriptions).where(schema.subscriptions.c.origin == origin))
        for row in rows:
            self._write(_SUBSCRIBE, asdict(row))

    def save_functions(self, origin: str, functions: Iterable[FunctionRow], *, at: Instant, last: bool) -> None:
        """Keep functions a program's code can run, declared at an instant; with the last those declared before go."""
        for row in functions:
            described = to_json({"parameters": row.parameters, "options": row.options}).decode()
            values = asdict(row) | {"origin": origin, "seen_at": at, "parameters": described}
            del values["options"]
            self._write(_SAVE_FUNCTION, values)
        if last:
            self._write(_FORGET_FUNCTIONS, {"origin": origin, "before": at})

    def save_component(self, row: ComponentRow) -> None:
        """A coordinator or beat lives, which have one id in one program; of coordinators one at most is active."""
        self._write(_SAVE_COMPONENT, asdict(row) | {"active": int(row.active)})
        if row.kind == "coordinator" and row.active:
            self._write(_STAND_BY, {"id": row.id})

    def paused_queues(self) -> list[str]:
        """The queues that are paused."""
        query = select(schema.queues.c.name).where(schema.queues.c.paused == 1).order_by(schema.queues.c.name)
        return list(self._connection.execute(query).scalars())

    def pause_queue(self, queue: str, paused: bool) -> bool:
        """Pause a queue or let it go on; False: it is so already."""
        if not paused and queue not in self.paused_queues():
            return False
        return self._write(_PAUSE, {"name": queue, "paused": int(paused)})

    def queues(self) -> list[str]:
        """Every queue a saved job had, or that was declared or paused."""
        return list(self._connection.execute(QUEUES).scalars())

    def declare_queues(self, queues: Iterable[str]) -> None:
        """Keep the names of queues that may have had no job yet."""
        for queue in set(queues) - set(self.queues()):
            self._write(_DECLARE, {"name": queue})

    def audit(
        self,
        id: str,
        *,
        at: Instant,
        by: str,
        kind: str,
        subject: str,
        detail: str = "",
        user_id: str = "",
    ) -> bool:
        """Note that a command is applied now; False: it was before, so apply it no more."""
        values = {
            "id": id, "at": at, "by": by, "kind": kind, "subject": subject, "detail": detail, "user_id": user_id,
        }  # fmt: skip
        return self._write(_AUDIT, values)

    def audited(self, id: str) -> str | None:
        """The detail noted with a command when it was applied; None: it was not."""
        return self._connection.execute(_AUDITED, {"id": id}).scalar_one_or_none()

    def note(self, id: str, detail: str) -> None:
        """Replace the detail noted with a command that is still being worked off."""
        self._write(_NOTE, {"id": id, "detail": detail})

    def add_dead_letter(
        self,
        id: str,
        *,
        at: Instant,
        origin: str,
        reason: str,
        body: bytes,
        exchange: str = "",
        key: str = "",
        type: str = "",  # noqa: A002  # as AMQP names it
        message_id: str = "",
        user_id: str = "",
        dead_lettered: bool = False,
    ) -> None:
        """Keep a message that could not be read or decided, with the reason; the first of an id stays."""
        row = DeadLetterRow(id, at, origin, reason, body, exchange, key, type, message_id, user_id, dead_lettered)
        self._write(_DEAD_LETTER, asdict(row) | {"dead_lettered": int(dead_lettered), "size": len(body)})

    def purge_dead_letters(self, *, before: Instant, most: int, most_bytes: int, limit: int) -> int:
        """Remove the oldest dead letters, at most `limit`: those before an instant, and those beyond count or bytes.

        Returns:
            How many.
        """
        kept = self._connection.execute(_DEAD_LETTERS_KEPT, {"before": before}).one()
        count, size = int(kept.n), int(kept.size or 0)
        over: list[str] = []
        for row in self._connection.execute(_OLDEST_DEAD_LETTERS, {"limit": limit}):
            if row.at >= before:
                if count <= most and size <= most_bytes:
                    break
                count -= 1
                size -= row.size
            over.append(row.id)
        for start in range(0, len(over), CHUNK):
            self._write(delete(schema.dead_letters).where(schema.dead_letters.c.id.in_(over[start : start + CHUNK])))
        self._write(delete(schema.poison_marks).where(schema.poison_marks.c.at < before))
        return len(over)

    def add_poison_mark(self, mark: str, *, at: Instant) -> bool:
        """Mark a message that is decided alone now; False: it is marked."""
        return self._write(_MARK, {"hash": mark, "at": at})

    def remove_poison_mark(self, mark: str) -> None:
        """The message with this mark is decided."""
        self._write(delete(schema.poison_marks).where(schema.poison_marks.c.hash == mark))

    def dead_letters(self, limit: int) -> list[DeadLetterRow]:
        """Dead letters, the oldest first."""
        return [dead_letter_of(row) for row in self._connection.execute(DEAD_LETTERS.limit(limit))]

    def dead_letter(self, id: str) -> DeadLetterRow | None:
        """One dead letter, or None."""
        row = self._connection.execute(select(schema.dead_letters).where(schema.dead_letters.c.id == id)).first()
        return None if row is None else dead_letter_of(row)

    def drop_dead_letter(self, id: str) -> bool:
        """Forget a dead letter; False: there was none."""
        return self._write(delete(schema.dead_letters).where(schema.dead_letters.c.id == id))

    def save_worker(self, row: WorkerRow) -> None:
        """Add a worker, or replace what is known of it."""
        self._write(_SAVE_WORKER, _worker_values(row))

    def add_worker(self, row: WorkerRow) -> None:
        """Add a worker; what is known of it already stays."""
        self._write(_ADD_WORKER, _worker_values(row))

    def workers(self) -> list[WorkerRow]:
        """All workers known, by host and slot."""
        return [worker_of(row) for row in self._connection.execute(WORKERS)]

    def release_of(self, worker: str) -> str:
        """The version that a worker has reported; empty: it is not known."""
        query = select(schema.workers.c.version).where(schema.workers.c.id == worker)
        return self._connection.execute(query).scalar_one_or_none() or ""

    def remove_worker(self, id: str) -> bool:
        """Forget a worker; False: there was none."""
        return self._write(delete(schema.workers).where(schema.workers.c.id == id))

    def add_lines(self, lines: Iterable[tuple[str, Instant, int, str]]) -> None:
        """Keep (job id, at, attempt, text) of lines that jobs wrote; the same line again changes nothing."""
        values = []
        for job_id, at, attempt, line in lines:
            words = clean_text(line)
            digest = zlib.crc32(words.encode())
            values.append({"job_id": clean_text(job_id), "at": at, "attempt": attempt, "digest": digest, "text": words})
        if values:
            self._connection.execute(_LINE, values)  # at once: there may be thousands
            self._wrote = True

    def _write(self, statement: Any, values: dict[str, Any] | None = None) -> bool:
        """Execute and say whether it changed a row."""
        cleaned = {k: clean_text(v) if isinstance(v, str) else v for k, v in (values or {}).items()}
        changed = int(self._connection.execute(statement, cleaned).rowcount) > 0
        self._wrote = self._wrote or changed
        return changed


SCHEDULES = select(schema.schedules).order_by(schema.schedules.c.name)
QUEUES = select(schema.queues.c.name).order_by(schema.queues.c.name)
WORKERS = select(schema.workers).order_by(schema.workers.c.host, schema.workers.c.slot, schema.workers.c.id)
DEAD_LETTERS = select(schema.dead_letters).order_by(schema.dead_letters.c.at, schema.dead_letters.c.id)
NEWER_DEAD_LETTERS = DEAD_LETTERS.where(
    or_(schema.dead_letters.c.id.like("log:newer:%"), schema.dead_letters.c.id.like("due:newer:%"))
)
"""What a newer version may have written. Commands are not among them: who asked has had no answer, and asks again."""
