"""Hooks (`@jobs.around`) of both kinds run around jobs of both kinds, wherever these run."""

import asyncio
import os
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from broker_jobs import BrokerJobs, DefinitionError, JobFailed
from broker_jobs.producer.job import Job
from broker_jobs.testing import Tester
from tests.support import hooked_jobs
from tests.support.wait import eventually

pytestmark = pytest.mark.acceptance


@pytest.fixture(scope="module")
def program() -> Iterator[BrokerJobs]:
    hooked_jobs.jobs.start(concurrency=4)
    yield hooked_jobs.jobs
    hooked_jobs.jobs.stop(0)


@pytest.fixture
def jobs() -> Iterator[BrokerJobs]:
    program = BrokerJobs("memory://")
    yield program
    program.stop(0)


def lines(jobs: BrokerJobs, id: str) -> list[str]:
    assert jobs._program is not None
    assert jobs._program.store is not None
    return [line.text for line in jobs._program.store.reader.log_lines.of(id)]


def check_steps(seen: dict[str, str], *, in_process: bool = False) -> None:
    first, second, third = seen["steps"].split(" | ")
    assert first == f"sync in thread {seen['thread']}", "a sync hook is where its job is"
    assert (second, third) == ("async", "inner")
    assert (seen["pid"] != str(os.getpid())) is in_process


@pytest.mark.parametrize("job", hooked_jobs.ALL, ids=lambda job: job.name)
def test_all_hooks_are_around_jobs_of_all_kinds(program: BrokerJobs, job: Job[[], dict[str, str]]) -> None:
    receipt = job.enqueue()
    check_steps(receipt.result(timeout=120), in_process="process" in job.name)
    eventually(lambda: lines(program, receipt.id) == ["inner after", "async after", "sync after"])


@pytest.mark.parametrize("job", [hooked_jobs.sync_job, hooked_jobs.async_job], ids=lambda job: job.name)
@pytest.mark.parametrize("inline", [False, True])
def test_so_they_are_in_a_tester(job: Job[[], dict[str, str]], inline: bool) -> None:
    hooked_jobs.jobs.stop()
    with Tester(hooked_jobs.jobs, inline=inline) as tester:
        receipt = job.enqueue()
        assert inline or tester.run() == 1
        check_steps(receipt.result())

    async def in_a_loop() -> None:
        with Tester(hooked_jobs.jobs, inline=inline) as tester:
            receipt = await job.enqueue_async()
            assert inline or tester.run() == 1
            first, *rest = (await receipt.result_async())["steps"].split(" | ")
            assert (first[:4], rest) == ("sync", ["async", "inner"])

    asyncio.run(in_a_loop())
    hooked_jobs.jobs.start(concurrency=4)


@pytest.mark.parametrize("job", [hooked_jobs.sync_raises, hooked_jobs.async_raises], ids=lambda job: job.name)
def test_the_exception_of_a_job_is_its_failure(program: BrokerJobs, job: Job[[], None]) -> None:
    with pytest.raises(JobFailed, match="ValueError: boom"):
        job.enqueue().result(timeout=120)


seen: list[str] = []


def hides() -> Generator[None]:
    try:
        yield
    except ValueError:
        seen.append("hides")


async def hides_async() -> AsyncGenerator[None]:
    try:
        yield
    except ValueError:
        seen.append("hides")


def raises_before() -> Generator[None]:
    if seen != ["never"]:
        raise OSError("hook")
    yield


async def raises_before_async() -> AsyncGenerator[None]:
    if seen != ["never"]:
        raise OSError("hook")
    yield


def raises_after() -> Generator[None]:
    yield
    raise OSError("hook")


async def raises_after_async() -> AsyncGenerator[None]:
    yield
    raise OSError("hook")


def does_not_yield() -> Generator[None]:
    if seen == ["never"]:
        yield


async def does_not_yield_async() -> AsyncGenerator[None]:
    if seen == ["never"]:
        yield


def yields_twice() -> Generator[None]:
    yield
    yield


async def yields_twice_async() -> AsyncGenerator[None]:
    yield
    yield


WRONG: list[tuple[Callable[..., Any], str]] = [
    (raises_before, "hook"),
    (raises_before_async, "hook"),
    (raises_after, "hook"),
    (raises_after_async, "hook"),
    (does_not_yield, "does_not_yield ended before its yield"),
    (does_not_yield_async, "does_not_yield_async ended before its yield"),
    (yields_twice, "yields_twice has yielded twice"),
    (yields_twice_async, "yields_twice_async has yielded twice"),
]


def jobs_of_both_kinds(jobs: BrokerJobs) -> list[Job[[], None]]:
    @jobs.job(retries=0)
    def job() -> None:
        seen.append("ran")

    @jobs.job(retries=0)
    async def job_async() -> None:
        seen.append("ran")

    return [job, job_async]


@pytest.mark.parametrize(("hook", "message"), WRONG)
def test_a_hook_that_raises_fails_the_job(jobs: BrokerJobs, hook: Callable[..., Any], message: str) -> None:
    jobs.around(hook)
    both = jobs_of_both_kinds(jobs)
    with jobs:
        for job in both:
            seen.clear()
            with pytest.raises(JobFailed, match=message):
                job.enqueue().result(timeout=120)
            runs = "after" in hook.__name__ or "twice" in hook.__name__
            assert seen == (["ran"] if runs else [])


@pytest.mark.parametrize("hook", [hides, hides_async])
def test_a_hook_cannot_hide_what_a_job_raises(jobs: BrokerJobs, hook: Callable[..., Any]) -> None:
    jobs.around(hook)

    @jobs.job(retries=0)
    def job() -> None:
        raise ValueError("boom")

    @jobs.job(retries=0)
    async def job_async() -> None:
        raise ValueError("boom")

    with jobs:
        for each in (job, job_async):
            seen.clear()
            with pytest.raises(JobFailed, match="boom"):
                each.enqueue().result(timeout=120)
            assert seen == ["hides"]


def test_a_sync_job_under_an_async_hook_is_stopped_at_its_timeout(jobs: BrokerJobs) -> None:
    @jobs.around
    async def hook() -> AsyncGenerator[None]:
        try:
            yield
        finally:
            seen.append("left")

    @jobs.job(retries=0, timeout=0.2)
    def spin() -> None:
        while True:
            pass

    seen.clear()
    with jobs, pytest.raises(JobFailed, match="timed out after"):
        spin.enqueue().result(timeout=120)
    assert seen == ["left"]


def test_an_async_hook_that_waits_is_stopped_at_the_timeout_of_a_sync_job(jobs: BrokerJobs) -> None:
    @jobs.around
    async def hook() -> AsyncGenerator[None]:
        await asyncio.sleep(3600)
        yield

    @jobs.job(retries=0, timeout=0.2)
    def job() -> None:
        seen.append("ran")

    seen.clear()
    with jobs, pytest.raises(JobFailed, match="timed out after"):
        job.enqueue().result(timeout=120)
    assert seen == []


@contextmanager
def manager() -> Iterator[None]:
    yield


async def no_yield() -> AsyncIterator[None]:
    return None  # type: ignore[return-value]


@pytest.mark.parametrize(("hook", "message"), [(manager, "leave the decorator out"), (no_yield, "has no yield: write")])
def test_what_is_no_generator_is_refused(jobs: BrokerJobs, hook: Any, message: str) -> None:
    with pytest.raises(DefinitionError, match=message):
        jobs.around(hook)
