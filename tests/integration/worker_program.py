"""A worker in a process of its own, to be killed: `python worker_program.py URL FOLDER`.

Its job `mark` writes a file when it starts, waits for a file named `go`, and writes another when it ends.
"""

import logging
import sys
import time
import uuid
from pathlib import Path

from broker_jobs.broker.rabbitmq import RabbitBroker
from broker_jobs.consumer.worker import Worker
from broker_jobs.function.definition import define
from broker_jobs.function.registry import Registry
from broker_jobs.settings import Settings
from tests.support.hoard import let_workers_take_more


def mark(folder: str, name: str) -> None:
    (Path(folder) / f"{name}.started.{uuid.uuid4().hex}").touch()
    while not (Path(folder) / "go").exists():
        time.sleep(0.01)
    (Path(folder) / f"{name}.ended").touch()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    let_workers_take_more()
    registry = Registry()
    registry.add(define(mark, {}))
    broker = RabbitBroker(sys.argv[1], name="worker to be killed")
    broker.start()
    worker = Worker(registry, broker, queues=["default"], concurrency=1, settings=Settings())
    worker._control.answered.set()  # no coordinator here
    worker.start()
    time.sleep(600)
