"""Limits, order, unique keys and events, all parts real: on the embedded exchange, and on RabbitMQ."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from broker_jobs import BrokerJobs, Ordered, State
from tests.integration.limits_program import DEADLY, LIMIT, program
from tests.support.rabbitmq import Vhost
from tests.support.wait import eventually, while_it_moves

ROOT = Path(__file__).parents[2]
MANY = 60


@pytest.fixture(params=["memory", pytest.param("rabbitmq", marks=pytest.mark.rabbitmq)])
def url(request: pytest.FixtureRequest) -> str:
    if request.param == "memory":
        return f"memory://{uuid.uuid4().hex}"
    vhost: Vhost = request.getfixturevalue("vhost")
    return vhost.url


@pytest.fixture
def store(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'store.db'}"


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def jobs(url: str, store: str) -> Iterator[BrokerJobs]:
    program = BrokerJobs(url, store=store)
    yield program
    program.stop(0)


def noted(file: Path) -> list[list[str]]:
    """What jobs have noted so far: what, who, number."""
    return [line.split() for line in file.read_text().splitlines()] if file.exists() else []


def left(file: Path) -> set[str]:
    """The jobs that came to their end."""
    return {number for what, _, number in noted(file) if what == "leave"}


def most_at_once(file: Path) -> int:
    """The most jobs that were inside together; a process that was killed has left at that moment."""
    inside: set[tuple[str, str]] = set()
    most = 0
    for what, who, number in noted(file):
        match what:
            case "enter":
                inside.add((who, number))
            case "leave":
                inside.discard((who, number))
            case _:
                inside = {one for one in inside if not one[0].startswith(f"{who}/")}
        most = max(most, len(inside))
    return most


def test_a_limit_holds_over_two_workers(url: str, store: str, tmp_path: Path, stack: ExitStack) -> None:
    file = tmp_path / "noted"
    first, mail = program(url, file, store)
    second, _ = program(url, file)
    for one, roles in ((first, ("coordinator", "worker")), (second, ("worker",))):
        one.start(roles=roles, concurrency=4)  # type: ignore[arg-type]  # literals
        stack.callback(one.stop, 0)
    first.enqueue_many(mail.bind(number) for number in range(MANY))
    while_it_moves(lambda: len(left(file)), lambda seen: seen == MANY, what="all jobs")
    assert Counter(what for what, _, _ in noted(file)) == {"enter": MANY, "leave": MANY}
    assert most_at_once(file) == LIMIT
    assert len({who for _, who, _ in noted(file)}) > 1


@pytest.mark.rabbitmq
def test_a_limit_holds_while_a_worker_is_killed(vhost: Vhost, store: str, tmp_path: Path, stack: ExitStack) -> None:
    file = tmp_path / "noted"
    here, mail = program(vhost.url, file, store)
    command = [sys.executable, "-m", "tests.integration.limits_program", vhost.url, str(file)]
    other = stack.enter_context(subprocess.Popen(command, cwd=ROOT))
    stack.callback(other.kill)
    here.queues.declare("default")  # else the first releases come back, which is another test's matter
    here.start(roles=["coordinator"])
    stack.callback(here.stop, 0)
    here.enqueue_many(mail.bind(number) for number in range(MANY))
    assert other.wait(60) == -signal.SIGKILL
    with file.open("ab", buffering=0) as out:
        out.write(f"killed {other.pid} -\n".encode())
    assert len(left(file)) < DEADLY
    survivor, _ = program(vhost.url, file)
    survivor.start(roles=["worker"], concurrency=4)
    stack.callback(survivor.stop, 0)
    while_it_moves(lambda: len(left(file)), lambda seen: seen == MANY, 60, "all jobs")
    assert most_at_once(file) <= LIMIT


def test_order_is_kept_through_one_that_fails(jobs: BrokerJobs) -> None:
    did: list[tuple[str, int]] = []
    failed = threading.Event()

    @jobs.job(limit=Ordered("account:{account}"), retries=2, backoff=[0.2])
    def book(account: str, number: int) -> None:
        did.append((account, number))
        if (account, number) == ("a", 2) and not failed.is_set():
            failed.set()
            raise ValueError("not yet")

    jobs.start(concurrency=8)
    receipts = [book.enqueue(account, number) for number in range(6) for account in "ab"]
    for receipt in receipts:
        receipt.result(timeout=120)
    assert [number for account, number in did if account == "a"] == [0, 1, 2, 2, 3, 4, 5]
    assert [number for account, number in did if account == "b"] == [0, 1, 2, 3, 4, 5]


def test_unique_while_queued_loses_no_update(jobs: BrokerJobs) -> None:
    price = [1]
    seen: list[int] = []
    started, gate = threading.Event(), threading.Event()

    @jobs.job(unique="product:{product_id}")
    def index(product_id: int) -> int:
        mine = price[0]
        seen.append(mine)
        started.set()
        gate.wait(30)
        return mine  # not the last of those seen: the other may have been by now

    jobs.start(concurrency=2)
    first = index.enqueue(7)
    assert started.wait(30)
    price[0] = 2
    second = index.enqueue(7)
    gate.set()
    assert first.result(timeout=120) == 1
    assert second.result(timeout=120) == 2
    assert seen == [1, 2]


def test_a_repeat_while_queued_is_the_same_job(url: str, jobs: BrokerJobs, stack: ExitStack) -> None:
    ran: list[int] = []

    def index(product_id: int) -> int:
        ran.append(product_id)
        return len(ran)

    here = jobs.job(unique="product:{product_id}")(index)
    jobs.start(roles=["coordinator"])
    receipts = [here.enqueue(7) for _ in range(5)] + [here.enqueue(8)]
    eventually(lambda: receipts[0].state() is State.ENQUEUED)  # the coordinator releases it, in a moment
    assert receipts[4].state() is State.ENQUEUED
    worker = BrokerJobs(url)
    worker.job(unique="product:{product_id}")(index)
    worker.start(roles=["worker"])
    stack.callback(worker.stop, 0)
    assert len({receipt.result(timeout=120) for receipt in receipts[:5]}) == 1
    receipts[5].result(timeout=120)
    assert sorted(ran) == [7, 8]


def test_a_subscriber_that_is_down_gets_the_event_later(url: str, store: str, stack: ExitStack) -> None:
    got: dict[str, list[tuple[int, str]]] = {"shop": [], "mail": []}

    def subscriber(name: str, store: str | None = None) -> BrokerJobs:
        one = BrokerJobs(url, store=store, service=name)
        stack.callback(one.stop, 0)

        def take(user_id: int, *, name: str = name, text: str) -> None:
            got[name].append((user_id, text))

        take.__name__ = f"{name}_takes"
        one.subscribe("user.registered", queue=name)(take)
        return one

    shop, mail = subscriber("shop", store), subscriber("mail")
    shop.start(queues=["shop"])
    mail.start(roles=["worker"], queues=["mail"])
    declarer = mail._program._declarer  # type: ignore[union-attr]
    assert declarer is not None
    assert declarer.wait(30)
    mail.stop()
    ids = [shop.publish("user.registered", number, text="hello") for number in range(2)]
    eventually(lambda: sorted(got["shop"]) == [(0, "hello"), (1, "hello")], what="the subscriber that is up")
    assert got["mail"] == []
    again = subscriber("mail")
    again.start(roles=["worker"], queues=["mail"])
    eventually(lambda: sorted(got["mail"]) == [(0, "hello"), (1, "hello")], what="the subscriber that was down")
    assert len({*ids}) == 2
    assert len(got["shop"]) == 2
