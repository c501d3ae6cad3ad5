"""Recurring jobs at an interval: declared and put, on RabbitMQ and in memory, each time once with two beats."""

from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from broker_jobs import BrokerJobs
from broker_jobs.messages.codec import decode
from broker_jobs.store import SearchQuery, Store
from tests.support.rabbitmq import Vhost
from tests.support.wait import eventually


@pytest.fixture(params=["memory", pytest.param("rabbitmq", marks=pytest.mark.rabbitmq)])
def jobs(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[BrokerJobs]:
    vhost: Vhost | None = request.getfixturevalue("vhost") if request.param == "rabbitmq" else None
    program = BrokerJobs(
        "memory://" if vhost is None else vhost.url, store=f"sqlite:///{tmp_path / 'store.db'}", service="tests"
    )
    yield program
    program.stop(0)


def planned(store: Store, name: str) -> list[float]:
    """The times that were planned of a recurring job, in order."""
    rows = store.reader.jobs.search(SearchQuery(recurring=name, limit=500)).rows
    due = (decode(row.envelope).due_at for row in rows)  # that of a row moves when a worker gives it back
    return sorted(at.timestamp() for at in due if at is not None)


def store_of(jobs: BrokerJobs) -> Store:
    assert jobs._program is not None
    assert jobs._program.store is not None
    return jobs._program.store


def test_a_recurring_job_runs_at_the_multiples_of_its_interval_since_1970(jobs: BrokerJobs) -> None:
    @jobs.job
    def ping() -> None: ...

    jobs.recurring("declared", timedelta(seconds=2), ping)
    with jobs:
        jobs.recurring.put("put", timedelta(seconds=1), ping, overlap="queue")
        store = store_of(jobs)
        eventually(lambda: len(planned(store, "declared")) >= 3 and len(planned(store, "put")) >= 3, 60)
        assert {at % 2 for at in planned(store, "declared")} == {0}
        assert {at % 1 for at in planned(store, "put")} == {0}
        assert {row.cron for row in store.reader.schedules.all()} == {"@every 2s", "@every 1s"}


@pytest.mark.rabbitmq
def test_with_two_beats_and_a_restart_each_time_runs_once(vhost: Vhost, tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path / 'store.db'}"
    programs = [
        BrokerJobs(vhost.url, store=store, modules=["tests.support.isolated_jobs"], service="tests") for _ in range(3)
    ]
    for program in programs:

        @program.job(name="ping")
        def ping() -> None: ...

        program.recurring("often", timedelta(seconds=1), ping)
    first, second, third = programs
    first.start()
    second.start(roles=["beat"])
    try:
        eventually(lambda: len(planned(store_of(first), "often")) >= 2, 60)
    finally:
        first.stop(10)
    third.start()
    try:
        before = len(planned(store_of(third), "often"))
        eventually(lambda: len(planned(store_of(third), "often")) >= before + 2, 60)
        assert max(Counter(planned(store_of(third), "often")).values()) == 1
    finally:
        second.stop(10)
        third.stop(10)
