"""Rules and dashboard ask for what exists: each metric and label of theirs is one of ours, or RabbitMQ's, or common."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from broker_jobs import metrics as m
from tests.support.shipped import ROOT, ShippedBroker

ALERTS = ROOT / "deploy" / "prometheus" / "alerts.yml"
DASHBOARD = ROOT / "deploy" / "grafana" / "dashboards" / "broker_jobs.json"

COMMON = {"up", "process_cpu_seconds_total", "process_resident_memory_bytes", "process_start_time_seconds"}
"""Of Prometheus itself, and of the process collector that our /metrics has."""
COMMON_LABELS = {"job", "instance"}
WORDS = {
    *("sum", "max", "min", "count", "by", "on", "and", "or", "unless", "vector"),
    *("rate", "increase", "changes", "deriv", "min_over_time", "histogram_quantile"),
}
"""Of PromQL, as far as it is used here."""


def our_series() -> dict[str, set[str]]:
    """Name of each series that /metrics can show -> its labels."""
    found: dict[str, set[str]] = {}
    for family in m.FAMILIES:
        name = m.PREFIX + family.name
        if family.kind == "histogram":
            found[f"{name}_bucket"] = {*family.labels, "le"}
            found[f"{name}_sum"] = found[f"{name}_count"] = set(family.labels)
        else:
            found[name] = set(family.labels)
    return found


OURS = our_series()


def panels() -> list[dict[str, Any]]:
    board: dict[str, Any] = json.loads(DASHBOARD.read_text())
    return [panel for panel in board["panels"] if panel["type"] != "row"]


def expressions() -> Iterator[tuple[str, str]]:
    """Where it stands, and the expression."""
    for group in yaml.safe_load(ALERTS.read_text())["groups"]:
        for rule in group["rules"]:
            yield rule["alert"], rule["expr"]
    for panel in panels():
        for target in panel["targets"]:
            yield panel["title"], target["expr"]
    for variable in json.loads(DASHBOARD.read_text())["templating"]["list"]:
        found = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["query"]["query"])
        assert found, variable
        yield variable["name"], f"sum by ({found[2]}) ({found[1]})"


def names_in(expression: str) -> tuple[set[str], set[str]]:
    """The metrics and the labels that an expression names."""
    text = re.sub(r'"[^"]*"', '""', expression)
    labels = set(re.findall(r"(\w+)\s*(?:=~|!=|!~|=)", "".join(re.findall(r"\{[^}]*\}", text))))
    grouped = re.findall(r"\b(?:by|on)\s*\(([^)]*)\)", text)
    labels |= {label.strip() for labels_of in grouped for label in labels_of.split(",")}
    rest = re.sub(r"\{[^}]*\}|\[[^]]*\]|\b(?:by|on)\s*\([^)]*\)", " ", text)
    return set(re.findall(r"\b[a-z_][a-z0-9_]*\b", rest)) - WORDS, labels


@pytest.mark.parametrize(("place", "expression"), list(expressions()))
def test_each_metric_and_label_exists(place: str, expression: str) -> None:
    metrics, labels = names_in(expression)
    assert metrics, place
    theirs = {name for name in metrics if name.startswith("rabbitmq_")}
    assert metrics - theirs - COMMON <= set(OURS)
    # A label of an expression must be one of every metric in it, or Prometheus' own.
    for metric in metrics & set(OURS):
        assert labels - COMMON_LABELS - {"le"} <= OURS[metric], metric
        assert "le" not in labels or "le" in OURS[metric]


@pytest.mark.rabbitmq
def test_what_is_asked_of_rabbitmq_it_tells(shipped: ShippedBroker) -> None:
    asked = {name for _, expression in expressions() for name in names_in(expression)[0] if name[:9] == "rabbitmq_"}
    told = {line.split(" ")[0].split("{")[0] for line in shipped.scrape("/metrics").splitlines() if line[:1] != "#"}
    assert asked <= told


def test_every_metric_of_ours_is_on_the_dashboard() -> None:
    shown = {name for _, expression in expressions() for name in names_in(expression)[0]}
    families = {m.PREFIX + family.name for family in m.FAMILIES}
    assert families <= {re.sub(r"_(bucket|sum|count)$", "", name) for name in shown}


def test_the_dashboard_is_whole() -> None:
    board = json.loads(DASHBOARD.read_text())
    ids = [panel["id"] for panel in board["panels"]]
    assert len(set(ids)) == len(ids)
    (source,) = yaml.safe_load((ROOT / "deploy/grafana/provisioning/datasources/prometheus.yml").read_text())[
        "datasources"
    ]
    for panel in panels():
        assert panel["datasource"]["uid"] == source["uid"]
        letters = [target["refId"] for target in panel["targets"]]
        assert len(set(letters)) == len(letters)
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
    boxes = [panel["gridPos"] for panel in board["panels"]]
    for number, one in enumerate(boxes):
        for other in boxes[number + 1 :]:
            apart = (
                one["x"] + one["w"] <= other["x"]
                or other["x"] + other["w"] <= one["x"]
                or one["y"] + one["h"] <= other["y"]
                or other["y"] + other["h"] <= one["y"]
            )
            assert apart, (one, other)
