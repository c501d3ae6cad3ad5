"""The shipped alert rules by promtool: each fires when it should, with its sentence, and keeps silent when not."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from broker_jobs import metrics as m
from tests.conftest import made
from tests.support.process import ServerMissingError
from tests.support.shipped import ROOT

ALERTS = ROOT / "deploy" / "prometheus" / "alerts.yml"
CONFIG = ROOT / "deploy" / "prometheus" / "prometheus.yml"
RULES: dict[str, dict[str, Any]] = {
    rule["alert"]: rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]
}

pytestmark = pytest.mark.prometheus


@dataclass
class Fires:
    """At a moment a rule fires with these labels and this summary."""

    summary: str
    labels: dict[str, str] = field(default_factory=dict)


@dataclass
class Case:
    """Series in promtool's notation, one value a minute, and what an alert does at a moment of them."""

    alert: str
    series: dict[str, str]
    at: str
    fires: Sequence[Fires] = ()


def family(of: m.MetricFamily, suffix: str = "", **labels: str) -> str:
    """A series of ours as Prometheus has it."""
    known = {*of.labels, *(["le"] if suffix == "_bucket" else []), "instance", "job"}
    assert set(labels) <= known, (of.name, labels)
    inner = ",".join(f'{name}="{value}"' for name, value in {"instance": "a:9100", **labels}.items())
    return f"{m.PREFIX}{of.name}{suffix}{{{inner}}}"


def beats(late: str) -> dict[str, str]:
    """The fires of a beat: 20 a minute, `late` of them over 5 s."""
    return {
        family(m.BEAT_LATENESS, "_bucket", le="1.0"): "0+20x40" if late == "none" else "0x40",
        family(m.BEAT_LATENESS, "_bucket", le="10.0"): "0+20x40",
        family(m.BEAT_LATENESS, "_bucket", le="+Inf"): "0+20x40",
    }


def releases(late: str) -> dict[str, str]:
    return {
        family(m.RELEASE_LATENESS, "_bucket", le="10.0"): "0+20x40" if late == "none" else "0x40",
        family(m.RELEASE_LATENESS, "_bucket", le="30.0"): "0+20x40",
        family(m.RELEASE_LATENESS, "_bucket", le="+Inf"): "0+20x40",
    }


A, B = {"instance": "a:9100"}, {"instance": "b:9100"}
DEPTH, CONSUMERS = family(m.DEPTH, queue="mail", priority="normal"), family(m.CONSUMERS, queue="mail")
HIGH = family(m.DEPTH, queue="mail", priority="high")
OLDEST, PAUSED = family(m.OLDEST, queue="mail"), family(m.PAUSED, queue="mail")
FAILED = family(m.JOBS, job_name="render", queue="mail", outcome="raised")
SUCCEEDED = family(m.JOBS, job_name="render", queue="mail", outcome="succeeded")
UNKNOWN = family(m.UNKNOWN_JOBS, queue="mail")
WORKER_UP = 'up{job="broker_jobs_worker",instance="a:9100"}'
WORKER_SINCE = 'process_start_time_seconds{job="broker_jobs_worker",instance="a:9100"}'
RABBIT_UP = 'up{job="rabbitmq",instance="r:15692"}'
MEMORY = 'rabbitmq_alarms_memory_used_watermark{job="rabbitmq",instance="r:15692"}'
DISK = 'rabbitmq_alarms_free_disk_space_watermark{job="rabbitmq",instance="r:15692"}'

CASES = [
    # One coordinator decides, the other stands by; then neither; then nobody is scraped at all.
    Case("BrokerJobsNoActiveCoordinator", {family(m.ACTIVE): "1x10", family(m.ACTIVE, **B): "0x10"}, "9m"),
    Case("BrokerJobsNoActiveCoordinator", {family(m.ACTIVE): "1x5 0", family(m.ACTIVE, **B): "0x5 1x5"}, "6m"),
    Case("BrokerJobsNoActiveCoordinator", {family(m.ACTIVE): "1x3 0x5"}, "4m30s"),
    Case("BrokerJobsNoActiveCoordinator", {family(m.ACTIVE): "1x3 0x5"}, "6m", [Fires("No coordinator is active")]),
    Case("BrokerJobsNoActiveCoordinator", {}, "2m", [Fires("No coordinator is active")]),
    Case("BrokerJobsSeveralActiveCoordinators", {family(m.ACTIVE): "1x9", family(m.ACTIVE, **B): "0 0 1 0x6"}, "3m"),
    Case(
        "BrokerJobsSeveralActiveCoordinators",
        {family(m.ACTIVE): "1x9", family(m.ACTIVE, **B): "1x9"},
        "5m",
        [Fires("2 coordinators are active")],
    ),
    Case("BrokerJobsCoordinatorBehind", {family(m.LOG_LAG): "0 40 2x9"}, "5m"),
    Case("BrokerJobsCoordinatorBehind", {family(m.LOG_LAG): "31x9"}, "5m", [Fires("The coordinator is 31 s behind")]),
    Case("BrokerJobsLogBacklog", {family(m.LOG_BACKLOG): "60000x8 100x20"}, "15m"),
    Case(
        "BrokerJobsLogBacklog",
        {family(m.LOG_BACKLOG): "60000x20"},
        "15m",
        [Fires("The coordinator has 60000 records to read")],
    ),
    Case("BrokerJobsCommandsWait", {family(m.COMMAND_BACKLOG): "90x20"}, "15m"),
    Case(
        "BrokerJobsCommandsWait",
        {family(m.COMMAND_BACKLOG): "101x20"},
        "15m",
        [Fires("The coordinator has 101 commands and queries to answer")],
    ),
    # A worker is there; nothing waits; it is paused on purpose.
    Case("BrokerJobsQueueWithoutWorker", {DEPTH: "5x9", CONSUMERS: "1x9", PAUSED: "0x9"}, "8m"),
    Case("BrokerJobsQueueWithoutWorker", {DEPTH: "0x9", CONSUMERS: "0x9", PAUSED: "0x9"}, "8m"),
    Case("BrokerJobsQueueWithoutWorker", {DEPTH: "5x9", CONSUMERS: "0x9", PAUSED: "1x9"}, "8m"),
    Case(
        "BrokerJobsQueueWithoutWorker",
        {DEPTH: "5x9", HIGH: "2x9", CONSUMERS: "0x9", PAUSED: "0x9", family(m.CONSUMERS, queue="sms"): "3x9"},
        "8m",
        [Fires("Queue mail has 7 jobs and no worker", {"queue": "mail"})],
    ),
    Case("BrokerJobsJobsWaitLong", {OLDEST: "590x9"}, "8m"),
    Case("BrokerJobsJobsWaitLong", {OLDEST: "900x9", PAUSED: "1x9"}, "8m"),
    Case(
        "BrokerJobsJobsWaitLong",
        {OLDEST: "900x9", PAUSED: "0x9"},
        "8m",
        [Fires("The oldest job in queue mail has waited 15m 0s", {"queue": "mail"})],
    ),
    Case("BrokerJobsDeadLetters", {family(m.DEAD_LETTERS): "0x9", family(m.DEAD_LETTER_BACKLOG): "0 3 0x9"}, "8m"),
    Case(
        "BrokerJobsDeadLetters",
        {family(m.DEAD_LETTERS): "2x9", family(m.DEAD_LETTER_BACKLOG): "0x9"},
        "8m",
        [Fires("2 dead letters: messages that could not be decoded, routed or applied")],
    ),
    Case(
        "BrokerJobsDeadLetters",
        {family(m.DEAD_LETTERS): "0x9", family(m.DEAD_LETTER_BACKLOG): "4x9"},
        "8m",
        [Fires("4 dead letters: messages that could not be decoded, routed or applied")],
    ),
    # One in five fails; or all of very few.
    Case("BrokerJobsFailing", {FAILED: "0+2x30", SUCCEEDED: "0+8x30"}, "25m"),
    Case("BrokerJobsFailing", {FAILED: "0x10 1x20"}, "16m"),
    Case(
        "BrokerJobsFailing",
        {FAILED: "0+5x30", SUCCEEDED: "0+5x30"},
        "25m",
        [Fires("50% of the attempts of job render fail", {"job_name": "render"})],
    ),
    Case("BrokerJobsUnknownJobs", {UNKNOWN: "0 20x10 0x40"}, "25m"),
    Case(
        "BrokerJobsUnknownJobs",
        {UNKNOWN: "5x40"},
        "35m",
        [Fires("5 jobs of queue mail wait, as no living worker knows them", {"queue": "mail"})],
    ),
    Case("BrokerJobsBeatSilent", {family(m.OVERDUE): "0 5 0 70 0x9"}, "8m"),
    Case(
        "BrokerJobsBeatSilent",
        {family(m.OVERDUE): "0+60x9"},
        "5m",
        [Fires("A recurring job has been due for 5m 0s and no beat has fired it")],
    ),
    Case("BrokerJobsBeatLate", beats("none"), "30m"),
    Case("BrokerJobsBeatLate", beats("all"), "30m", [Fires("Recurring jobs are fired 9.6 s late (p95)")]),
    Case("BrokerJobsReleasesLate", releases("none"), "30m"),
    Case("BrokerJobsReleasesLate", releases("all"), "30m", [Fires("Delayed jobs are released 29.0 s late (p95)")]),
    Case("BrokerJobsConnectionDown", {family(m.CONNECTION_UP, job="w"): "1 0 1x9"}, "5m"),
    Case(
        "BrokerJobsConnectionDown",
        {family(m.CONNECTION_UP, job="w"): "0x9", family(m.CONNECTION_UP, job="w", **B): "1x9"},
        "5m",
        [Fires("w a:9100 has no connection to RabbitMQ", A | {"job": "w"})],
    ),
    Case("BrokerJobsPublishingBlocked", {family(m.BLOCKED, job="w"): "0x9"}, "5m"),
    Case(
        "BrokerJobsPublishingBlocked",
        {family(m.BLOCKED, job="w"): "1x9"},
        "5m",
        [Fires("RabbitMQ blocks publishing of w a:9100: an alarm", A | {"job": "w"})],
    ),
    # Many, at a steady load; then more and more.
    Case("BrokerJobsUnconfirmedGrows", {family(m.UNCONFIRMED): "900x30"}, "20m"),
    Case("BrokerJobsUnconfirmedGrows", {family(m.UNCONFIRMED): "0+20x12"}, "12m"),
    Case(
        "BrokerJobsUnconfirmedGrows",
        {family(m.UNCONFIRMED): "0+100x30"},
        "20m",
        [Fires("Worker a:9100 waits for confirms of 1500 outcomes", A)],
    ),
    Case("BrokerJobsWorkerRestarts", {family(m.RESTARTS): "0x5 1x20", WORKER_SINCE: "1000x10 2000x20"}, "20m"),
    Case(
        "BrokerJobsWorkerRestarts",
        {family(m.RESTARTS): "0x5 1 2 3 4x20"},
        "17m",
        [Fires("Processes of a:9100 were restarted 4 times in 15 minutes", A)],
    ),
    Case(
        "BrokerJobsWorkerRestarts",
        {WORKER_SINCE: "1000x5 2000 3000 4000 5000x20"},
        "17m",
        [Fires("Processes of a:9100 were restarted 4 times in 15 minutes", A | {"job": "broker_jobs_worker"})],
    ),
    Case("BrokerJobsProcessDown", {WORKER_UP: "1 0 1x9", RABBIT_UP: "0x9"}, "5m"),
    Case(
        "BrokerJobsProcessDown",
        {WORKER_UP: "0x9"},
        "5m",
        [Fires("broker_jobs_worker a:9100 does not answer", A | {"job": "broker_jobs_worker"})],
    ),
    Case("RabbitMQDown", {RABBIT_UP: "1x9", WORKER_UP: "0x9"}, "5m"),
    Case(
        "RabbitMQDown",
        {RABBIT_UP: "0x9"},
        "5m",
        [Fires("RabbitMQ r:15692 does not answer", {"job": "rabbitmq", "instance": "r:15692"})],
    ),
    Case("RabbitMQAlarm", {MEMORY: "0x9", DISK: "0x9"}, "5m"),
    Case(
        "RabbitMQAlarm",
        {MEMORY: "0x9", DISK: "1x9"},
        "5m",
        [
            Fires(
                "RabbitMQ r:15692 is short of memory or disk and blocks publishing",
                {"job": "rabbitmq", "instance": "r:15692"},
            )
        ],
    ),
]


def promtool() -> str:
    """The program's path."""

    def find() -> str:
        if (found := shutil.which("promtool")) is None:
            raise ServerMissingError("promtool is not installed; on Debian: sudo apt-get install prometheus")
        return found

    return made(find)


def run(*arguments: str | Path) -> None:
    done = subprocess.run([promtool(), *arguments], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_rules_and_configuration_are_valid() -> None:
    run("check", "rules", ALERTS)
    run("check", "config", CONFIG)


@pytest.mark.parametrize("alert", RULES)
def test_each_alert_fires_and_keeps_silent(alert: str, tmp_path: Path) -> None:
    cases = [case for case in CASES if case.alert == alert]
    assert {bool(case.fires) for case in cases} == {True, False}, "a case of each kind"
    rule = RULES[alert]
    file = tmp_path / "test.yml"
    tests = [
        {
            "interval": "1m",
            "input_series": [{"series": series, "values": values} for series, values in case.series.items()],
            "alert_rule_test": [
                {
                    "alertname": alert,
                    "eval_time": case.at,
                    "exp_alerts": [
                        {
                            "exp_labels": {**rule["labels"], **fires.labels},
                            "exp_annotations": {**told(rule, fires.labels), "summary": fires.summary},
                        }
                        for fires in case.fires
                    ],
                }
            ],
        }
        for case in cases
    ]
    # JSON is YAML.
    file.write_text(json.dumps({"rule_files": [str(ALERTS)], "evaluation_interval": "30s", "tests": tests}))
    run("test", "rules", file)


def told(rule: dict[str, Any], labels: dict[str, str]) -> dict[str, str]:
    """A rule's sentence of what to do, with the labels filled in."""
    runbook = rule["annotations"]["runbook"]
    for name, value in labels.items():
        runbook = runbook.replace(f"{{{{ $labels.{name} }}}}", value)
    return {"runbook": runbook}


def test_every_case_is_of_a_rule() -> None:
    assert {case.alert for case in CASES} == set(RULES)


def test_every_alert_says_what_is_wrong_how_urgent_it_is_and_what_to_do() -> None:
    for name, rule in RULES.items():
        assert rule["labels"]["severity"] in {"page", "ticket"}, name
        assert rule["annotations"]["summary"], name
        assert len(rule["annotations"]["runbook"]) > 60, name


def test_the_guide_names_every_alert() -> None:
    guide = (ROOT / "docs" / "how-to" / "deployment.md").read_text(encoding="utf-8")
    assert not [name for name in RULES if f"`{name}`" not in guide]
