"""Reads what is kept beside jobs, long lists a page at a time: commands, dead letters, keys, functions, parts."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from pydantic_core import from_json
from sqlalchemy import Connection, select, text

from broker_jobs.store import schema
from broker_jobs.store.cursor import CursorPosition, cursor_of, fingerprint, place_of
from broker_jobs.store.dead_letters import dead_letter_of
from broker_jobs.store.lines import Stage
from broker_jobs.store.records import AuditRow, DeadLetterRow, ScheduleRow
from broker_jobs.store.schedules import schedule_of
from broker_jobs.store.views import (
    AuditFound,
    ComponentRow,
    DeadLettersFound,
    DeadLetterSummary,
    FunctionRow,
    UniqueRow,
)

LOOK_AT = 5_000
"""Commands one page looks at for a person or a text."""
_SLOTS_WAITED_FOR = text("SELECT key FROM line_entries WHERE job_id = :id AND stage = :stage ORDER BY key")
_FUNCTIONS = text(
    "SELECT name, origin, queue, doc, parameters, seen_at FROM functions ORDER BY name, seen_at DESC, origin"
)
_FUNCTION = text(
    "SELECT name, origin, queue, doc, parameters, seen_at FROM functions WHERE name = :name"
    " ORDER BY seen_at DESC, origin LIMIT 1"
)
_COMPONENTS = text(
    "SELECT id, kind, host, pid, version, active, seen_at FROM components ORDER BY kind, host, seen_at DESC, id"
)
_SCHEDULES = text("SELECT count(*) FROM schedules")


class Lists:
    """The part of a reader that lists everything but jobs."""

    def __init__(self, reading: Callable[[], AbstractContextManager[Connection]]) -> None:
        self._reading = reading

    def audit_page(
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

    def command(self, id: str) -> AuditRow | None:
        """One applied command, or None."""
        with self._reading() as connection:
            row = connection.execute(select(schema.audit).where(schema.audit.c.id == id)).first()
        return None if row is None else AuditRow(*row)

    def dead_letters_page(self, *, cursor: str | None = None, limit: int = 50) -> DeadLettersFound:
        """Dead letters without their bodies, the newest first.

        Raises:
            UsageError: the cursor is bad.
        """
        of = fingerprint("dead_letters")
        place = place_of(of, cursor)
        behind, values = _behind(place)
        query = (
            f"SELECT id, at, origin, reason, size, type FROM dead_letters{behind}"  # noqa: S608  # words of ours
            " ORDER BY at DESC, id DESC LIMIT :limit"
        )
        with self._reading() as connection:
            found = [DeadLetterSummary(*row) for row in connection.execute(text(query), values | {"limit": limit + 1})]
        shown = found[:limit]
        last = CursorPosition(shown[-1].at, shown[-1].id) if len(found) > limit else None
        return DeadLettersFound(shown, cursor_of(of, last))

    def dead_letter(self, id: str) -> DeadLetterRow | None:
        """One dead letter, or None."""
        with self._reading() as connection:
            row = connection.execute(select(schema.dead_letters).where(schema.dead_letters.c.id == id)).first()
        return None if row is None else dead_letter_of(row)

    def schedule(self, name: str) -> ScheduleRow | None:
        """The recurring job of a name, or None."""
        with self._reading() as connection:
            row = connection.execute(select(schema.schedules).where(schema.schedules.c.name == name)).first()
        return None if row is None else schedule_of(row)

    def schedule_count(self) -> int:
        """How many recurring jobs there are."""
        with self._reading() as connection:
            return int(connection.execute(_SCHEDULES).scalar_one())

    def slots_waited_for(self, job_id: str) -> list[str]:
        """The limits a job stands in line for: concurrency:smtp, rate:api, …"""
        with self._reading() as connection:
            return list(connection.execute(_SLOTS_WAITED_FOR, {"id": job_id, "stage": int(Stage.WAITS)}).scalars())

    def unique_keys(self, *, job_id: str | None = None, limit: int = 1_000) -> list[UniqueRow]:
        """Unique keys by key, or those a job has."""
        keys = schema.unique_keys.c
        query = select(keys.key, keys.job_id, keys.scope, keys.until).order_by(keys.key).limit(limit)
        if job_id is not None:
            query = query.where(keys.job_id == job_id)
        with self._reading() as connection:
            return [UniqueRow(*row) for row in connection.execute(query)]

    def functions(self) -> list[FunctionRow]:
        """What can be run as a job, by name; of a name that several programs declare, the newest."""
        with self._reading() as connection:
            rows = connection.execute(_FUNCTIONS).all()
        found: dict[str, FunctionRow] = {}
        for row in rows:
            if row.name not in found:
                found[row.name] = _function(row)
        return list(found.values())

    def function(self, name: str) -> FunctionRow | None:
        """One function, or None: no program has declared it."""
        with self._reading() as connection:
            row = connection.execute(_FUNCTION, {"name": name}).first()
        return None if row is None else _function(row)

    def components(self) -> list[ComponentRow]:
        """Coordinators and beats that have been heard of in the last hour."""
        with self._reading() as connection:
            rows: list[dict[str, Any]] = [row._asdict() for row in connection.execute(_COMPONENTS)]
        return [ComponentRow(**row | dict[str, Any](active=bool(row["active"]))) for row in rows]


def _behind(place: CursorPosition | None) -> tuple[str, dict[str, Any]]:
    return ("", {}) if place is None else (" WHERE (at, id) < (:key, :id)", {"key": place.key, "id": place.id})


def _last_looked_at(connection: Connection, place: CursorPosition | None) -> CursorPosition | None:
    """Where the next page goes on though this one is not full; None: all were looked at."""
    behind, values = _behind(place)
    query = f"SELECT at, id FROM audit{behind} ORDER BY at DESC, id DESC LIMIT 1 OFFSET :n"  # noqa: S608  # words of ours
    row = connection.execute(text(query), values | {"n": LOOK_AT - 1}).first()
    return None if row is None else CursorPosition(row.at, row.id)


def _function(row: Any) -> FunctionRow:
    return FunctionRow(**row._asdict() | from_json(row.parameters))


def _audit(
    by: str | None, wanted: str | None, place: CursorPosition | None, limit: int, dialect: str
) -> tuple[Any, dict[str, Any]]:
    values: dict[str, Any] = {"limit": limit, "look_at": LOOK_AT}
    names = "id, at, by, kind, subject, detail, user_id"
    source = f"SELECT {names} FROM audit"  # noqa: S608  # words of ours
    behind, where = _behind(place)
    values |= where
    source += f"{behind} ORDER BY at DESC, id DESC"
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
