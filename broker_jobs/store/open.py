"""Opens the store and lends it out: one transaction at a time to write, readers beside it.

Here every trouble of the database becomes a StoreError that says what to do, with no password in it.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, SQLAlchemyError

from broker_jobs.errors import StoreError
from broker_jobs.store import database
from broker_jobs.store.migrate import check, migrate, schema_of
from broker_jobs.store.migrations import STEPS, Step
from broker_jobs.store.read import Reader
from broker_jobs.store.write import Transaction, read_meta


class Store:
    """The truth in a database. Use one from several threads; `open` and `close` tolerate twice.

    Args:
        url: `sqlite://` (in memory), `sqlite:///path` or `postgresql+psycopg://…`.
        steps: the migrations this program knows.

    Raises:
        StoreError: the address is of no database we use.
    """

    def __init__(self, url: str, steps: Sequence[Step] = STEPS) -> None:
        self._address = database.address_of(url)
        self._steps = tuple(steps)
        self._engines: tuple[Engine, Engine] | None = None
        self._shared: Connection | None = None  # in memory: the one connection
        self._turn = threading.RLock()
        self._inside = False
        self.url_masked = self._address.masked
        self.reader = Reader(self._reading)

    def open(self) -> None:
        """Connect, and bring the tables to this program's schema.

        Raises:
            StoreError: unreachable, on a network file system, or of a newer schema.
        """
        with self._turn:
            if self._engines is not None:
                return
            if self._address.path is not None:
                database.prepare_file(self._address.path)
            self._engines = database.engines(self._address)
            try:
                with self._failing():
                    self._migrate(self._engines[0])
            except BaseException:
                self.close()
                raise

    def close(self) -> None:
        """Close every connection; one that another thread uses, when it has ended."""
        with self._turn:
            engines, self._engines = self._engines, None
            shared, self._shared = self._shared, None
            if shared is not None:
                shared.close()
            for engine in engines or ():
                engine.pool.dispose()

    def transaction(self) -> AbstractContextManager[Transaction]:
        """A transaction under the one lock: committed at the end, rolled back when the block raises.

        Raises:
            StoreError: the store is closed, unreachable or changed by a newer program, or the lock was not had in
                30 seconds. Whatever it is, nothing of the block is stored (or, where the connection broke during the
                commit itself, nobody knows: repeat, the records decide the same).
        """
        return self._transaction()

    @contextmanager
    def _transaction(self) -> Iterator[Transaction]:
        with self._in_turn(), self._failing(), self._writing() as connection, connection.begin():
            meta = read_meta(connection, lock=not self._address.is_sqlite)
            check(meta.schema, len(self._steps))
            transaction = Transaction(connection, meta)
            yield transaction
            transaction.finish()

    @contextmanager
    def _in_turn(self) -> Iterator[None]:
        """Let one thread of this process write at a time where the database would let them poll for the lock."""
        if not self._address.is_sqlite:
            yield
            return
        if not self._turn.acquire(timeout=database.LOCK_SECONDS):
            raise StoreError(f"the store {self.url_masked} was busy for {database.LOCK_SECONDS} seconds: try again")
        try:
            if self._inside:
                raise RuntimeError("this thread is inside a transaction of the store already")
            self._inside = True
            try:
                yield
            finally:
                self._inside = False
        finally:
            self._turn.release()

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        if self._address.in_memory:
            yield self._one_connection(self._opened()[0])
            return
        with self._connection(0) as connection:
            yield connection

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        if not self._address.in_memory:
            with self._failing(), self._connection(1) as connection:
                yield connection
            return
        with self._turn, self._failing():
            connection = self._one_connection(self._opened()[0])
            inside = connection.in_transaction()
            try:
                yield connection
            finally:
                if not inside:
                    connection.rollback()

    @contextmanager
    def _connection(self, number: int) -> Iterator[Connection]:
        engines = self._opened()
        try:
            with engines[number].connect() as connection:
                yield connection
        finally:
            if self._engines is not engines:  # closed meanwhile: the connection has gone back to a pool nobody closes
                engines[number].pool.dispose()

    def _one_connection(self, engine: Engine) -> Connection:
        if self._shared is None:
            self._shared = engine.connect()
        return self._shared

    def _opened(self) -> tuple[Engine, Engine]:
        if self._engines is None:
            raise StoreError(f"the store {self.url_masked} is not open")
        return self._engines

    def _migrate(self, engine: Engine) -> None:
        if self._address.in_memory:
            connection = self._one_connection(engine)
            with connection.begin():
                migrate(connection, self._steps)
            return
        with self._opened()[1].connect() as connection:  # without the lock, which a busy coordinator may hold
            schema = schema_of(connection)
        check(schema, len(self._steps))
        if schema < len(self._steps):
            with engine.connect() as connection, connection.begin():
                migrate(connection, self._steps)

    @contextmanager
    def _failing(self) -> Iterator[None]:
        """Turn the database's errors into StoreError; a value it cannot hold is the caller's and stays as it is."""
        try:
            yield
        except (DataError, IntegrityError):
            raise
        except Exception as error:
            told = error if isinstance(error, SQLAlchemyError) else error.__cause__  # or raised from one
            if not isinstance(told, SQLAlchemyError) or isinstance(error, StoreError) or _is_of_a_value(told):
                raise
            kind = StoreRefusedError if _may_be_of_the_data(told) else StoreError
            raise kind(f"the store {self.url_masked} cannot be used: {_said(told)}") from error


class StoreRefusedError(StoreError):
    """The database answered, and refused a transaction. It may be the data, and would be refused again."""


OUTAGE_CLASSES = frozenset({"08", "25", "28", "3D", "3F", "40", "42", "53", "55", "57", "58", "F0"})
"""Of PostgreSQL's codes: no connection, read only, no rights, no such table, deadlock, no room, shut down, no disk."""
QUERY_CANCELED = "57014"
"""A statement took longer than a limit that the server sets. What it was given may be the cause."""
SQLITE_ANSWERS = frozenset({sqlite3.SQLITE_ERROR, sqlite3.SQLITE_TOOBIG, sqlite3.SQLITE_MISMATCH, sqlite3.SQLITE_RANGE})
VALUE_CLASSES = frozenset({"21", "22", "23", "44", "54"})
"""Of PostgreSQL's codes: the value is at fault (54: too large for an index), and would be at the next try too."""


def _is_of_a_value(error: SQLAlchemyError) -> bool:
    """Whether the database lives and refuses what it was given."""
    if not isinstance(error, DBAPIError) or error.connection_invalidated:
        return False
    code = getattr(error.orig, "sqlstate", None)
    if code is not None:
        return code[:2] in VALUE_CLASSES
    return "binding parameter" in str(error.orig)  # SQLite's driver: a value of a kind it does not know


def _may_be_of_the_data(error: SQLAlchemyError) -> bool:
    """Whether the database lives and refused a statement, for a reason that is no known kind of outage."""
    if not isinstance(error, DBAPIError) or error.connection_invalidated:
        return False
    code = getattr(error.orig, "sqlstate", None)
    if code is not None:
        return code == QUERY_CANCELED or code[:2] not in OUTAGE_CLASSES
    primary = getattr(error.orig, "sqlite_errorcode", 0) & 0xFF  # its high bits tell details
    return primary in SQLITE_ANSWERS and not str(error.orig).startswith("no such ")


def _said(error: SQLAlchemyError) -> str:
    """The database's own words on one line, without the statement and its values."""
    words = str(error.orig) if isinstance(error, DBAPIError) and error.orig is not None else str(error)
    return " ".join(words.split())
