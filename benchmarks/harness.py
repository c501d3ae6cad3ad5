"""Starts a private RabbitMQ, a fresh virtual host for each measurement, and processes that end with it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import pika
from pika import exceptions
from pika.adapters.blocking_connection import BlockingChannel

from benchmarks import bare
from benchmarks.meter import Memory
from tests.support.process import Lodging, end_of
from tests.support.rabbitmq import Broker, Vhost

ROOT = Path(__file__).parents[1]
POLL_SECONDS = 0.01


@dataclass(frozen=True)
class Scale:
    """How long to measure: in full, or quickly."""

    quick: bool = False

    @property
    def rounds(self) -> int:
        """Rounds per figure. The result is their median, so one round gives only an impression."""
        return 1 if self.quick else 3

    def of(self, whole: int) -> int:
        """A number of jobs, or a fifth of it if quick."""
        return max(1, whole // 5) if self.quick else whole

    def seconds(self, whole: float) -> float:
        """A length of time, or a third of it if quick."""
        return whole / 3 if self.quick else whole


class Process:
    """A process that the harness has started."""

    def __init__(self, popen: subprocess.Popen[bytes], log: Path) -> None:
        self.popen = popen
        self.pid = popen.pid
        self._log = log

    def check(self) -> None:
        """Raise when it has ended by itself."""
        if self.popen.poll() is not None:
            raise RuntimeError(f"it ended with {self.popen.returncode}:\n{end_of(self._log)}")

    @property
    def log(self) -> str:
        """The end of what it has written."""
        return end_of(self._log, 200)

    def freeze(self) -> None:
        """Stop it and its children where they are."""
        os.killpg(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Let them go on."""
        os.killpg(self.pid, signal.SIGCONT)


class Harness:
    """The private broker and folder of one run; `with` ends all that was started."""

    def __init__(self, scale: Scale) -> None:
        self.scale = scale
        self.broker = Broker()
        self.memory: dict[str, dict[str, Memory]] = {}
        """What the rows saw in passing, by process and by "idle" or "busy"; the row `memory` shows it."""
        self._lodging = Lodging("benchmarks")
        self.folder = self._lodging.folder
        self._count = 0

    def __enter__(self) -> Self:
        try:
            self.broker.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End every process and remove every file."""
        self._lodging.close()
        self.broker.dispose()

    @contextlib.contextmanager
    def sandbox(self) -> Iterator[Sandbox]:
        """A fresh virtual host and what runs in it; both are gone afterwards."""
        self._count += 1
        vhost = self.broker.vhost()
        folder = self.folder / str(self._count)
        folder.mkdir()
        sandbox = Sandbox(self._lodging, vhost, folder)
        try:
            yield sandbox
        finally:
            sandbox.close()
            vhost.delete()


class Sandbox:
    """A virtual host, a folder and the processes that work there."""

    def __init__(self, lodging: Lodging, vhost: Vhost, folder: Path) -> None:
        self.url = vhost.url
        self.folder = folder
        self.store = f"sqlite:///{folder / 'store.sqlite'}"
        self.stamps = folder / "stamps"
        self._lodging = lodging
        self._processes: list[Process] = []
        self._connection: pika.BlockingConnection | None = None
        self._channel: BlockingChannel | None = None
        self._env = {name: value for name, value in os.environ.items() if not name.startswith("BROKER_JOBS_")}
        self._env |= {
            "BENCH_URL": self.url,
            "BENCH_STAMPS": str(self.stamps),
            "BROKER_JOBS_URL": self.url,
            "BROKER_JOBS_STORE": self.store,
            "BROKER_JOBS_LOG_LEVEL": "WARNING",
            "PYTHONPATH": str(ROOT),
        }

    def use_store(self, url: str) -> None:
        """Let the processes that are started from now on use this store."""
        self.store = self._env["BROKER_JOBS_STORE"] = url

    # --- processes ---

    def start(self, *arguments: str, **environment: str) -> Process:
        """Start a module of Python with arguments, to run until it is ended."""
        log = self.folder / f"log-{len(self._processes)}"
        env = self._env | environment
        popen = self._lodging.start([sys.executable, "-m", *arguments], log=log, env=env)
        process = Process(popen, log)
        self._processes.append(process)
        return process

    def begin(self, step: str, environment: dict[str, str] | None = None, /, **arguments: Any) -> Process:
        """Start a step of `benchmarks.step`."""
        return self.start("benchmarks.step", step, json.dumps(arguments), **(environment or {}))

    def result(self, process: Process, timeout: float = 180) -> dict[str, Any]:
        """Wait for the end of a step; its result."""
        if process.popen.wait(timeout) != 0:
            raise RuntimeError(f"a step ended with {process.popen.returncode}:\n{process.log}")
        found: dict[str, Any] = json.loads(process.log.splitlines()[-1])
        return found

    def run(self, step: str, environment: dict[str, str] | None = None, /, **arguments: Any) -> dict[str, Any]:
        """Run a step to its end."""
        return self.result(self.begin(step, environment, **arguments))

    def end(self, process: Process) -> None:
        """End a process and all it has started."""
        self._lodging.kill(process.popen)
        if process in self._processes:
            self._processes.remove(process)

    def close(self) -> None:
        """End all processes of this sandbox."""
        for process in list(self._processes):
            self.end(process)
        if self._connection is not None and self._connection.is_open:
            with contextlib.suppress(Exception):
                self._connection.close()

    def check(self) -> None:
        """Raise when a process that should run has failed."""
        for process in self._processes:
            if process.popen.poll():
                process.check()

    # --- queues ---

    def depth(self, queue: str) -> tuple[int, int]:
        """(ready messages, consumers) of a queue, exactly and now; (0, 0) where there is none."""
        try:
            method = self._open().queue_declare(queue, passive=True).method
        except exceptions.ChannelClosedByBroker:
            self._channel = None
            return 0, 0
        return int(method.message_count), int(method.consumer_count)

    def exists(self, queue: str) -> bool:
        """Whether there is such a queue."""
        try:
            self._open().queue_declare(queue, passive=True)
        except exceptions.ChannelClosedByBroker:
            self._channel = None
            return False
        return True

    def declare_quorum(self, kind: str) -> None:
        """Declare the queue of bare pika."""
        bare.declare(self._open(), kind)

    def purge(self, queue: str) -> None:
        """Drop what is ready in a queue."""
        self._open().queue_purge(queue)

    def take_one(self, queue: str) -> tuple[bytes, pika.BasicProperties]:
        """Take one message out of a queue, as a template for more."""
        wait_for(lambda: self.depth(queue)[0] > 0, "a message as template")
        method, properties, body = self._open().basic_get(queue, auto_ack=True)
        if method is None or properties is None or body is None:
            raise RuntimeError(f"queue {queue} is empty")
        return body, properties

    def fill(self, queue: str, messages: Iterator[tuple[bytes, pika.BasicProperties]]) -> None:
        """Put messages into a queue, past any exchange."""
        bare.publish_pipelined(self.url, "", queue, messages)

    def wait_for_consumers(self, queue: str, count: int, timeout: float = 30) -> None:
        """Wait until a worker is ready."""

        def ready() -> bool:
            self.check()
            return self.depth(queue)[1] >= count

        wait_for(ready, f"{count} consumers of {queue}", timeout)

    def drained(self, queue: str, timeout: float = 120) -> float:
        """Wait until a queue is empty; the instant (time.perf_counter) it was."""
        wait_for(lambda: self.depth(queue)[0] == 0, f"{queue} empty", timeout)
        return time.perf_counter()

    def _open(self) -> BlockingChannel:
        if self._connection is None or not self._connection.is_open:
            parameters = pika.URLParameters(self.url)
            parameters.heartbeat = 0
            self._connection = pika.BlockingConnection(parameters)
            self._channel = None
        if self._channel is None or not self._channel.is_open:
            self._channel = self._connection.channel()
        return self._channel


def wait_for(condition: Callable[[], bool], what: str, timeout: float = 60, poll: float = POLL_SECONDS) -> None:
    """Wait until a condition holds; raises TimeoutError that names it."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() >= deadline:
            raise TimeoutError(f"{what}: not within {timeout:g} s")
        time.sleep(poll)
