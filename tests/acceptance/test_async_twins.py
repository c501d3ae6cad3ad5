"""On an event loop every call of the public API that waits has a twin with `_async`, which does the same."""

import asyncio
import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest

from broker_jobs import BrokerJobs, JobDeleted, Receipt, State
from broker_jobs.producer.admin import Limits, Queues
from broker_jobs.producer.batch import Batch
from broker_jobs.producer.failures import Failure
from broker_jobs.producer.job import Job
from broker_jobs.producer.recurring import Recurring
from broker_jobs.producer.with_options import WithOptions
from tests.support.rabbitmq import Vhost
from tests.support.wait import eventually

pytestmark = [pytest.mark.acceptance, pytest.mark.rabbitmq]

WAIT_FOR_NOTHING = {
    Receipt: {"dependency"},
    Batch: {"batch", "enqueue", "enqueue_many", "schedule", "dependency"},  # jobs of a block are published beside it
    Recurring: {"all", "declared", "include"},
    Queues: set[str](),
    Limits: set[str](),
    Failure: set[str](),
    WithOptions: {"batch"},
    Job: {
        *("after", "belongs_to", "bind", "bind_arguments", "envelope", "new_envelope", "new_receipt", "prepare"),
        *("publishing", "receipt", "required_parameters", "using"),
    },
    BrokerJobs: {
        *("around", "batch", "batch_receipt", "configure", "dashboard", "health", "job", "lifespan", "load_modules"),
        *("metrics", "receipt", "remote", "replaced", "subscribe", "using"),
        *("include", "on_enqueue", "on_start", "on_success", "on_failed", "on_worker_start", "on_worker_stop"),
        *("start", "stop"),  # async with jobs
    },
}
"""Class -> its public methods that ask no other process."""


@pytest.mark.parametrize("kind", WAIT_FOR_NOTHING, ids=lambda kind: kind.__name__)
def test_every_call_that_waits_has_a_twin_of_the_same_signature(kind: type) -> None:
    methods = {
        name: method
        for name, method in inspect.getmembers(kind, inspect.isfunction)
        if not name.startswith("_") and not name.endswith("_async")
    }
    waiting = methods.keys() - WAIT_FOR_NOTHING[kind]
    for name in waiting:
        twin = getattr(kind, f"{name}_async", None)
        assert twin is not None, f"{kind.__name__}.{name} has no twin: write {name}_async"
        assert inspect.signature(twin).parameters == inspect.signature(methods[name]).parameters, name
        assert inspect.iscoroutinefunction(twin) or name == "failures", name


@contextmanager
def no_blocking_call() -> Iterator[None]:
    """Let a call that blocks the event loop fail."""
    import warnings

    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*blocks the event loop.*")
        yield


@pytest.mark.parametrize("where", ["memory", "rabbitmq"])
def test_the_twins_do_what_the_calls_do(where: str, vhost: Vhost, tmp_path: Any) -> None:
    jobs = BrokerJobs("memory://" if where == "memory" else vhost.url, store=f"sqlite:///{tmp_path / 'store.db'}")
    failing = True

    @jobs.job(retries=0)
    async def fail() -> str:
        if failing:
            raise ValueError("on purpose")
        return "done"

    @jobs.job
    def later() -> str:
        return "later"

    async def use() -> None:
        nonlocal failing
        async with jobs:
            assert jobs.health().ok
            waiting = await later.schedule_async(timedelta(days=1))
            await waiting.reschedule_async(timedelta(days=2))
            assert await waiting.state_async() is State.SCHEDULED
            await waiting.requeue_async()
            assert await waiting.result_async(60) == "later"
            doomed = await later.schedule_async(timedelta(days=1))
            assert await doomed.delete_async()
            with pytest.raises(JobDeleted):
                await doomed.result_async(60)
            async with jobs.batch("failing") as batch:
                batch.enqueue(fail)
                batch.enqueue(fail)
            assert await batch.wait_async(60) is State.FAILED
            failures = [failure async for failure in batch.failures_async()]
            assert [failure.error_type for failure in failures] == ["ValueError", "ValueError"]
            failing = False
            await failures[0].requeue_async()
            assert await failures[0].receipt.result_async(60) == "done"
            assert await batch.requeue_failures_async("on purpose") == 1
            assert await batch.wait_async(60) is State.SUCCEEDED
            assert not await batch.delete_async()
            await jobs.recurring.put_async("daily", "0 9 * * *", later)
            await jobs.recurring.pause_async("daily")
            await jobs.recurring.resume_async("daily")
            assert await (await jobs.recurring.trigger_async("daily")).result_async(60) == "later"
            await jobs.recurring.remove_async("daily")
            await jobs.queues.declare_async("mail")
            await jobs.queues.pause_async("mail")
            await jobs.queues.resume_async("mail")
            await jobs.limits.set_async("smtp", 2)
            await jobs.limits.clear_async("smtp")
        eventually(lambda: not jobs._connection.used, 10, "stopped")

    with no_blocking_call():
        asyncio.run(use())
