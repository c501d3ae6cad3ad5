"""Keeps recurring jobs: their schedules, and how many of their runs are open."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from sqlalchemy import Row, bindparam, delete, select, text

from broker_jobs.store import schema
from broker_jobs.store.connections import Reading, WriteConnection, cleaned, in_chunks, upsert
from broker_jobs.store.records import ScheduleRow

SCHEDULES = select(schema.schedules).order_by(schema.schedules.c.name)
_NAMED = select(schema.schedules).where(schema.schedules.c.name.in_(bindparam("names", expanding=True)))
_SAVE = upsert(schema.schedules, replace=True)
_OPEN_RUNS = text("SELECT n FROM open_runs WHERE name = :name")
_ADD_OPEN_RUNS = text(
    "INSERT INTO open_runs (name, n) VALUES (:name, :n) ON CONFLICT (name) DO UPDATE SET n = open_runs.n + excluded.n"
)
_DROP_OPEN_RUNS = text("DELETE FROM open_runs WHERE name = :name AND n <= 0")
_COUNT = text("SELECT count(*) FROM schedules")


class ScheduleStore:
    """Recurring jobs, in a transaction. What is saved is written at the commit, all of them at once."""

    __slots__ = ("_connection", "_schedules", "_unsaved")

    def __init__(self, connection: WriteConnection) -> None:
        self._connection = connection
        self._schedules: dict[str, ScheduleRow | None] = {}
        """As they are in this transaction, as far as they were asked for."""
        self._unsaved: dict[str, ScheduleRow] = {}

    def get(self, name: str) -> ScheduleRow | None:
        """The recurring job of a name, or None."""
        if name not in self._schedules:
            self.know([name])
        return self._schedules[name]

    def know(self, names: Iterable[str]) -> None:
        """Read the recurring jobs of these names at once, as they will be asked for: thousands fire in one second."""
        for chunk in in_chunks([name for name in dict.fromkeys(names) if name not in self._schedules]):
            self._schedules |= dict.fromkeys(chunk)
            for row in self._connection.execute(_NAMED, {"names": chunk}):
                self._schedules[row.name] = schedule_of(row)

    def all(self) -> list[ScheduleRow]:
        """All recurring jobs, by name."""
        self.write()
        return [schedule_of(row) for row in self._connection.execute(SCHEDULES)]

    def save(self, row: ScheduleRow) -> None:
        """Add a recurring job, or replace the one of this name."""
        self._schedules[row.name] = self._unsaved[row.name] = row

    def write(self) -> None:
        """Write the recurring jobs that were saved."""
        if self._unsaved:
            values = [cleaned(asdict(row) | {"paused": int(row.paused)}) for row in self._unsaved.values()]
            self._connection.write_many(_SAVE, values)
            self._unsaved.clear()

    def remove(self, name: str) -> bool:
        """Remove a recurring job; False: there was none."""
        self.write()
        self._schedules[name] = None
        return self._connection.write(delete(schema.schedules).where(schema.schedules.c.name == name))

    # ---- runs

    def open_runs(self, name: str) -> int:
        """How many runs of a recurring job are neither gone nor aliases."""
        return int(self._connection.execute(_OPEN_RUNS, {"name": name}).scalar_one_or_none() or 0)

    def add_open_runs(self, changes: dict[str, int]) -> None:
        """Note runs that became open, or (below 0) are open no more."""
        values = [{"name": name, "n": n} for name, n in changes.items() if n]
        self._connection.write_many(_ADD_OPEN_RUNS, values)
        self._connection.write_many(_DROP_OPEN_RUNS, [{"name": value["name"]} for value in values])


class ScheduleReader:
    """Recurring jobs, for a reader."""

    __slots__ = ("_reading",)

    def __init__(self, reading: Reading) -> None:
        self._reading = reading

    def get(self, name: str) -> ScheduleRow | None:
        """The recurring job of a name, or None."""
        with self._reading() as connection:
            row = connection.execute(select(schema.schedules).where(schema.schedules.c.name == name)).first()
        return None if row is None else schedule_of(row)

    def all(self) -> list[ScheduleRow]:
        """All recurring jobs, by name."""
        with self._reading() as connection:
            return [schedule_of(row) for row in connection.execute(SCHEDULES)]

    def count(self) -> int:
        """How many recurring jobs there are."""
        with self._reading() as connection:
            return int(connection.execute(_COUNT).scalar_one())


def schedule_of(row: Row[Any]) -> ScheduleRow:
    """The value of a row of the schedules table."""
    values: dict[str, Any] = row._asdict() | {"paused": bool(row.paused)}
    return ScheduleRow(**values)
