"""Starts N worker processes for `worker -p N`, and restarts those that end.

Python runs one thread at a time per process, so jobs that compute need several processes. Children are spawned, as a
fork is unsafe with threads and missing on Windows. A pipe connects each child with this process: "stop" and "now" go
down it, metrics and health come up, and its end shows a child that the parent is gone. Each child has a slot. A worker
names the worker that had its slot before, so that the coordinator frees that one's jobs at once and not after a lease.

A child that ends is restarted whatever its exit code, as a job may have set that. Only a child that reports that it
cannot start (`StartRefused`), before any child was healthy, ends the pool.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any, Literal, TypeAlias

from broker_jobs.messages.envelope import new_id
from broker_jobs.metrics import PROCESSES, RESTARTS, Metrics, Snapshot
from broker_jobs.processes.program import Health
from broker_jobs.processes.signals import ComponentFailed

logger = logging.getLogger(__name__)

Order: TypeAlias = Literal["stop", "now"]
Report: TypeAlias = tuple[Snapshot, Health]


@dataclass(frozen=True)
class StartRefused:
    """A child reports that it cannot start, for a reason that a restart does not fix."""

    reason: str


REPORT_SECONDS = 1.0
"""Between two reports of a child."""
SILENT_SECONDS = 15.0
"""A child that has not reported for this long is not healthy."""
LONGEST_PAUSE_SECONDS = 30.0
STEADY_SECONDS = 60.0
"""A child that ran at least this long is restarted at once; otherwise the pause doubles."""
EXIT_USAGE = 2
"""The exit code when no child can start. A child's own exit code is not used: any job can set it."""
KILL_AFTER_SECONDS = 5.0
"""Children are killed this long after the end of the time for a graceful stop."""
STOP_NOW_SECONDS = 1.5
"""The time children get to report their interrupted jobs when they are to exit at once."""


@dataclass
class _Child:
    """One slot, and the process in it."""

    slot: int
    process: SpawnProcess | None = None
    pipe: Connection | None = None
    started_at: float = 0.0
    start_again_at: float | None = None
    pause: float = 0.0
    report: Report | None = None
    reported_at: float = 0.0
    refused: StartRefused | None = None


class Pool:
    """The worker processes of one parent."""

    def __init__(
        self,
        target: Callable[..., None],
        arguments: tuple[object, ...],
        size: int,
        *,
        on_failed: Callable[[ComponentFailed], None],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Args:
            target: called in each child as target(*arguments, slot, pipe). The child imports it.
            arguments: must pickle.
            size: the number of children.
            on_failed: called once, when a child reports that it cannot start and none has been healthy yet.
            monotonic: a monotonic clock, in seconds.
        """
        self._target = target
        self._arguments = arguments
        self._on_failed = on_failed
        self._monotonic = monotonic
        self._context = multiprocessing.get_context("spawn")
        self._id = new_id()
        self._children = [_Child(slot) for slot in range(size)]
        self._metrics = Metrics()
        self._metrics.count(RESTARTS, amount=0)  # a counter that first appears as 1 shows Prometheus no increase
        self._ended = Snapshot()
        self._lock = threading.RLock()
        self._stopping = threading.Event()
        self._clean = True
        self._was_healthy = False
        self._failed = False
        self._thread: threading.Thread | None = None
        # A write wakes the watching thread. It is a pipe, as that thread waits for the children's pipes.
        self._woken, self._wake = self._context.Pipe(duplex=False)

    def start(self) -> None:
        """Start the children and a thread that watches them. Calling it again does nothing."""
        with self._lock:
            if self._thread is not None:
                return
            for child in self._children:
                self._start_child(child)
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
            return [child.process for child in self._children if child.process is not None and child.process.is_alive()]

    def snapshots(self) -> list[Snapshot]:
        """The metrics of the running children, of those that ended, and of the pool."""
        self._metrics.set(PROCESSES, len(self.processes()))
        with self._lock:
            ended = Snapshot()
            ended.add(self._ended)
            reports = [child.report[0] for child in self._children if child.report is not None]
        return [self._metrics.snapshot(), ended, *reports]

    def health(self) -> Health:
        """Healthy if every child is alive, has reported within SILENT_SECONDS, and is healthy."""
        now = self._monotonic()
        children: list[dict[str, Any]] = []
        ok = True
        with self._lock:
            for child in self._children:
                alive = child.process is not None and child.process.is_alive()
                silent = now - max(child.reported_at, child.started_at) > SILENT_SECONDS
                healthy = alive and not silent and child.report is not None and child.report[1].ok
                ok = ok and healthy
                pid = child.process.pid if alive and child.process is not None else None
                components = child.report[1].components if child.report is not None else {}
                children.append({"slot": child.slot, "pid": pid, "ok": healthy, **components})
        return Health(ok, {"processes": children})

    def _spawn(self, child: _Child) -> None:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(
            target=self._target,
            args=(*self._arguments, f"{self._id}.{child.slot}", theirs),
            name=f"worker process {child.slot}",
        )
        try:
            process.start()
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        child.process, child.pipe = process, ours
        child.started_at = self._monotonic()
        child.start_again_at = child.refused = None
        logger.info("worker process started", extra={"slot": child.slot, "worker_pid": process.pid})

    def _start_child(self, child: _Child) -> None:
        """Start a child. If the machine lacks resources now (memory, processes, open files), try again later."""
        try:
            self._spawn(child)
        except (OSError, MemoryError) as error:
            self._start_later(child, lived_seconds=0.0)
            logger.error(
                "a worker process could not be started: %s; trying again in %.1f s",
                error,
                child.pause,
                extra={"slot": child.slot},
            )

    def _start_later(self, child: _Child, lived_seconds: float) -> None:
        child.pause = 0.0 if lived_seconds > STEADY_SECONDS else min(max(0.5, child.pause * 2), LONGEST_PAUSE_SECONDS)
        child.start_again_at = self._monotonic() + child.pause

    def _watch(self) -> None:
        while True:
            try:
                if not self._watch_once():
                    return
            except Exception:
                logger.exception("watching the worker processes failed; going on in 1 s")
                time.sleep(1.0)

    def _watch_once(self) -> bool:
        """Wait until something happens to a child, and act on it; False: the pool stops and all children have ended."""
        with self._lock:
            alive = [child for child in self._children if child.process is not None]
            if self._stopping.is_set() and not alive:
                return False
            waited: list[Any] = [self._woken, *(child.process.sentinel for child in alive if child.process)]
            waited += [child.pipe for child in alive if child.pipe is not None]
            starts = [child.start_again_at for child in self._children if child.start_again_at is not None]
        pause = max(0.0, min(starts) - self._monotonic()) if starts else None
        wait(waited, pause)
        while self._woken.poll():
            self._woken.recv_bytes()
        with self._lock:
            for child in self._children:
                self._check(child)
        return True

    def _check(self, child: _Child) -> None:
        self._read_reports(child)
        if child.process is not None and not child.process.is_alive():
            self._read_reports(child)
            self._handle_exit(child)
        due = child.start_again_at
        if due is not None and due <= self._monotonic() and not self._stopping.is_set():
            self._metrics.count(RESTARTS)
            self._start_child(child)

    def _read_reports(self, child: _Child) -> None:
        try:
            while child.pipe is not None and child.pipe.poll():
                message = child.pipe.recv()
                if isinstance(message, StartRefused):
                    child.refused = message
                    continue
                child.report = message
                child.reported_at = self._monotonic()
                self._was_healthy = self._was_healthy or message[1].ok
        except (EOFError, OSError):
            if child.pipe is not None:
                child.pipe.close()
            child.pipe = None

    def _handle_exit(self, child: _Child) -> None:
        """Keep the counts of a child that has ended, and restart it after a pause."""
        process = child.process
        assert process is not None
        if child.report is not None:
            self._ended.add(child.report[0], gauges=False)
        if child.pipe is not None:
            child.pipe.close()
        child.process = child.pipe = child.report = None
        code = process.exitcode
        if self._stopping.is_set():
            self._clean = self._clean and code == 0
            return
        if child.refused is not None and not self._was_healthy:
            if not self._failed:
                self._failed = True
                self._on_failed(
                    ComponentFailed(f"a worker process could not start: {child.refused.reason}", EXIT_USAGE)
                )
            return
        self._start_later(child, self._monotonic() - child.started_at)
        how = f"was killed by signal {-code}" if code is not None and code < 0 else f"exited with code {code}"
        logger.error(
            "worker process %s; starting it again in %.1f s, its jobs run again in another process",
            how,
            child.pause,
            extra={"slot": child.slot, "worker_pid": process.pid},
        )

    def _send_order(self, order: Order) -> None:
        with self._lock:
            self._stopping.set()
            for child in self._children:
                child.start_again_at = None
                if child.pipe is not None:
                    with contextlib.suppress(OSError):
                        child.pipe.send(order)
        with contextlib.suppress(OSError):
            self._wake.send_bytes(b".")
