"""What people do in a storm: delete, requeue and reschedule jobs, pause queues, change limits. Answers are noted."""

from __future__ import annotations

import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import Any

from broker_jobs import BrokerJobs
from broker_jobs.errors import BrokerJobsError, UsageError
from tests.storm.jobs import WIDEST
from tests.storm.journal import ACCEPTED, COMMANDS, Journal
from tests.storm.system import StormSystem
from tests.support.wait import eventually

TOUCHED = {"work", "awaited", "stumble", "refuse", "aside", "child", "narrow", "wide", "rated", "unique_running"}
"""What people delete, requeue and reschedule; ordered jobs they leave alone, as a requeue gives a new place."""


class People:
    """Sends commands until it is stopped."""

    def __init__(self, system: StormSystem, chance: random.Random, pause: float) -> None:
        self.counts: Counter[str] = Counter()
        self._system = system
        self._chance = chance
        self._pause = pause
        self._jobs = BrokerJobs(system.cluster.url)
        self._journal = Journal(system.folder / COMMANDS)
        self._stop = threading.Event()
        self._ids: list[str] = []
        self._read = 0
        self._thread = threading.Thread(target=self._run, name="people", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def leave(self) -> None:
        """Stop, and undo what would keep jobs waiting."""
        self._stop.set()
        self._thread.join(120)
        undo: list[Callable[[], None]] = [
            lambda: self._jobs.queues.resume("side"),
            lambda: self._jobs.limits.clear("wide"),
        ]
        for call in undo:
            eventually(partial(self._done, call), 180, "a command is applied", poll=0.25)
        self._jobs.stop()

    def _done(self, call: Callable[[], None]) -> bool:
        try:
            call()
        except UsageError:
            raise
        except BrokerJobsError:
            return False
        return True

    def _run(self) -> None:
        actions: list[tuple[Callable[[], None], int]] = [
            (self._delete, 4), (self._requeue, 4), (self._reschedule, 3), (self._queue, 2), (self._limit, 2),
        ]  # fmt: skip
        while not self._stop.wait(self._chance.expovariate(1 / self._pause)):
            self._look()
            if self._ids:
                self._chance.choices([action for action, _ in actions], [weight for _, weight in actions])[0]()

    def _look(self) -> None:
        try:
            with (self._system.folder / ACCEPTED).open() as file:
                file.seek(self._read)
                text = file.read()
        except FileNotFoundError:
            return
        whole = text[: text.rfind("\n") + 1]
        self._read += len(whole.encode())
        lines = [json.loads(line) for line in whole.splitlines()]
        self._ids += [line["id"] for line in lines if line["what"] == "accepted" and line["job"] in TOUCHED]
        self._ids = self._ids[-300:]

    def _some(self) -> str:
        return self._chance.choice(self._ids[-self._chance.choice([3, 30, 300]) :])

    def _say(self, command: str, call: Callable[[], object], **fields: Any) -> None:
        self._journal.write("sent", command=command, **fields)
        try:
            call()
        except UsageError as error:
            answer = f"refused: {error}"
        except BrokerJobsError as error:
            answer = f"unknown: {error}"
        else:
            answer = "done"
        self.counts[f"{command}: {answer.partition(':')[0]}"] += 1
        self._journal.write("answer", command=command, answer=answer, **fields)

    def _delete(self) -> None:
        id = self._some()
        self._say("delete", self._jobs.receipt(id).delete, id=id)

    def _requeue(self) -> None:
        id = self._some()
        self._say("requeue", self._jobs.receipt(id).requeue, id=id)

    def _reschedule(self) -> None:
        id = self._some()
        due = time.time() + self._chance.choice([0.5, 5.0, 20.0])
        when = datetime.fromtimestamp(due, UTC)
        self._say("reschedule", lambda: self._jobs.receipt(id).reschedule(when), id=id, due=due)

    def _queue(self) -> None:
        if self._chance.random() < 0.5:
            self._say("pause", lambda: self._jobs.queues.pause("side"))
        else:
            self._say("resume", lambda: self._jobs.queues.resume("side"))

    def _limit(self) -> None:
        limit = self._chance.randint(0, WIDEST)
        self._say("limit", lambda: self._jobs.limits.set("wide", limit), limit=limit)
