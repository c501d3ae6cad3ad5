"""Runs the command line below a watcher of files (`--reload`): it stops when the watcher is gone."""

from __future__ import annotations

import os
import signal
import sys
import threading

from broker_jobs.cli import main
from broker_jobs.processes import supervisor


def run() -> None:
    """Run the command of the arguments, until it ends or stdin does."""
    supervisor.CAN_BE_REPLACED = False  # a fresh interpreter in the place of this one would not look at stdin
    threading.Thread(target=_stop_without_watcher, name="broker-jobs-watcher", daemon=True).start()
    main()


def _stop_without_watcher() -> None:
    while os.read(0, 1_024):  # nothing is ever written
        pass
    if sys.platform == "win32":
        signal.raise_signal(signal.SIGBREAK)
    elif (ident := threading.main_thread().ident) is not None:
        signal.pthread_kill(ident, signal.SIGTERM)  # it wakes the main thread, where handlers run


if __name__ == "__main__":
    run()
