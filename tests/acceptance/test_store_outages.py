"""A store that is locked, in recovery or full: nothing is lost, nothing runs twice, and the health page says why."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import subprocess
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from broker_jobs import BrokerJobs
from tests.acceptance.conftest import Running, Terminal
from tests.support.postgres import Postgres
from tests.support.rabbitmq import Vhost
from tests.support.wait import eventually

pytestmark = [pytest.mark.acceptance, pytest.mark.rabbitmq, pytest.mark.slow]

APP = """\
from pathlib import Path

from broker_jobs import BrokerJobs, current_job

jobs = BrokerJobs()


@jobs.job
def work(text: str = "") -> None:
    with Path("marks.txt").open("a") as file:
        file.write(f"started {current_job().id}\\n")
"""
READY, DELAYED = 40, 20
HEALTHY = 200


class Shop:
    """A coordinator and a worker as a user runs them, and a producer."""

    def __init__(self, terminal: Terminal, vhost: Vhost, store: str) -> None:
        self._terminal = terminal
        self._reach = ("--url", vhost.url, "--store", store)
        (terminal.folder / "app.py").write_text(APP)
        self.coordinator: Running = terminal.start("coordinator", *self._reach, "--metrics-port", "0")
        self.coordinator.said("is the active one")
        terminal.start("worker", "app:jobs", "--url", vhost.url).said("serves the queues")
        self.producer = BrokerJobs(vhost.url)
        self.ids: list[str] = []

    def enqueue(self, text: str = "") -> None:
        """Some jobs that are ready, and some that come due in a moment."""
        work = self.producer.remote("work")
        self.ids += [work.enqueue(text).id for _ in range(READY)]
        self.ids += [work.schedule(timedelta(seconds=2), text).id for _ in range(DELAYED)]

    def starts(self) -> Counter[str]:
        return Counter(mark.split(" ")[1] for mark in self._terminal.marks() if mark.startswith("started "))

    def says(self) -> str:
        """The health page: empty while it is well, else the reason."""
        status, answer = self.coordinator.healthz()
        return "" if status == HEALTHY else str(answer["coordinator"]["detail"])

    def is_well(self) -> None:
        """All that was enqueued has run, once."""
        eventually(lambda: set(self.starts()) == set(self.ids), 90, "all have run", poll=0.2)
        eventually(lambda: self.says() == "", 60, "healthy again", poll=0.2)
        eventually(lambda: self._succeeded() == len(self.ids), 60, "all have succeeded", poll=0.5)
        assert {id: count for id, count in self.starts().items() if count != 1} == {}
        assert json.loads(self._terminal.output("dead-letters", "--json", *self._reach)) == []

    def _succeeded(self) -> int:
        shown = json.loads(self._terminal.output("store", "show", "--json", *self._reach))
        return int(shown["counts"].get("succeeded", 0))


@pytest.fixture
def shops() -> Iterator[list[Shop]]:
    """Those that a test opens; their producers end with it."""
    opened: list[Shop] = []
    yield opened
    for shop in opened:
        shop.producer.stop()


def test_a_file_that_another_program_locks_for_longer_than_sqlite_waits(
    terminal: Terminal, vhost: Vhost, shops: list[Shop]
) -> None:
    shop = Shop(terminal, vhost, terminal.store)
    shops.append(shop)
    shop.enqueue()
    eventually(lambda: len(shop.starts()) >= READY, 60, "the first have run")
    with contextlib.closing(sqlite3.connect(terminal.folder / "store.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        shop.enqueue()
        eventually(lambda: "the store is busy" in shop.says(), 30, "the health page says that it waits", poll=0.2)
        eventually(lambda: "database is locked" in shop.says(), 60, "the health page says why", poll=0.2)
        shop.enqueue()
        other.execute("ROLLBACK")
    shop.is_well()


@pytest.mark.postgres
def test_a_server_in_recovery(
    terminal: Terminal, vhost: Vhost, postgres: Postgres, postgres_url: str, shops: list[Shop]
) -> None:
    shop = Shop(terminal, vhost, postgres_url)
    shops.append(shop)
    shop.enqueue()
    eventually(lambda: len(shop.starts()) >= READY, 60, "the first have run")
    postgres.stand_by()
    try:
        shop.enqueue()
        eventually(lambda: "read-only transaction" in shop.says(), 30, "the health page says why", poll=0.2)
        shop.enqueue()
    finally:
        postgres.promote()
    shop.is_well()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 64 MiB: with room for all that is enqueued until the coordinator says that it is full."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", folder], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip("only root may mount a disk")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def fill(folder: Path) -> Path:
    """Leave no room on a disk."""
    filler = folder / "filler"
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
        while True:
            file.write(os.urandom(4_096))
    return filler


def test_a_disk_that_is_full(terminal: Terminal, vhost: Vhost, small_disk: Path, shops: list[Shop]) -> None:
    shop = Shop(terminal, vhost, f"sqlite:///{small_disk / 'store.db'}")
    shops.append(shop)
    shop.enqueue()
    eventually(lambda: len(shop.starts()) >= READY, 60, "the first have run")
    filler = fill(small_disk)

    def is_full() -> bool:
        shop.enqueue("x" * 10_000)
        return "full" in shop.says()

    eventually(is_full, 60, "the health page says why", poll=3.0)
    filler.unlink()
    shop.is_well()
