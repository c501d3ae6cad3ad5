"""A producer in a process of its own: enqueues jobs of all kinds, and notes what was accepted.

python -m tests.storm.producer NUMBER RATE SEED
"""

from __future__ import annotations

import logging
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import Any

from broker_jobs import result_of
from broker_jobs.errors import EnqueueError
from broker_jobs.messages.priority import PRIORITIES
from broker_jobs.producer.errors import BatchUnknown, EnqueueManyError, EnqueueUnknown
from broker_jobs.producer.job import Job
from broker_jobs.producer.receipt import Receipt
from tests.storm import jobs as program
from tests.storm.jobs import FOLDER
from tests.storm.journal import ACCEPTED, Journal, read

logger = logging.getLogger(__name__)


class Producer:
    """Enqueues at random. What raises is repeated with the same id until it is confirmed."""

    def __init__(self, number: int, folder: Path, chance: random.Random) -> None:
        self._number = number
        self._chance = chance
        self._journal = Journal(folder / ACCEPTED)
        self._stop = False
        self._orders = {line["key"]: line["number"] for line in read(folder / ACCEPTED) if line["what"] == "ordering"}
        self._receipts: list[Receipt[Any]] = []
        signal.signal(signal.SIGTERM, self._leave)

    def _leave(self, _: int, __: FrameType | None) -> None:
        self._stop = True

    def run(self, per_second: float) -> None:
        """Enqueue until SIGTERM."""
        actions: list[tuple[Callable[[], None], int]] = [
            (self._plain, 10), (self._own_id, 3), (self._delayed, 5), (self._long, 1), (self._stumbling, 3),
            (self._child, 4), (self._result, 2), (self._batch, 1), (self._many, 1), (self._limited, 6),
            (self._ordered, 5), (self._unique, 8), (self._aside, 3),
        ]  # fmt: skip
        while not self._stop:
            began = time.monotonic()
            self._chance.choices([action for action, _ in actions], [weight for _, weight in actions])[0]()
            time.sleep(max(0.0, self._chance.expovariate(per_second) - (time.monotonic() - began)))
        self._journal.write("left")

    # --- kinds ---

    def _plain(self) -> None:
        job = self._chance.choice([program.work, program.awaited])
        self._keep(self._enqueue(job.using(priority=self._chance.choice(PRIORITIES)), self._short()))

    def _own_id(self) -> None:
        id = f"own-{self._number}-{time.time_ns()}"
        self._enqueue(program.work.using(id=id), self._short())
        if self._chance.random() < 0.3:
            self._enqueue(program.work.using(id=id), self._short())

    def _delayed(self) -> None:
        seconds = self._chance.choice([0.2, 1.0, 3.0, 12.0, 25.0]) * self._chance.uniform(0.5, 1.5)
        not_before = time.time() + seconds
        self._keep(self._accept(
            lambda id: (program.work.using(id=id) if id else program.work).schedule(
                timedelta(seconds=max(0.0, not_before - time.time())), self._short(), not_before - 0.001
            ),
            "work", not_before=not_before,
        ))  # fmt: skip

    def _long(self) -> None:
        self._enqueue(self._chance.choice([program.work, program.awaited]), self._chance.uniform(5, 25))

    def _stumbling(self) -> None:
        if self._chance.random() < 0.3:
            self._keep(self._enqueue(program.refuse, self._short()))
        else:
            job = program.stumble.using(priority=self._chance.choice(PRIORITIES))
            self._keep(self._enqueue(job, self._chance.randint(1, 3)))

    def _child(self) -> None:
        parents = [self._enqueue(program.work, self._short()) for _ in range(self._chance.randint(0, 2))]
        if self._receipts:
            parents.append(self._chance.choice(self._receipts[-50:]))
        if self._chance.random() < 0.3:
            parents.append(self._enqueue(program.refuse, self._short()))
        if not parents:
            return
        on = self._chance.choice(["succeeded", "succeeded", "finished", "failed"])
        ids = [parent.id for parent in parents]
        made = program.child.after(*parents, on=on)  # type: ignore[arg-type]
        self._enqueue(made, self._short(), ids, on, kind="child", parents=ids, on=on)

    def _result(self) -> None:
        parent = self._enqueue(program.work, self._short())
        self._enqueue(program.takes, result_of(parent), parent.id, kind="takes", parents=[parent.id], on="succeeded")

    def _batch(self) -> None:
        batch = program.jobs.batch("storm")
        members: list[str] = []
        try:
            try:
                with batch:
                    count = self._chance.randint(1, 12)
                    members += [batch.enqueue(program.work, self._short()).id for _ in range(count)]
                    if self._chance.random() < 0.4:
                        members.append(batch.enqueue(program.refuse, self._short()).id)
                    if self._chance.random() < 0.4:
                        members.append(batch.schedule(program.work, timedelta(seconds=2), 0.05).id)
                    if self._chance.random() < 0.4:
                        with batch.batch("inner") as inner:
                            members += [inner.enqueue(program.work, self._short()).id for _ in range(3)]
            except BatchUnknown as unknown:
                self._repeat_commit(unknown)
        except EnqueueError as error:
            logger.info("a batch was not accepted: %s", error)
            return
        self._journal.write("batch", id=batch.id, members=members)
        self._enqueue(program.summary.after(batch, on="finished"), batch.id, kind="summary", batch=batch.id)

    def _repeat_commit(self, unknown: BatchUnknown) -> None:
        while True:
            try:
                with unknown.batch:
                    pass
                return
            except BatchUnknown as again:
                unknown = again
            except EnqueueError as error:
                logger.info("the commit of a batch again: %s", error)
            time.sleep(0.5)

    def _many(self) -> None:
        calls = [program.work.bind(self._short()) for _ in range(self._chance.randint(2, 20))]
        try:
            receipts = program.jobs.enqueue_many(calls)
        except EnqueueManyError as error:
            receipts = error.enqueued
            for receipt in error.unknown:
                self._enqueue(program.work.using(id=receipt.id), self._short())
        self._journal.write("many", ids=[receipt.id for receipt in receipts])

    def _limited(self) -> None:
        match self._chance.randrange(3):
            case 0:
                self._enqueue(program.narrow, self._chance.uniform(0.2, 3))
            case 1:
                self._enqueue(program.wide, self._chance.uniform(0.2, 3))
            case _:
                self._enqueue(program.rated)

    def _ordered(self) -> None:
        key = f"{self._number}-{self._chance.randrange(3)}"
        number = self._orders.get(key, 0) + 1
        self._orders[key] = number
        self._journal.write("ordering", key=key, number=number)
        stumbles = 1 if self._chance.random() < 0.2 else 0
        self._enqueue(program.ordered, key, number, stumbles, self._chance.uniform(0, 0.1), key=key, number=number)

    def _unique(self) -> None:
        key = self._chance.randrange(4)
        match self._chance.randrange(4):
            case 0:
                self._enqueue(program.unique_queued, key, self._short(), unique=True)
            case 1:
                self._enqueue(program.unique_running, key, self._short(), unique=True)
            case 2:
                self._enqueue(program.unique_window, key, unique=True)
            case _:
                self._accept(
                    lambda id: (program.unique_replaced.using(id=id) if id else program.unique_replaced).schedule(
                        timedelta(seconds=1), key, 0.05
                    ),
                    "unique_replaced", unique=True,
                )  # fmt: skip

    def _aside(self) -> None:
        self._enqueue(program.aside, self._short())

    # --- inside ---

    def _short(self) -> float:
        return self._chance.choice([0.0, 0.01, 0.05, 0.2, 0.6]) * self._chance.uniform(0.5, 1.5)

    def _keep(self, receipt: Receipt[Any]) -> None:
        self._receipts = [*self._receipts[-200:], receipt]

    def _enqueue(self, job: Job[Any, Any], *args: Any, **facts: Any) -> Receipt[Any]:
        kind = facts.pop("kind", job.name)
        return self._accept(lambda id: (job.using(id=id) if id else job).enqueue(*args), kind, **facts)

    def _accept(self, enqueue: Callable[[str], Receipt[Any]], kind: str, **facts: Any) -> Receipt[Any]:
        """Enqueue until it is confirmed: after the first doubt always with the id that may be enqueued already."""
        id = ""
        while True:
            try:
                receipt = enqueue(id)
            except EnqueueUnknown as unknown:
                id = unknown.receipt.id
                self._journal.write("doubt", id=id, job=kind)
            except EnqueueError as error:
                logger.info("again: %s", error)
                if self._stop and not id:
                    raise SystemExit(0) from None
                time.sleep(0.3)
            else:
                self._journal.write("accepted", id=receipt.id, job=kind, **facts)
                return receipt


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    number, per_second, seed = int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])
    Producer(number, Path(os.environ[FOLDER]), random.Random(f"{seed}-{os.getpid()}")).run(per_second)
    program.jobs.stop()
