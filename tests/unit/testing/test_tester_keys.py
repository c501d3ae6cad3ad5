"""Unique keys, limits, order and events in a Tester: they work as in production."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

import pytest

from broker_jobs import BrokerJobs, Concurrency, Ordered, RateLimit, State, Unique
from broker_jobs.testing import Tester


class Shop:
    """A program with jobs of every kind of key, and what they did."""

    def __init__(self) -> None:
        self.jobs = jobs = BrokerJobs("memory://")
        self.did: list[object] = []
        self.fails: set[int] = set()
        did, fails = self.did, self.fails

        @jobs.job(unique="user:{user_id}")
        def welcome(user_id: int, text: str = "") -> str:
            did.append((user_id, text))
            return f"hello {user_id} {text}"

        @jobs.job(limit=Concurrency("smtp", 1), retries=1, backoff=[60])
        def mail(number: int) -> None:
            did.append(number)
            if number in fails:
                raise ValueError("no")

        @jobs.job(limit=Ordered("account:{account}"), retries=1, backoff=[60])
        def book(account: int, number: int) -> None:
            did.append((account, number))
            if number in fails:
                fails.remove(number)
                raise ValueError("no")

        @jobs.job(limit=RateLimit("api", 2, per=10))
        def call(number: int) -> None:
            did.append(number)

        @jobs.subscribe("user.registered")
        def greet(user_id: int, *, name: str = "") -> None:
            did.append(("greet", user_id, name))

        @jobs.subscribe("user.registered")
        @jobs.subscribe("user.changed")
        async def index(user_id: int, **rest: str) -> None:
            did.append(("index", user_id, rest))

        self.welcome, self.mail, self.book, self.call, self.greet, self.index = welcome, mail, book, call, greet, index


@pytest.fixture
def shop() -> Shop:
    return Shop()


@pytest.fixture
def tester(shop: Shop) -> Iterator[Tester]:
    with Tester(shop.jobs) as tester:
        yield tester


def test_of_a_key_one_job_runs_and_the_other_shows_its_result(shop: Shop, tester: Tester) -> None:
    first, alias = shop.welcome.enqueue(7, "a"), shop.welcome.enqueue(7, "b")
    other = shop.welcome.enqueue(8)
    assert tester.run() == 2
    assert shop.did == [(7, "a"), (8, "")]
    assert first.result() == alias.result() == "hello 7 a"
    assert alias.state() is State.SUCCEEDED
    assert other.result() == "hello 8 "
    shop.welcome.enqueue(7, "c")
    assert tester.run() == 1


def test_a_later_one_replaces_one_that_only_waits(shop: Shop, tester: Tester) -> None:
    latest = shop.welcome.using(unique=Unique("user:{user_id}", conflict="replace"))
    old = latest.schedule(timedelta(minutes=5), 7, "old")
    new = latest.schedule(timedelta(minutes=5), 7, "new")
    assert old.state() is new.state() is State.SCHEDULED  # the old one is an alias now: it shows the new one
    assert tester.advance(timedelta(minutes=6)) == 1
    assert shop.did == [(7, "new")]
    assert old.state() is new.state() is State.SUCCEEDED
    assert old.result() == new.result() == "hello 7 new"


def test_a_window_lets_the_next_in_when_it_is_over(shop: Shop, tester: Tester) -> None:
    hourly = shop.welcome.using(unique=Unique("user:{user_id}", scope=timedelta(hours=1)))
    hourly.enqueue(7)
    tester.run()
    hourly.enqueue(7)
    assert tester.run() == 0
    tester.advance(timedelta(hours=1))
    hourly.enqueue(7)
    assert tester.run() == 1


def test_one_at_a_time_under_a_limit_of_one_and_a_retry_goes_behind(shop: Shop, tester: Tester) -> None:
    shop.fails.add(1)
    receipts = [shop.mail.enqueue(number) for number in range(3)]
    assert [receipt.state() for receipt in receipts] == [State.ENQUEUED, State.AWAITING, State.AWAITING]
    assert tester.run() == 3
    assert shop.did == [0, 1, 2]
    shop.fails.clear()
    tester.advance(timedelta(minutes=2))
    assert shop.did == [0, 1, 2, 1]


def test_a_limit_is_changed_while_jobs_wait(shop: Shop, tester: Tester) -> None:
    receipts = [shop.mail.enqueue(number) for number in range(3)]
    shop.jobs.limits.set("smtp", 2)
    assert [receipt.state() for receipt in receipts] == [State.ENQUEUED, State.ENQUEUED, State.AWAITING]
    shop.jobs.limits.clear("smtp")
    assert tester.run() == 3


def test_order_is_kept_through_a_retry_and_other_keys_go_on(shop: Shop, tester: Tester) -> None:
    shop.fails.add(1)
    for number in range(4):
        shop.book.enqueue(1, number)
    shop.book.enqueue(2, 0)
    tester.run()
    assert shop.did == [(1, 0), (2, 0), (1, 1)]
    tester.advance(timedelta(minutes=2))
    assert shop.did[3:] == [(1, 1), (1, 2), (1, 3)]


def test_a_rate_lets_so_many_start_in_a_time(shop: Shop, tester: Tester) -> None:
    for number in range(5):
        shop.call.enqueue(number)
    assert tester.run() == 2
    assert tester.advance(timedelta(seconds=10)) == 2
    assert tester.advance(timedelta(seconds=10)) == 1
    assert shop.did == [0, 1, 2, 3, 4]


def test_every_subscription_gets_a_job_for_an_event(shop: Shop, tester: Tester) -> None:
    shop.jobs.publish("user.registered", 7, name="Ada")
    shop.jobs.publish("user.changed", 8)
    shop.jobs.publish("nobody.listens", 9)
    assert tester.run() == 3
    assert sorted(map(str, shop.did)) == [
        "('greet', 7, 'Ada')",
        "('index', 7, {'name': 'Ada'})",
        "('index', 8, {})",
    ]


def test_an_event_whose_arguments_do_not_fit_fails_the_job(shop: Shop) -> None:
    with Tester(shop.jobs) as tester:
        shop.jobs.publish("user.registered", "seven")
        tester.run()
        assert shop.did == []


def test_inline_a_limited_job_and_an_event_s_jobs_run_at_once(shop: Shop) -> None:
    with Tester(shop.jobs, inline=True):
        assert shop.welcome.enqueue(7).result() == "hello 7 "
        shop.jobs.publish("user.changed", 8)
        assert shop.did == [(7, ""), ("index", 8, {})]
        shop.fails.add(3)
        with pytest.raises(ValueError, match="no"):
            shop.mail.enqueue(3)
