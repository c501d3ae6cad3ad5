"""One storm from its start to its findings."""

from __future__ import annotations

import contextlib
import logging
import random
import threading
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import func, select

from broker_jobs.broker import names
from broker_jobs.errors import StoreError
from broker_jobs.messages.state import State
from broker_jobs.store import Store, schema
from broker_jobs.store.row import WaitReason
from tests.storm.check import Seen, findings, summary
from tests.storm.faults import Faults
from tests.storm.jobs import RATE_SPAN
from tests.storm.people import People
from tests.storm.system import StormSystem
from tests.support.cluster import Cluster
from tests.support.postgres import Postgres
from tests.support.wait import eventually, while_it_moves

logger = logging.getLogger(__name__)

STILL_SECONDS = 200.0
"""Nothing moves for so long: longer than any lease, grace period and proof of a loss on a slow machine."""


@dataclass
class Result:
    """What a storm did, and what must not have been."""

    findings: list[str]
    figures: dict[str, Any]


class RateWatch:
    """Reads the stored starts of rates all the time, as the coordinator forgets them after their span."""

    def __init__(self, store: Store) -> None:
        self.starts: dict[tuple[str, str, int], float] = {}
        self._store = store
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="rates", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop reading."""
        self._stop.set()
        self._thread.join(60)

    def _run(self) -> None:
        while not self._stop.wait(0.5):
            with contextlib.suppress(StoreError), self._store.reader._reading() as connection:
                rows = list(connection.execute(select(schema.rate_starts)))
                now = time.time()
                stored = {(row.key, row.job_id, int(row.epoch)): float(row.at) for row in rows}
                for key, at in list(self.starts.items()):
                    if key not in stored and at > now - RATE_SPAN:
                        del self.starts[key]  # given back: certainly not published
                self.starts |= stored


def storm(
    folder: Path,
    cluster: Cluster,
    postgres: Postgres | None,
    *,
    seconds: float,
    seed: int,
    per_second: float,
    pause: float,
) -> Result:
    """Run the system, cause faults for so many seconds, let it come to rest, and look.

    Args:
        folder: for logs, journals and a store in SQLite.
        cluster: the broker, for this storm alone.
        postgres: a server for this storm alone; None: the store is SQLite.
        seconds: how long faults are caused.
        seed: chooses the faults.
        per_second: calls of all producers in a second.
        pause: mean seconds between two faults.
    """
    with ExitStack() as ends:
        system = StormSystem(folder, cluster, postgres, per_second, seed)
        ends.callback(system.close)
        rates = RateWatch(system.store)
        ends.callback(rates.close)
        system.start()
        eventually(lambda: system.store.reader.statistics.counts().get(State.SUCCEEDED, 0) > 20, 120, "jobs run")
        faults = Faults(system, random.Random(f"{seed}-faults"), pause)
        people = People(system, random.Random(f"{seed}-people"), 1.0)
        people.start()
        began = time.monotonic()
        faults.run(seconds)
        logger.info("faults are over: %s", dict(faults.counts))
        cluster.heal()
        if postgres is not None:
            postgres.start()
        for part in [*system.parts, *system.producers]:
            with part.busy:
                part.start()
        people.leave()
        system.producers_leave()
        stormed = time.monotonic() - began
        wrong = [*faults.failures, *_come_to_rest(system)]
        rested = time.monotonic() - began - stormed
        seen = Seen(folder, system.store, rates.starts)
        wrong += findings(seen)
        wrong += _left_in_queues(system)
        figures = {
            "faults": dict(sorted(faults.counts.items())),
            "commands": dict(sorted(people.counts.items())),
            **summary(seen),
            "seconds": {"of storm": round(stormed), "to rest": round(rested)},
        }
        return Result(wrong, figures)


def _come_to_rest(system: StormSystem) -> list[str]:
    """Stop the beat's schedules, and wait until every job has ended."""
    beat = next(part for part in system.parts if part.kind == "beat")
    with beat.busy:
        system.parts.remove(beat)
        beat.leave(30)

    def left() -> tuple[Counter[str], int]:
        try:
            counts = system.store.reader.statistics.counts()
        except StoreError:
            return Counter({"unreadable": 1}), 0
        open_states = Counter({str(state): n for state, n in counts.items() if n and not state.is_final})
        # A producer that was killed in the block of a batch has not committed it: its members wait for a day.
        open_states = +(open_states - Counter({str(State.AWAITING): _uncommitted(system.store)}))
        return open_states, sum(counts.values())

    def is_over(seen: tuple[Counter[str], int]) -> bool:
        return not seen[0]

    try:
        while_it_moves(left, is_over, STILL_SECONDS, "every job has ended", poll=0.5)
        while_it_moves(lambda: _messages(system), lambda found: not found, 60, "queues are empty", poll=0.5)
        while_it_moves(left, is_over, STILL_SECONDS, "every job has ended, also those of the last messages", poll=0.5)
    except AssertionError as still:
        return [str(still)]
    return []


def _uncommitted(store: Store) -> int:
    jobs = schema.jobs
    waits = jobs.c.waits.op("&")(int(WaitReason.COMMIT)) > 0
    query = select(func.count()).select_from(jobs).where(jobs.c.state == str(State.AWAITING), waits)
    with store.reader._reading() as connection:
        return int(connection.execute(query).scalar_one())


def _messages(system: StormSystem) -> dict[str, int]:
    """Messages in work queues, the log and the due queue."""
    watched = (names.LOG, names.DUE, *names.work_queues("default"), *names.work_queues("side"))
    ready = {name: system.cluster.vhost.ready(name) for name in watched}
    return {name: number for name, number in ready.items() if number > (2 if name == names.LOG else 0)}


def _left_in_queues(system: StormSystem) -> list[str]:
    number = system.cluster.vhost.ready(names.DEAD_LETTERS)
    return [f"{number} messages in {names.DEAD_LETTERS}"] if number else []
