"""Two programs from a terminal: a name that is missing, and jobs that no living worker knows."""

import re

import httpx
import pytest

from tests.acceptance.conftest import Terminal
from tests.support.rabbitmq import Vhost
from tests.support.wait import eventually

pytestmark = [pytest.mark.acceptance, pytest.mark.rabbitmq]

SHOP = """\
from broker_jobs import BrokerJobs

jobs = BrokerJobs({service})


@jobs.job
def sell(n: int) -> int:
    return n


@jobs.subscribe("sold", name="count")
def count() -> None: ...
"""
PRODUCER = """\
from broker_jobs import BrokerJobs

jobs = BrokerJobs()


@jobs.job
def old(n: int) -> int:
    return n


@jobs.job
def older(n: int) -> int:
    return n


if __name__ == "__main__":
    for n in range(6):
        print((old if n < 4 else older).enqueue(n).id)
    jobs.stop()
"""


@pytest.fixture
def at(terminal: Terminal, vhost: Vhost) -> dict[str, str]:
    (terminal.folder / "shop.py").write_text(SHOP.format(service=""))
    (terminal.folder / "producer.py").write_text(PRODUCER)
    return {"BROKER_JOBS_URL": vhost.url, "BROKER_JOBS_STORE": terminal.store}


@pytest.mark.parametrize("command", ["worker", "beat", "run"])
def test_a_program_with_subscriptions_does_not_start_without_a_name(
    terminal: Terminal, at: dict[str, str], command: str
) -> None:
    refused = terminal.call(command, "shop:jobs", **at)
    assert refused.returncode == 2, refused.stderr
    assert "declares the subscription sold, and this program has no name" in refused.stderr
    assert "BROKER_JOBS_SERVICE=shop" in refused.stderr
    wrong = terminal.call(command, "shop:jobs", "--service", "my shop", **at)
    assert wrong.returncode == 2
    assert "write 1 to 100 letters" in wrong.stderr


def enqueued(terminal: Terminal, at: dict[str, str]) -> list[str]:
    """The ids of four jobs `old` and two jobs `older`, which the worker of the shop does not know."""
    terminal.start("run", "shop:jobs", "--service", "shop", **at)
    program = terminal.start_python(
        "import runpy; runpy.run_path('producer.py', run_name='__main__')", "producer", **at
    )
    assert program.exit_code() == 0, program.log
    ids = re.findall(r"[0-9a-f-]{36}", program.log)
    assert len(ids) == 6
    eventually(lambda: terminal.output("jobs", "list", "--unknown", **at).count("knows a job named") == 6)
    return ids


def test_held_jobs_are_listed_failed_and_deleted(terminal: Terminal, at: dict[str, str]) -> None:
    ids = enqueued(terminal, at)
    said = terminal.call("doctor", **at)
    assert said.returncode == 1
    assert "6 jobs that no living worker knows: old in queue default (4), older in queue default (2)" in said.stdout
    shown = terminal.output("jobs", "show", ids[0], **at)
    assert "no living worker of queue 'default' knows a job named 'old'" in shown
    assert terminal.output("jobs", "fail", ids[0], **at) == "1 failed\n"
    assert terminal.output("jobs", "fail", "--all-matching", "--job", "old", "--yes", **at) == "3 failed\n"
    assert terminal.output("jobs", "list", "--state", "failed", **at).count("as no worker of queue") == 4
    assert terminal.output("jobs", "delete", "--all-matching", "--unknown", "--yes", **at) == "2 deleted\n"
    assert "knows a job named" not in terminal.output("jobs", "list", "--unknown", **at)
    assert "no living worker knows" not in terminal.call("doctor", **at).stdout


def test_held_jobs_are_shown_and_failed_on_the_dashboard(terminal: Terminal, at: dict[str, str]) -> None:
    enqueued(terminal, at)
    dashboard = terminal.start("dashboard", "--port", "0", **at)
    dashboard.said("http://127.0.0.1:")
    found = re.search(r"http://127\.0\.0\.1:\d+", dashboard.log)
    assert found
    with httpx.Client(base_url=found[0], timeout=30) as web:
        overview = web.get("/api/v1/overview").json()
        assert any("6 jobs that no living worker knows" in alert["what"] for alert in overview["alerts"])
        held = web.get("/api/v1/jobs", params={"unknown": "true"}).json()["jobs"]
        assert len(held) == 6
        page = web.get("/jobs", params={"unknown": "true"}).text
        assert "Fail all" in page
        confirm = web.get("/jobs/bulk", params={"action": "fail", "unknown": "true", "job": "old"}).text
        assert "Fail 4 jobs?" in confirm
        made = web.post("/api/v1/bulk/fail", json={"matching": {"job": "old"}})
        assert made.status_code == 202, made.text
        eventually(lambda: web.get(f"/api/v1/bulk/{made.json()['id']}").json()["finished"])
        assert web.get(f"/api/v1/bulk/{made.json()['id']}").json()["done"] == 4
        assert web.get("/api/v1/workers").json()[0]["service"] == "shop"
