"""Jobs with hooks of both kinds, which run in the worker or in a child process: what they do is in their results."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncGenerator, Generator
from contextvars import ContextVar

from broker_jobs import BrokerJobs, current_job

jobs = BrokerJobs("memory://")
STEPS: ContextVar[tuple[str, ...]] = ContextVar("STEPS", default=())
TASKS: dict[str, asyncio.Task[None] | None] = {}
"""Job -> the task in which its async hook has begun."""


def note(step: str) -> None:
    STEPS.set((*STEPS.get(), step))


@jobs.around
def sync_hook() -> Generator[None]:
    note(f"sync in thread {threading.get_ident()}")
    yield
    current_job().log("sync after")


@jobs.around
async def async_hook() -> AsyncGenerator[None]:
    await asyncio.sleep(0)
    note("async")
    task = TASKS[current_job().id] = asyncio.current_task()
    async with asyncio.timeout(3600):  # bound to the task
        yield
    await asyncio.sleep(0)
    current_job().log("async after" if asyncio.current_task() is task else "async after, in another task")


@jobs.around
def inner_hook() -> Generator[None]:
    note("inner")
    yield
    current_job().log("inner after")


def steps() -> dict[str, str]:
    return {"steps": " | ".join(STEPS.get()), "thread": str(threading.get_ident()), "pid": str(os.getpid())}


@jobs.job(retries=0)
def sync_job() -> dict[str, str]:
    return steps()


@jobs.job(retries=0)
async def async_job() -> dict[str, str]:
    await asyncio.sleep(0)
    return steps()


@jobs.job(retries=0, isolation="process")
def sync_in_process() -> dict[str, str]:
    return steps()


@jobs.job(retries=0, isolation="process")
async def async_in_process() -> dict[str, str]:
    return steps()


@jobs.job(retries=0)
def sync_raises() -> None:
    raise ValueError("boom")


@jobs.job(retries=0)
async def async_raises() -> None:
    raise ValueError("boom")


ALL = [sync_job, async_job, sync_in_process, async_in_process]
