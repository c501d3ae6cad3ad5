"""Runs jobs with isolation="process" in child processes, which are started when they are needed and used again.

Each is driven by the thread that holds the job's place. A job that ends its process, or is killed, ends nothing else:
its run fails with the reason, and the next job gets another process. Processes are spawned, never forked.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import logging
import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any

from broker_jobs import logs
from broker_jobs.consumer.attempt import stopped_as_asked
from broker_jobs.consumer.child import LOST_PARENT, CancelOrder, RunOrder, child_main
from broker_jobs.consumer.outcome import Interruption, Outcome, Raised, outcome_of_json
from broker_jobs.consumer.process_stats import resident_bytes
from broker_jobs.consumer.recycling import MIB
from broker_jobs.consumer.running import Run
from broker_jobs.function.registry import Registry
from broker_jobs.messages.events import ErrorInfo, FailureKind

logger = logging.getLogger(__name__)

LOOK_SECONDS = 0.1
START_SECONDS = 120.0
"""How long a process may take to import the program."""
KILL_AFTER_SECONDS = 1.0
"""What a job gets to end after it was asked to stop, before its process is killed."""
MAX_MESSAGE_BYTES = 16 * 1024 * 1024
EXIT_SECONDS = 5.0
"""How long a process may take to end after it has closed its pipe."""


class JobProcess:
    """One child process, as its parent has it."""

    def __init__(self, load: Callable[[], Registry]) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=child_main, args=(theirs, load, logs.current()), name="broker-jobs job")
        try:
            self.process.start()
        except BaseException:
            self.pipe.close()
            raise
        finally:
            theirs.close()
        self.ready = False
        """Whether it has loaded the program."""
        self.run_number = 0
        """Of the job that it runs, or ran last."""
        self._said: SimpleQueue[bytes | None] = SimpleQueue()
        """What it has said; None: it says no more."""
        self._reader = threading.Thread(target=self._read, name="broker-jobs child", daemon=True)
        self._reader.start()

    def send(self, order: RunOrder | CancelOrder) -> None:
        """Give it an order; `receive` notices if it is gone."""
        with contextlib.suppress(OSError):
            self.pipe.send(order)

    def receive(self, seconds: float) -> dict[str, Any] | None:
        """What it says next; None: nothing yet.

        Raises:
            EOFError: it has ended, or closed its pipe.
            Exception: the job has written into the pipe.
        """
        try:
            said = self._said.get(timeout=seconds)
        except Empty:
            if self.process.is_alive():
                return None
            try:  # what it said before it ended; a process that it left behind may have the pipe open
                said = self._said.get(timeout=seconds)
            except Empty:
                raise EOFError from None
        if said is None:
            raise EOFError
        message: dict[str, Any] = json.loads(said)
        return message

    def _read(self) -> None:
        """In a thread of its own: half a message, which a job may write, would let whoever reads it wait for ever."""
        try:
            while True:
                self._said.put(self.pipe.recv_bytes(MAX_MESSAGE_BYTES))
        except (EOFError, OSError, ValueError, MemoryError):
            self._said.put(None)

    def end(self) -> int | None:
        """End it, if it has not ended; its exit code, as of itself."""
        self.process.join(EXIT_SECONDS)
        code = self.process.exitcode
        self.kill()
        return code

    def kill(self) -> None:
        """End it at once."""
        self.process.kill()
        self.process.join(EXIT_SECONDS)
        if sys.platform != "win32":
            # What a process that it left behind holds open ends too.
            with contextlib.suppress(OSError), socket.socket(fileno=os.dup(self.pipe.fileno())) as ours:
                ours.shutdown(socket.SHUT_RDWR)
        self._reader.join(EXIT_SECONDS)
        if not self._reader.is_alive():  # else its number could be that of another file when the thread reads again
            self.pipe.close()


class ChildPool:
    """The child processes of one worker. Any number of threads run jobs in them."""

    def __init__(
        self,
        load: Callable[[], Registry] | None,
        on_line: Callable[[Run, str], None],
        max_memory: int | None = None,
    ) -> None:
        """
        Args:
            load: returns the registry of the program in a fresh process, so it must pickle; None: there are none.
            on_line: takes a log line of a run.
            max_memory: MiB of resident memory over which a process is not used again; None: no limit.
        """
        self._load = load
        self._max_bytes = None if max_memory is None else max_memory * MIB
        self._on_line = on_line
        self._lock = threading.Lock()
        self._idle: list[JobProcess] = []
        self._all: set[JobProcess] = set()
        self._stopped = False

    def run(self, run: Run) -> Outcome:
        """Run a job to its end, while this thread waits; how it ended."""
        if self._load is None:
            return _failed("DefinitionError", "this worker starts no child processes; isolation='process' needs one")
        try:
            child = self._take(self._load)
        except Exception as error:  # the machine lacks what it takes, or the program cannot be spawned
            logger.exception("a child process could not be started")
            return _failed(type(error).__name__, f"its child process could not be started: {error}", ended="raised")
        healthy = False
        try:
            outcome = self._run_in(child, run)
            healthy = child.ready
            return outcome
        finally:
            self._give_back(child, healthy=healthy)

    def stop(self) -> None:
        """End all processes. What runs in them has been reported."""
        with self._lock:
            self._stopped = True
            children, self._idle = list(self._all), []
        for child in children:
            child.process.kill()
        atexit.unregister(self.stop)

    def _take(self, load: Callable[[], Registry]) -> JobProcess:
        with self._lock:
            while self._idle:
                child = self._idle.pop()
                if child.process.is_alive():
                    return child
                self._all.discard(child)
        child = JobProcess(load)
        with self._lock:
            if not self._all:  # Python waits for children when it ends
                atexit.register(self.stop)
            self._all.add(child)
            if self._stopped:
                child.process.kill()
        return child

    def _give_back(self, child: JobProcess, *, healthy: bool) -> None:
        if healthy and self._max_bytes is not None and (size := resident_bytes(child.process.pid)) > self._max_bytes:
            logger.info(
                "a process of isolated jobs takes %.0f MiB of memory, over max_memory: the next job gets a fresh one",
                size / MIB,
            )
            healthy = False
        with self._lock:
            if healthy and not self._stopped:
                self._idle.append(child)
                return
            self._all.discard(child)
        child.kill()

    def _run_in(self, child: JobProcess, run: Run) -> Outcome:
        limit = run.received.function.options.memory_limit
        sent, asked, base_bytes, begun = False, None, 0, time.monotonic()
        while True:
            now = time.monotonic()
            if child.ready and not sent:
                sent, base_bytes = True, resident_bytes(child.process.pid)
                run.begin_again(now)  # the start of a process is no part of the attempt
                child.run_number += 1
                child.send(RunOrder(child.run_number, run.received.delivery, limit))
            if run.cancel_reason is not None and asked is None:
                asked = now
                child.send(CancelOrder(run.cancel_reason))
            try:
                message = child.receive(LOOK_SECONDS)
                if message is not None and (outcome := self._heard(child, run, message)) is not None:
                    return outcome
            except Exception:  # noqa: BLE001  # it has ended, or a job has written into the pipe, which may be anything
                child.ready = False
                code = child.end()
                if run.cancel_reason not in {None, "lease"}:
                    return stopped_as_asked(run)
                if self._stopped:
                    return Interruption()
                return _died(code, importing=not sent)
            if not child.ready and now - begun > START_SECONDS:
                return _failed("ProcessCrashed", f"its process did not import the program in {START_SECONDS:.0f} s")
            if asked is not None and now - asked > KILL_AFTER_SECONDS and run.cancel_reason != "lease":
                child.ready = False
                return stopped_as_asked(run)
            if limit is not None and sent and resident_bytes(child.process.pid) > base_bytes + limit:
                child.ready = False
                return _failed("MemoryError", f"it took more than its memory_limit of {limit} bytes and was killed")

    def _heard(self, child: JobProcess, run: Run, message: dict[str, Any]) -> Outcome | None:
        if message["run"] not in (0, child.run_number):  # of a thread that an earlier job has left
            return None
        match message["kind"]:
            case "ready":
                child.ready = True
            case "broken":
                return outcome_of_json(message["outcome"])
            case "progress":
                run.note_progress(message["done"], message["total"])
            case "line":
                self._on_line(run, message["text"])
            case _:
                run.noticed = True  # by the child
                outcome = outcome_of_json(message["outcome"])
                if isinstance(outcome, Raised) and outcome.error.type == "MemoryError":
                    child.ready = False  # what is left of it is not to be relied on
                return outcome
        return None


def _died(code: int | None, *, importing: bool) -> Raised:
    """The outcome of a job whose process ended by itself; `importing`: before it had the program."""
    if importing:
        return _failed(
            "ProcessCrashed",
            f"its process ended while it imported the program (exit code {code}); what it wrote to stderr says why",
        )
    if code is None:
        return _failed("ProcessCrashed", "its process closed the pipe to the worker and was killed")
    if code == LOST_PARENT:
        return _failed("ProcessCrashed", f"its process exited with code {code}, or closed the pipe to the worker")
    if code >= 0:
        return _failed("ProcessCrashed", f"its process exited with code {code}; return from the function instead")
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    hint = "; the kernel does so when memory is short" if name == "SIGKILL" else ""
    return _failed("ProcessCrashed", f"its process was killed by {name}{hint}")


def _failed(error: str, message: str, ended: FailureKind = "crashed") -> Raised:
    return Raised(ErrorInfo(type=error, message=message), ended=ended)
