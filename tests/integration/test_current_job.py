"""What a job reads of itself: in a worker of a real RabbitMQ and in memory, in a thread, on the loop, in a process."""

from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from broker_jobs import BrokerJobs, current_job
from tests.support import isolated_jobs
from tests.support.rabbitmq import Vhost

TRACE = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}


@pytest.fixture(params=["memory", pytest.param("rabbitmq", marks=pytest.mark.rabbitmq)])
def jobs(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[BrokerJobs]:
    vhost: Vhost | None = request.getfixturevalue("vhost") if request.param == "rabbitmq" else None
    program = BrokerJobs(
        "memory://" if vhost is None else vhost.url, store=f"sqlite:///{tmp_path / 'store.db'}", service="tests"
    )
    yield program
    program.stop(0)


def test_a_sync_and_an_async_job_read_themselves_and_so_do_hooks(jobs: BrokerJobs) -> None:
    hooks: list[tuple[str, int]] = []

    @jobs.around
    def hook() -> Generator[None]:
        hooks.append((current_job().name, current_job().arguments["number"]))
        yield

    def read() -> dict[str, Any]:
        job = current_job()
        return {
            "name": job.name, "queue": job.queue, "priority": job.priority, "tags": list(job.tags),
            "arguments": dict(job.arguments), "retries": [job.retries, job.retries_left], "trace": dict(job.trace),
        }  # fmt: skip

    @jobs.job(priority="high", tags=["t"], retries=4)
    def in_a_thread(number: int, text: str = "x") -> dict[str, Any]:
        return read()

    @jobs.job(priority="high", tags=["t"], retries=4, backoff=[0])
    async def on_the_loop(number: int, text: str = "x") -> dict[str, Any]:
        if current_job().attempt == 1:
            raise ValueError("again")
        return read()

    read_as = {
        "queue": "default", "priority": "high", "tags": ["t"], "arguments": {"number": 7, "text": "x"}, "trace": TRACE,
    }  # fmt: skip
    with jobs:
        sync = in_a_thread.using(trace=TRACE).enqueue(7)
        assert sync.result(timeout=120) == {"name": "in_a_thread", "retries": [4, 4], **read_as}
        retried = on_the_loop.using(trace=TRACE).enqueue(number=7)
        assert retried.result(timeout=120) == {"name": "on_the_loop", "retries": [4, 3], **read_as}
    assert hooks == [("in_a_thread", 7), ("on_the_loop", 7), ("on_the_loop", 7)]


def test_a_continuation_that_a_job_enqueues_inherits_its_trace(jobs: BrokerJobs) -> None:
    @jobs.job
    def last(number: int) -> dict[str, str]:
        return dict(current_job().trace)

    @jobs.job
    def first() -> str:
        return last.after(jobs.receipt(current_job().id)).enqueue(1).id

    with jobs:
        then = first.using(trace=TRACE).enqueue().result(timeout=120)
        assert last.receipt(then).result(timeout=120) == TRACE


def test_a_job_in_a_process_of_its_own_reads_itself() -> None:
    isolated_jobs.jobs.start()
    try:
        receipt = isolated_jobs.read_itself.using(trace=TRACE).enqueue(3, "a", "b")
        assert receipt.result(timeout=120) == {
            "name": "read_itself", "queue": "default", "priority": "high", "tags": "('a', 'b')",
            "arguments": "{'number': 3, 'more': ('a', 'b'), 'loud': True}", "retries": "3 of 3",
            "trace": repr(TRACE),
        }  # fmt: skip
    finally:
        isolated_jobs.jobs.stop(0)
