"""A group of jobs whose hooks write into a file what they get: in a thread, on the loop, and in a child process."""

from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path

from broker_jobs import BrokerJobs, GiveUp, JobMessage, Jobs, current_job

FILE = "NOTICED_FILE"


def note(text: str) -> None:
    """Add a line to the file that the environment names."""
    with Path(os.environ[FILE]).open("a") as file:
        file.write(f"{text}\n")


def noted() -> list[str]:
    """The lines of the file."""
    path = Path(os.environ[FILE])
    return path.read_text().splitlines() if path.exists() else []


group = Jobs(retries=1, backoff=[0])
jobs = BrokerJobs("memory://")


@jobs.on_enqueue
def enqueued(job: JobMessage) -> None:
    if job.args == ("refused",):
        raise PermissionError("refused by a hook")
    note(f"enqueued {job.name} {job.attempt} {list(job.args)}")


@jobs.on_start
def started(job: JobMessage) -> None:
    note(f"started {job.name} {job.attempt} {current_job().id == job.id}")


@group.on_start
async def started_async(job: JobMessage) -> None:
    await asyncio.sleep(0)
    note(f"started async {job.name}")
    raise RuntimeError("a hook that raises changes nothing")


@group.on_success
def succeeded(job: JobMessage, result: object) -> None:
    note(f"succeeded {job.name} {job.attempt} {result!r}")
    raise RuntimeError("a hook that raises changes nothing")


@jobs.on_success
async def succeeded_async(job: JobMessage, result: object) -> None:
    await asyncio.sleep(0)
    note(f"succeeded async {job.name}")


@jobs.on_failed
def failed(job: JobMessage, error: BaseException) -> None:
    note(f"failed {job.name} {job.attempt} {type(error).__name__}: {error}")


@group.on_failed
async def failed_async(job: JobMessage, error: BaseException) -> None:
    await asyncio.sleep(0)
    note(f"failed async {job.name}")
    raise RuntimeError("a hook that raises changes nothing")


@jobs.on_worker_start
def worker_started() -> None:
    note("worker started")


@group.on_worker_start
async def worker_started_async() -> None:
    await asyncio.sleep(0)
    note("worker started async")


@jobs.on_worker_stop
def worker_stopped() -> None:
    note("worker stopped")


@group.on_worker_stop
async def worker_stopped_async() -> None:
    await asyncio.sleep(0)
    note("worker stopped async")


def act(how: str) -> str:
    if how == "raise":
        raise ValueError("boom")
    if how == "give up":
        raise GiveUp("no use")
    if how == "crash":
        os._exit(3)
    if how == "spin":
        while True:
            pass
    if how == "hang":
        threading.Event().wait(3600)
    return how


@group.job
def in_thread(how: str) -> str:
    return act(how)


@group.job
async def on_loop(how: str) -> str:
    await asyncio.sleep(3600 if how == "spin" else 0)
    return act(how)


@group.job(isolation="process")
def in_process(how: str) -> str:
    return act(how)


@group.job(isolation="process")
async def on_loop_in_process(how: str) -> str:
    await asyncio.sleep(3600 if how == "spin" else 0)
    return act(how)


@jobs.job
def outside(how: str) -> str:
    """It is not in the group."""
    return act(how)


jobs.include(group)
ALL = [in_thread, on_loop, in_process, on_loop_in_process]
