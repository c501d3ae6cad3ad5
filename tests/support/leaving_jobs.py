"""Jobs with isolation="process" that leave something behind: a copy of their process, a thread, half a message."""

from __future__ import annotations

import os
import threading
import time
from decimal import Decimal
from pathlib import Path
from typing import Literal

from broker_jobs import BrokerJobs, current_job

jobs = BrokerJobs("memory://")
MIB = 1024 * 1024
kept: list[bytearray] = []
go_on = threading.Event()


@jobs.job(isolation="process", retries=0)
def fork_and_return() -> str:
    """Return on both sides."""
    return "the parent" if os.fork() else "the copy"


@jobs.job(isolation="process", retries=0)
def fork_and_raise() -> None:
    """Raise on both sides."""
    os.fork()
    raise ValueError("on both sides")


@jobs.job(isolation="process", retries=0)
async def fork_and_return_async() -> str:
    """Return on both sides, from a coroutine."""
    return "the parent" if os.fork() else "the copy"


@jobs.job(isolation="process", retries=0)
def echo(number: int, seconds: float = 0.0) -> int:
    """Do nothing wrong."""
    time.sleep(seconds)
    return number


@jobs.job(isolation="process", retries=0)
def leave_a_thread(mark: str) -> int:
    """Return while a thread goes on to say something of this job."""
    job = current_job()

    def later() -> None:
        go_on.wait(0.3)
        for _ in range(20):
            job.log("from a thread that was left")
            job.progress(77, 100)
            time.sleep(0.05)
        Path(mark).touch()

    threading.Thread(target=later, daemon=True).start()
    return 1


@jobs.job(isolation="process", retries=0)
def write_half_a_message() -> None:
    """Announce a message in all sockets, and never write it."""
    for file in range(3, 100):
        try:
            os.write(file, b"\x00\x00\x10\x00")
        except OSError:
            continue
    go_on.wait(600)


Kind = Literal["decimal", "text", "huge", "endless"]
AMOUNTS = {"decimal": Decimal(1), "text": "much", "huge": 10**400, "endless": float("inf")}


@jobs.job(isolation="process", retries=0)
def progress_in_process(kind: Kind) -> str:
    """Say a progress that may be none."""
    current_job().progress(AMOUNTS[kind], 2)  # type: ignore[arg-type]
    return kind


@jobs.job(retries=0)
def progress_in_thread(kind: Kind) -> str:
    """The same, in a thread."""
    current_job().progress(AMOUNTS[kind], 2)  # type: ignore[arg-type]
    return kind


@jobs.job(isolation="process", retries=0)
def leak(mib: int) -> int:
    """Keep memory after the job."""
    kept.append(bytearray(b"x") * (mib * MIB))
    return os.getpid()
