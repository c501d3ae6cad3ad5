"""Two programs on one broker, each with a name; jobs that no living worker knows wait; programs that share a queue."""

import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from broker_jobs import BrokerJobs, Ordered, Receipt, State
from broker_jobs.cli.doctor import Finding, check
from broker_jobs.clock import SystemClock
from broker_jobs.errors import UsageError
from broker_jobs.settings import Settings
from broker_jobs.store import Store
from broker_jobs.store.row import Row
from tests.support.rabbitmq import Vhost
from tests.support.wait import eventually

pytestmark = pytest.mark.rabbitmq
Names = Callable[..., "Program"]


class Program:
    """One program with jobs of these names, on the queue `default` if nothing else is said."""

    def __init__(self, url: str, store: str, service: str, names: tuple[str, ...], queue: str = "default") -> None:
        self.jobs = BrokerJobs(url, store=store, service=service)
        self.ran: list[str] = []
        self.made = {name: self._job(name, queue) for name in names}
        self.queue = queue

    def _job(self, name: str, queue: str) -> Any:
        def run(number: int) -> str:
            self.ran.append(f"{name} {number}")
            return f"{name} {number}"

        return self.jobs.job(name=name, queue=queue, retries=0)(run)

    def work(self) -> None:
        """Start a worker of it."""
        self.jobs.start(roles=["worker"], queues=[self.queue], concurrency=4)


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'store.db'}"
    url: str = request.getfixturevalue("postgres_url")
    return url


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def program(vhost: Vhost, store: str, stack: ExitStack) -> Names:
    """Makes programs; a coordinator of its own runs beside them."""
    coordinator = BrokerJobs(vhost.url, store=store)
    stack.callback(coordinator.stop, 0)
    coordinator.start(roles=["coordinator"])

    def make(service: str, *names: str, queue: str = "default") -> Program:
        made = Program(vhost.url, store, service, names, queue)
        stack.callback(made.jobs.stop, 0)
        return made

    return make


@pytest.fixture
def kept(store: str, program: Names) -> Iterator[Store]:
    """The store, to read."""
    del program  # its coordinator makes the tables
    opened = Store(store)
    opened.open()
    yield opened
    opened.close()


def row_of(kept: Store, receipt: Receipt[Any]) -> Row:
    row = kept.reader.jobs.get(receipt.id)
    assert row is not None
    return row


def is_held(kept: Store, receipt: Receipt[Any]) -> bool:
    row = row_of(kept, receipt)
    return row.state is State.AWAITING and "no living worker of queue" in row.reason


def findings(vhost: Vhost, store: str) -> list[Finding]:
    return list(check(Settings(url=vhost.url, store=store), SystemClock().now()))


def said(vhost: Vhost, store: str, text: str) -> Finding:
    """What doctor says with this text."""
    found = [one for one in findings(vhost, store) if text in one.message]
    assert found, findings(vhost, store)
    return found[0]


def test_a_job_that_nobody_knows_waits_until_a_worker_that_knows_it_starts(
    program: Names, kept: Store, vhost: Vhost, store: str
) -> None:
    shop, billing = program("shop", "sell"), program("billing", "charge")
    shop.work()
    assert shop.made["sell"].enqueue(0).result(timeout=60) == "sell 0"
    receipts = [billing.made["charge"].enqueue(number) for number in range(20)]
    eventually(lambda: all(is_held(kept, receipt) for receipt in receipts))
    assert {row_of(kept, receipt).epoch for receipt in receipts} == {1}
    finding = said(vhost, store, "20 jobs that no living worker knows: charge in queue default (20)")
    assert (finding.level, "broker-jobs jobs fail" in finding.fix) == ("error", True)
    assert shop.made["sell"].enqueue(1).result(timeout=60) == "sell 1"
    billing.work()
    assert [receipt.result(timeout=60) for receipt in receipts] == [f"charge {number}" for number in range(20)]
    assert sorted(billing.ran) == sorted(f"charge {number}" for number in range(20))
    eventually(lambda: not [one for one in findings(vhost, store) if "no living worker knows" in one.message])


def test_two_programs_on_one_queue_run_their_jobs_soon(program: Names, kept: Store, vhost: Vhost, store: str) -> None:
    shop, billing = program("shop", "sell"), program("billing", "charge")
    shop.work()
    billing.work()
    eventually(lambda: len(kept.reader.known_jobs.jobs_by_code()) == 2)
    receipts = [one.enqueue(n) for n in range(100) for one in (shop.made["sell"], billing.made["charge"])]
    assert [receipt.result(timeout=60) for receipt in receipts] == [
        f"{name} {n}" for n in range(100) for name in ("sell", "charge")
    ]
    assert sorted(shop.ran) == sorted(f"sell {n}" for n in range(100))
    hops = [row_of(kept, receipt).epoch - 1 for receipt in receipts]
    assert sum(hops) / len(hops) < 4, hops  # two workers: one on average, as each try is a throw of a coin
    finding = said(vhost, store, "share the queue default")
    assert finding.level == "warning"
    assert finding.message.startswith("billing and shop")
    assert "a queue of its own" in finding.fix


def test_held_jobs_are_let_go_when_a_program_gets_their_job_while_it_runs(program: Names, kept: Store) -> None:
    shop, other = program("shop", "sell"), program("other", "later")
    shop.work()
    receipt = other.made["later"].enqueue(7)
    eventually(lambda: is_held(kept, receipt))

    @shop.jobs.job(name="later")
    def later(number: int) -> str:
        return f"twice {number} is {2 * number}"

    assert receipt.result(timeout=60) == "twice 7 is 14"


def test_held_jobs_survive_another_coordinator_and_go_on_in_their_order(
    program: Names, kept: Store, vhost: Vhost, store: str, stack: ExitStack
) -> None:
    shop, billing = program("shop", "sell"), program("billing")
    ran: list[int] = []

    @billing.jobs.job(limit=Ordered("account"), retries=0)
    def charge(number: int) -> None:
        ran.append(number)

    shop.work()
    receipts = [charge.enqueue(number) for number in range(5)]
    eventually(lambda: all(is_held(kept, receipt) for receipt in receipts))
    second = BrokerJobs(vhost.url, store=store)
    stack.callback(second.stop, 0)
    second.start(roles=["coordinator"])
    billing.work()
    for receipt in receipts:
        receipt.result(timeout=60)
    assert ran == sorted(ran)


def test_two_programs_keep_what_they_declare_and_say_what_ends(
    program: Names, kept: Store, vhost: Vhost, store: str, caplog: pytest.LogCaptureFixture
) -> None:
    programs = [program(service, f"{service}-job", queue=service) for service in ("billing", "mailing")]
    for one in programs:
        name, made = next(iter(one.made.items()))
        one.jobs.recurring(f"nightly-{name}", "0 3 1 1 *", made.bind(1))
        one.jobs.subscribe("user.registered")(made)
        one.jobs.start(roles=["worker", "beat"], queues=[one.queue])
    both = ["nightly-billing-job", "nightly-mailing-job"]
    eventually(lambda: [row.name for row in kept.reader.schedules.all()] == both)
    eventually(lambda: len(kept.reader.declarations.subscriptions()) == 2)
    for one in programs:  # again, in the other order
        one.jobs.stop(0)
    for one in reversed(programs):
        one.jobs.start(roles=["worker", "beat"], queues=[one.queue])
    eventually(lambda: len([worker for worker in kept.reader.known_jobs.workers() if worker.code]) == 2)
    assert [row.name for row in kept.reader.schedules.all()] == both
    with caplog.at_level(logging.WARNING):
        usurper = program("billing", "another", queue="billing")
        usurper.jobs.start(roles=["worker", "beat"], queues=["billing"])
        eventually(lambda: [row.name for row in kept.reader.schedules.all()] == both[1:])
        eventually(lambda: len(kept.reader.declarations.subscriptions()) == 1)
    assert "recurring job nightly-billing-job of program billing removed" in caplog.text
    assert "subscription user.registered → billing-job of program billing removed" in caplog.text
    assert "of program billing has other jobs than a living worker of that name" in caplog.text
    assert "two programs have this name" in said(vhost, store, "1 recurring job of billing removed").fix
    assert "nightly-billing-job" in said(vhost, store, "1 recurring job of billing removed").message
    assert "another, billing-job" in said(vhost, store, "workers of billing have different code").message


@pytest.mark.parametrize("roles", [["worker"], ["beat"], ["worker", "coordinator", "beat"]])
def test_a_program_that_declares_needs_a_name(vhost: Vhost, roles: list[Any], tmp_path: Path) -> None:
    jobs = BrokerJobs(vhost.url, store=f"sqlite:///{tmp_path / 'store.db'}")

    @jobs.subscribe("happened")
    def react() -> None: ...

    react.enqueue()  # a producer needs none
    with pytest.raises(UsageError, match="subscription happened, and this program has no name: write BrokerJobs"):
        jobs.start(roles=roles)
    jobs.stop(0)
