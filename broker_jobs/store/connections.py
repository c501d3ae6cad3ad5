"""Executes the statements of a transaction for its parts, and remembers whether any of them has changed a row."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, TypeAlias, TypeVar

from sqlalchemy import Connection, CursorResult, Executable, Table, text

from broker_jobs.store.columns import arrays_of, clean_text

T = TypeVar("T")

CHUNK = 500
"""Values of one IN list."""

Reading: TypeAlias = Callable[[], AbstractContextManager[Connection]]
"""Lends a connection for one read; every part of a reader has it."""


class WriteConnection:
    """The connection of one transaction, which all its parts share.

    `wrote` says whether one of them has changed anything: then the commit raises the serial of the store.
    """

    __slots__ = ("_connection", "_late", "is_postgresql", "wrote")

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._late: list[Callable[[], None]] = []
        self.is_postgresql = connection.dialect.name == "postgresql"
        self.wrote = False

    def execute(self, statement: Executable, values: Any = None) -> CursorResult[*tuple[Any, ...]]:
        """Execute a statement of SQLAlchemy."""
        if self._late:
            self.write_late()
        return self._connection.execute(statement, values)

    def exec_driver_sql(self, statement: str, values: Any = None) -> CursorResult[*tuple[Any, ...]]:
        """Execute a statement of the driver."""
        if self._late:
            self.write_late()
        return self._connection.exec_driver_sql(statement, values)

    def late(self, write: Callable[[], None]) -> None:
        """Call this before the next statement: what is written one by one by its parts is written together."""
        self.wrote = True
        self._late.append(write)

    def write_late(self) -> None:
        """Write what waits for the next statement."""
        late, self._late = self._late, []
        for write in late:
            write()

    def write(self, statement: Executable, values: Mapping[str, Any] | None = None) -> bool:
        """Execute a statement and say whether it changed a row."""
        changed = self.execute(statement, values).rowcount > 0
        self.wrote = self.wrote or changed
        return changed

    def write_many(self, statement: Executable, values: Sequence[Mapping[str, Any]]) -> None:
        """Execute a statement for each of these, at once."""
        if values:
            self.execute(statement, values)
            self.wrote = True

    def write_rows(self, sqlite: str, postgresql: str, rows: list[list[Any]]) -> None:
        """Execute a statement for many rows: SQLite takes one tuple a row, PostgreSQL one array a column.

        What a database's text cannot hold is replaced: NUL and half surrogates (text of jobs may have both).
        """
        if not rows:
            return
        self.wrote = True
        try:
            self._execute_rows(sqlite, postgresql, rows)
        except UnicodeEncodeError:
            # Half a surrogate, which no text of an insert has: seen before anything is sent, or repeatable.
            self._execute_rows(sqlite, postgresql, _cleaned_rows(rows))

    def _execute_rows(self, sqlite: str, postgresql: str, rows: list[list[Any]]) -> None:
        if not self.is_postgresql:
            self.exec_driver_sql(sqlite, [tuple(values) for values in rows])
            return
        arrays = arrays_of(rows)
        if any("\x00" in array for array in arrays):
            arrays = arrays_of(_cleaned_rows(rows))
        self.exec_driver_sql(postgresql, arrays)


def _cleaned_rows(rows: list[list[Any]]) -> list[list[Any]]:
    return [[clean_text(value) if isinstance(value, str) else value for value in values] for values in rows]


def upsert(table: Table, *, replace: bool) -> Any:
    """The statement that inserts a row of a table by named columns; an older one is replaced, or stays."""
    names = [column.name for column in table.columns]
    key = ", ".join(column.name for column in table.primary_key.columns)
    changes = ", ".join(f"{name} = excluded.{name}" for name in names if not table.columns[name].primary_key)
    return text(
        f"INSERT INTO {table.name} ({', '.join(names)}) VALUES ({', '.join(f':{name}' for name in names)})"  # noqa: S608
        f" ON CONFLICT ({key}) DO " + (f"UPDATE SET {changes}" if replace else "NOTHING")
    )


def cleaned(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values whose text every database can hold."""
    return {name: clean_text(value) if isinstance(value, str) else value for name, value in values.items()}


def in_chunks(values: Sequence[T], size: int = CHUNK) -> Iterable[list[T]]:
    """Lists that are short enough for one statement."""
    for start in range(0, len(values), size):
        yield list(values[start : start + size])
