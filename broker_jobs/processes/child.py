"""One child process as its supervisor has it: the process, the pipe to it, what it reports, and what it runs.

Down the pipe go orders, and the news that the supervisor's heartbeat for it was confirmed; up come reports, once a
second. The end of the pipe shows a child that its parent is gone. What the child runs is not reported but read from
memory that both share, as a job may keep the child from reporting.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnContext, SpawnProcess
from typing import Any, Literal, NamedTuple, TypeAlias

from broker_jobs.messages.new_id import new_id
from broker_jobs.metrics import Snapshot
from broker_jobs.processes.health import Health
from broker_jobs.processes.run_board import RunBoard

REPORT_SECONDS = 1.0
"""Between two reports of a child."""
LONGEST_TURN_SECONDS = 2.0
"""A supervisor that stood still longer (it was stopped, its machine slept) counts this much silence of its children."""


@dataclass(frozen=True)
class StartRefused:
    """A child reports that it cannot start, for a reason that a restart does not fix."""

    reason: str


@dataclass(frozen=True)
class Leaving:
    """A child reports that it takes no more jobs and exits after those that it runs. It is to be replaced at once.

    `patient`: these get all the time that they need; else that of a graceful stop.
    """

    reason: str
    patient: bool = False


@dataclass(frozen=True)
class Heard:
    """A supervisor's heartbeat for the child was confirmed; it was sent `seconds_ago`."""

    seconds_ago: float


Order: TypeAlias = Literal["stop", "now"]


@dataclass(frozen=True)
class Report:
    """What a child says of itself once a second.

    `heard_seconds_ago`: how long ago its last heartbeat was sent that RabbitMQ has confirmed; None: there was none.
    """

    metrics: Snapshot
    health: Health
    heard_seconds_ago: float | None = None
    queues: tuple[str, ...] = ()


@dataclass(frozen=True)
class Place:
    """What a supervisor gives to a child: the worker that it is, the pipe to its parent, and the board of its runs."""

    worker_id: str
    slot: str
    pipe: Connection
    board: RunBoard


class Ref(NamedTuple):
    """The worker of a child, as messages name it."""

    id: str
    host: str
    slot: str
    pid: int


@dataclass
class ChildProcess:
    """A child process that was started. The supervisor's thread uses it."""

    slot: str
    board: RunBoard
    process: SpawnProcess
    pipe: Connection | None
    worker_id: str
    started_at: float
    """Wall clock."""
    report: Report | None = None
    reported_at: float | None = None
    """When it reported last, wall clock."""
    silent_seconds: float = 0.0
    """For how long it has not reported, as far as its supervisor was awake."""
    lived_seconds: float = 0.0
    refused: StartRefused | None = None
    leaving: Leaving | None = None
    leave_seconds: float = 0.0
    """How long ago it said that it leaves."""
    killed_because: str = ""
    heard: list[float] = field(default_factory=list)
    """When confirmed heartbeats for it were sent, monotonic; to be told to it."""

    @property
    def ref(self) -> Ref:
        """Its worker."""
        return Ref(self.worker_id, socket.gethostname(), self.slot, self.process.pid or 0)

    @property
    def silent_since(self) -> float:
        """Wall clock."""
        return self.started_at if self.reported_at is None else self.reported_at

    @property
    def heard_seconds_ago(self) -> float | None:
        """How old its own last confirmed heartbeat is; None: there was none."""
        if self.report is None or self.report.heard_seconds_ago is None:
            return None
        return self.report.heard_seconds_ago + self.silent_seconds

    def pass_time(self, seconds: float) -> None:
        """So many seconds have passed since the last call."""
        self.silent_seconds += min(seconds, LONGEST_TURN_SECONDS)
        self.lived_seconds += seconds
        if self.leaving is not None:
            self.leave_seconds += seconds

    def read(self) -> None:
        """Read what it has sent."""
        try:
            while self.pipe is not None and self.pipe.poll():
                self._take(self.pipe.recv())
        except (EOFError, OSError):
            self.close()

    def _take(self, message: object) -> None:
        match message:
            case StartRefused():
                self.refused = message
            case Leaving():
                self.leaving = self.leaving or message
            case Report():
                self.report = message
                self.reported_at = time.time()
                self.silent_seconds = 0.0
            case _:
                raise TypeError(f"a child process has sent a {type(message).__name__}")

    def send(self, order: Order | Heard) -> None:
        """Send it an order. A child that is gone gets none."""
        if self.pipe is not None:
            with contextlib.suppress(OSError):
                self.pipe.send(order)

    def kill(self, reason: str) -> None:
        """End it at once."""
        self.killed_because = reason
        self.process.kill()

    def close(self) -> None:
        """Close the pipe."""
        if self.pipe is not None:
            self.pipe.close()
        self.pipe = None

    def how_it_ended(self) -> str:
        """Such as "exited with code 3"."""
        code = self.process.exitcode
        if self.killed_because:
            return f"was killed: {self.killed_because}"
        return f"was killed by signal {-code}" if code is not None and code < 0 else f"exited with code {code}"


def spawn(
    context: SpawnContext,
    target: Callable[..., None],
    arguments: tuple[Any, ...],
    *,
    slot: str,
    concurrency: int,
    role: str = "worker",
) -> ChildProcess:
    """Start a process that calls target(*arguments, place). `role` names it.

    Raises:
        OSError, MemoryError: the machine lacks what it takes.
    """
    board = RunBoard(concurrency)
    worker_id = new_id()
    ours, theirs = context.Pipe()
    process = context.Process(
        target=target, args=(*arguments, Place(worker_id, slot, theirs, board)), name=f"{role} process {slot}"
    )
    try:
        process.start()
    except BaseException:
        ours.close()
        raise
    finally:
        theirs.close()
    return ChildProcess(slot, board, process, ours, worker_id, started_at=time.time())
