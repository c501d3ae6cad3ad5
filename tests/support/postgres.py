"""Runs a private PostgreSQL, on loopback and a unix socket, with the durability it has in production."""

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import uuid
from pathlib import Path

import psutil
import psycopg

from tests.support.process import Lodging, ServerFailedError, ServerMissingError, end_of, free_port
from tests.support.wait import eventually

USER = "postgres"


def _find_programs() -> Path:
    """Return the folder with initdb and postgres: the newest of Debian's, or what is on PATH."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda p: float(p.parts[-3]))
    if found:
        return found[-1].parent
    if on_path := shutil.which("initdb"):
        return Path(on_path).resolve().parent
    raise ServerMissingError("PostgreSQL is not installed; on Debian: sudo apt-get install postgresql")


def _other_user() -> pwd.struct_passwd | None:
    """Return whom to run PostgreSQL as: it refuses to run as root. None for "as we are"."""
    if os.geteuid() != 0:
        return None
    for name in (USER, "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise ServerMissingError("PostgreSQL refuses to run as root, and there is no user postgres or nobody")


class Postgres:
    """A PostgreSQL server of one's own. `start` and `stop` tolerate twice and never; `dispose` ends it for good."""

    def __init__(self) -> None:
        self.port = 0
        self._programs = _find_programs()
        self._user = _other_user()
        self._lodging = Lodging("postgres")
        self._folder = self._lodging.folder
        self._data = self._folder / "data"
        self._server: subprocess.Popen[bytes] | None = None
        if self._user is not None:
            os.chown(self._folder, self._user.pw_uid, self._user.pw_gid)

    def start(self) -> None:
        """Start the server and wait until it answers. The first start makes the cluster and chooses the port."""
        if self._server is not None and self._server.poll() is None:
            return
        if not self._data.exists():
            done = subprocess.run(
                self._command("initdb", "-D", self._data, "-U", USER, "-A", "trust", "-E", "UTF8", "--no-sync"),
                capture_output=True,
                text=True,
                check=False,
                cwd=self._folder,
                env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C.UTF-8"},
            )
            if done.returncode != 0:
                raise ServerFailedError(f"initdb ended with {done.returncode}: {done.stdout}{done.stderr}")
        attempts = 1 if self.port else 3  # a port can be taken between its choice and its use
        for attempt in range(1, attempts + 1):
            if attempt > 1 or not self.port:
                self.port = free_port()
            try:
                self._boot()
            except ServerFailedError:
                if attempt == attempts:
                    raise
            else:
                return

    def stop(self) -> None:
        """Shut down in order; clients are cut off."""
        self._stop(signal.SIGINT)

    def stop_immediately(self) -> None:
        """Shut down at once, without a checkpoint: the next start recovers."""
        self._stop(signal.SIGQUIT)

    def _stop(self, how: signal.Signals) -> None:
        server, self._server = self._server, None
        if server is not None:
            if server.poll() is None:
                server.send_signal(how)
                with contextlib.suppress(subprocess.TimeoutExpired):  # killed below
                    server.wait(30)
            self._lodging.kill(server)

    def kill9(self) -> None:
        """End the server as a power cut would."""
        server, self._server = self._server, None
        if server is not None:
            own = psutil.Process(server.pid).children(recursive=True)  # each leads a group of its own
            self._lodging.kill(server)
            for process in own:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            psutil.wait_procs(own, timeout=30)  # the next server is refused while one of them has its memory

    def restart(self) -> None:
        """Shut down in order and start again, on the same port."""
        self.stop()
        self.start()

    def stand_by(self) -> None:
        """Start again in recovery, as a standby that waits for its primary: it reads and does not write."""
        self.stop()
        (self._data / "standby.signal").touch()
        self.start()

    def promote(self) -> None:
        """End the recovery, as a failover does."""
        self._execute("SELECT pg_promote()")

    def dispose(self) -> None:
        """Stop the server and remove all it wrote. May be called twice."""
        self.stop()
        self._lodging.close()

    def create_database(self) -> str:
        """Create an empty database of a name never used before; return the name."""
        name = f"t_{uuid.uuid4().hex[:12]}"
        self._execute(f'CREATE DATABASE "{name}"')
        return name

    def drop_database(self, name: str) -> None:
        """Remove a database, cutting off who is connected to it."""
        self._execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')

    def url(self, database: str) -> str:
        """Return the address for SQLAlchemy."""
        return f"postgresql+psycopg://{USER}@127.0.0.1:{self.port}/{database}"

    # --- inside ---

    def _boot(self) -> None:
        log = self._folder / "log"
        settings = {
            "port": self.port,
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": self._folder,
            "logging_collector": "off",
        }
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        server = self._lodging.start(self._command("postgres", "-D", self._data, *options), log=log)
        self._server = server

        def answers() -> bool:
            if server.poll() is not None:
                raise ServerFailedError(f"PostgreSQL ended with {server.returncode}:\n{end_of(log)}")
            try:
                self._execute("SELECT 1")
            except psycopg.OperationalError:
                return False
            return True

        eventually(answers, timeout=60, what="PostgreSQL answers")

    def _execute(self, statement: str) -> None:
        with psycopg.connect(
            f"host=127.0.0.1 port={self.port} user={USER} dbname=postgres", autocommit=True
        ) as session:
            session.execute(statement.encode())

    def _command(self, program: str, *arguments: str | Path) -> list[str]:
        command = [str(self._programs / program), *map(str, arguments)]
        if self._user is None:
            return command
        identity = [f"--reuid={self._user.pw_uid}", f"--regid={self._user.pw_gid}", "--clear-groups"]
        return ["setpriv", *identity, *command]
