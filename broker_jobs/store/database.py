"""Connects to SQLite or PostgreSQL: addresses, engines, pragmas, and the file systems a SQLite file must not be on.

Two engines for a file or a server: one to write, one to read. In memory there is one connection for everything.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy
from sqlalchemy import URL, Engine, StaticPool, event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from broker_jobs.errors import MissingExtra, StoreError

logger = logging.getLogger(__name__)

LOCK_SECONDS = 30
"""How long a transaction waits for the one before it."""
IDLE_TRANSACTION_SECONDS = 60
"""PostgreSQL ends a transaction that does nothing so long: a coordinator cut off from it must not keep the lock."""
NETWORK_FILE_SYSTEMS = frozenset(
    """9p afpfs afs beegfs ceph cifs davfs fuse.glusterfs fuse.rclone fuse.s3fs fuse.sshfs gfs2 glusterfs gpfs lustre
    ncpfs nfs nfs4 ocfs2 smb2 smb3 smbfs""".split()  # noqa: SIM905  # reads better than 22 quotes
)
_making = threading.Lock()
"""Held while a file is made: who finds it there opens it after it was closed."""
EXAMPLES = "write sqlite:///path/to/store.db or postgresql+psycopg://user:password@host/database"


@dataclass(frozen=True, slots=True)
class Address:
    """Where the store is. `path` is set for a SQLite file."""

    url: URL
    masked: str
    path: Path | None
    in_memory: bool

    @property
    def is_sqlite(self) -> bool:
        """Whether it is SQLite, in memory or in a file."""
        return self.in_memory or self.path is not None


def address_of(url: str) -> Address:
    """Understand an address: `sqlite://` (in memory), `sqlite:///path`, `postgresql+psycopg://…` (or `postgresql://…`).

    Raises:
        StoreError: it is no address of a database we use.
    """
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise StoreError(f"the store's address cannot be understood: {EXAMPLES}") from None
    backend = parsed.drivername.split("+")[0]
    if backend in {"postgresql", "postgres"}:
        parsed = parsed.set(drivername="postgresql+psycopg")
        return Address(parsed, parsed.render_as_string(hide_password=True), None, in_memory=False)
    if backend != "sqlite":
        raise StoreError(f"no store of kind {backend!r}: {EXAMPLES}")
    if parsed.database in {None, "", ":memory:"}:
        return Address(sqlalchemy.make_url("sqlite://"), "sqlite://", None, in_memory=True)
    if str(parsed.database).startswith("file:"):
        raise StoreError(f"a store in a file: URI is not supported: {EXAMPLES}")
    path = Path(str(parsed.database)).expanduser().absolute()
    parsed = parsed.set(drivername="sqlite", database=str(path))
    return Address(parsed, parsed.render_as_string(hide_password=True), path, in_memory=False)


def prepare_file(path: Path) -> None:
    """Make a SQLite file and its folder, for their owner alone, as arguments of jobs may be secret.

    A file that is there keeps its rights, but for one that all users of the machine may read or write, as it was made
    without a decision: if it is ours it becomes its owner's alone. SQLite gives the files beside it the rights it has.

    Raises:
        StoreError: the folder cannot be made, or is on a network file system, where locks and WAL do not hold.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"the folder of the store {path} cannot be made: {error.strerror or error}") from error
    kind = file_system_of(path.parent.resolve())
    if kind in NETWORK_FILE_SYSTEMS:
        raise StoreError(
            f"the store {path} is on a network file system ({kind}), where SQLite corrupts its file:"
            " put it on a local disk, or use PostgreSQL"
        )

    with _making:
        _make_private(path)
    if os.name == "posix":
        for each in (path, *(path.with_name(path.name + ending) for ending in ("-wal", "-shm", "-journal"))):
            _take_from_all(each)


def _make_private(path: Path) -> None:
    """Make the file unless it is there. Where that fails SQLite says why.

    Its mode is given as it is made, so that it is never readable to others. A file that is there is not opened: to
    close it again would drop the locks that other connections of this process have on it.
    """
    with contextlib.suppress(OSError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))


def _take_from_all(path: Path) -> None:
    """Give a file to its owner alone if all users have rights on it; rights of its group alone were given by somebody.

    Of what is another user's, that user's processes say it.
    """
    try:
        found = path.stat()
        if not found.st_mode & 0o007 or found.st_uid != os.geteuid():
            return
        path.chmod(0o600)
    except OSError as error:
        if not isinstance(error, FileNotFoundError):
            logger.warning("all users may read %s, and its rights cannot be changed: %s", path, error.strerror or error)
        return
    logger.warning("all users could read %s: it is its owner's alone now", path)


def file_system_of(folder: Path, mounts: Path = Path("/proc/self/mounts")) -> str:
    """The kind of the file system a folder is on; empty where the system does not tell."""
    if str(folder).startswith("\\\\"):
        return "smbfs"
    try:
        lines = mounts.read_text(errors="replace").splitlines()
    except OSError:
        return ""
    best, kind = -1, ""
    for line in lines:
        fields = line.split(" ")
        if len(fields) < 3:
            continue
        at = Path(fields[1].replace("\\040", " "))
        if (folder == at or at in folder.parents) and len(str(at)) >= best:
            best, kind = len(str(at)), fields[2]
    return kind


def engines(address: Address) -> tuple[Engine, Engine]:
    """The engine to write with and the one to read with; in memory they are the same.

    Raises:
        MissingExtra: the driver for PostgreSQL is not installed.
    """
    if address.in_memory:
        engine = sqlalchemy.create_engine(
            address.url,
            hide_parameters=True,
            poolclass=StaticPool,
            pool_reset_on_return=None,
            connect_args={"check_same_thread": False, "timeout": LOCK_SECONDS},
        )
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_immediate)
        return engine, engine
    if address.is_sqlite:
        options: dict[str, Any] = {
            "connect_args": {"check_same_thread": False, "timeout": LOCK_SECONDS},
            "hide_parameters": True,  # of errors: they are kept and logged, and the values may be secrets
        }
        writing = sqlalchemy.create_engine(address.url, pool_size=1, max_overflow=0, **options)
        event.listen(writing, "connect", _prepare_sqlite)
        event.listen(writing, "begin", _begin_immediate)
        reading = sqlalchemy.create_engine(address.url, **options)
        event.listen(reading, "connect", _prepare_sqlite_to_read)
        return writing, reading
    keepalive = {"keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3}
    options = {
        "pool_pre_ping": True,
        "hide_parameters": True,
        "connect_args": {"connect_timeout": 10, **keepalive, **address.url.query},
    }
    try:
        writing = sqlalchemy.create_engine(address.url, **options)
        reading = sqlalchemy.create_engine(address.url, isolation_level="AUTOCOMMIT", **options)
    except ImportError as error:  # not there, or without libpq, which the extra brings too
        raise MissingExtra("a store in PostgreSQL", ["postgres"], ["psycopg"]) from error
    for engine in (writing, reading):
        event.listen(engine, "connect", _prepare_postgresql)
    return writing, reading


def _prepare_sqlite(connection: Any, _record: object) -> None:
    """FULL: a commit survives a power cut, and the log is acknowledged on its word."""
    connection.isolation_level = None  # transactions begin where we say so
    connection.execute("PRAGMA foreign_keys = OFF")
    connection.execute(f"PRAGMA busy_timeout = {LOCK_SECONDS * 1000}")
    _use_wal(connection)
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA fullfsync = ON")  # macOS, where fsync alone leaves it in the disk's cache
    connection.execute("PRAGMA cache_size = -16384")  # KiB
    connection.execute("PRAGMA temp_store = MEMORY")
    connection.execute("PRAGMA wal_autocheckpoint = 4000")
    connection.execute("PRAGMA journal_size_limit = 67108864")


def _use_wal(connection: Any) -> None:
    """Switch to WAL; SQLite does not wait for its lock here, so several processes that start at once are patient."""
    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL").fetchone()
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def _prepare_sqlite_to_read(connection: Any, _record: object) -> None:
    connection.isolation_level = None
    connection.execute(f"PRAGMA busy_timeout = {LOCK_SECONDS * 1000}")
    connection.execute("PRAGMA query_only = ON")


def _begin_immediate(connection: sqlalchemy.Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def _prepare_postgresql(connection: Any, _record: object) -> None:
    """Our schema, bounded waits, and commits that survive a power cut even where the server's default is otherwise."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT set_config('lock_timeout', %s, false),"
            " set_config('idle_in_transaction_session_timeout', %s, false)",
            (f"{LOCK_SECONDS}s", f"{IDLE_TRANSACTION_SECONDS}s"),
        )
        cursor.execute(
            "SELECT set_config('search_path', 'broker_jobs', false)"
            """ WHERE current_setting('search_path') IN ('"$user", public', '"$user",public')"""
        )
        cursor.execute(
            "SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'"
        )
    connection.commit()
