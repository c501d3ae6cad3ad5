"""never_retry and a back-off that grows: what a user sees of them, in memory and on RabbitMQ."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from broker_jobs import Backoff, BrokerJobs, JobFailed, State, current_job
from tests.support.rabbitmq import Vhost
from tests.support.wait import eventually


@pytest.fixture(params=["memory", pytest.param("rabbitmq", marks=pytest.mark.rabbitmq)])
def jobs(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[BrokerJobs]:
    vhost: Vhost | None = request.getfixturevalue("vhost") if request.param == "rabbitmq" else None
    program = BrokerJobs("memory://" if vhost is None else vhost.url, store=f"sqlite:///{tmp_path / 'store.db'}")
    yield program
    program.stop(0)


def test_an_error_of_never_retry_fails_the_job_at_once_and_others_are_retried(jobs: BrokerJobs) -> None:
    @jobs.job(retries=3, backoff=[0], retry_on=OSError, never_retry=FileNotFoundError)
    def sync(missing: bool) -> int:
        if current_job().attempt == 1:
            raise FileNotFoundError("gone") if missing else ConnectionError("busy")
        return current_job().attempt

    @jobs.job(retries=3, backoff=[0], never_retry=(LookupError, ValueError))
    async def on_the_loop(missing: bool) -> int:
        if current_job().attempt == 1:
            raise KeyError("gone") if missing else ConnectionError("busy")
        return current_job().attempt

    with jobs:
        for job, error in ((sync, "FileNotFoundError"), (on_the_loop, "KeyError")):
            with pytest.raises(JobFailed, match=rf"failed after 1 run: {error}"):
                job.enqueue(missing=True).result(timeout=120)
            assert job.enqueue(missing=False).result(timeout=120) == 2


def test_a_job_with_a_growing_back_off_is_retried_and_its_cap_bounds_the_wait(jobs: BrokerJobs) -> None:
    @jobs.job(retries=5, backoff=Backoff(first=0.01, factor=1000, cap=0.05, jitter=0.5))
    def soon() -> int:
        if current_job().retries_left:
            raise ValueError("not yet")
        return current_job().attempt

    @jobs.job(retries=5, backoff=Backoff(first=timedelta(hours=1), cap=timedelta(hours=2)))
    def late() -> None:
        raise ValueError("not yet")

    with jobs:
        waiting = late.enqueue()
        assert soon.enqueue().result(timeout=120) == 6
        eventually(lambda: waiting.state() is State.SCHEDULED)
