"""What becomes of what a function does: returns, raises, hangs, gives back what nobody can write."""

from __future__ import annotations

import asyncio
import contextvars
import sys
import threading
import time
from collections.abc import AsyncGenerator, Callable, Generator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from broker_jobs.errors import GiveUp, Retry
from broker_jobs.function.depends import Depends
from broker_jobs.function.registry import Registry
from broker_jobs.messages.control import Control
from broker_jobs.messages.events import MAX_ERROR_MESSAGE_CHARS, MAX_TRACEBACK_CHARS
from broker_jobs.producer.current_job import JobTimedOut, current_job
from tests.support.wait import eventually
from tests.unit.consumer.scripted import ScriptedExchange, envelope, registry_of, start_worker

Outcome = dict[str, Any]
seen: list[Any] = []


@pytest.fixture(autouse=True)
def clean() -> None:
    seen.clear()


def outcome_of(function: Callable[..., Any], *args: Any, registry: Registry | None = None, **fields: Any) -> Outcome:
    """Run one job; the succeeded, failed or returned event of it. The worker must live on."""
    options = fields.pop("options", {})
    registry = registry_of(function, **options) if registry is None else registry
    broker = ScriptedExchange()
    worker = start_worker(registry, broker, concurrency=1)
    try:
        job = envelope(function.__name__, *args, **fields)
        (tag,) = broker.deliver(job)
        found = eventually(lambda: [e for e in broker.events("succeeded", "failed", "returned") if e["id"] == job.id])
        eventually(lambda: broker.subscription.acked(tag))
        again = envelope("nobody")
        broker.deliver(again)
        broker.event("returned", again.id)
        assert len(found) == 1
        return found[0]
    finally:
        worker.stop_now()


def add(a: int, b: int) -> int:
    return a + b


async def add_async(a: int, b: int) -> int:
    await asyncio.sleep(0)
    return a + b


@pytest.mark.parametrize("function", [add, add_async])
def test_what_returns_has_succeeded_with_its_result(function: Callable[..., Any]) -> None:
    outcome = outcome_of(function, 1, 2)
    assert (outcome["kind"], outcome["result"]) == ("succeeded", "3")
    assert outcome["ended_at"] >= outcome["started_at"]


def raise_value_error() -> None:
    raise ValueError("no such user")


async def raise_value_error_async() -> None:
    raise ValueError("no such user")


@pytest.mark.parametrize("function", [raise_value_error, raise_value_error_async])
def test_what_raises_has_failed_and_carries_its_envelope(function: Callable[..., Any]) -> None:
    outcome = outcome_of(function)
    assert outcome["kind"] == "failed"
    assert outcome["error"]["type"] == "ValueError"
    assert outcome["error"]["message"] == "no such user"
    assert function.__name__ in outcome["error"]["traceback"]
    assert "_attempt" not in outcome["error"]["traceback"]
    assert function.__name__ in outcome["envelope"]
    assert not outcome["final"]


def ask_for_retry() -> None:
    raise Retry(after=timedelta(minutes=2), reason="the shop is closed")


def test_retry_says_when() -> None:
    outcome = outcome_of(ask_for_retry)
    assert (outcome["final"], outcome["retry_after"]) == (False, 120.0)
    assert outcome["error"]["message"] == "the shop is closed"


def give_up() -> None:
    raise GiveUp("no such user")


def test_give_up_is_final() -> None:
    assert outcome_of(give_up)["final"]


@pytest.mark.parametrize(("retry_on", "final"), [(OSError, True), (ValueError, False), ((OSError, ValueError), False)])
def test_an_exception_that_retry_on_does_not_name_is_final(retry_on: Any, final: bool) -> None:
    assert outcome_of(raise_value_error, options={"retry_on": retry_on})["final"] is final


def exit_the_program() -> None:
    sys.exit(3)


def interrupt() -> None:
    raise KeyboardInterrupt


async def exit_the_program_async() -> None:
    sys.exit(3)


async def interrupt_async() -> None:
    raise KeyboardInterrupt


async def cancel_itself() -> None:
    raise asyncio.CancelledError


@pytest.mark.parametrize(
    "function", [exit_the_program, interrupt, exit_the_program_async, interrupt_async, cancel_itself]
)
def test_a_job_cannot_end_its_worker(function: Callable[..., Any]) -> None:
    outcome = outcome_of(function)
    assert outcome["kind"] == "failed"
    assert outcome["ended"] == "raised"


class Unprintable(Exception):
    def __str__(self) -> str:
        raise SystemExit

    __repr__ = __str__


def raise_unprintable() -> None:
    raise Unprintable


def raise_endless() -> None:
    raise ValueError("\ud800" * 1_000_000)


def recurse() -> None:
    recurse()


@pytest.mark.parametrize("function", [raise_unprintable, raise_endless, recurse])
def test_any_exception_can_be_told_and_none_is_long(function: Callable[..., Any]) -> None:
    outcome = outcome_of(function)
    assert outcome["kind"] == "failed"
    assert len(outcome["error"]["message"]) <= MAX_ERROR_MESSAGE_CHARS
    assert len(outcome["error"]["traceback"]) <= MAX_TRACEBACK_CHARS


def return_much() -> str:
    return "x" * 100_000


def return_what_json_has_not() -> object:
    return threading.Lock()


def test_a_result_that_is_too_large_is_no_failure() -> None:
    outcome = outcome_of(return_much)
    assert outcome["kind"] == "succeeded"
    assert "result" not in outcome
    assert "result" in outcome["result_lost"]


def test_a_result_that_would_not_arrive_is_no_failure() -> None:
    outcome = outcome_of(return_what_json_has_not)
    assert outcome["kind"] == "succeeded"
    assert "result" not in outcome
    assert "the result of return_what_json_has_not cannot be sent as JSON: " in outcome["result_lost"]


@pytest.mark.parametrize("args", [(), (1,), (1, "2"), (1, 2, 3)])
def test_arguments_that_do_not_fit_fail_and_are_retried(args: tuple[Any, ...]) -> None:
    outcome = outcome_of(add, *args)
    assert (outcome["kind"], outcome["error"]["type"], outcome["final"]) == ("failed", "ArgumentsError", False)


def test_an_expired_job_is_not_run() -> None:
    outcome = outcome_of(raise_value_error, expires=60, created_at=datetime.now(UTC) - timedelta(seconds=61))
    assert (outcome["error"]["type"], outcome["final"]) == ("Expired", True)


def test_a_job_that_has_not_expired_yet_is_run() -> None:
    outcome = outcome_of(add, 1, 2, expires=60, created_at=datetime.now(UTC) - timedelta(seconds=30))
    assert (outcome["kind"], outcome["result"]) == ("succeeded", "3")


async def hang() -> None:
    await asyncio.sleep(60)


def test_a_coroutine_is_stopped_at_its_timeout() -> None:
    outcome = outcome_of(hang, timeout=0.2)
    assert (outcome["error"]["type"], outcome["error"]["message"]) == ("TimedOut", "timed out after 0.2 s")
    assert not outcome["final"]
    assert outcome["ended_at"] - outcome["started_at"] < 10


def stop_when_told() -> None:
    while not current_job().cancelled():
        time.sleep(0.01)


def raise_when_told() -> None:
    while True:
        current_job().raise_if_cancelled()
        time.sleep(0.01)


async def stop_quietly_when_cancelled() -> None:
    try:
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        seen.append("tidied up")


@pytest.mark.parametrize("function", [stop_when_told, raise_when_told, stop_quietly_when_cancelled])
def test_what_stops_as_told_at_its_timeout_has_timed_out(function: Callable[..., Any]) -> None:
    assert outcome_of(function, timeout=0.2)["error"]["type"] == "TimedOut"


def be_slow() -> int:
    try:
        time.sleep(0.5)
    except JobTimedOut:
        return 7
    return 8


def test_a_thread_that_returns_after_its_timeout_has_succeeded() -> None:
    assert outcome_of(be_slow, timeout=0.1)["result"] == "7"


async def wait_for_ever() -> None:
    seen.append("started")
    await asyncio.sleep(60)


def wait_until_told() -> None:
    seen.append("started")
    raise_when_told()


@pytest.mark.parametrize("function", [wait_for_ever, wait_until_told])
def test_a_running_job_that_is_deleted_stops_as_cancelled(function: Callable[..., Any]) -> None:
    broker = ScriptedExchange()
    worker = start_worker(registry_of(function), broker)
    job = envelope(function.__name__)
    broker.deliver(job)
    eventually(lambda: seen)
    broker.say(Control(version=2, cancel=["another", job.id]))
    outcome = broker.event("failed", job.id)
    assert outcome["ended"] == "cancelled"
    worker.stop_now()


async def wait_for_a_sign() -> None:
    seen.append("started")
    while "sign" not in seen:  # noqa: ASYNC110  # another thread gives it
        await asyncio.sleep(0.01)


def test_only_the_runs_of_deleted_jobs_are_asked_to_stop() -> None:
    broker = ScriptedExchange()
    worker = start_worker(registry_of(wait_for_a_sign), broker, concurrency=2)
    deleted, other = envelope("wait_for_a_sign"), envelope("wait_for_a_sign")
    broker.deliver(deleted, other)
    eventually(lambda: len(seen) == 2)
    broker.say(Control(version=2, cancel=[deleted.id]))
    broker.event("failed", deleted.id)
    seen.append("sign")
    broker.event("succeeded", other.id)
    worker.stop_now()


def tell() -> None:
    job = current_job()
    seen.append((job.id, job.attempt))
    for number in range(200):
        job.log("line", number=number)
    job.progress(1, 3)
    job.progress(3, 3)


def test_a_job_knows_itself_and_tells_lines_and_its_last_progress() -> None:
    broker = ScriptedExchange()
    worker = start_worker(registry_of(tell), broker)
    job = envelope("tell", attempt=4)
    broker.deliver(job)
    broker.event("succeeded", job.id)
    assert seen == [(job.id, 4)]
    assert len(broker.events("log line")) == 100
    assert broker.events("log line")[0]["text"] == "line number=0"
    assert [(e["done"], e["total"]) for e in broker.events("progress")][-1] == (3.0, 3.0)
    assert [e["kind"] for e in broker.events("log line", "progress", "succeeded")][-1] == "succeeded"
    worker.stop_now()


def tell_odd_progress() -> None:
    job = current_job()
    job.progress(2.0)
    job.progress(float("inf"), 3.0)
    job.progress(1.0, float("nan"))


def test_progress_may_have_no_total_and_what_is_no_number_is_ignored() -> None:
    broker = ScriptedExchange()
    worker = start_worker(registry_of(tell_odd_progress), broker)
    job = envelope("tell_odd_progress")
    broker.deliver(job)
    broker.event("succeeded", job.id)
    assert [(event["done"], event.get("total")) for event in broker.events("progress")] == [(2.0, None)]
    worker.stop_now()


LEAK = contextvars.ContextVar("LEAK", default="clean")


def leak() -> str:
    before = LEAK.get()
    LEAK.set("dirty")
    return before


def test_context_variables_do_not_leak_into_the_next_job() -> None:
    broker = ScriptedExchange()
    worker = start_worker(registry_of(leak), broker, concurrency=1)
    jobs = [envelope("leak") for _ in range(3)]
    broker.deliver(*jobs)
    assert {broker.event("succeeded", job.id)["result"] for job in jobs} == {'"clean"'}
    worker.stop_now()


def resource() -> Generator[str]:
    seen.append("open")
    yield "resource"
    seen.append("close")


def use(given: str = Depends(resource)) -> str:
    seen.append("run")
    return given


async def use_async(given: str = Depends(resource)) -> str:
    seen.append("run")
    return given


def around() -> Generator[None]:
    seen.append("before")
    try:
        yield
    except ValueError:
        seen.append("hidden")  # but the job has failed all the same
    seen.append("after")


async def hiding_async() -> AsyncGenerator[None]:
    try:
        yield
    except ValueError:
        seen.append("hidden")


async def around_async() -> AsyncGenerator[None]:
    seen.append("before async")
    yield
    seen.append("after async")


@pytest.mark.parametrize(
    ("function", "steps"),
    [
        (use, ["before", "before async", "open", "run", "close", "after async", "after"]),
        (use_async, ["before", "before async", "open", "run", "close", "after async", "after"]),
    ],
)
def test_hooks_are_outside_and_provided_arguments_inside(function: Callable[..., Any], steps: list[str]) -> None:
    registry = registry_of(function)
    registry.around.extend([around, around_async])
    assert outcome_of(function, registry=registry)["result"] == '"resource"'
    assert seen == steps


@pytest.mark.parametrize(
    ("function", "hook"),
    [(function, hook) for function in (raise_value_error, raise_value_error_async) for hook in (around, hiding_async)],
)
def test_a_hook_cannot_hide_a_failure(function: Callable[..., Any], hook: Callable[..., Any]) -> None:
    registry = registry_of(function)
    registry.around.append(hook)
    assert outcome_of(function, registry=registry)["error"]["type"] == "ValueError"
    assert "hidden" in seen


def broken_around() -> Generator[None]:
    yield
    raise OSError("commit failed")


def test_a_hook_that_raises_fails_the_job() -> None:
    registry = registry_of(add)
    registry.around.append(broken_around)
    assert outcome_of(add, 1, 2, registry=registry)["error"]["message"] == "commit failed"


def test_async_jobs_run_beside_each_other_up_to_the_concurrency() -> None:
    peak, now = 0, 0

    async def meet() -> None:
        nonlocal peak, now
        now += 1
        peak = max(peak, now)
        await asyncio.sleep(0.05)
        now -= 1

    broker = ScriptedExchange()
    worker = start_worker(registry_of(meet), broker, concurrency=3)
    broker.deliver(*(envelope("meet") for _ in range(12)))
    eventually(lambda: len(broker.events("succeeded")) == 12)
    assert peak == 3
    worker.stop_now()


def test_sync_jobs_run_beside_each_other_up_to_the_concurrency() -> None:
    barrier = threading.Barrier(3)

    def meet() -> None:
        barrier.wait(20)

    broker = ScriptedExchange()
    worker = start_worker(registry_of(meet), broker, concurrency=3)
    broker.deliver(*(envelope("meet") for _ in range(6)))
    eventually(lambda: len(broker.events("succeeded")) == 6)
    worker.stop_now()
