"""The dashboard on a port of its own: only where it is safe, and ending at once though pages are open."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from typer.testing import CliRunner

from broker_jobs import BrokerJobs
from broker_jobs.cli.commands import app as command_line
from broker_jobs.cli.dashboard import dashboard_of
from broker_jobs.dashboard.server import DashboardServer
from broker_jobs.errors import UsageError
from broker_jobs.settings import Settings


@pytest.fixture
def jobs(tmp_path: Path) -> Iterator[BrokerJobs]:
    made = BrokerJobs("memory://", store=f"sqlite:///{tmp_path / 'store.db'}")
    with made:
        yield made


def served(jobs: BrokerJobs, **given: Any) -> DashboardServer:
    settings = jobs.settings.model_copy(update={"dashboard_port": 0} | given)
    return DashboardServer(jobs.dashboard(local=True), settings)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "jobs.example"])
def test_it_does_not_start_where_everybody_could_reach_it(host: str) -> None:
    with pytest.raises(UsageError, match="BROKER_JOBS_DASHBOARD_TOKEN"):
        DashboardServer(BrokerJobs().dashboard(local=True), Settings(dashboard_host=host))


def test_with_a_token_it_starts_anywhere(jobs: BrokerJobs) -> None:
    with served(jobs, dashboard_host="0.0.0.0", dashboard_token="t") as server:
        assert httpx.get(server.address + "healthz").json() == {"ok": True}


def test_a_page_is_served_and_the_address_is_said(jobs: BrokerJobs) -> None:
    with served(jobs) as server:
        assert server.address.startswith("http://127.0.0.1:")
        assert httpx.get(server.address).status_code == 200
    with pytest.raises(httpx.ConnectError):
        httpx.get(server.address)


def test_open_pages_do_not_hold_up_its_end(jobs: BrokerJobs) -> None:
    with served(jobs) as server, httpx.Client(timeout=30) as client, ExitStack() as stack:
        streams = [stack.enter_context(client.stream("GET", server.address + "live")) for _ in range(2)]
        events = [stream.iter_lines() for stream in streams]
        for lines in events:
            assert next(line for line in lines if line.startswith("data:"))
        since = time.monotonic()
        server.stop()
        assert time.monotonic() - since < 3
        for lines in events:
            list(lines)  # they have an end


@pytest.mark.parametrize("asked", ["/jobs-admin/queues", "/queues"])
def test_below_the_path_of_a_proxy_whether_it_takes_the_path_off_or_not(jobs: BrokerJobs, asked: str) -> None:
    with served(jobs, dashboard_path="/jobs-admin") as server:
        assert server.address.endswith("/jobs-admin/")
        page = httpx.get(server.address.replace("/jobs-admin/", asked))
        assert page.status_code == 200
        assert 'href="/jobs-admin/static/style.' in page.text


def test_a_port_that_is_taken_is_said(jobs: BrokerJobs) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(UsageError, match="choose another port"):
        served(jobs, dashboard_port=taken.getsockname()[1]).start()


def test_the_command_says_that_memory_cannot_be_shared() -> None:
    outcome = CliRunner().invoke(command_line, ["dashboard", "--url", "memory://"])
    assert isinstance(outcome.exception, UsageError)
    assert "lives inside one process" in str(outcome.exception)
    assert "--dashboard-port" in str(outcome.exception)


def test_the_command_refuses_an_open_door(tmp_path: Path) -> None:
    arguments = ["dashboard", "--host", "0.0.0.0", "--store", f"sqlite:///{tmp_path / 's.db'}"]
    outcome = CliRunner().invoke(command_line, arguments)
    assert isinstance(outcome.exception, UsageError)
    assert "BROKER_JOBS_DASHBOARD_PASSWORD" in str(outcome.exception)


def test_no_other_command_pays_for_the_dashboard() -> None:
    code = "import sys, broker_jobs.cli; print({'fastapi', 'jinja2'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_beside_run_it_acts_on_the_memory_of_its_process(caplog: pytest.LogCaptureFixture) -> None:
    """As `broker-jobs run APP --dashboard-port 0` wires it: store and exchange live nowhere else."""
    jobs = BrokerJobs(f"memory://{uuid4().hex}", store="sqlite://")

    @jobs.job
    def greet() -> str:
        return "hello"

    settings = jobs.settings.model_copy(update={"dashboard_port": 0})
    caplog.set_level("INFO", "broker_jobs")
    with jobs:
        greet.enqueue().result(timeout=120)
        assert jobs._program is not None
        with dashboard_of(jobs._program, settings):
            (said,) = (r.getMessage() for r in caplog.records if "dashboard on" in r.getMessage())
            address = said.removeprefix("dashboard on ") + "api/v1/queues"
            assert [queue["name"] for queue in httpx.get(address).json()] == ["default"]
            assert httpx.post(f"{address}/default/pause").status_code == 204
            assert httpx.get(address).json()[0]["paused"] is True
