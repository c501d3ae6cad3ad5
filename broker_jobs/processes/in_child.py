"""Begins and ends a child process of a supervisor: its log, its signals, its reports, and its exit code."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn

from broker_jobs import logs
from broker_jobs.errors import BrokerJobsError
from broker_jobs.metrics import Metrics
from broker_jobs.processes.child import Place, StartRefused
from broker_jobs.processes.health import Health
from broker_jobs.processes.parent import ParentProcess
from broker_jobs.processes.pool import EXIT_USAGE
from broker_jobs.processes.signals import ShutdownSignals, exit_soon
from broker_jobs.settings import Settings

logger = logging.getLogger(__name__)


class ServedProgram:
    """What its parent hears of a child process that only serves something, such as the dashboard."""

    worker = None

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.metrics = Metrics()
        self.address = ""
        """Where it is served; empty: not yet."""

    def health(self) -> Health:
        """Healthy once it is served."""
        reasons = () if self.address else ("it does not listen yet",)
        return Health(not reasons, {"address": self.address}, reasons)

    def stop(self, timeout: float) -> bool:
        """Nothing of it runs on: what serves it stops it."""
        del timeout
        return True

    def stop_now(self) -> None:
        """The same."""


@contextmanager
def service_process(role: str, settings: Settings, place: Place) -> Iterator[tuple[ParentProcess, ShutdownSignals]]:
    """Make this process the one of a service: its log lines name the role, and only its parent stops it."""
    logs.set_up(settings.log_level, settings.log_format)
    logs.name_role(role)
    with ShutdownSignals(parent_only=True) as signals:
        yield ParentProcess(place, signals, role), signals


def run_in_child(parent: ParentProcess, run: Callable[[], int]) -> NoReturn:
    """Run a child process and end it with the exit code that `run` returns. An error of ours is told to the parent."""
    try:
        with parent.reporting():
            code = run()
    except BrokerJobsError as error:
        logger.error("%s", error)  # our errors say what to do, so the traceback is left out
        code = EXIT_USAGE
        parent.send(StartRefused(str(error)))
    exit_soon(code)
    sys.exit(code)
