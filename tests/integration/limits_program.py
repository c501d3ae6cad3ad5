"""A program whose jobs stand under a limit, and note in a file when they enter and leave.

`python limits_program.py URL FILE` runs a worker of it, to be killed.
"""

import os
import sys
import threading
import time
from pathlib import Path

from broker_jobs import BrokerJobs, Concurrency, Job

LIMIT = 3


def program(url: str, file: Path, store: str | None = None) -> tuple[BrokerJobs, Job[[int], None]]:
    """The program, and its job."""
    jobs = BrokerJobs(url, store=store)

    def note(what: str, number: int) -> None:
        who = f"{os.getpid()}/{threading.get_native_id()}"
        with file.open("ab", buffering=0) as out:  # one write at the end of the file: whole, and in order
            out.write(f"{what} {who} {number}\n".encode())

    @jobs.job(limit=Concurrency("smtp:{group}", LIMIT))
    def mail(number: int, group: str = "a") -> None:
        note("enter", number)
        time.sleep(0.03)
        note("leave", number)

    return jobs, mail


if __name__ == "__main__":
    here, _ = program(sys.argv[1], Path(sys.argv[2]))
    here.start(roles=["worker"], concurrency=4)
    threading.Event().wait(600)
