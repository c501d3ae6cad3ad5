"""A program whose jobs stand under a limit, and note in a file when they enter and leave.

`python limits_program.py URL FILE` runs a worker of it that is killed inside its fifth job.
"""

import itertools
import os
import signal
import sys
import threading
import time
from pathlib import Path

from broker_jobs import BrokerJobs, Concurrency, Job

LIMIT = 3
DEADLY = 5


def program(url: str, file: Path, store: str | None = None, *, deadly: int = 0) -> tuple[BrokerJobs, Job[[int], None]]:
    """The program, and its job. `deadly`: the number of the run that kills this process, 0 none."""
    jobs = BrokerJobs(url, store=store)
    runs = itertools.count(1)

    def note(what: str, number: int) -> None:
        who = f"{os.getpid()}/{threading.get_native_id()}"
        with file.open("ab", buffering=0) as out:  # one write at the end of the file: whole, and in order
            out.write(f"{what} {who} {number}\n".encode())

    @jobs.job(limit=Concurrency("smtp:{group}", LIMIT))
    def mail(number: int, group: str = "a") -> None:
        note("enter", number)
        if next(runs) == deadly:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(0.03)
        note("leave", number)

    return jobs, mail


if __name__ == "__main__":
    here, _ = program(sys.argv[1], Path(sys.argv[2]), deadly=DEADLY)
    here.start(roles=["worker"], concurrency=4)
    threading.Event().wait(600)
