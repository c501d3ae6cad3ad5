"""A producer in a process of its own: `python producer_program.py DESCRIPTION` (JSON).

It enqueues a job and schedules one, again and again, and writes each accepted id with its kind into a file. The jobs do
not sleep: time.sleep() raises in a process whose clock libfaketime keeps.
"""

import faulthandler
import json
import logging
import os
import signal
import sys
from datetime import timedelta
from pathlib import Path

from tests.support.leave import Leave
from tests.support.system_jobs import SystemJobs

PRODUCED = "produced"
DELAY_SECONDS = 1.0


def main(url: str, store: str, folder: str, **_: object) -> None:
    """Enqueue until SIGTERM."""
    leave = Leave()
    signal.signal(signal.SIGTERM, leave.on_signal)
    jobs = SystemJobs(url, store, Path(folder))
    with (Path(folder) / PRODUCED).open("a") as produced:
        while not leave.asked(0.05):
            ready = jobs.stumble.enqueue(0)
            delayed = jobs.stumble.schedule(timedelta(seconds=DELAY_SECONDS), 0)
            produced.write(f"ready {ready.id}\ndelayed {delayed.id}\n")
            produced.flush()
    os._exit(0)  # all that was enqueued is confirmed; to stop would wait by a clock that jumps


if __name__ == "__main__":
    faulthandler.register(signal.SIGUSR1)  # says where every thread is
    logging.basicConfig(level=logging.INFO)
    main(**json.loads(sys.argv[1]))
