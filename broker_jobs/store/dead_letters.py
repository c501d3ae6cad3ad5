"""Keeps dead letters, messages that could not be decoded, routed or applied, and marks of messages decided alone."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from sqlalchemy import Row, delete, func, or_, select, text, tuple_

from broker_jobs.clock import Instant
from broker_jobs.store import schema
from broker_jobs.store.connections import Reading, WriteConnection, cleaned, in_chunks, upsert
from broker_jobs.store.cursor import CursorPosition, behind, cursor_of, fingerprint, place_of
from broker_jobs.store.records import DeadLetterRow
from broker_jobs.store.views import DeadLettersFound, DeadLetterSummary

DEAD_LETTERS = select(schema.dead_letters).order_by(schema.dead_letters.c.at, schema.dead_letters.c.id)
NEWER_DEAD_LETTERS = DEAD_LETTERS.where(
    or_(schema.dead_letters.c.id.like("log:newer:%"), schema.dead_letters.c.id.like("due:newer:%"))
)
"""What a newer version may have written. Commands are not among them: who asked has had no answer, and asks again."""
_ADD = upsert(schema.dead_letters, replace=False)
_MARK = upsert(schema.poison_marks, replace=False)
_KEPT = text("SELECT count(*) AS n, sum(size) AS size FROM dead_letters WHERE at >= :before")
_OLDEST = text("SELECT id, at, size FROM dead_letters ORDER BY at, id LIMIT :limit")


class DeadLetterStore:
    """Dead letters and poison marks, in a transaction."""

    __slots__ = ("_connection",)

    def __init__(self, connection: WriteConnection) -> None:
        self._connection = connection

    def add(
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
        values = asdict(row) | {"dead_lettered": int(dead_lettered), "size": len(body)}
        self._connection.write(_ADD, cleaned(values))

    def get(self, id: str) -> DeadLetterRow | None:
        """One dead letter, or None."""
        row = self._connection.execute(select(schema.dead_letters).where(schema.dead_letters.c.id == id)).first()
        return None if row is None else dead_letter_of(row)

    def oldest(self, limit: int) -> list[DeadLetterRow]:
        """Dead letters, the oldest first."""
        return [dead_letter_of(row) for row in self._connection.execute(DEAD_LETTERS.limit(limit))]

    def drop(self, id: str) -> bool:
        """Forget a dead letter; False: there was none."""
        return self._connection.write(delete(schema.dead_letters).where(schema.dead_letters.c.id == id))

    def purge(self, *, before: Instant, most: int, most_bytes: int, limit: int) -> int:
        """Remove the oldest dead letters, at most `limit`: those before an instant, and those beyond count or bytes.

        Returns:
            How many.
        """
        kept = self._connection.execute(_KEPT, {"before": before}).one()
        count, size = int(kept.n), int(kept.size or 0)
        over: list[str] = []
        for row in self._connection.execute(_OLDEST, {"limit": limit}):
            if row.at >= before:
                if count <= most and size <= most_bytes:
                    break
                count -= 1
                size -= row.size
            over.append(row.id)
        for chunk in in_chunks(over):
            self._connection.write(delete(schema.dead_letters).where(schema.dead_letters.c.id.in_(chunk)))
        self._connection.write(delete(schema.poison_marks).where(schema.poison_marks.c.at < before))
        return len(over)

    def add_mark(self, mark: str, *, at: Instant) -> bool:
        """Mark a message that is decided alone now; False: it is marked."""
        return self._connection.write(_MARK, cleaned({"hash": mark, "at": at}))

    def remove_mark(self, mark: str) -> None:
        """The message with this mark is decided."""
        self._connection.write(delete(schema.poison_marks).where(schema.poison_marks.c.hash == mark))


class DeadLetterReader:
    """Dead letters, for a reader."""

    __slots__ = ("_reading",)

    def __init__(self, reading: Reading) -> None:
        self._reading = reading

    def get(self, id: str) -> DeadLetterRow | None:
        """One dead letter, or None."""
        with self._reading() as connection:
            row = connection.execute(select(schema.dead_letters).where(schema.dead_letters.c.id == id)).first()
        return None if row is None else dead_letter_of(row)

    def oldest(self, limit: int = 100) -> list[DeadLetterRow]:
        """Dead letters, the oldest first."""
        with self._reading() as connection:
            return [dead_letter_of(row) for row in connection.execute(DEAD_LETTERS.limit(limit))]

    def newer(self, *, after: DeadLetterRow | None = None, limit: int) -> list[DeadLetterRow]:
        """Of dead letters those a newer version may have written, the oldest first, a page."""
        query = NEWER_DEAD_LETTERS.limit(limit)
        if after is not None:
            query = query.where(tuple_(schema.dead_letters.c.at, schema.dead_letters.c.id) > (after.at, after.id))
        with self._reading() as connection:
            return [dead_letter_of(row) for row in connection.execute(query)]

    def count(self) -> int:
        """How many dead letters there are."""
        with self._reading() as connection:
            return int(connection.execute(select(func.count()).select_from(schema.dead_letters)).scalar_one())

    def page(self, *, cursor: str | None = None, limit: int = 50) -> DeadLettersFound:
        """Dead letters without their bodies, the newest first.

        Raises:
            UsageError: the cursor is bad.
        """
        of = fingerprint("dead_letters")
        place = place_of(of, cursor)
        where, values = behind(place)
        query = (
            f"SELECT id, at, origin, reason, size, type FROM dead_letters{where}"  # noqa: S608  # words of ours
            " ORDER BY at DESC, id DESC LIMIT :limit"
        )
        with self._reading() as connection:
            found = [DeadLetterSummary(*row) for row in connection.execute(text(query), values | {"limit": limit + 1})]
        shown = found[:limit]
        last = CursorPosition(shown[-1].at, shown[-1].id) if len(found) > limit else None
        return DeadLettersFound(shown, cursor_of(of, last))


def dead_letter_of(row: Row[Any]) -> DeadLetterRow:
    """The value of a row of the dead letters table."""
    values: dict[str, Any] = row._asdict() | {"body": bytes(row.body), "dead_lettered": bool(row.dead_lettered)}
    del values["size"]
    return DeadLetterRow(**values)
