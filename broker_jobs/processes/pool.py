"""Starts the processes of one role, mostly workers, replaces those that end, and ends those that hang.

Python runs one thread at a time per process, so jobs that compute need several processes, and a job may keep its
process from saying that it lives. So each worker runs in a child of this process, which has nothing else to do.
With `broker-jobs run` the coordinator, the beat and the dashboard are children too, in pools of their own.
Children are spawned, as a fork is unsafe with threads and missing on Windows.

* A child that ends is replaced whatever its exit code, as a job may have set that, after a pause that grows.
* A child that says that it leaves is replaced at once, and has the time of a graceful stop for what it runs.
* A child that does not answer lives on while it runs a job: a job may keep Python's GIL for minutes. Without a job it
  is killed after `KILL_SILENT_SECONDS`.
* A child that reports that it cannot start, or `MOST_DEATHS` in a row, end the pool if no child was ready before.

Over 300 lines: starting, watching and ending the same children.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import wait
from multiprocessing.context import SpawnProcess
from typing import Any, Protocol

from broker_jobs.messages.new_id import new_id
from broker_jobs.metrics import CONNECTION_UP, PROCESSES, RECYCLED, RESTARTS, Metrics, Snapshot
from broker_jobs.processes.child import ChildProcess, Heard, Order, spawn
from broker_jobs.processes.child_health import SlotState, health_of
from broker_jobs.processes.health import Health
from broker_jobs.processes.signals import EXIT_FAILED, ComponentFailed

logger = logging.getLogger(__name__)

TURN_SECONDS = 1.0
"""The longest pause between two looks at the children."""
KILL_SILENT_SECONDS = 60.0
"""A child that runs no job and has not reported for this long is killed."""
LONGEST_PAUSE_SECONDS = 30.0
STEADY_SECONDS = 60.0
"""A child that ran at least this long is restarted at once; otherwise the pause doubles."""
MOST_DEATHS = 5
"""So many children that end before any was ready end the pool."""
EXIT_USAGE = 2
"""The exit code when no child can start. A child's own exit code is not used: any job can set it."""
KILL_AFTER_SECONDS = 5.0
"""Children are killed this long after the end of the time for a graceful stop."""
KILL_LEAVING_SECONDS = 20.0
"""The same for a child that leaves while the others work: it has to bring its reports to a broker that may be slow."""
STOP_NOW_SECONDS = 1.5
"""The time children get to report their interrupted jobs when they are to exit at once."""


class Spokesman(Protocol):
    """Tells the coordinator of children. Both methods return at once."""

    def look(self, children: list[ChildProcess]) -> None:
        """These live. Called once a second."""

    def ended(self, child: ChildProcess) -> None:
        """The process of this one has ended."""


@dataclass
class _Slot:
    """One of the processes that are to run, over its restarts."""

    number: int
    child: ChildProcess | None = None
    start_again_at: float | None = None
    pause: float = 0.0
    recycled: int = 0
    """How many children have left it while they lived."""
    ended: str = ""
    """How the last child ended."""


class Pool:
    """The processes of one role under one supervisor."""

    def __init__(
        self,
        target: Callable[..., None],
        arguments: tuple[object, ...],
        size: int,
        *,
        on_failed: Callable[[ComponentFailed], None],
        role: str = "worker",
        connects: bool = True,
        spokesman: Spokesman | None = None,
        concurrency: int = 16,
        leave_timeout: float = 30.0,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Args:
            target: called in each child as target(*arguments, place). The child imports it.
            arguments: must pickle.
            size: the number of children.
            on_failed: called once, when children cannot start and none has been ready yet.
            role: what the children run, for logs, metrics and health.
            connects: a child that has not reported yet counts as not connected to RabbitMQ.
            spokesman: tells the coordinator of the children; None: nobody does.
            concurrency: of each child.
            leave_timeout: seconds that a child which leaves has for what it runs.
            monotonic: a monotonic clock, in seconds.
        """
        self._target = target
        self._arguments = arguments
        self._on_failed = on_failed
        self.role = role
        self._not_reported = Snapshot({CONNECTION_UP.name: {(role,): 0.0}} if connects else {})
        self._spokesman = spokesman
        self._concurrency = concurrency
        self._leave_timeout = leave_timeout
        self._monotonic = monotonic
        self._context = multiprocessing.get_context("spawn")
        self._id = new_id()
        self._slots = [_Slot(number) for number in range(size)]
        self._leaving: list[ChildProcess] = []
        self._metrics = Metrics()
        for counter in (RESTARTS, RECYCLED):  # a counter that first appears as 1 shows Prometheus no increase
            self._metrics.count(counter, (role,), amount=0)
        self._ended = Snapshot()
        self._lock = threading.RLock()
        self._stopping = threading.Event()
        self._clean = True
        self._was_ready = False
        self._failed = False
        self._deaths = 0
        self._turned_at = monotonic()
        self._thread: threading.Thread | None = None
        # A write wakes the watching thread. It is a pipe, as that thread waits for the children's pipes.
        self._woken, self._wake = self._context.Pipe(duplex=False)

    def start(self) -> None:
        """Start the children and a thread that watches them. Calling it again does nothing."""
        with self._lock:
            if self._thread is not None:
                return
            for slot in self._slots:
                self._start(slot)
            self._thread = threading.Thread(target=self._watch, name="pool", daemon=True)
            self._thread.start()

    def stop(self, timeout: float) -> bool:
        """Stop the children gracefully; kill those left KILL_AFTER_SECONDS after `timeout`. May be called twice."""
        self._send_order("stop")
        thread = self._thread
        if thread is None:
            return True
        thread.join(timeout + KILL_AFTER_SECONDS)
        if thread.is_alive():
            self._clean = False
            self.stop_now()
            thread.join(KILL_AFTER_SECONDS)
        return self._clean

    def stop_now(self) -> None:
        """Stop the children without waiting for their jobs; kill those left after STOP_NOW_SECONDS."""
        self._send_order("now")
        deadline = self._monotonic() + STOP_NOW_SECONDS
        for process in self.processes():
            process.join(max(0.0, deadline - self._monotonic()))
            if process.is_alive():
                process.kill()

    def processes(self) -> list[SpawnProcess]:
        """The children that are alive."""
        with self._lock:
            return [child.process for child in self._children() if child.process.is_alive()]

    def snapshots(self) -> list[Snapshot]:
        """The metrics of the running children, of those that ended, and of the pool."""
        self._metrics.set(PROCESSES, len(self.processes()), (self.role,))
        with self._lock:
            ended = Snapshot()
            ended.add(self._ended)
            reports = [
                self._not_reported if child.report is None else child.report.metrics for child in self._children()
            ]
        return [self._metrics.snapshot(), ended, *reports]

    def health(self) -> Health:
        """Healthy if the child of each slot is, or has just been started in the place of one that leaves."""
        with self._lock:
            slots = [SlotState(slot.number, slot.child, slot.recycled > 0, slot.ended) for slot in self._slots]
            return health_of(slots, self._leaving, self.role)

    def _children(self) -> list[ChildProcess]:
        return [*(slot.child for slot in self._slots if slot.child is not None), *self._leaving]

    def _start(self, slot: _Slot) -> None:
        """Start a child. If the machine lacks resources now (memory, processes, open files), try again later."""
        # One that leaves may live beside its replacement, and two workers of one place would replace each other.
        place = f"{self._id}.{slot.number}" + (f".{slot.recycled}" if slot.recycled else "")
        try:
            child = spawn(
                self._context,
                self._target,
                self._arguments,
                slot=place,
                concurrency=self._concurrency,
                role=self.role,
            )
        except (OSError, MemoryError) as error:
            self._start_later(slot, lived_seconds=0.0)
            logger.error(
                "a %s process could not be started: %s; trying again in %.1f s",
                self.role,
                error,
                slot.pause,
                extra={"slot": slot.number},
            )
            return
        slot.child, slot.start_again_at = child, None
        logger.info("%s process started", self.role, extra={"slot": slot.number, "child_pid": child.process.pid})

    def _start_later(self, slot: _Slot, lived_seconds: float) -> None:
        slot.pause = 0.0 if lived_seconds > STEADY_SECONDS else min(max(0.5, slot.pause * 2), LONGEST_PAUSE_SECONDS)
        slot.start_again_at = self._monotonic() + slot.pause

    def _watch(self) -> None:
        while True:
            try:
                if not self._watch_once():
                    return
            except Exception:
                logger.exception("watching the %s processes failed; going on in 1 s", self.role)
                time.sleep(1.0)

    def _watch_once(self) -> bool:
        """Wait until something happens to a child, and act on it; False: the pool stops and all children have ended."""
        with self._lock:
            children = self._children()
            if self._stopping.is_set() and not children:
                return False
            waited: list[Any] = [self._woken, *(child.process.sentinel for child in children)]
            waited += [child.pipe for child in children if child.pipe is not None]
            starts = [
                slot.start_again_at - self._monotonic() for slot in self._slots if slot.start_again_at is not None
            ]
        wait(waited, max(0.0, min([TURN_SECONDS, *starts])))
        while self._woken.poll():
            self._woken.recv_bytes()
        with self._lock:
            now = self._monotonic()
            passed, self._turned_at = now - self._turned_at, now
            for child in self._children():
                child.read()
                child.pass_time(passed)
            for slot in self._slots:
                self._look_at(slot)
            for child in list(self._leaving):
                self._look_at_leaving(child)
            if self._spokesman is not None:
                self._spokesman.look(self._children())
        return True

    def _look_at(self, slot: _Slot) -> None:
        child = slot.child
        if child is not None:
            if child.report is not None and child.report.health.ok:
                self._was_ready = True
            if not child.process.is_alive():
                slot.child = None
                self._has_ended(child)
                slot.ended = child.refused.reason if child.refused is not None else child.how_it_ended()
                self._replace_ended(slot, child)
            elif child.leaving is not None and not self._stopping.is_set():
                self._replace_leaving(slot, child, child.leaving.reason)
            else:
                self._tell_or_kill(child)
        due = slot.start_again_at
        if due is not None and due <= self._monotonic() and not self._stopping.is_set():
            self._metrics.count(RESTARTS, (self.role,))
            self._start(slot)

    def _tell_or_kill(self, child: ChildProcess) -> None:
        if child.heard and child.silent_seconds < TURN_SECONDS:  # one that does not answer does not read either
            heard, child.heard = child.heard[-1], []
            child.send(Heard(self._monotonic() - heard))
        if child.silent_seconds >= KILL_SILENT_SECONDS and not child.killed_because and not child.board.runs():
            logger.error(
                "%s process %s has not answered for %.0f s and runs no job; it is killed and replaced",
                self.role,
                child.process.pid,
                child.silent_seconds,
                extra={"child_pid": child.process.pid},
            )
            child.kill("it did not answer")

    def _replace_leaving(self, slot: _Slot, child: ChildProcess, reason: str) -> None:
        slot.child = None
        slot.recycled += 1
        self._leaving.append(child)
        self._metrics.count(RECYCLED, (self.role,))
        logger.info(
            "%s process %s leaves: %s; another one takes its place",
            self.role,
            child.process.pid,
            reason,
            extra={"slot": slot.number, "child_pid": child.process.pid},
        )
        self._start(slot)

    def _look_at_leaving(self, child: ChildProcess) -> None:
        if not child.process.is_alive():
            self._leaving.remove(child)
            self._has_ended(child)
            logger.info("%s process %s, which has left, %s", self.role, child.process.pid, child.how_it_ended())
        elif (
            not (child.leaving and child.leaving.patient)
            and child.leave_seconds > self._leave_timeout + KILL_LEAVING_SECONDS
            and not child.killed_because
        ):
            child.kill("it did not leave in time")
        else:
            self._tell_or_kill(child)

    def _has_ended(self, child: ChildProcess) -> None:
        """Keep the counts of a child that has ended, and tell the coordinator."""
        child.read()
        if child.report is not None:
            self._ended.add(child.report.metrics, gauges=False)
        child.close()
        if self._spokesman is not None:
            self._spokesman.ended(child)
        if self._stopping.is_set():
            # One that could not start ran nothing that is cut off.
            self._clean = self._clean and (child.process.exitcode == 0 or child.refused is not None)

    def _replace_ended(self, slot: _Slot, child: ChildProcess) -> None:
        """Restart a child that has ended after a pause, unless no child can start."""
        if self._stopping.is_set():
            return
        if not self._was_ready:
            self._deaths += 1
            if child.refused is not None:
                self._fail(f"a {self.role} process could not start: {child.refused.reason}", EXIT_USAGE)
                return
            if self._deaths >= MOST_DEATHS:
                reason = f"{self._deaths} {self.role} processes ended before one was ready; the last"
                reason += f" {child.how_it_ended()}"
                self._fail(f"{reason}. Its log above may say why", EXIT_FAILED)
                return
        self._start_later(slot, child.lived_seconds)
        runs = child.board.runs()
        logger.error(
            "%s process %s; starting it again in %.1f s%s",
            self.role,
            child.how_it_ended(),
            slot.pause,
            f", its jobs run again in another process: {', '.join(run.id for run in runs[:10])}" if runs else "",
            extra={"slot": slot.number, "child_pid": child.process.pid},
        )

    def _fail(self, reason: str, code: int) -> None:
        if not self._failed:
            self._failed = True
            self._on_failed(ComponentFailed(reason, code))

    def _send_order(self, order: Order) -> None:
        with self._lock:
            self._stopping.set()
            for slot in self._slots:
                slot.start_again_at = None
            for child in self._children():
                child.send(order)
        with contextlib.suppress(OSError):
            self._wake.send_bytes(b".")
