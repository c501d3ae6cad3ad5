"""Some parts of the system in a process of their own, to be killed: `python system_program.py DESCRIPTION` (JSON)."""

import faulthandler
import json
import logging
import signal
import sys
from pathlib import Path

from broker_jobs.broker.factory import broker_for
from broker_jobs.processes.program import Program
from broker_jobs.settings import Settings
from tests.support.leave import Leave
from tests.support.system_jobs import SystemJobs


def main(url: str, store: str, folder: str, roles: list[str], slot: str, **settings: object) -> None:
    """Run until SIGTERM, then leave in order."""
    leave = Leave()
    signal.signal(signal.SIGTERM, leave.on_signal)
    registry = SystemJobs(url, store, Path(folder)).program.registry
    loaded = Settings.load(url=url, store=store, **settings)
    broker = broker_for(loaded, "+".join(roles))
    program = Program(registry, loaded, broker, roles=roles, slot=slot, on_fatal=lambda _: leave.ask())
    broker.start(60)
    program.start()
    while not leave.asked(0.1):
        pass
    program.stop()
    broker.stop()


if __name__ == "__main__":
    faulthandler.register(signal.SIGUSR1)  # says where every thread is
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    main(**json.loads(sys.argv[1]))
