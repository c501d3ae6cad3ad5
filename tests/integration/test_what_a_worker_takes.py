"""What a worker takes and in which order it starts it: slots, queues, long jobs, and other workers that are idle."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import pytest

from broker_jobs import BrokerJobs, OptionError, UsageError
from broker_jobs.messages.commands import ChangeWorker
from broker_jobs.producer.receipt import Receipt
from broker_jobs.store import Store
from broker_jobs.store.records import WorkerRow
from broker_jobs.store.row import Row
from tests.support.system import System
from tests.support.wait import eventually

BROKERS = ["memory", pytest.param("rabbitmq", marks=pytest.mark.rabbitmq)]


class Program:
    """A program with workers of its own; its jobs note when they start and end, and wait to be let go."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url = url
        self.store_url = f"sqlite:///{folder / 'store.db'}"
        self.lock = threading.Lock()
        self.started: list[Any] = []
        self.running: Counter[str] = Counter()
        self.most: Counter[str] = Counter()
        self.gates: dict[str, threading.Event] = {}
        self._ends: list[Callable[[], object]] = []
        self.jobs = self._program()

    def _program(self) -> BrokerJobs:
        jobs = BrokerJobs(self.url, store=self.store_url)

        @jobs.job
        def work(name: Any, queue: str = "default", seconds: float = 0.0) -> None:
            self._enter(name, queue)
            time.sleep(seconds)
            self._leave(queue)

        @jobs.job
        def hold(gate: str, queue: str = "default") -> None:
            self._enter(gate, queue)
            self.gate(gate).wait(120)
            self._leave(queue)

        @jobs.job
        async def hold_async(gate: str, queue: str = "default") -> None:
            self._enter(gate, queue)
            while not self.gate(gate).is_set():  # noqa: ASYNC110  # threads wait at it too
                await asyncio.sleep(0.01)
            self._leave(queue)

        self.work, self.hold, self.hold_async = work, hold, hold_async
        self._ends.append(lambda: jobs.stop(20))
        return jobs

    def start(self, settings: dict[str, Any] | None = None, **how: Any) -> None:
        self.jobs.configure({"worker_heartbeat": 0.2, **(settings or {})})
        self.jobs.start(**how)

    @cached_property
    def store(self) -> Store:
        store = Store(self.store_url)
        store.open()
        self._ends.insert(0, store.close)
        return store

    def gate(self, name: str) -> threading.Event:
        with self.lock:
            return self.gates.setdefault(name, threading.Event())

    def _enter(self, name: Any, queue: str) -> None:
        with self.lock:
            self.started.append(name)
            for key in (queue, "all"):
                self.running[key] += 1
                self.most[key] = max(self.most[key], self.running[key])

    def _leave(self, queue: str) -> None:
        with self.lock:
            for key in (queue, "all"):
                self.running[key] -= 1

    def rows(self, receipts: Sequence[Receipt[Any]]) -> list[Row]:
        return [row for receipt in receipts if (row := self.store.reader.jobs.get(receipt.id)) is not None]

    def close(self) -> None:
        for gate in list(self.gates.values()):
            gate.set()
        for end in reversed(self._ends):
            end()


@pytest.fixture(params=BROKERS)
def program(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Program]:
    url = request.getfixturevalue("vhost").url if request.param == "rabbitmq" else "memory://"
    program = Program(url, tmp_path)
    yield program
    program.close()


def test_concurrency_counts_sync_and_async_jobs_together(program: Program) -> None:
    program.start(concurrency=3)
    jobs = [job.enqueue("go") for _ in range(5) for job in (program.hold, program.hold_async)]
    eventually(lambda: program.running["all"] == 3)
    program.gate("go").set()
    for receipt in jobs:
        receipt.result(timeout=60)
    assert (len(program.started), program.most["all"]) == (10, 3)


def test_a_limited_queue_holds_up_no_other_and_hoards_nothing(program: Program) -> None:
    program.start(queues=["bulk", "mail"], queue_limits={"bulk": 1}, concurrency=3)
    bulk = [program.hold.using(queue="bulk").enqueue("go", "bulk") for _ in range(5)]
    eventually(lambda: program.running["bulk"] == 1)
    mail = [program.work.using(queue="mail").enqueue(n, "mail") for n in range(20)]
    for receipt in mail:
        receipt.result(timeout=60)
    program.gate("go").set()
    for receipt in bulk:
        receipt.result(timeout=60)
    assert program.most["bulk"] == 1
    assert {row.epoch for row in program.rows(bulk)} == {1}, "what could not start stayed in its queue"


def test_weights_share_the_starts_and_no_queue_starves(program: Program) -> None:
    program.start(queues={"mail": 3, "bulk": 1, "default": 1}, concurrency=1)
    first = program.hold.enqueue("go")
    eventually(lambda: program.started == ["go"])
    jobs = [
        program.work.using(queue=queue).enqueue(queue, queue, 0.05) for _ in range(40) for queue in ("mail", "bulk")
    ]
    program.gate("go").set()
    for receipt in [first, *jobs]:
        receipt.result(timeout=120)
    while_both = Counter(program.started[1:41])
    assert 4 <= while_both["bulk"] <= 17, f"a quarter of the starts, about: {program.started}"


def test_the_preferred_queue_goes_first(program: Program) -> None:
    program.start(queues=["mail", "bulk", "default"], concurrency=1)
    first = program.hold.enqueue("go")
    eventually(lambda: program.started == ["go"])
    jobs = [program.work.using(queue=queue).enqueue(queue, queue, 0.1) for _ in range(15) for queue in ("bulk", "mail")]
    program.gate("go").set()
    for receipt in [first, *jobs]:
        receipt.result(timeout=120)
    assert Counter(program.started[1:16])["mail"] >= 11, program.started


def test_a_worker_that_is_full_of_long_jobs_takes_nothing_more(program: Program) -> None:
    program.start({"handover_after": 0.3}, concurrency=2)
    long = [program.hold.enqueue("go"), program.hold_async.enqueue("go")]
    eventually(lambda: [row.owned for row in program.rows(long)] == [True, True])
    short = [program.work.enqueue(n) for n in range(10)]
    time.sleep(3)  # that nothing happens can only be waited for
    rows = program.rows(short)
    assert ({row.epoch for row in rows}, len(rows)) == ({1}, 10)
    assert program.started == ["go", "go"]
    program.gate("go").set()
    for receipt in [*long, *short]:
        receipt.result(timeout=60)
    assert {row.epoch for row in program.rows(short)} == {1}


def test_the_slots_that_long_jobs_leave_are_used(program: Program) -> None:
    program.start({"handover_after": 0.3}, concurrency=2)
    long = program.hold.enqueue("go")
    eventually(lambda: [row.owned for row in program.rows([long])] == [True])
    short = [program.work.enqueue(n) for n in range(30)]
    for receipt in short:
        receipt.result(timeout=60)
    assert program.started == ["go", *range(30)], "one slot is left, so they run in the order of their queue"


def test_a_queue_that_is_written_wrongly_is_refused_with_what_to_write(program: Program) -> None:
    with pytest.raises(OptionError, match="give each queue a weight, such as bulk:1"):
        program.start(queues=["mail:3", "bulk"])
    with pytest.raises(OptionError, match="queue 'bulk' has a limit and is not served"):
        program.start(queues=["mail"], queue_limits={"bulk": 1})


def test_a_queue_of_the_program_that_its_worker_does_not_serve_is_named(
    program: Program, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "broker_jobs")

    @program.jobs.job(queue="reports")
    def report() -> None: ...

    program.start(queues=["default"])
    eventually(lambda: "queues that this worker does not serve: reports;" in caplog.text)


def change(program: Program, **fields: Any) -> list[str]:
    """Change the worker of this program, as a person does."""
    worker = worker_row(program)
    requests = program.jobs._requests
    reply = requests.command(ChangeWorker(**requests.command_fields(), worker=worker.id, **fields))
    return list(reply.detail["workers"])


def worker_row(program: Program) -> WorkerRow:
    (worker,) = program.store.reader.processes.workers()
    return worker


def test_the_concurrency_of_a_running_worker_is_changed(program: Program) -> None:
    program.start(concurrency=1)
    jobs = [program.hold.enqueue(f"go-{n}") for n in range(6)]
    eventually(lambda: program.running["all"] == 1)
    change(program, concurrency=3)
    eventually(lambda: program.running["all"] == 3)
    eventually(lambda: worker_row(program).concurrency == 3)
    change(program, concurrency=1)
    eventually(lambda: worker_row(program).concurrency == 1)
    program.most.clear()
    for n in range(6):
        program.gate(f"go-{n}").set()
    for receipt in jobs:
        receipt.result(timeout=60)
    assert program.started == [f"go-{n}" for n in range(6)]


def test_the_queues_of_a_running_worker_are_changed(program: Program) -> None:
    program.start(queues=["mail"], concurrency=2)
    program.jobs.queues.pause("never")  # a command is answered, so the worker has been heard of
    eventually(lambda: worker_row(program).queues == ("mail",))
    bulk = [program.work.using(queue="bulk").enqueue(n, "bulk") for n in range(5)]
    change(program, queues=["bulk:2", "rest:1"], queue_limits={"bulk": 1})
    for receipt in bulk:
        receipt.result(timeout=60)
    assert program.most["bulk"] == 1
    row = eventually(lambda: (seen := worker_row(program)).queues == ("bulk", "rest") and seen)
    assert isinstance(row, WorkerRow)
    assert (row.served, row.queue_limits) == (("bulk:2", "rest:1"), {"bulk": 1})
    mail = program.work.using(queue="mail").enqueue("mail", "mail")
    change(program, queues=["mail"])
    mail.result(timeout=60)


def test_a_change_that_cannot_apply_is_refused_and_changes_nothing(program: Program) -> None:
    program.start(queues=["mail"], concurrency=2)
    program.jobs.queues.pause("never")
    with pytest.raises(UsageError, match="queue 'bulk' has a limit and is not served"):
        change(program, queue_limits={"bulk": 1})
    assert worker_row(program).queue_limits == {}


def started(system: System, id: str) -> bool:
    return system.starts()[id] == 1


@pytest.mark.rabbitmq
def test_no_job_waits_behind_a_long_one_while_another_worker_is_idle(system: System) -> None:
    system.here("coordinator")
    for _ in range(2):
        system.here("worker", concurrency=1)
    for turn in range(3):
        # The worker that gets the long job has a large window by then: it was short jobs that it ran.
        system.succeeded(system.enqueue(200))
        long = system.hold(f"long-{turn}")
        short = system.enqueue(12)
        eventually(partial(started, system, long.id))
        system.succeeded(short)
        assert long.id not in system.ended()
        rows = system.rows(short).values()
        assert all(row.epoch <= 2 for row in rows), "a job is returned once at most, and goes to the other"
        system.go(f"long-{turn}")
        system.succeeded([long.id])
    assert set(system.starts().values()) == {1}
