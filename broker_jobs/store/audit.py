"""Keeps the commands that were applied: who sent them, and what came of them."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, select, text

from broker_jobs.clock import Instant
from broker_jobs.store import schema
from broker_jobs.store.connections import Reading, WriteConnection, cleaned, upsert
from broker_jobs.store.cursor import CursorPosition, behind, cursor_of, fingerprint, place_of
from broker_jobs.store.records import AuditRow
from broker_jobs.store.views import AuditFound

_AUDIT = upsert(schema.audit, replace=False)
_DETAIL = text("SELECT detail FROM audit WHERE id = :id")
_NOTE = text("UPDATE audit SET detail = :detail WHERE id = :id")
LOOK_AT = 5_000
"""Commands one page looks at for a person or a text."""


class AuditStore:
    """Applied commands, in a transaction."""

    __slots__ = ("_connection",)

    def __init__(self, connection: WriteConnection) -> None:
        self._connection = connection

    def add(
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
        return self._connection.write(_AUDIT, cleaned(values))

    def detail(self, id: str) -> str | None:
        """The detail noted with a command when it was applied; None: it was not."""
        return self._connection.execute(_DETAIL, {"id": id}).scalar_one_or_none()

    def note(self, id: str, detail: str) -> None:
        """Replace the detail noted with a command that is still being worked off."""
        self._connection.write(_NOTE, cleaned({"id": id, "detail": detail}))


class AuditReader:
    """Applied commands, for a reader."""

    __slots__ = ("_reading",)

    def __init__(self, reading: Reading) -> None:
        self._reading = reading

    def get(self, id: str) -> AuditRow | None:
        """One applied command, or None."""
        with self._reading() as connection:
            row = connection.execute(select(schema.audit).where(schema.audit.c.id == id)).first()
        return None if row is None else AuditRow(*row)

    def newest(self, limit: int = 100) -> list[AuditRow]:
        """The commands last applied, the newest first."""
        query = select(schema.audit).order_by(schema.audit.c.at.desc(), schema.audit.c.id.desc()).limit(limit)
        with self._reading() as connection:
            return [AuditRow(*row) for row in connection.execute(query)]

    def page(
        self, *, by: str | None = None, text: str | None = None, cursor: str | None = None, limit: int = 100
    ) -> AuditFound:
        """Applied commands, the newest first.

        Args:
            by: only of this person or program, of the next 5,000.
            text: only those whose kind, subject, detail or person contains it, of the next 5,000.
            cursor: of the page before.
            limit: at most so many.

        Raises:
            UsageError: the cursor is bad.
        """
        of = fingerprint("audit", by, text)
        with self._reading() as connection:
            place = place_of(of, cursor)
            rows = connection.execute(*_audit(by, text, place, limit + 1, connection.dialect.name)).all()
            found = [AuditRow(*row) for row in rows]
            shown = found[:limit]
            last = CursorPosition(shown[-1].at, shown[-1].id) if len(found) > limit else None
            if last is None and (by is not None or text is not None):
                last = _last_looked_at(connection, place)
        return AuditFound(shown, cursor_of(of, last))


def _last_looked_at(connection: Connection, place: CursorPosition | None) -> CursorPosition | None:
    """Where the next page goes on though this one is not full; None: all were looked at."""
    where, values = behind(place)
    query = f"SELECT at, id FROM audit{where} ORDER BY at DESC, id DESC LIMIT 1 OFFSET :n"  # noqa: S608  # words of ours
    row = connection.execute(text(query), values | {"n": LOOK_AT - 1}).first()
    return None if row is None else CursorPosition(row.at, row.id)


def _audit(
    by: str | None, wanted: str | None, place: CursorPosition | None, limit: int, dialect: str
) -> tuple[Any, dict[str, Any]]:
    values: dict[str, Any] = {"limit": limit, "look_at": LOOK_AT}
    names = "id, at, by, kind, subject, detail, user_id"
    source = f"SELECT {names} FROM audit"  # noqa: S608  # words of ours
    where, bound = behind(place)
    values |= bound
    source += f"{where} ORDER BY at DESC, id DESC"
    conditions = []
    if by is not None:
        conditions.append("by = :by")
        values["by"] = by
    if wanted is not None:
        escaped = wanted.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
        values["text"] = f"%{escaped}%"
        like = "ILIKE" if dialect == "postgresql" else "LIKE"
        columns = ("kind", "subject", "detail", "by", "user_id")
        conditions.append("(" + " OR ".join(f"{column} {like} :text ESCAPE '\\'" for column in columns) + ")")
    if not conditions:
        return text(f"{source} LIMIT :limit"), values
    return text(
        f"SELECT {names} FROM ({source} LIMIT :look_at) AS last WHERE {' AND '.join(conditions)}"  # noqa: S608
        " ORDER BY at DESC, id DESC LIMIT :limit"
    ), values
