"""The supervisor as its child process has it: reports go up to it, and its orders come down.

Reports begin before the user's modules are imported, so that an import that takes long is no silence.
"""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from broker_jobs.metrics import PROCESS_CPU, PROCESS_MEMORY, Metrics, Snapshot
from broker_jobs.processes.child import REPORT_SECONDS, Heard, Leaving, Place, Report, StartRefused
from broker_jobs.processes.health import Health
from broker_jobs.processes.signals import ExitNow, LeaveAsked, ShutdownSignals, SignalReceived
from broker_jobs.settings import Settings

if TYPE_CHECKING:
    from broker_jobs.consumer.worker import Worker

logger = logging.getLogger(__name__)

LAST_REPORT_SECONDS = 1.0


class Reported(Protocol):
    """What a child process runs, as its parent hears of it."""

    @property
    def metrics(self) -> Metrics:
        """Its metrics."""
        ...

    @property
    def settings(self) -> Settings:
        """Its settings."""
        ...

    @property
    def worker(self) -> Worker | None:
        """Its worker, if it has one."""
        ...

    def health(self) -> Health:
        """Its health."""
        ...


class ParentProcess:
    """The parent of this process. Thread-safe."""

    def __init__(self, place: Place, signals: ShutdownSignals, role: str = "worker") -> None:
        """`role`: what this process runs, for its metrics."""
        self.place = place
        self.role = role
        self._signals = signals
        self._program: Reported | None = None
        self._lock = threading.Lock()

    def runs(self, program: Reported) -> None:
        """Report of this program from now on, and stop it when the parent says so or is gone."""
        from broker_jobs.consumer.process_stats import ProcessStats  # noqa: PLC0415  # it needs what a worker needs

        stats = ProcessStats()
        program.metrics.watch(PROCESS_MEMORY, lambda: {(self.role,): float(stats.rss_bytes())})
        program.metrics.watch(PROCESS_CPU, lambda: {(self.role,): time.process_time()})
        self._program = program
        threading.Thread(target=self._follow, args=(program,), name="parent", daemon=True).start()

    @contextmanager
    def reporting(self) -> Iterator[None]:
        """Report once a second, and at the end."""
        ended = threading.Event()

        def report() -> None:
            while not ended.wait(REPORT_SECONDS):
                self.report()

        threading.Thread(target=report, name="report to parent", daemon=True).start()
        try:
            yield
        finally:
            ended.set()
            self.report_last()

    def report_last(self) -> None:
        """Report before the process exits, which does not wait long for a parent that does not read."""
        last = threading.Thread(target=self.report, name="last report to parent", daemon=True)
        last.start()
        last.join(LAST_REPORT_SECONDS)

    def report(self) -> None:
        """Report now."""
        program = self._program
        if program is None:
            self.send(Report(Snapshot(), Health(False, reasons=("it starts: it imports its modules",))))
            return
        worker = program.worker
        heard = None if worker is None else worker.heartbeats.confirmed_seconds_ago
        queues = program.settings.queue_names if worker is None else worker.serves.queues.names
        self.send(Report(program.metrics.snapshot(), program.health(), heard, queues))

    def leave(self, reason: str, *, patient: bool = False) -> None:
        """Say that this process takes no more jobs and is to be replaced, and stop it."""
        logger.info("this %s process leaves: %s", self.role, reason)
        self.send(Leaving(reason, patient))
        self._signals.put(LeaveAsked(patient))

    def send(self, message: Report | Leaving | StartRefused) -> None:
        """Send a message. A parent that is gone gets none."""
        with self._lock, contextlib.suppress(OSError):
            self.place.pipe.send(message)

    def _follow(self, program: Reported) -> None:
        try:
            while True:
                match self.place.pipe.recv():
                    case "now":
                        self._signals.put(ExitNow())
                    case Heard(seconds_ago):
                        if program.worker is not None:
                            program.worker.heartbeats.supervised(seconds_ago)
                    case _:
                        self._stop(program)
        except (EOFError, OSError):
            logger.warning("the parent process is gone; stopping")
            self._stop(program)

    def _stop(self, program: Reported) -> None:
        if (worker := program.worker) is not None and not worker.running:  # it leaves already, patiently perhaps
            worker.hurry(program.settings.shutdown_timeout)
        # A service has no jobs, of which the line about a signal speaks.
        self._signals.put(LeaveAsked(patient=False) if self._signals.parent_only else SignalReceived(signal.SIGTERM))
