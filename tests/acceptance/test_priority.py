"""Priorities: within a queue, a worker starts what is high before what is normal before what is low.

One program of one slot for all tests of a broker; each test keeps the slot busy while it enqueues, by every way in.
"""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from broker_jobs import BrokerJobs, Concurrency, OptionError, Ordered, State
from broker_jobs.broker import names
from broker_jobs.broker.interface import Message
from broker_jobs.broker.work_depth import work_depth
from broker_jobs.messages.priority import PRIORITIES
from broker_jobs.producer.job import Job
from broker_jobs.store import SearchQuery, Store
from tests.support.hoard import let_workers_take_more
from tests.support.rabbitmq import Broker
from tests.support.wait import eventually

SECONDS = 60


class OneSlot:
    """A program that runs one job at a time. Its jobs note when they start, and wait until the test lets them end."""

    def __init__(self, url: str, store: str) -> None:
        self.jobs = BrokerJobs(url, store=store, service="tests")
        self.store = Store(store)
        self.store.open()
        self.started: list[str] = []
        self._doors: dict[str, threading.Event] = {}
        self._subscribed = threading.Event()
        run = self._run

        @self.jobs.job(retries=0)
        def work(name: str) -> str:
            return run(name)

        @self.jobs.job(retries=0, priority="high")
        def urgent(name: str) -> str:
            return run(name)

        @self.jobs.job(retries=0)
        async def coroutine(name: str) -> str:
            return run(name)

        @self.jobs.job(retries=1, backoff=[0.05], priority="high")
        def stumble(name: str) -> str:
            first = f"{name} stumbles" not in self.started
            run(f"{name} stumbles" if first else name)
            if first:
                raise ValueError("once")
            return name

        @self.jobs.subscribe("happened", retries=0, priority="high")
        def answer(name: str) -> str:
            if name:
                return run(name)
            self._subscribed.set()
            return name

        self.work, self.urgent, self.coroutine, self.stumble = work, urgent, coroutine, stumble
        self.jobs.start(concurrency=1)
        eventually(self._hears, SECONDS, "it is subscribed")

    def _hears(self) -> bool:
        self.jobs.publish("happened", "")
        return self._subscribed.wait(0.1)

    def _run(self, name: str) -> str:
        self.started.append(name)
        if name in self._doors:
            assert self._doors[name].wait(120)
        return name

    def closed(self, name: str) -> None:
        """Let a run of this name wait for `let`."""
        self._doors[name] = threading.Event()

    def hold(self, name: str, job: Job[..., Any] | None = None) -> None:
        """Occupy the slot until `let`."""
        self.closed(name)
        (job or self.work).enqueue(name)
        eventually(lambda: name in self.started, SECONDS, f"{name} starts")

    def let(self, name: str) -> None:
        """Let a run end."""
        self._doors[name].set()

    def arrived(self, *priorities: str) -> None:
        """Wait until the worker has something of each of these that has not started."""
        program = self.jobs._program
        assert program is not None
        assert program.worker is not None
        starter = program.worker._starter
        eventually(
            lambda: {each.envelope.priority for each in starter.held()} == {*priorities},
            SECONDS,
            f"{priorities} wait at the worker",
        )

    def order(self, first: str, count: int) -> list[str]:
        """The next starts after that of `first`."""
        eventually(lambda: len(self.started) > self.started.index(first) + count, SECONDS, f"{count} start")
        place = self.started.index(first) + 1
        return self.started[place : place + count]

    def rests(self) -> bool:
        """Whether nothing waits for the slot or runs."""
        open_states = (State.ENQUEUED, State.PROCESSING)
        return not self.store.reader.jobs.search(SearchQuery(states=open_states, queue="default", limit=1)).rows

    def close(self) -> None:
        for door in self._doors.values():
            door.set()
        self.jobs.stop(0)
        self.store.close()


@pytest.fixture(scope="module", params=["memory", pytest.param("rabbitmq", marks=pytest.mark.rabbitmq)])
def slot(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OneSlot]:
    with pytest.MonkeyPatch.context() as patch:
        let_workers_take_more(patch.setattr)
        yield from _slot(request, tmp_path_factory)


def _slot(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OneSlot]:
    store = f"sqlite:///{tmp_path_factory.mktemp('priority') / 'store.db'}"
    if request.param == "memory":
        slot = OneSlot(f"memory://{uuid.uuid4().hex}", store)
        yield slot
        slot.close()
        return
    node: Broker = request.getfixturevalue("broker")
    node.heal()
    vhost = node.vhost()
    assert vhost.opens()
    slot = OneSlot(vhost.url, store)
    yield slot
    slot.close()
    vhost.delete()


@pytest.fixture
def name(slot: OneSlot) -> Iterator[Callable[[str], str]]:
    """Names that no other test has. What a test has left waiting would run in the midst of the next one."""
    prefix = uuid.uuid4().hex[:6]
    yield lambda text: f"{prefix} {text}"
    eventually(slot.rests, what="all jobs of this test have ended")


Name = Callable[[str], str]


# --- what starts first ---


@pytest.mark.parametrize("kind", ["work", "coroutine"])
def test_a_worker_starts_high_before_normal_before_low(slot: OneSlot, name: Name, kind: str) -> None:
    job: Job[..., str] = getattr(slot, kind)
    slot.hold(name("busy"), job)  # threads and event loop have a slot each
    for priority in ("low", "normal", "high"):
        job.using(priority=priority).enqueue(name(priority))
    slot.arrived(*PRIORITIES)
    slot.let(name("busy"))
    assert slot.order(name("busy"), 3) == [name(priority) for priority in PRIORITIES]


@pytest.mark.parametrize("kind", ["work", "coroutine"])
def test_what_comes_from_the_broker_goes_before_what_is_lower_and_was_here(
    slot: OneSlot, name: Name, kind: str
) -> None:
    """More is high than the worker has at hand: each that runs waits until the next has come."""
    job: Job[..., str] = getattr(slot, kind)
    high = [name(f"high {n}") for n in range(6)]
    for each in high:
        slot.closed(each)
    slot.hold(name("busy"), job)
    for priority in ("low", "normal"):
        for n in range(3):
            job.using(priority=priority).enqueue(name(f"{priority} {n}"))
    for each in high:
        job.using(priority="high").enqueue(each)
    slot.arrived(*PRIORITIES)
    slot.let(name("busy"))
    for n, each in enumerate(high):
        eventually(lambda each=each: each in slot.started, SECONDS, f"{each} starts")  # type: ignore[misc]
        slot.arrived(*(PRIORITIES if n < 5 else PRIORITIES[1:]))
        slot.let(each)
    assert slot.order(name("busy"), 6) == high


def test_what_runs_is_not_interrupted(slot: OneSlot, name: Name) -> None:
    slot.hold(name("busy"), slot.work.using(priority="low"))
    high = slot.urgent.enqueue(name("high"))
    slot.arrived("high")
    assert high.state() is State.ENQUEUED
    slot.let(name("busy"))
    assert high.result(timeout=SECONDS) == name("high")


# --- by every way in ---


def _own_id(slot: OneSlot, name: str) -> None:
    slot.urgent.using(id=f"own-{uuid.uuid4().hex}").enqueue(name)


def _many(slot: OneSlot, name: str) -> None:
    slot.jobs.enqueue_many([slot.urgent.bind(name)])


def _delayed(slot: OneSlot, name: str) -> None:
    slot.urgent.schedule(timedelta(seconds=0.05), name)


def _child(slot: OneSlot, name: str) -> None:
    parent = slot.work.using(queue="nobody").enqueue("never")
    child = slot.urgent.after(parent, on="finished").enqueue(name)
    eventually(lambda: child.state() is State.AWAITING, SECONDS, "it waits")
    parent.delete()


def _member(slot: OneSlot, name: str) -> None:
    with slot.jobs.batch() as batch:
        batch.enqueue(slot.urgent, name)


def _limited(slot: OneSlot, name: str) -> None:
    slot.urgent.using(limit=Concurrency(name, 1)).enqueue(name)


def _unique(slot: OneSlot, name: str) -> None:
    slot.urgent.using(unique=name).enqueue(name)


def _requeued(slot: OneSlot, name: str) -> None:
    made = slot.urgent.schedule(timedelta(hours=1), name)
    eventually(lambda: made.state() is State.SCHEDULED, SECONDS, "it is scheduled")
    made.delete()
    made.requeue()


def _rescheduled(slot: OneSlot, name: str) -> None:
    made = slot.urgent.schedule(timedelta(hours=1), name)
    eventually(lambda: made.state() is State.SCHEDULED, SECONDS, "it is scheduled")
    made.reschedule(timedelta(seconds=0))


def _recurring(slot: OneSlot, name: str) -> None:
    slot.jobs.recurring.put(name, "0 0 29 2 *", slot.urgent.bind(name))
    slot.jobs.recurring.trigger(name)


def _event(slot: OneSlot, name: str) -> None:
    slot.jobs.publish("happened", name)


def _remote(slot: OneSlot, name: str) -> None:
    slot.jobs.remote("work", priority="high").enqueue(name)


def _one_call(slot: OneSlot, name: str) -> None:
    slot.jobs.remote("work").using(priority="high").enqueue(name)


def _raw(slot: OneSlot, name: str) -> None:
    """As a program in another language."""
    envelope = {
        "v": 1, "id": str(uuid.uuid4()), "job": "work", "args": [name], "priority": "high",
        "created_at": datetime.now(UTC).isoformat(),
    }  # fmt: skip
    body = json.dumps(envelope).encode()
    slot.jobs._connection.broker().publish([Message(names.SUBMIT, "default:high", body, "job")]).result(SECONDS)


def _raw_to_the_log(slot: OneSlot, name: str) -> None:
    envelope = {
        "v": 1, "id": str(uuid.uuid4()), "job": "work", "args": [name], "priority": "high", "epoch": 0,
        "created_at": datetime.now(UTC).isoformat(),
    }  # fmt: skip
    body = json.dumps(envelope).encode()
    slot.jobs._connection.broker().publish([Message(names.OFFER, names.LOG_KEY, body, "job")]).result(SECONDS)


def _raw_to_the_wrong_key(slot: OneSlot, name: str) -> None:
    """Published to the normal work queue: at the worker it is what it says."""
    envelope = {
        "v": 1, "id": str(uuid.uuid4()), "job": "work", "args": [name], "priority": "high",
        "created_at": datetime.now(UTC).isoformat(),
    }  # fmt: skip
    body = json.dumps(envelope).encode()
    slot.jobs._connection.broker().publish([Message(names.SUBMIT, "default", body, "job")]).result(SECONDS)


WAYS = [
    *(_own_id, _many, _delayed, _child, _member, _limited, _unique, _requeued, _rescheduled, _recurring, _event),
    *(_remote, _one_call, _raw, _raw_to_the_log),
]


@pytest.mark.parametrize("way", WAYS, ids=[way.__name__.strip("_") for way in WAYS])
def test_a_high_job_goes_first_by_every_way_in(slot: OneSlot, name: Name, way: Callable[[OneSlot, str], None]) -> None:
    slot.hold(name("busy"))
    slot.work.enqueue(name("normal"))
    slot.work.using(priority="low").enqueue(name("low"))
    slot.arrived("normal", "low")
    way(slot, name("high"))
    slot.arrived(*PRIORITIES)
    slot.let(name("busy"))
    assert slot.order(name("busy"), 3) == [name(priority) for priority in PRIORITIES]


def test_a_job_in_the_wrong_work_queue_is_what_its_envelope_says(slot: OneSlot, name: Name) -> None:
    slot.hold(name("busy"), slot.work.using(priority="low"))
    slot.work.enqueue(name("normal"))
    slot.arrived("normal")
    _raw_to_the_wrong_key(slot, name("high"))
    slot.arrived("high", "normal")
    slot.let(name("busy"))
    assert slot.order(name("busy"), 2) == [name("high"), name("normal")]


def test_a_retry_keeps_the_priority(slot: OneSlot, name: Name) -> None:
    slot._doors[name("high stumbles")] = threading.Event()
    slot._doors[name("busy")] = threading.Event()
    slot.stumble.enqueue(name("high"))
    eventually(lambda: name("high stumbles") in slot.started, SECONDS, "the first attempt")
    slot.work.enqueue(name("busy"))
    slot.arrived("normal")
    slot.let(name("high stumbles"))
    assert slot.order(name("high stumbles"), 1) == [name("busy")]
    slot.work.enqueue(name("normal"))
    slot.arrived("high", "normal")
    slot.let(name("busy"))
    assert slot.order(name("busy"), 2) == [name("high"), name("normal")]


def test_in_a_limit_the_order_of_acceptance_counts(slot: OneSlot, name: Name) -> None:
    slot.hold(name("first"), slot.work.using(limit=Ordered(name("key"))))
    slot.work.using(limit=Ordered(name("key")), priority="low").enqueue(name("low"))
    slot.work.using(limit=Ordered(name("key")), priority="high").enqueue(name("high"))
    slot.let(name("first"))
    assert slot.order(name("first"), 2) == [name("low"), name("high")]


# --- a queue is all of its work queues ---


def test_a_paused_queue_starts_nothing_of_any_priority(slot: OneSlot, name: Name) -> None:
    slot.jobs.queues.pause("default")
    for priority in PRIORITIES:
        slot.work.using(priority=priority).enqueue(name(priority))
    broker = slot.jobs._connection.broker()

    def ready() -> bool:
        depth = work_depth(broker, "default")
        return depth is not None and depth.ready == {"high": 1, "normal": 1, "low": 1}

    eventually(ready, SECONDS, "they wait in the broker")
    assert not [each for each in slot.started if each in map(name, PRIORITIES)]
    rows = slot.store.reader.queues.rows(time.time())
    eventually(lambda: _waiting(slot) == (3, {"high": 1, "low": 1}), SECONDS, f"they are counted: {rows}")
    slot.jobs.queues.resume("default")
    eventually(lambda: {*map(name, PRIORITIES)} <= {*slot.started}, SECONDS, "they start")
    eventually(lambda: _waiting(slot) == (0, {"high": 0, "low": 0}), SECONDS, "none waits")


def test_the_dashboard_shows_the_priority_and_what_waits_of_each(slot: OneSlot, name: Name) -> None:
    slot.hold(name("busy"))
    dashboard = slot.jobs.dashboard(local=True)
    try:
        browser = TestClient(dashboard, base_url="http://localhost", client=("127.0.0.1", 1))
        made = [slot.work.using(priority=each).enqueue(name(each)) for each in ("low", "normal", "high")]
        eventually(lambda: browser.get("/run/urgent").status_code == 200, SECONDS, "the functions are declared")
        body = {"job": "urgent", "args": [name("api")]}  # as the code declares it
        by_api = browser.post("/api/v1/jobs", json=body, headers={"origin": "http://localhost"})
        assert by_api.status_code == 201, by_api.text
        slot.arrived(*PRIORITIES)

        def counted() -> bool:
            (queue,) = (each for each in browser.get("/api/v1/queues").json() if each["name"] == "default")
            return (queue["enqueued"], queue["enqueued_high"], queue["enqueued_low"]) == (4, 2, 1)

        eventually(counted, SECONDS, "they are counted")
        assert "2 high, 1 low" in browser.get("/queues").text
        assert "<dt>Priority</dt><dd>low</dd>" in browser.get(f"/jobs/{made[0].id}").text
        for id, priority in [(made[1].id, "normal"), (made[2].id, "high"), (by_api.json()["id"], "high")]:
            assert browser.get(f"/api/v1/jobs/{id}").json()["priority"] == priority
        code = browser.get(f"/api/v1/jobs/{made[0].id}").json()["code"]
        assert code == f'work.using(priority="low").enqueue("{name("low")}")'
        body["priority"] = "urgent"
        assert browser.post("/api/v1/jobs", json=body, headers={"origin": "http://localhost"}).status_code == 422
    finally:
        dashboard.close()
    slot.let(name("busy"))
    started = slot.order(name("busy"), 4)
    assert started[:2] == [name("high"), name("api")]
    assert started[2:] == [name("normal"), name("low")]


def _waiting(slot: OneSlot) -> tuple[int, dict[str, int]]:
    (row,) = (each for each in slot.store.reader.queues.rows(time.time()) if each.name == "default")
    return row.counts[State.ENQUEUED], row.waiting


def test_a_queue_that_nobody_declared_gets_all_of_its_work_queues(slot: OneSlot, name: Name) -> None:
    queue = f"new-{uuid.uuid4().hex[:8]}"
    made = slot.work.using(queue=queue, priority="high").enqueue(name("high"))
    broker = slot.jobs._connection.broker()
    eventually(lambda: (depth := work_depth(broker, queue)) and depth.ready["high"] == 1, SECONDS, "it is declared")
    depth = work_depth(broker, queue)
    assert depth is not None
    assert (depth.total, depth.missing) == (1, ())
    assert made.state() is State.ENQUEUED


# --- what is refused ---


@pytest.mark.parametrize("value", ["urgent", "HIGH", "", 5, None, True, b"high", ["high"]])
def test_a_priority_that_is_none_is_refused_at_every_entry(value: Any, tmp_path: Path) -> None:
    jobs = BrokerJobs("memory://refused", store=f"sqlite:///{tmp_path / 'store.db'}")

    @jobs.job
    def plain() -> None: ...

    entries: list[Callable[[], object]] = [
        lambda: jobs.job(priority=value),
        lambda: jobs.subscribe("happened", priority=value),
        lambda: jobs.remote("billing.charge", priority=value),
        lambda: plain.using(priority=value),
        lambda: jobs.recurring("nightly", "0 3 * * *", plain.using(priority=value)),
    ]
    for enter in entries:
        with pytest.raises(OptionError, match="priority must be 'high', 'normal' or 'low', not "):
            enter()
