"""The program of a soak: innocent jobs, and jobs that do what no job should."""

from __future__ import annotations

import asyncio
import builtins
import ctypes
import os
import signal
import sys
import time
from contextlib import suppress

from broker_jobs import BrokerJobs, current_job
from tests.storm.journal import RUNS, Journal, journal_of

FOLDER = "BROKER_JOBS_TEST_SOAK"
"""The environment variable that names the folder of the journal."""
TIMEOUT = 2.0
LIMIT_MB = 200

jobs = BrokerJobs()


def journal() -> Journal:
    """The journal of the runs of innocent jobs."""
    return journal_of(os.environ[FOLDER], RUNS)


# ---- the innocent


@jobs.job(retries=0)
def innocent(seconds: float) -> str:
    journal().write("start", id=current_job().id)
    time.sleep(seconds)
    journal().write("end", id=current_job().id)
    return current_job().id


@jobs.job(retries=0)
async def innocent_async(seconds: float) -> str:
    journal().write("start", id=current_job().id)
    await asyncio.sleep(seconds)
    journal().write("end", id=current_job().id)
    return current_job().id


# ---- the guilty


@jobs.job(retries=0, timeout=TIMEOUT)
def hangs() -> None:
    while True:
        time.sleep(0.05)


@jobs.job(retries=0, timeout=TIMEOUT)
def hangs_in_c() -> None:
    time.sleep(TIMEOUT + 4)


@jobs.job(retries=0, timeout=TIMEOUT)
def swallows() -> None:
    while True:
        try:
            while True:
                time.sleep(0.05)
        except BaseException:  # noqa: BLE001  # what is tried here
            pass


@jobs.job(retries=0, timeout=TIMEOUT)
async def hangs_async() -> None:
    await asyncio.sleep(100_000)


@jobs.job(retries=0, timeout=TIMEOUT)
async def swallows_async() -> None:
    while True:
        with suppress(BaseException):
            await asyncio.sleep(100_000)


@jobs.job(retries=0, timeout=60)
def holds_the_gil() -> None:
    ctypes.PyDLL(None).usleep(3_000_000)  # a PyDLL keeps the GIL


@jobs.job(retries=0, timeout=60)
async def blocks_the_loop() -> None:
    time.sleep(3)  # noqa: ASYNC251  # as above


@jobs.job(retries=0)
def computes() -> int:
    return sum(number * number % 7 for number in range(3_000_000))


@jobs.job(retries=0)
def prints_megabytes() -> None:
    for _ in range(50):
        sys.stdout.write("x" * 100_000 + "\n")
        current_job().log("y" * 100_000)


@jobs.job(retries=0)
def returns_megabytes() -> str:
    return "z" * 3_000_000


@jobs.job(retries=0)
def raises(name: str) -> None:
    raise getattr(builtins, name)


@jobs.job(retries=0)
async def raises_async(name: str) -> None:
    raise getattr(builtins, name)


@jobs.job(retries=0)
def recurses() -> None:
    recurses()


@jobs.job(retries=0)
def exits() -> None:
    sys.exit(2)


class _Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


@jobs.job(retries=0)
def raises_what_has_no_text() -> None:
    raise _Unprintable


@jobs.job(retries=0, isolation="process")
def exits_at_once() -> None:
    os._exit(7)


@jobs.job(retries=0, isolation="process")
def is_killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@jobs.job(retries=0, isolation="process")
def reads_address_zero() -> None:
    ctypes.string_at(0)


@jobs.job(retries=0, isolation="process", memory_limit=LIMIT_MB * 1024 * 1024)
def takes_all_memory() -> None:
    kept = []
    while True:
        kept.append(bytearray(10_000_000))


@jobs.job(retries=0, isolation="process", timeout=TIMEOUT)
def hangs_apart() -> None:
    while True:
        time.sleep(100)
