"""Starts and ends the programs that tests run, so that none outlives its test run, however that ends."""

import contextlib
import fcntl
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, ClassVar


class ServerMissingError(Exception):
    """The program is not installed; the message says what to install."""


class ServerFailedError(Exception):
    """The program was started and did not come up; the message holds the end of its log."""


PORTS = range(20_000, 32_000)
"""Not the range of outgoing connections: while a server is down, a client that keeps reconnecting to such a port can be
given it as its own and connect to itself, after which the server cannot come back."""


ROOM_IN_MEMORY = 6 * 1024**3
"""Bytes; a RabbitMQ's log takes up to half a GiB, and the shipped one stops while less than 2 GB are free."""


class _PortRegistry:
    """Hands out each port to one process of this machine at a time, until that process ends.

    A bind alone does not keep two processes from choosing the same port, as both let it go before their servers take
    it. So the process holds a lock on one byte of a file for each of its ports. The kernel drops the locks with the
    process, however that ends.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._descriptor: int | None = None
        self._ours: set[int] = set()
        self._lock = threading.Lock()

    def claim(self, port: int) -> bool:
        """Whether the port is this caller's from now on; False where any process, this one too, holds it already."""
        with self._lock:
            if port in self._ours:  # a process's own locks do not exclude each other
                return False
            if self._descriptor is None:
                # Kept open: closing any descriptor of the file drops all locks of the process.
                self._descriptor = os.open(self._file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.lockf(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
            except OSError:
                return False
            self._ours.add(port)
            return True


_ports = _PortRegistry(Path(tempfile.gettempdir()) / f"broker-jobs-test-ports-{os.getuid()}")


def free_port(among: Sequence[int] = PORTS) -> int:
    """Choose a TCP port of loopback that nobody listens on and that no other test process has chosen.

    Callers repeat their start all the same: a program that is none of the tests may take it first.
    """
    for port in random.sample(among, len(among)):
        if not _ports.claim(port):
            continue
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
    raise ServerFailedError(f"no port is free among {among}")


def accepts_connections(port: int) -> bool:
    """Tell whether somebody listens on this port of loopback."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def end_of(log: Path, lines: int = 30) -> str:
    """Return the last lines of a log, for an error message."""
    try:
        return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])
    except OSError as error:
        return f"(no log: {error})"


def freeze(pid: int) -> None:
    """Stop a child of this process where it stands, and wait until none of its threads runs.

    The signal alone returns while they still do: on a busy machine a frozen server answers one more request.
    """
    os.kill(pid, signal.SIGSTOP)
    os.waitid(os.P_PID, pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)  # or its end, which is left to who waits for it


def folder_in_memory() -> Path | None:
    """A folder that lies in memory, in which programs may run and that has room; None where there is none."""
    folder = Path("/dev/shm")
    try:
        found = os.statvfs(folder)
    except OSError:
        return None
    has_room = found.f_bavail * found.f_frsize >= ROOM_IN_MEMORY
    return folder if has_room and not found.f_flag & os.ST_NOEXEC and os.access(folder, os.W_OK | os.X_OK) else None


class Lodging:
    """A temporary folder and the processes that live in it; both are gone when the test run is.

    Each process is started in a group of its own. A shell, out of reach of Ctrl-C, holds the other end of a pipe: when
    this program ends in any way, kill -9 included, the pipe closes; the shell kills the groups and removes the folder.
    """

    home: ClassVar[Path | None] = None
    """Where the folders are made; None: where this machine has its temporary files."""

    _WATCH = """
        while read -r line; do groups=$line; done
        for group in $groups; do kill -s KILL -- "-$group" 2>/dev/null; done
        rm -rf -- "$1"
    """

    def __init__(self, name: str, parent: Path | None = None) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix=f"broker-jobs-{name}-", dir=parent or self.home))
        self._processes: list[subprocess.Popen[bytes]] = []
        self._watch: subprocess.Popen[bytes] | None = subprocess.Popen(
            ["/bin/sh", "-c", self._WATCH, "watch", str(self.folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,
        )

    def start(
        self, command: Sequence[str | Path], *, log: Path, env: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        """Start a program in a group of its own, with its output appended to `log`."""
        output: IO[bytes]
        with log.open("ab") as output:
            process = subprocess.Popen(
                [str(word) for word in command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=None if env is None else dict(env),
                cwd=self.folder,
                start_new_session=True,
            )
        self._processes.append(process)
        self._tell_watch()
        return process

    def kill(self, process: subprocess.Popen[bytes]) -> None:
        """Kill -9 a program and all of its group, frozen or not, and wait until it is gone."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(30)
        if process in self._processes:
            self._processes.remove(process)
            self._tell_watch()

    def close(self) -> None:
        """Kill what still runs and remove the folder. May be called twice."""
        for process in list(self._processes):
            self.kill(process)
        shutil.rmtree(self.folder, ignore_errors=True)
        watch, self._watch = self._watch, None
        if watch is not None:
            watch.communicate()

    def _tell_watch(self) -> None:
        if self._watch is not None and self._watch.stdin is not None:
            self._watch.stdin.write((" ".join(str(p.pid) for p in self._processes) + "\n").encode())
            self._watch.stdin.flush()
