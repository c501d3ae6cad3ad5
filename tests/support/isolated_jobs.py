"""Jobs with isolation="process": a child process imports this module, as it would a program's own."""

import asyncio
import ctypes
import os
import subprocess
import sys
import threading
import time
from collections.abc import Generator
from pathlib import Path

from broker_jobs import BrokerJobs, Depends, GiveUp, JobTimedOut, Retry, current_job

jobs = BrokerJobs("memory://")
MIB = 1024 * 1024
hook_ran_in: list[int] = []


def connection() -> Generator[str]:
    """A provided argument, made in the child."""
    yield f"made in {os.getpid()}"


@jobs.around
def note_the_process() -> Generator[None]:
    """A hook, in the child."""
    hook_ran_in[:] = [os.getpid()]
    yield


@jobs.job(isolation="process", retries=0)
def look_around(number: int, given: str = Depends(connection)) -> dict[str, str]:
    job = current_job()
    job.log("looks around", number=number)
    job.progress(number, 10)
    return {
        "id": job.id, "attempt": str(job.attempt), "pid": str(os.getpid()), "given": given,
        "hook": str(hook_ran_in[0]), "cancelled": str(job.cancelled()),
    }  # fmt: skip


@jobs.job(isolation="process", retries=0)
async def process_async() -> int:
    await asyncio.sleep(0.01)
    return os.getpid()


@jobs.job(isolation="process", retries=0)
def crash_in_c() -> None:
    ctypes.string_at(0)


@jobs.job(isolation="process", retries=0)
def exit_at_once(code: int) -> None:
    os._exit(code)


@jobs.job(isolation="process", retries=0)
def kill_itself() -> None:
    os.kill(os.getpid(), 9)


@jobs.job(isolation="process", retries=0)
def close_all_files() -> None:
    os.closerange(3, 200)


@jobs.job(isolation="process", retries=0)
def print_megabytes() -> str:
    for _ in range(200):
        sys.stdout.write("x" * 10_000)
        sys.stderr.write("x" * 10_000)
    return "printed"


@jobs.job(isolation="process", retries=0, memory_limit=100 * MIB)
def take(mib: int, *, slowly: bool = False) -> int:
    taken = []
    for _ in range(mib // 10 if slowly else 1):
        taken.append(bytearray(b"x") * ((10 if slowly else mib) * MIB))
        time.sleep(0.01)
    return sum(len(each) for each in taken) // MIB


@jobs.job(isolation="process", retries=1, backoff=[0])
def fail(how: str) -> int:
    attempt = current_job().attempt
    if how == "crash once" and attempt == 1:
        os._exit(3)
    if how == "retry" and attempt == 1:
        raise Retry(after=0)
    if how == "give up":
        raise GiveUp("no use")
    if how == "exit":
        sys.exit(3)
    if how == "raise":
        raise ValueError("boom")
    return attempt


@jobs.job(isolation="process", retries=0)
def hang(mark: str) -> None:
    Path(mark).write_text(str(os.getpid()))
    threading.Event().wait(3600)  # a call of C


@jobs.job(isolation="process", retries=0, timeout=0.5)
def tidy_up(mark: str) -> None:
    try:
        while True:
            time.sleep(0.01)
    except JobTimedOut:
        Path(mark).write_text("tidied up")
        raise


@jobs.job(isolation="process", retries=0)
def start_a_program() -> str:
    program = subprocess.run(
        [sys.executable, "-c", "import signal; print(signal.getsignal(signal.SIGTERM) == signal.SIG_DFL)"],
        check=True,
        capture_output=True,
        text=True,
    )
    return program.stdout.strip()


@jobs.job(isolation="process", retries=0)
def enqueue_another() -> None:
    look_around.enqueue(1)


@jobs.job(retries=0)
def in_a_thread() -> int:
    return os.getpid()


@jobs.job(isolation="process", retries=3, priority="high", tags=["a", "b"])
def read_itself(number: int, *more: str, given: str = Depends(connection), loud: bool = True) -> dict[str, str]:
    job = current_job()
    return {
        "name": job.name, "queue": job.queue, "priority": job.priority, "tags": repr(job.tags),
        "arguments": repr(dict(job.arguments)), "retries": f"{job.retries_left} of {job.retries}",
        "trace": repr(dict(job.trace)),
    }  # fmt: skip
