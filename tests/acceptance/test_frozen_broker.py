"""A broker that stands still for a while: nothing that is due meanwhile is lost, and nothing runs twice at the thaw."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest

from broker_jobs import BrokerJobs
from tests.acceptance.conftest import Terminal
from tests.support.rabbitmq import Broker, Vhost
from tests.support.wait import eventually, while_it_moves

pytestmark = [pytest.mark.acceptance, pytest.mark.rabbitmq, pytest.mark.slow]

APP = """\
from pathlib import Path

from broker_jobs import BrokerJobs, current_job

jobs = BrokerJobs()


@jobs.job
def work() -> None:
    with Path("marks.txt").open("a") as file:
        file.write(f"started {current_job().id}\\n")
"""
JOBS = 1_200
FREEZES = {"12 seconds, within the broker's heartbeat": 12.0, "two minutes, beyond it": 120.0}
DUE_BESIDE_SECONDS = 2.0
"""Jobs come due before, during and after the freeze: one every 12 or 100 milliseconds."""


def starts(terminal: Terminal) -> Counter[str]:
    return Counter(mark.split(" ")[1] for mark in terminal.marks() if len(mark) == len("started ") + 36)


async def schedule(producer: BrokerJobs, seconds: float) -> None:
    """Jobs that come due evenly over so many seconds."""
    work, begin = producer.remote("work"), datetime.now(UTC) + timedelta(seconds=4)
    every = timedelta(seconds=seconds) / JOBS
    await asyncio.gather(*(work.schedule_async(begin + every * number) for number in range(JOBS)))


def succeeded(terminal: Terminal, *reach: str) -> int:
    return int(json.loads(terminal.output("store", "show", "--json", *reach))["counts"].get("succeeded", 0))


@pytest.mark.parametrize("freeze", FREEZES)
def test_jobs_that_come_due_while_the_broker_is_frozen_run_once(
    terminal: Terminal, broker: Broker, vhost: Vhost, freeze: str
) -> None:
    frozen_seconds = FREEZES[freeze]
    (terminal.folder / "app.py").write_text(APP)
    reach = ("--url", vhost.url, "--store", terminal.store)
    terminal.start("coordinator", *reach).said("is the active one")
    for _ in range(2):
        terminal.start("worker", "app:jobs", "--url", vhost.url).said("serves the queues default")
    producer = BrokerJobs(vhost.url)
    try:
        asyncio.run(schedule(producer, frozen_seconds + DUE_BESIDE_SECONDS))
    finally:
        producer.stop()
    eventually(lambda: len(starts(terminal)) > 20, 60, "the first have run")
    broker.freeze()
    thaw_at = time.monotonic() + frozen_seconds
    eventually(lambda: time.monotonic() > thaw_at, frozen_seconds + 30, "the freeze is over")
    broker.thaw()
    while_it_moves(lambda: succeeded(terminal, *reach), lambda seen: seen == JOBS, 60, "all have succeeded", poll=0.5)
    counted = starts(terminal)
    assert {id: count for id, count in counted.items() if count > 1} == {}
    assert len(counted) == JOBS
