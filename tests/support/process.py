"""Starts and ends the programs that tests run, so that none outlives its test run, however that ends."""

import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO


class ServerMissingError(Exception):
    """The program is not installed; the message says what to install."""


class ServerFailedError(Exception):
    """The program was started and did not come up; the message holds the end of its log."""


def free_port() -> int:
    """Choose a TCP port that nobody listens on, on loopback.

    Not the kernel's choice (binding port 0): that comes from the range of outgoing connections, and while a server is
    down a client that keeps reconnecting to such a port can be given it as its own and connect to itself, after which
    the server cannot come back. Callers repeat their start when somebody else was faster.
    """
    while True:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


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


class Lodging:
    """A temporary folder and the processes that live in it; both are gone when the test run is.

    Each process is started in a group of its own. A shell, out of reach of Ctrl-C, holds the other end of a pipe: when
    this program ends in any way, kill -9 included, the pipe closes; the shell kills the groups and removes the folder.
    """

    _WATCH = """
        while read -r line; do groups=$line; done
        for group in $groups; do kill -s KILL -- "-$group" 2>/dev/null; done
        rm -rf -- "$1"
    """

    def __init__(self, name: str, parent: Path | None = None) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix=f"broker-jobs-{name}-", dir=parent))
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
