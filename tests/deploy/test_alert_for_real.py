"""A real Prometheus with the shipped rules scrapes a real coordinator, and says so when that is stopped."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.acceptance.conftest import TERM, Running, Terminal
from tests.conftest import PrometheusFactory
from tests.support.process import free_port
from tests.support.prometheus import Prometheus
from tests.support.rabbitmq import Vhost
from tests.support.shipped import ROOT
from tests.support.wait import eventually

pytestmark = [
    pytest.mark.acceptance,
    pytest.mark.rabbitmq,
    pytest.mark.prometheus,
    pytest.mark.slow,
]


def impatient_rules(folder: Path) -> Path:
    """The shipped rules; only the time they wait before they fire is shorter."""
    shipped = (ROOT / "deploy" / "prometheus" / "alerts.yml").read_text()
    text, replaced = re.subn(r"(?m)^( +for: )\d+m$", r"\g<1>1s", shipped)
    assert replaced > 10
    file = folder / "alerts.yml"
    file.write_text(text)
    return file


def firing(server: Prometheus) -> set[str]:
    return {alert["labels"]["alertname"] for alert in server.alerts() if alert["state"] == "firing"}


def test_a_stopped_coordinator_is_told_of_until_another_is_active(
    terminal: Terminal, vhost: Vhost, prometheus: PrometheusFactory, tmp_path: Path
) -> None:
    port = free_port()

    def start() -> Running:
        return terminal.start("coordinator", "--url", vhost.url, "--store", terminal.store, "--metrics-port", str(port))

    running = start()
    running.door()
    server = prometheus(
        [{"job_name": "broker_jobs_coordinator", "static_configs": [{"targets": [f"127.0.0.1:{port}"]}]}],
        [impatient_rules(tmp_path)],
    )
    eventually(lambda: server.value("sum(broker_jobs_coordinator_active)") == 1, 30, "an active coordinator is seen")
    eventually(lambda: not firing(server), 30, "all is well")

    running.signal(TERM)
    assert running.exit_code() == 0
    told = {"BrokerJobsNoActiveCoordinator", "BrokerJobsProcessDown"}
    eventually(lambda: firing(server) == told, 30, "it is told")

    start().door()
    eventually(lambda: not firing(server), 30, "it is over")
