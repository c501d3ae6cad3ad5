"""What `topology show --json` prints is what deploy/ ships: an administrator may import either."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from broker_jobs.cli.commands import app

SHIPPED = Path(__file__).parents[3] / "deploy" / "rabbitmq" / "definitions.json"


@pytest.mark.parametrize("kind", ["exchanges", "queues", "bindings"])
def test_the_printed_topology_is_the_shipped_one(kind: str) -> None:
    printed = json.loads(CliRunner().invoke(app, ["topology", "show", "--json"]).stdout)
    shipped: list[dict[str, Any]] = json.loads(SHIPPED.read_text())[kind]
    assert printed[kind] == [{name: value for name, value in each.items() if name != "vhost"} for each in shipped]


def test_the_table_names_the_internal_exchanges() -> None:
    lines = CliRunner().invoke(app, ["topology", "show"]).stdout.splitlines()
    assert {line.split()[1] for line in lines if line.endswith("internal")} == {
        "jobs.v1.expired", "jobs.v1.returned", "jobs.v1.unroutable"
    }  # fmt: skip
