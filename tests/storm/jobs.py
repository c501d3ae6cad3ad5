"""The program whose jobs run in a storm; each run writes its start and its end into a journal."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from broker_jobs import BrokerJobs, Concurrency, GiveUp, Ordered, RateLimit, Unique, current_job
from tests.storm.journal import RUNS, Journal, journal_of

FOLDER = "BROKER_JOBS_TEST_STORM"
"""The environment variable that names the folder of the journals."""

NARROW = 3
WIDE = 4
WIDEST = 7
"""People set the limit of `wide` to at most this."""
RATE, RATE_SPAN = 6, 4.0
UNIQUE_WINDOW = 6.0
BACKOFF = 0.3
PLANNED_EVERY = 3
"""Seconds between two planned times of each recurring job."""

jobs = BrokerJobs(service="tests")


def journal() -> Journal:
    """The journal of runs."""
    return journal_of(os.environ[FOLDER], RUNS)


@contextmanager
def _run(job: str, **fields: object) -> Iterator[None]:
    current = current_job()
    about = {"id": current.id, "attempt": current.attempt, "job": job, **fields}
    journal().write("start", **about)
    try:
        yield
    except GiveUp:
        journal().write("gave up", **about)
        raise
    except BaseException:
        journal().write("raised", **about)
        raise
    journal().write("end", **about)


@jobs.job(backoff=[BACKOFF], retries=8)
def work(seconds: float, not_before: float = 0.0) -> str:
    with _run("work", not_before=not_before):
        time.sleep(seconds)
    return current_job().id


@jobs.job(backoff=[BACKOFF], retries=8)
async def awaited(seconds: float, not_before: float = 0.0) -> str:
    with _run("awaited", not_before=not_before):
        await asyncio.sleep(seconds)
    return current_job().id


@jobs.job(backoff=[BACKOFF], retries=8, queue="side")
def aside(seconds: float) -> None:
    """Work of the queue that people pause."""
    with _run("aside"):
        time.sleep(seconds)


@jobs.job(backoff=[BACKOFF], retries=8)
def stumble(times: int) -> None:
    """Fail so many times, then succeed."""
    with _run("stumble", times=times):
        if current_job().attempt <= times:
            raise ValueError("stumbled")


@jobs.job(backoff=[BACKOFF], retries=0)
def refuse(seconds: float) -> None:
    with _run("refuse"):
        time.sleep(seconds)
        raise GiveUp("as asked")


@jobs.job(backoff=[BACKOFF], retries=8)
def child(seconds: float, parents: list[str], on: str) -> None:
    with _run("child", parents=parents, on=on):
        time.sleep(seconds)


@jobs.job(backoff=[BACKOFF], retries=8)
def takes(result: str, parent: str) -> None:
    """Take the result of a parent."""
    with _run("takes", parents=[parent], on="succeeded", right=result == parent):
        pass


@jobs.job(backoff=[BACKOFF], retries=8)
def summary(batch: str) -> None:
    with _run("summary", batch=batch):
        pass


@jobs.job(backoff=[BACKOFF], retries=8, limit=Concurrency("narrow", NARROW))
def narrow(seconds: float) -> None:
    with _run("narrow"):
        time.sleep(seconds)


@jobs.job(backoff=[BACKOFF], retries=8, limit=Concurrency("wide", WIDE))
def wide(seconds: float) -> None:
    with _run("wide"):
        time.sleep(seconds)


@jobs.job(backoff=[BACKOFF], retries=8, limit=RateLimit("rate", RATE, per=RATE_SPAN))
def rated() -> None:
    with _run("rated"):
        pass


@jobs.job(backoff=[BACKOFF], retries=8, limit=Ordered("line:{key}"))
def ordered(key: str, number: int, stumbles: int, seconds: float) -> None:
    with _run("ordered", key=key, number=number):
        time.sleep(seconds)
        if current_job().attempt <= stumbles:
            raise ValueError("stumbled")


@jobs.job(backoff=[BACKOFF], retries=8, unique="queued:{key}")
def unique_queued(key: int, seconds: float) -> None:
    with _run("unique_queued", key=key):
        time.sleep(seconds)


@jobs.job(backoff=[BACKOFF], retries=8, unique=Unique("replaced:{key}", conflict="replace"))
def unique_replaced(key: int, seconds: float) -> None:
    with _run("unique_replaced", key=key):
        time.sleep(seconds)


@jobs.job(backoff=[BACKOFF], retries=8, unique=Unique("running:{key}", scope="running"))
def unique_running(key: int, seconds: float) -> None:
    with _run("unique_running", key=key):
        time.sleep(seconds)


@jobs.job(backoff=[BACKOFF], retries=8, unique=Unique("window:{key}", scope=timedelta(seconds=UNIQUE_WINDOW)))
def unique_window(key: int) -> None:
    with _run("unique_window", key=key):
        pass


@jobs.job(backoff=[BACKOFF], retries=8)
def planned(name: str, seconds: float) -> None:
    with _run("planned", name=name):
        time.sleep(seconds)


EVERY = f"*/{PLANNED_EVERY} * * * * *"
jobs.recurring("once-allow", EVERY, planned.bind("once-allow", 0.1), misfire="once", overlap="allow")
jobs.recurring("skip-allow", EVERY, planned.bind("skip-allow", 0.1), misfire="skip", overlap="allow")
jobs.recurring("all-allow", EVERY, planned.bind("all-allow", 0.1), misfire="all", overlap="allow")
jobs.recurring("all-queue", EVERY, planned.bind("all-queue", 1.0), misfire="all", overlap="queue")
jobs.recurring("once-skip", EVERY, planned.bind("once-skip", 2.0), misfire="once", overlap="skip")
jobs.recurring("once-queue", EVERY, planned.bind("once-queue", 1.0), misfire="once", overlap="queue")
