"""Some parts of the system in a process of their own, to be killed: `python system_program.py DESCRIPTION` (JSON)."""

import json
import logging
import signal
import sys
import threading
from pathlib import Path
from types import FrameType

from broker_jobs.broker.factory import broker_for
from broker_jobs.processes.program import Program
from broker_jobs.settings import Settings
from tests.support.system_jobs import SystemJobs


def main(url: str, store: str, folder: str, roles: list[str], slot: str, **settings: object) -> None:
    """Run until SIGTERM, then leave in order."""
    leave = threading.Event()

    def on_signal(_: int, __: FrameType | None) -> None:
        leave.set()

    signal.signal(signal.SIGTERM, on_signal)
    registry = SystemJobs(url, store, Path(folder)).program.registry
    loaded = Settings.load(url=url, store=store, **settings)
    broker = broker_for(loaded, "+".join(roles))
    program = Program(registry, loaded, broker, roles=roles, slot=slot, on_fatal=lambda _: leave.set())
    broker.start(60)
    program.start()
    while not leave.wait(0.1):
        pass
    program.stop()
    broker.stop()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    main(**json.loads(sys.argv[1]))
