"""`broker-jobs run` serves all queues of the code; a worker serves what it is told, and names what it leaves out."""

import pytest

from broker_jobs import BrokerJobs
from tests.acceptance.conftest import Terminal
from tests.support.rabbitmq import Vhost

pytestmark = [pytest.mark.acceptance, pytest.mark.rabbitmq]

PROGRAM = """
from broker_jobs import BrokerJobs

jobs = BrokerJobs(service="tests")


@jobs.job(queue="mail")
def send() -> str:
    return "sent"


@jobs.job(queue="bulk")
def load() -> str:
    return "loaded"
"""


def test_run_serves_all_queues_and_a_worker_names_those_it_leaves_out(terminal: Terminal, vhost: Vhost) -> None:
    (terminal.folder / "queued.py").write_text(PROGRAM)
    jobs = BrokerJobs(vhost.url)
    try:
        run = terminal.start("run", "queued:jobs", "--url", vhost.url, "--store", terminal.store)
        run.said("serves the queues default:1, bulk:1, mail:1")
        assert jobs.remote("send", queue="mail").enqueue().result(timeout=120) == "sent"
        assert jobs.remote("load", queue="bulk").enqueue().result(timeout=120) == "loaded"
        assert "does not serve" not in run.log
        worker = terminal.start("worker", "queued:jobs", "--url", vhost.url, "-Q", "mail")
        worker.said("jobs of this program are sent to queues that this worker does not serve: bulk;")
        plain = terminal.start("worker", "queued:jobs", "--url", vhost.url)
        plain.said("jobs of this program are sent to queues that this worker does not serve: bulk, mail;")
        few = terminal.start(
            "run", "queued:jobs", "--url", vhost.url, "--store", terminal.store, BROKER_JOBS_QUEUES="bulk"
        )
        few.said("serves the queues bulk")
    finally:
        jobs.stop()
