"""Limits that are reached, and jobs that wait for several things at once: on the broker in memory, and on RabbitMQ.

A job that waits for a parent, a batch or a time does not run before it, whatever becomes free meanwhile.
"""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pika
import pytest

from broker_jobs import (
    BrokerJobs,
    Concurrency,
    Job,
    JobFailed,
    Ordered,
    RateLimit,
    Receipt,
    State,
    Unique,
    UsageError,
    result_of,
)
from tests.support.rabbitmq import Vhost
from tests.support.system import System
from tests.support.wait import eventually

PER = 0.8
"""Seconds of the rates; a job is never released early, so the n-th start has a moment that it cannot be before."""


@pytest.fixture(params=["memory", pytest.param("rabbitmq", marks=pytest.mark.rabbitmq)])
def url(request: pytest.FixtureRequest) -> str:
    if request.param == "memory":
        return f"memory://{uuid.uuid4().hex}"
    vhost: Vhost = request.getfixturevalue("vhost")
    return vhost.url


class Gates:
    """A program whose jobs note when they start, and those that are held until the test opens them."""

    def __init__(self, url: str, store: str) -> None:
        self.jobs = BrokerJobs(url, store=store)
        self.started: list[str] = []
        self.at: list[float] = []
        self._open: dict[str, threading.Event] = {}
        self._lock = threading.Lock()
        self._most: dict[str, int] = {}

        @self.jobs.job(retries=0)
        def plain(name: str) -> str:
            self._note(name)
            return name

        @self.jobs.job(limit=Ordered("account:{account}"), retries=0)
        def book(name: str, account: int = 1) -> str:
            self._note(name)
            self._wait(name)
            return name

        @self.jobs.job(limit=Concurrency("smtp", 2), retries=0)
        def mail(name: str) -> str:
            self._note(name)
            self._wait(name)
            return name

        @self.jobs.job(limit=RateLimit("api", 2, per=PER), retries=0)
        def call(name: str) -> str:
            self._note(name)
            return name

        @self.jobs.job(limit=RateLimit("fixed", 2, per=PER, window="fixed"), retries=0)
        def call_fixed(name: str) -> str:
            self._note(name)
            return name

        self.plain, self.book, self.mail, self.call, self.call_fixed = plain, book, mail, call, call_fixed

    def _note(self, name: str) -> None:
        with self._lock:
            self.started.append(name)
            self.at.append(time.time())

    def hold(self, name: str) -> None:
        """Keep a job of this name from its end until `open`."""
        self._open[name] = threading.Event()

    def open(self, name: str) -> None:
        self._open[name].set()

    def _wait(self, name: str) -> None:
        if name in self._open:
            assert self._open[name].wait(60)

    def starts(self, name: str) -> None:
        """Wait until a job has started."""
        eventually(lambda: name in self.started, what=f"{name} starts")

    def close(self) -> None:
        for event in self._open.values():
            event.set()
        self.jobs.stop(0)


@pytest.fixture
def store(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if getattr(request, "param", "") == "postgresql":
        return str(request.getfixturevalue("postgres_url"))
    return f"sqlite:///{tmp_path / 'store.db'}"


@pytest.fixture
def gates(url: str, store: str) -> Iterator[Gates]:
    gates = Gates(url, store)
    gates.jobs.start(concurrency=8)
    yield gates
    gates.close()


def test_a_concurrency_limit_is_reached_and_all_jobs_run(gates: Gates) -> None:
    names = [f"m{n}" for n in range(6)]
    for name in names:
        gates.hold(name)
    receipts = [gates.mail.enqueue(name) for name in names]
    eventually(lambda: [one.state() for one in receipts[2:]] == [State.AWAITING] * 4, what="four wait")
    eventually(lambda: len(gates.started) == 2, what="two run")
    for number, name in enumerate(names):
        first_two, others = sorted(gates.started[:2]), gates.started[2:]  # two threads begin the first two at once
        assert [*first_two, *others] == names[: number + 2], "first come, first served, two at once"
        gates.open(name)
        receipts[number].result(timeout=120)
        eventually(lambda number=number: len(gates.started) == min(6, number + 3), what="the next one")  # type: ignore[misc]


def test_a_sliding_rate_is_reached_and_all_jobs_run_while_others_go_on(gates: Gates) -> None:
    names, begun = [f"c{n}" for n in range(7)], time.time()
    receipts = [gates.call.enqueue(name) for name in names]
    others = 0
    while not all(receipt.state().is_final for receipt in receipts):  # transactions at every moment, also just before
        gates.plain.enqueue(f"p{others}").result(timeout=120)
        others += 1
    at = [moment for name, moment in zip(gates.started, gates.at, strict=True) if name in names]
    assert [name for name in gates.started if name in names] == names
    assert [moment - begun for n, moment in enumerate(at) if moment < begun + n // 2 * PER] == []
    assert others > 7


def test_a_fixed_rate_is_reached_and_all_jobs_run(gates: Gates) -> None:
    begun = time.time()
    receipts = [gates.call_fixed.enqueue(f"c{n}") for n in range(5)]
    assert [receipt.result(timeout=120) for receipt in receipts] == [f"c{n}" for n in range(5)]
    assert gates.at[4] - begun > PER, "two windows at least"


def test_a_rate_that_is_set_higher_lets_those_who_wait_go(gates: Gates) -> None:
    @gates.jobs.job(limit=RateLimit("slow", 1, per=3600))
    def slow(n: int) -> int:
        return n

    receipts = [slow.enqueue(n) for n in range(4)]
    receipts[0].result(timeout=120)
    assert State.SUCCEEDED not in [receipt.state() for receipt in receipts[1:]]
    gates.jobs.limits.set("slow", 10)
    assert [receipt.result(timeout=120) for receipt in receipts] == [0, 1, 2, 3]


def test_the_start_of_a_deleted_job_is_taken_by_the_next(gates: Gates) -> None:
    @gates.jobs.job(limit=RateLimit("deleted", 1, per=1.0))
    def slow(n: int) -> int:
        return n

    receipts = [slow.enqueue(n) for n in range(30)]
    for receipt in receipts[1:29]:
        receipt.delete()
    assert receipts[29].result(timeout=120) == 29, "not after thirty seconds"


def test_delayed_jobs_that_come_due_together_keep_their_rate(gates: Gates) -> None:
    due = time.time() + 0.5
    receipts = [gates.call.schedule(timedelta(seconds=0.5), f"c{n}") for n in range(5)]
    for receipt in receipts:
        receipt.result(timeout=120)
    assert [moment - due for n, moment in enumerate(gates.at) if moment < due + n // 2 * PER] == []


WaitsFor = Callable[[Gates, Job[..., str]], tuple[Receipt[str], Callable[[], object]]]
"""Enqueues a job that waits for something beside its limit; the job, and what makes that come, and returns then."""


def after_a_parent(gates: Gates, job: Job[..., str]) -> tuple[Receipt[str], Callable[[], object]]:
    gates.hold("parent")

    @gates.jobs.job(retries=0)
    def parent() -> None:
        gates._wait("parent")

    first = parent.enqueue()
    receipt = job.after(first).enqueue("late")
    beside = gates.plain.after(first).enqueue("beside")

    def come() -> None:
        gates.open("parent")
        beside.result(timeout=120)  # what waits for the parent has been told

    return receipt, come


def in_a_batch(gates: Gates, job: Job[..., str]) -> tuple[Receipt[str], Callable[[], object]]:
    entered = gates.jobs.batch()
    batch = entered.__enter__()
    receipt = gates.jobs.receipt(batch.enqueue(job, "late").id)
    for n in range(600):  # more than a message of a batch holds: the first have come long before the block ends
        batch.enqueue(gates.plain, f"filler{n}")
    eventually(lambda: receipt.state() is State.AWAITING, what="the member is known")

    def come() -> None:
        entered.__exit__(None, None, None)
        gates.starts("filler0")

    return receipt, come


def at_a_time(gates: Gates, job: Job[..., str]) -> tuple[Receipt[str], Callable[[], object]]:
    receipt = job.schedule(timedelta(hours=1), "late")
    eventually(lambda: receipt.state() is State.SCHEDULED, what="it is scheduled")
    return receipt, lambda: receipt.reschedule(timedelta(0))


@pytest.mark.parametrize("url", ["memory"], indirect=True)
@pytest.mark.parametrize("waits_for", [after_a_parent, in_a_batch, at_a_time])
@pytest.mark.parametrize("kind", ["book", "mail", "call"])
def test_what_becomes_free_goes_to_others_while_a_job_waits_for_something_else(
    gates: Gates, kind: str, waits_for: WaitsFor
) -> None:
    job: Job[..., str] = getattr(gates, kind)
    waiting, come = waits_for(gates, job)
    others = [job.enqueue(f"o{n}") for n in range(3)]
    for other in others:
        other.result(timeout=120)
    assert "late" not in gates.started
    assert not waiting.state().is_final
    come()
    assert waiting.result(timeout=120) == "late"


@pytest.mark.parametrize("waits_for", [after_a_parent, in_a_batch, at_a_time])
def test_an_ordered_job_keeps_its_place_while_it_waits(gates: Gates, waits_for: WaitsFor) -> None:
    gates.hold("first")
    waiting, come = waits_for(gates, gates.book)
    first, second = gates.book.enqueue("first"), gates.book.enqueue("second")
    gates.starts("first")
    eventually(lambda: second.state() is State.AWAITING, what="the second waits for its turn")
    come()
    gates.open("first")
    for receipt in (first, waiting, second):
        receipt.result(timeout=120)
    # The commit of its batch is the acceptance of a member: there its place is taken.
    expected = ["first", "second", "late"] if waits_for is in_a_batch else ["first", "late", "second"]
    assert [name for name in gates.started if name in expected] == expected


@pytest.mark.parametrize("url", ["memory"], indirect=True)
@pytest.mark.parametrize("store", [pytest.param("postgresql", marks=pytest.mark.postgres)], indirect=True)
def test_limits_are_reached_on_postgresql_too(gates: Gates) -> None:
    waiting, come = after_a_parent(gates, gates.book)
    gates.hold("b0")
    jobs: list[Job[..., str]] = [gates.book, gates.mail, gates.call, gates.call_fixed]
    receipts = [job.enqueue(f"{job.name[0]}{n}") for n in range(5) for job in jobs]
    eventually(lambda: receipts[16].state() is State.AWAITING, what="it waits for its turn")
    gates.open("b0")
    for receipt in receipts:
        receipt.result(timeout=120)
    assert "late" not in gates.started
    come()
    assert waiting.result(timeout=120) == "late"


def test_ordered_jobs_that_wait_for_each_other_across_lines_all_run(gates: Gates) -> None:
    """A parent behind its child in the same line, and two lines that cross."""
    child = gates.book.after(gates.book.receipt("the-parent")).enqueue("child")
    parent = gates.book.using(id="the-parent").enqueue("parent")
    crossed = gates.book.after(parent).enqueue("crossed", 2)
    other = gates.book.enqueue("other", 2)
    for receipt in (parent, child, other, crossed):
        receipt.result(timeout=120)
    assert gates.started.index("parent") < gates.started.index("child")


@pytest.mark.parametrize("url", ["memory"], indirect=True)
@pytest.mark.parametrize("kind", ["book", "mail", "call"])
def test_a_member_of_a_batch_is_not_run_before_its_batch_is_complete(gates: Gates, kind: str) -> None:
    member, complete = in_a_batch(gates, getattr(gates, kind))
    with pytest.raises(UsageError, match="its batch is not complete"):
        member.requeue()
    member.delete()
    with pytest.raises(UsageError, match="its batch is not complete"):
        member.requeue()
    complete()
    eventually(lambda: _requeued(member), what="commands overtake the log: the end of the block is read a moment later")
    assert member.result(timeout=120) == "late"


def _requeued(receipt: Receipt[str]) -> bool:
    try:
        receipt.requeue()
    except UsageError:
        return False
    return True


def test_an_ordered_job_that_is_rescheduled_lets_the_others_go(gates: Gates) -> None:
    @gates.jobs.job(limit=Ordered("retried"), retries=5, backoff=[3600.0])
    def fragile(name: str) -> str:
        gates._note(name)
        if name == "a" and gates.started.count("a") == 1:
            raise ValueError("not yet")
        return name

    first, second = fragile.enqueue("a"), fragile.enqueue("b")
    eventually(lambda: first.state() is State.SCHEDULED, what="a retry waits")
    assert second.state() is State.AWAITING
    first.reschedule(timedelta(hours=2))
    assert second.result(timeout=120) == "b"
    first.requeue()
    assert first.result(timeout=120) == "a"


@pytest.mark.parametrize("url", ["memory"], indirect=True)
@pytest.mark.parametrize("store", ["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)], indirect=True)
def test_a_job_that_waits_for_a_job_and_its_duplicate_runs_once_that_has_ended(gates: Gates) -> None:
    gates.hold("one")
    mail, unique = gates.mail, Unique("the mail", scope="running")
    child = gates.plain.after(mail.receipt("mail-1"), mail.receipt("mail-2")).enqueue("child")
    first = mail.using(id="mail-1", unique=unique).enqueue("one")
    gates.starts("one")
    second = mail.using(id="mail-2", unique=unique).enqueue("two")
    eventually(lambda: second.state() is not None, what="the duplicate is known")
    third = gates.plain.enqueue("third")
    assert third.result(timeout=120) == "third"
    gates.open("one")
    first.result(timeout=120)
    assert child.result(timeout=120) == "child"
    assert "two" not in gates.started


@pytest.mark.parametrize("url", ["memory"], indirect=True)
def test_a_duplicate_of_a_job_that_waits_for_it_fails_and_says_why(gates: Gates) -> None:
    child = gates.plain.after(gates.plain.receipt("the-parent")).using(unique="same").enqueue("child")
    eventually(lambda: child.state() is State.AWAITING, what="the child is known")
    parent = gates.plain.using(id="the-parent", unique="same").enqueue("parent")
    with pytest.raises(JobFailed, match="which waits for it"):
        parent.result(timeout=120)
    eventually(lambda: child.state() is State.DELETED, what="the child waits no longer")


@pytest.mark.parametrize("url", ["memory"], indirect=True)
def test_a_child_of_a_duplicate_of_a_job_that_has_ended_runs(gates: Gates) -> None:
    window = Unique("in a window", scope=timedelta(hours=1))
    gates.plain.using(unique=window).enqueue("first").result(timeout=120)
    child = gates.plain.after(gates.plain.receipt("second")).enqueue("child")
    eventually(lambda: child.state() is State.AWAITING, what="the child is known")
    gates.plain.using(id="second", unique=window).enqueue("second")
    assert child.result(timeout=120) == "child"


@pytest.mark.rabbitmq
def test_an_ordered_job_whose_worker_died_keeps_its_place_while_it_waits_for_its_rate(
    vhost: Vhost, tmp_path: Path
) -> None:
    system = System(vhost, tmp_path)
    try:
        system.here("coordinator")
        worker = system.start("worker")
        limits = [Ordered("line"), RateLimit("slow", 1, per=15.0)]
        first = system.hold("first", limit=limits)
        eventually(lambda: system.starts()[first.id] == 1, 30, "the first has started")
        second = system.jobs.work.using(limit=Ordered("line")).enqueue()
        worker.kill9()
        system.start("worker")
        system.go("first")
        with system.log_time_passes():
            system.succeeded([first.id, second.id])
        assert [mark.id for mark in system.marks("started")] == [first.id, first.id, second.id]
    finally:
        system.close()


# ---- a producer with nothing of ours


def write_compact(envelope: dict[str, Any]) -> str:
    return json.dumps(envelope, separators=(",", ":"))


def write_with_spaces(envelope: dict[str, Any]) -> str:
    return json.dumps(envelope)


def write_on_lines_in_another_order(envelope: dict[str, Any]) -> str:
    return json.dumps(dict(sorted(envelope.items(), reverse=True)), indent=2)


def write_escaped(envelope: dict[str, Any]) -> str:
    text = json.dumps(envelope)
    for name in ("limits", "result_args", "hold", "delay", "unique", "concurrency"):
        text = text.replace(f'"{name}"', '"' + "".join(f"\\u{ord(letter):04x}" for letter in name) + '"')
    return text


WRITERS = [write_compact, write_with_spaces, write_on_lines_in_another_order, write_escaped]
Write = Callable[[dict[str, Any]], str]


class Producer:
    """Publishes by the documented wire format alone."""

    def __init__(self, vhost: Vhost, write: Write) -> None:
        self._connection = pika.BlockingConnection(pika.URLParameters(vhost.url))
        self._channel = self._connection.channel()
        self._channel.confirm_delivery()
        self._write = write

    def envelope(self, job: str, *args: object, **fields: object) -> dict[str, Any]:
        made = datetime.now(UTC).isoformat()
        return {"v": 1, "id": str(uuid.uuid4()), "job": job, "args": [*args], "created_at": made, "epoch": 0, **fields}

    def publish(self, job: str, *args: object, **fields: object) -> str:
        envelope = self.envelope(job, *args, **fields)
        self.send(self._write(envelope), "job", envelope["id"])
        return str(envelope["id"])

    def send(self, body: str, kind: str, id: str) -> None:
        properties = pika.BasicProperties(delivery_mode=2, content_type="application/json", type=kind, message_id=id)
        self._channel.basic_publish("jobs.v1.offer", "log", body.encode(), properties)

    def submit(self, envelope: dict[str, Any]) -> None:
        """Publish a job straight to its queue, as one that is ready."""
        properties = pika.BasicProperties(delivery_mode=2, type="job", message_id=envelope["id"])
        self._channel.basic_publish("jobs.v1.submit", "default", self._write(envelope).encode(), properties)

    def close(self) -> None:
        self._connection.close()


@pytest.fixture(params=WRITERS)
def producer(request: pytest.FixtureRequest, vhost: Vhost, gates: Gates) -> Iterator[Producer]:
    with closing(Producer(vhost, request.param)) as producer:
        yield producer


@pytest.mark.rabbitmq
@pytest.mark.parametrize("url", ["rabbitmq"], indirect=True)
def test_a_job_with_conditions_that_is_sent_as_a_repeat_waits_for_them(gates: Gates, vhost: Vhost) -> None:
    gates.hold("m0")
    with closing(Producer(vhost, write_compact)) as producer:
        after = {"parents": [{"id": producer.publish("mail", "m0")}]}
        limits = [{"kind": "ordered", "key": "hand"}]
        envelope = producer.envelope("plain", "child") | {"epoch": 1, "after": after, "limits": limits}
        producer.send(json.dumps(envelope), "repeat", envelope["id"])
    child = gates.jobs.receipt(envelope["id"])
    gates.starts("m0")
    eventually(lambda: child.state() is State.AWAITING, what="it waits for its parent")
    gates.open("m0")
    assert child.result(timeout=120) == "child"


@pytest.mark.rabbitmq
@pytest.mark.parametrize("url", ["rabbitmq"], indirect=True)
def test_a_job_with_conditions_that_is_published_straight_to_its_queue_waits_for_them(
    gates: Gates, vhost: Vhost
) -> None:
    gates.hold("m0")
    with closing(Producer(vhost, write_compact)) as producer:
        after = {"parents": [{"id": producer.publish("mail", "m0")}]}
        child = producer.envelope("plain", "child") | {"epoch": 1, "after": after}
        producer.submit(child)
        gates.hold("b0")
        line = [{"kind": "ordered", "key": "straight"}]
        books = [producer.envelope("book", f"b{n}") | {"epoch": 1, "limits": line} for n in range(3)]
        key = {"key": "straight"}
        twins = [producer.envelope("mail", "twin") | {"epoch": 1, "unique": key, "due_at": None} for _ in range(2)]
        gates.hold("twin")
        for envelope in (*books, *twins):
            producer.submit(envelope)
    gates.starts("m0")
    gates.starts("b0")
    receipts = [gates.jobs.receipt(envelope["id"]) for envelope in (child, *books[1:])]
    eventually(lambda: {one.state() for one in receipts} == {State.AWAITING}, what="child and books wait")
    for name in ("m0", "b0", "twin"):
        gates.open(name)
    for envelope in (child, *books, *twins):
        gates.jobs.receipt(envelope["id"]).result(timeout=120)
    assert [name for name in gates.started if name[0] == "b"] == ["b0", "b1", "b2"]
    assert gates.started.index("child") > gates.started.index("m0")


@pytest.mark.rabbitmq
@pytest.mark.parametrize("url", ["rabbitmq"], indirect=True)
def test_a_job_that_is_published_twice_with_one_id_runs_once(gates: Gates, vhost: Vhost) -> None:
    with closing(Producer(vhost, write_compact)) as producer:
        twice = producer.envelope("plain", "twice") | {"epoch": 1}
        for _ in range(3):
            producer.submit(twice)
        last = producer.envelope("plain", "last") | {"epoch": 1}
        producer.submit(last)
    assert gates.jobs.receipt(last["id"]).result(timeout=120) == "last"
    assert gates.jobs.receipt(twice["id"]).result(timeout=120) == "twice"
    assert gates.started.count("twice") == 1


@pytest.mark.rabbitmq
@pytest.mark.parametrize("url", ["rabbitmq"], indirect=True)
def test_limits_and_results_hold_however_json_is_written(gates: Gates, producer: Producer) -> None:
    two = [{"kind": "concurrency", "key": "smtp", "limit": 2}]
    for n in range(4):
        gates.hold(f"m{n}")
    mails = [gates.jobs.receipt(producer.publish("mail", f"m{n}", limits=two)) for n in range(4)]
    eventually(lambda: [m.state() for m in mails[2:]] == [State.AWAITING] * 2, what="two of four wait")
    for n in range(4):
        gates.open(f"m{n}")
    for mail in mails:
        mail.result(timeout=120)

    line = [{"kind": "ordered", "key": "hand"}]
    books = [gates.jobs.receipt(producer.publish("plain", f"b{n}", limits=line)) for n in range(3)]
    for book in books:
        book.result(timeout=120)
    assert [name for name in gates.started if name[0] == "b"] == ["b0", "b1", "b2"]

    rate = [{"kind": "rate", "key": "hand", "limit": 1, "per": 0.5}]
    begun = time.time()
    calls = [gates.jobs.receipt(producer.publish("plain", f"r{n}", limits=rate)) for n in range(3)]
    for call in calls:
        call.result(timeout=120)
    at = [moment for name, moment in zip(gates.started, gates.at, strict=True) if name[0] == "r"]
    assert [moment - begun for n, moment in enumerate(at) if moment < begun + n * 0.5] == []

    parent = producer.publish("plain", "result")
    child = producer.publish(
        "plain",
        None,
        after={"parents": [{"id": parent}], "delay": 0.3},
        result_args=[{"place": 0, "parents": [parent]}],
    )
    assert gates.jobs.receipt(child).result(timeout=120) == "result"
    first, second = (moment for name, moment in zip(gates.started, gates.at, strict=True) if name == "result")
    assert second - first > 0.3

    batch, submission = str(uuid.uuid4()), str(uuid.uuid4())
    made = {"v": 1, "batch": batch, "submission": submission, "created_at": time.time()}
    members = [producer.envelope("mail", f"x{n}", limits=two, batch=batch) for n in range(4)]
    for n in range(4):
        gates.hold(f"x{n}")
    chunk = made | {"number": 0, "jobs": [producer._write(member) for member in members]}
    producer.send(json.dumps(chunk), "chunk", f"{submission}.0")
    producer.send(json.dumps(made | {"chunks": 1}), "commit", submission)
    eventually(lambda: len([name for name in gates.started if name[0] == "x"]) == 2, what="two members run")
    states = [gates.jobs.receipt(member["id"]) for member in members]
    eventually(lambda: [one.state() for one in states].count(State.AWAITING) == 2, what="two members wait")
    for n in range(4):
        gates.open(f"x{n}")
    for one in states:
        one.result(timeout=120)


def test_the_results_of_parents_come_into_limited_jobs(gates: Gates) -> None:
    image = gates.plain.enqueue("image")
    kinds: list[Job[..., str]] = [gates.book, gates.mail, gates.call]
    receipts = [job.enqueue(result_of(image)) for job in kinds]
    assert [receipt.result(timeout=120) for receipt in receipts] == ["image"] * 3
