"""The jobs that tests of the whole system run; each writes into one file that it starts and that it ends."""

import os
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from broker_jobs import BrokerJobs, Concurrency, JobCancelled, current_job

MARKS = "marks"
NARROW = 3
"""So many runs of `narrow` may be inside at once."""


class Mark(NamedTuple):
    """A line of the file: a run of a job has started or ended."""

    kind: str
    id: str
    attempt: int
    pid: int
    at: float


class UnprintableError(Exception):
    """An exception that cannot be shown."""

    def __str__(self) -> str:
        raise RuntimeError("nor can this")

    __repr__ = __str__


class SystemJobs:
    """A program with its jobs; the same in the test and in the processes it starts."""

    def __init__(self, url: str, store: str, folder: Path) -> None:
        self.folder = folder
        self.program = BrokerJobs(url, store=store)
        mark = self._mark

        @self.program.job(backoff=[0.2], retries=5)
        def work(seconds: float = 0.0) -> None:
            mark("started")
            time.sleep(seconds)
            mark("ended")

        @self.program.job(backoff=[0.2], retries=5, limit=Concurrency("narrow", NARROW))
        def narrow(seconds: float) -> None:
            """Work where few may be inside at once."""
            mark("started")
            time.sleep(seconds)
            mark("ended")

        @self.program.job(backoff=[0.2], retries=5)
        def finish(seconds: float) -> str:
            """Work that ends well, also when it is asked to stop."""
            mark("started")
            until = time.monotonic() + seconds
            with suppress(JobCancelled):
                while time.monotonic() < until:
                    time.sleep(0.02)
            mark("ended")
            return "finished"

        @self.program.job(backoff=[0.2], retries=5)
        def hold(name: str) -> str:
            """Wait to be let go, or to be stopped."""
            mark("started")
            try:
                while not (folder / f"go-{name}").exists():
                    time.sleep(0.01)
            except JobCancelled:
                mark("stopped")
                raise
            mark("ended")
            return name

        @self.program.job(backoff=[0.2], retries=5)
        def stumble(times: int) -> None:
            """Fail so many times, then succeed."""
            mark("started")
            if current_job().attempt <= times:
                raise ValueError(f"stumbled on attempt {current_job().attempt}")
            mark("ended")

        @self.program.job(backoff=[0.2], retries=5)
        def crash() -> None:
            """Take the whole process along, at once."""
            mark("started")
            os._exit(1)

        @self.program.job(retries=0)
        def explode(how: str) -> object:
            match how:
                case "huge":
                    raise ValueError("x" * 10_000_000)
                case "unprintable":
                    raise UnprintableError
                case "not text":
                    raise ValueError("half a pair: \ud800")
                case "huge result":
                    return "x" * 10_000_000
                case "no JSON":
                    return object()
                case "exit":
                    raise SystemExit(3)
                case _:
                    return how

        self.work, self.after, self.stumble, self.crash, self.explode = work, hold, stumble, crash, explode
        self.narrow, self.finish = narrow, finish

    def marks(self) -> list[Mark]:
        """All that was written until now."""
        try:
            lines = (self.folder / MARKS).read_text().splitlines()
        except FileNotFoundError:
            return []
        return [
            Mark(kind, id, int(attempt), int(pid), float(at)) for kind, id, attempt, pid, at in map(str.split, lines)
        ]

    def _mark(self, kind: str) -> None:
        job = current_job()
        # One write to a file opened for appending: the lines of many processes do not mix, and a kill -9 leaves them.
        line = f"{kind} {job.id} {job.attempt} {os.getpid()} {time.time():.6f}\n"
        file = os.open(self.folder / MARKS, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        try:
            os.write(file, line.encode())
        finally:
            os.close(file)
