"""A program that runs its jobs itself serves all queues that its code declares, unless it is told which."""

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker_jobs import BrokerJobs, OptionError
from broker_jobs.processes.declared_queues import declared_queues
from tests.support.wait import eventually


@pytest.fixture(params=["memory", pytest.param("rabbitmq", marks=pytest.mark.rabbitmq)])
def jobs(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[BrokerJobs]:
    url = "memory://" if request.param == "memory" else request.getfixturevalue("vhost").url
    program = BrokerJobs(url, store=f"sqlite:///{tmp_path / 'store.db'}", service="tests")
    yield program
    program.stop(0)


def declare(jobs: BrokerJobs) -> None:
    @jobs.job
    def welcome() -> str:
        return "default"

    @jobs.job(queue="mail")
    def send() -> str:
        return "mail"

    @jobs.subscribe("user.registered", queue="events")
    def greet() -> None: ...

    jobs.recurring("nightly", "0 0 1 1 *", welcome.using(queue="nightly"))
    charge = jobs.remote("billing.charge", queue="billing")
    jobs.recurring("charge", "0 0 1 1 *", charge)
    jobs.subscribe("user.registered")(charge)


def served(jobs: BrokerJobs) -> list[str]:
    assert jobs._program is not None
    assert jobs._program.worker is not None
    return jobs._program.worker.serves.queues.written()


def test_all_queues_of_the_code_are_served_in_equal_shares(jobs: BrokerJobs, caplog: pytest.LogCaptureFixture) -> None:
    declare(jobs)
    with jobs:
        assert served(jobs) == ["default:1", "events:1", "mail:1", "nightly:1"]
        for name, queue in (("send", "mail"), ("welcome", "default")):
            function = jobs.registry.get(name)
            assert function is not None
            assert jobs.remote(name, queue=queue).enqueue().result(timeout=120) == queue
        assert jobs.recurring.trigger("nightly").result(timeout=120) == "default"
    assert "does not serve" not in caplog.text


def test_a_program_of_one_queue_serves_that(jobs: BrokerJobs) -> None:
    @jobs.job
    def welcome() -> None: ...

    with jobs:
        assert served(jobs) == ["default"]


@pytest.mark.parametrize("how", ["argument", "environment"])
def test_it_serves_what_it_is_told_and_names_what_it_leaves_out(
    jobs: BrokerJobs, how: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    declare(jobs)
    if how == "environment":
        monkeypatch.setenv("BROKER_JOBS_QUEUES", "mail")
    jobs.start(queues=["mail"] if how == "argument" else None)
    assert served(jobs) == ["mail"]
    eventually(lambda: "queues that this worker does not serve: default, events;" in caplog.text)
    assert [record.levelno for record in caplog.records if "does not serve" in record.message] == [logging.WARNING]


def test_a_declared_queue_may_have_a_limit(jobs: BrokerJobs) -> None:
    declare(jobs)
    with pytest.raises(OptionError, match="queue_limits: queue 'bulk' has a limit and is not served"):
        jobs.start(queue_limits={"bulk": 2})
    jobs.start(queue_limits={"mail": 2})
    assert jobs._program is not None
    assert jobs._program.worker is not None
    assert jobs._program.worker.serves.queues.limits == {"mail": 2}


def test_a_queue_that_is_declared_after_the_start_is_named(jobs: BrokerJobs, caplog: pytest.LogCaptureFixture) -> None:
    with jobs:

        @jobs.job(queue="late")
        def late() -> None: ...

    assert "late was defined after the worker started, which does not serve its queue late" in caplog.text


def test_queues_of_other_services_are_not_among_them() -> None:
    jobs = BrokerJobs("memory://")
    declare(jobs)
    schedules, subscriptions = jobs.recurring.declared("app"), jobs.subscriptions.declared()
    assert declared_queues(jobs.registry, schedules, subscriptions) == ["default", "events", "mail", "nightly"]
