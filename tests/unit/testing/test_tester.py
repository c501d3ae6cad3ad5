"""The Tester runs jobs as production does, and only when the test asks."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from unittest.mock import ANY

import pytest

from broker_jobs import BrokerJobs, Depends, GiveUp, Retry, State, current_job, result_of
from broker_jobs.errors import ArgumentsError, JobFailed, UsageError
from broker_jobs.messages.priority import PRIORITIES
from broker_jobs.testing import Tester


class Shop:
    """A program with a few jobs, and what they did."""

    def __init__(self) -> None:
        self.jobs = BrokerJobs("memory://")
        self.did: list[object] = []
        did = self.did
        jobs = self.jobs

        @jobs.job
        def welcome(user_id: int, *, loud: bool = False) -> str:
            did.append((user_id, loud))
            return f"hello {user_id}"

        @jobs.job(retries=2, backoff=[1, 5])
        def flaky(fails: int) -> str:
            did.append(current_job().attempt)
            if current_job().attempt <= fails:
                raise ValueError("not yet")
            return "done"

        @jobs.job
        async def fetch(url: str) -> bytes:
            return url.encode()

        @jobs.job
        def polite() -> None:
            if current_job().attempt == 1:
                raise Retry(after=60, reason="later")
            did.append("polite")

        @jobs.job
        def hopeless() -> None:
            raise GiveUp("no")

        @jobs.job
        def sender(to: int, mailer: list[object] = Depends(lambda: did)) -> None:
            mailer.append(("mail", to))
            welcome.enqueue(to)

        self.welcome, self.flaky, self.fetch, self.polite, self.hopeless = welcome, flaky, fetch, polite, hopeless
        self.sender = sender


@pytest.fixture
def shop() -> Shop:
    return Shop()


@pytest.fixture
def tester(shop: Shop) -> Iterator[Tester]:
    with Tester(shop.jobs) as tester:
        yield tester


def test_nothing_runs_until_it_is_told_to(shop: Shop, tester: Tester) -> None:
    receipt = shop.welcome.enqueue(42)
    assert shop.did == []
    assert receipt.state() is State.ENQUEUED
    assert tester.run() == 1
    assert shop.did == [(42, False)]
    assert receipt.state() is State.SUCCEEDED
    assert receipt.result() == "hello 42"
    assert tester.run() == 0


def test_what_was_enqueued_is_compared_by_the_meaning_of_its_arguments(shop: Shop, tester: Tester) -> None:
    shop.welcome.enqueue(42)
    shop.welcome.schedule(timedelta(days=1), user_id=7, loud=True)
    tester.assert_enqueued(shop.welcome, user_id=42, loud=False)
    tester.assert_enqueued(shop.welcome, 7, loud=True)
    tester.assert_enqueued(shop.welcome, ANY, loud=True)
    assert [call.args for call in tester.enqueued(shop.welcome)] == [(42,), ()] or len(
        tester.enqueued(shop.welcome)
    ) == 2
    with pytest.raises(AssertionError, match=r"welcome\(8\) was not enqueued; enqueued was:\n  welcome\(42\)"):
        tester.assert_enqueued(shop.welcome, 8)


def test_a_delay_comes_due_when_its_time_is_reached_and_not_before(shop: Shop, tester: Tester) -> None:
    shop.welcome.schedule(timedelta(days=30), 1)
    assert tester.advance(timedelta(days=30) - timedelta(seconds=1)) == 0
    assert tester.advance(timedelta(seconds=1)) == 1


def test_retries_wait_for_their_backoff(shop: Shop, tester: Tester) -> None:
    receipt = shop.flaky.enqueue(2)
    assert tester.run() == 1
    assert receipt.state() is State.SCHEDULED
    assert tester.advance(timedelta(seconds=1)) == 1
    assert tester.advance(timedelta(seconds=4.9)) == 0
    assert tester.advance(timedelta(seconds=0.1)) == 1
    assert receipt.result() == "done"
    assert shop.did == [1, 2, 3]


def test_the_last_failure_is_final(shop: Shop, tester: Tester) -> None:
    receipt = shop.flaky.enqueue(9)
    assert tester.advance(timedelta(minutes=1)) == 3
    with pytest.raises(JobFailed, match=r"failed after 3 runs: ValueError: not yet"):
        receipt.result()
    receipt.requeue()
    assert tester.run() == 1
    assert receipt.state() is State.SCHEDULED


def test_a_job_may_ask_for_its_own_delay_and_may_give_up(shop: Shop, tester: Tester) -> None:
    shop.polite.enqueue()
    abandoned = shop.hopeless.enqueue()
    assert tester.run() == 2
    assert abandoned.state() is State.FAILED
    assert tester.advance(timedelta(seconds=59)) == 0
    assert tester.advance(timedelta(seconds=1)) == 1
    assert shop.did == ["polite"]


def test_async_jobs_and_jobs_enqueued_by_jobs_run_too(shop: Shop, tester: Tester) -> None:
    fetched = shop.fetch.enqueue("u")
    shop.sender.enqueue(5)
    assert tester.run() == 3
    assert fetched.result() == b"u"
    assert shop.did == [("mail", 5), (5, False)]


def test_recurring_jobs_fire_at_their_planned_times(shop: Shop, tester: Tester) -> None:
    shop.jobs.recurring.put("hourly", "0 * * * *", shop.welcome.bind(1))
    assert tester.advance(timedelta(hours=3)) == 3
    shop.jobs.recurring.pause("hourly")
    assert tester.advance(timedelta(hours=2)) == 0
    shop.jobs.recurring.resume("hourly")
    assert tester.advance(timedelta(hours=1)) == 1
    shop.jobs.recurring.trigger("hourly")
    assert tester.run() == 1


def test_deleting_and_rescheduling_work_as_in_production(shop: Shop, tester: Tester) -> None:
    first, second = shop.welcome.enqueue(1), shop.welcome.schedule(timedelta(hours=1), 2)
    assert first.delete() is True
    second.reschedule(timedelta(minutes=1))
    assert tester.run() == 0
    assert tester.advance(timedelta(minutes=1)) == 1
    assert second.delete() is False


def test_a_result_that_cannot_come_is_refused_instead_of_waited_for(shop: Shop, tester: Tester) -> None:
    receipt = shop.welcome.enqueue(1)
    with pytest.raises(UsageError, match=r"in a Tester jobs run only when you call tester.run\(\)"):
        receipt.result()


def test_arguments_are_checked_as_always(shop: Shop, tester: Tester) -> None:
    with pytest.raises(ArgumentsError):
        shop.welcome.enqueue("x")  # type: ignore[arg-type]
    assert tester.enqueued(shop.welcome) == []


def test_a_repeat_with_the_same_id_runs_once(shop: Shop, tester: Tester) -> None:
    receipt = shop.welcome.enqueue(1)
    shop.welcome.using(id=receipt.id).enqueue(1)
    shop.welcome.using(id="mine").enqueue(2)
    shop.welcome.using(id="mine").enqueue(2)
    assert tester.advance(timedelta(minutes=1)) == 2


def test_inline_jobs_run_within_their_enqueue(shop: Shop) -> None:
    with Tester(shop.jobs, inline=True):
        assert shop.welcome.enqueue(42).result() == "hello 42"


def test_an_inline_job_s_exception_comes_out_of_enqueue_and_is_not_retried(shop: Shop) -> None:
    with Tester(shop.jobs, inline=True) as tester:
        with pytest.raises(ValueError, match="not yet"):
            shop.flaky.enqueue(1)
        assert tester.advance(timedelta(hours=1)) == 0


def test_outside_its_block_a_tester_says_what_to_write(shop: Shop) -> None:
    with pytest.raises(UsageError, match="with Tester"):
        Tester(shop.jobs).run()


def test_a_paused_queue_rests_until_it_is_resumed(shop: Shop, tester: Tester) -> None:
    shop.jobs.queues.pause("default")
    shop.welcome.enqueue(1)
    assert tester.run() == 0
    shop.jobs.queues.resume("default")
    assert tester.run() == 1


def test_continuations_and_their_results_run_in_their_turn(shop: Shop, tester: Tester) -> None:
    page = shop.fetch.enqueue("u")

    @shop.jobs.job
    def keep(body: bytes, note: str = "") -> None:
        shop.did.append((body, note))

    keep.enqueue(result_of(page), note="x")
    shop.welcome.after(page, on="failed").enqueue(1)
    tester.assert_enqueued(keep, result_of(page), "x")
    with pytest.raises(AssertionError, match=r"enqueued was:\n  keep\(result_of\("):
        tester.assert_enqueued(keep, b"u", "x")
    assert [call.kwargs for call in tester.enqueued(keep)] == [{"note": "x"}]
    assert tester.run() == 2
    assert shop.did == [(b"u", "x")]


def test_a_delay_after_a_parent_counts_from_its_end(shop: Shop, tester: Tester) -> None:
    parent = shop.welcome.schedule(timedelta(hours=1), 1)
    shop.welcome.after(parent).schedule(timedelta(hours=1), 2)
    assert tester.advance(timedelta(hours=1)) == 1
    assert tester.advance(timedelta(minutes=59)) == 0
    assert tester.advance(timedelta(minutes=1)) == 1


def test_a_batch_is_seen_and_runs_when_its_block_has_ended(shop: Shop, tester: Tester) -> None:
    with shop.jobs.batch("import") as batch:
        for number in range(1100):
            batch.enqueue(shop.welcome, number)
        batch.enqueue(shop.hopeless)
        assert tester.run() == 0
    summary = shop.fetch.after(batch, on="finished").enqueue("summary")
    tester.assert_enqueued(shop.welcome, 1099)
    assert len(tester.enqueued(shop.welcome)) == 1100
    with pytest.raises(UsageError, match=r"is processing: in a Tester jobs run only when you call"):
        batch.wait()
    assert tester.run() == 1102
    assert batch.wait() is State.FAILED
    assert summary.result() == b"summary"
    assert [failure.job for failure in batch.failures()] == ["hopeless"]


def test_inline_a_batch_runs_at_the_end_of_its_block(shop: Shop) -> None:
    with Tester(shop.jobs, inline=True) as tester:
        with shop.jobs.batch() as batch:
            receipt = batch.enqueue(shop.welcome, 1)
            assert shop.did == []
        assert receipt.result() == "hello 1"
        assert shop.welcome.after(receipt).enqueue(2).result() == "hello 2"
        with pytest.raises(ValueError, match="not yet"), shop.jobs.batch() as batch:
            batch.enqueue(shop.flaky, 1)
        assert tester.advance(timedelta(hours=1)) == 0


def test_within_a_queue_what_is_high_runs_first(shop: Shop, tester: Tester) -> None:
    for number, priority in enumerate(reversed(PRIORITIES)):
        shop.welcome.using(priority=priority).enqueue(number)
    shop.welcome.using(queue="other").enqueue(3)
    tester.run()
    assert shop.did == [(number, False) for number in (2, 1, 0, 3)]
