"""Views in words: calls as code, parsed tracebacks, possible actions, alerts with what to do."""

from __future__ import annotations

import ast
import traceback
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker_jobs.dashboard.alerts import SystemStatus, find_alerts
from broker_jobs.dashboard.masking import MaskedArgument
from broker_jobs.dashboard.queries import call_source
from broker_jobs.dashboard.queries.jobs import possible_actions
from broker_jobs.dashboard.queries.traceback_parser import parse_traceback
from broker_jobs.dashboard.views import ComponentView, QueueView, WorkerView
from broker_jobs.messages.state import State
from broker_jobs.store import Publication, Reason, Row

NOW = 1_000_000.0
AT = datetime.fromtimestamp(NOW, UTC)
LONG_AGO = datetime.fromtimestamp(NOW - 3_600, UTC)


def named(**values: Any) -> list[MaskedArgument]:
    return [MaskedArgument(name, value, value == "***") for name, value in values.items()]


def placed(*values: Any) -> list[MaskedArgument]:
    return [MaskedArgument("", value, masked=False) for value in values]


# --- calls as code ---


def test_a_call_is_written_as_a_program_would_write_it() -> None:
    assert call_source.line("welcome", placed(42), named(name="x")) == 'welcome.enqueue(42, name="x")'
    assert (
        call_source.code("welcome", placed(None, True), [], "mail") == 'welcome.using(queue="mail").enqueue(None, True)'
    )
    assert call_source.code("billing.charge", [], [], "billing") == (
        'jobs.remote("billing.charge", queue="billing").enqueue()'
    )
    assert call_source.code("pay", [], named(token="***")) == "pay.enqueue(token=***)"
    assert (
        call_source.code("pay", [], [MaskedArgument("two words", 1, masked=False)]) == 'pay.enqueue(**{"two words": 1})'
    )


def test_a_long_call_has_a_line_for_each_argument_and_is_cut_where_it_is_one_line() -> None:
    args = placed("w" * 90, ["x"] * 50)
    assert call_source.code("welcome", args, []).splitlines()[0] == "welcome.enqueue("
    line = call_source.line("welcome", args, [])
    assert len(line) <= call_source.LINE_CHARS
    assert "w" * 39 + '…", ["x", "x", "x", "x", "x", …]' in line


def test_what_would_not_be_seen_is_written_as_an_escape() -> None:
    assert call_source.literal("\u202egnp.exe\x1b\n\ud800") == '"\\u202egnp.exe\\x1b\\n\\ud800"'


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
        max_leaves=10,
    ).filter(lambda value: "***" not in str(value))
)
def test_every_value_is_written_as_python_reads_it(value: Any) -> None:
    assert ast.literal_eval(call_source.literal(value)) == value
    assert len(call_source.line("job", placed(value, value), [])) <= call_source.LINE_CHARS


# --- tracebacks ---


def test_errors_that_led_to_one_another_are_told_acomponent() -> None:
    cards: dict[str, str] = {}
    found = []
    try:
        try:
            try:
                cards["card"]
            except KeyError as missing:
                raise ValueError("no card\nat all") from missing
        except ValueError:
            1 / 0  # noqa: B018  # it is to raise
    except ZeroDivisionError:
        found = parse_traceback(traceback.format_exc())
    assert [(each.error, each.link) for each in found] == [
        ("KeyError: 'card'", ""), ("ValueError: no card\nat all", "cause"),
        ("ZeroDivisionError: division by zero", "context"),
    ]  # fmt: skip
    assert found[0].frames[0].code == 'cards["card"]'
    assert found[0].frames[0].file == __file__


def test_a_recursion_is_told_with_how_often() -> None:
    def again(n: int) -> int:
        return again(n + 1)

    found = []
    try:
        again(0)
    except RecursionError:
        found = parse_traceback(traceback.format_exc())
    assert any("Previous line repeated" in frame.code for frame in found[0].frames)


@pytest.mark.parametrize(
    "text", ["", "boom", "java.lang.Exception\n\tat x.y(Z.java:1)", '  File "x", line y, in z', "…"]
)
def test_what_is_no_traceback_gives_no_frames(text: str) -> None:
    assert parse_traceback(text) == []


@given(st.text(alphabet=st.sampled_from('File "x", line 1 in\n|^~T:[]'), max_size=400))
def test_no_text_breaks_the_reader(text: str) -> None:
    parse_traceback(text)
    parse_traceback("Traceback (most recent call last):\n" + text)


# --- what can be done ---


@pytest.mark.parametrize(
    ("row", "can"),
    [
        (Row("j", state=State.PROCESSING), ["cancel"]),
        (Row("j", state=State.FAILED, envelope="{}"), ["requeue", "reschedule", "delete", "edit"]),
        (
            Row("j", state=State.FAILED, envelope="{}", publication=Publication.PUBLISHED),
            ["requeue", "reschedule", "delete"],
        ),
        (Row("j", state=State.FAILED), ["requeue", "reschedule", "delete"]),
        (Row("j", state=State.AWAITING, envelope="{}", reason_code=Reason.ALIAS), ["run_now", "delete"]),
        (
            Row("j", state=State.SCHEDULED, envelope="{}", reason_code=Reason.RETURNED),
            ["run_now", "reschedule", "delete"],
        ),
        (Row("j", state=State.ENQUEUED, envelope="{}", publication=Publication.PUBLISHED), ["reschedule", "delete"]),
    ],
)
def test_what_can_be_done_with_a_job_is_what_the_coordinator_does(row: Row, can: list[str]) -> None:
    assert possible_actions(row) == can


# --- alerts ---


def queue(name: str = "mail", **given: Any) -> QueueView:
    fields: dict[str, Any] = {
        "paused": False, "enqueued": 0, "enqueued_high": 0, "enqueued_low": 0, "processing": 0, "scheduled": 0,
        "failed": 0, "oldest_seconds": None, "ended_per_minute": 0.0, "workers": 1,
    }  # fmt: skip
    return QueueView(name=name, **fields | given)


def worker(**given: Any) -> WorkerView:
    fields: dict[str, Any] = {
        "id": "w", "host": "h", "pid": 7, "slot": "1", "queues": ["mail"], "concurrency": 1, "running": 0, "done": 0,
        "cpu_percent": 0.0, "rss_bytes": 0, "version": "", "busy": "", "started_at": None, "seen_at": AT,
        "silent": False, "lost": False, "jobs": [], "served": ["mail"], "queue_limits": {},
    }  # fmt: skip
    return WorkerView(**fields | given)


def component(kind: Any = "coordinator", **given: Any) -> ComponentView:
    fields: dict[str, Any] = {
        "id": kind,
        "host": "h",
        "pid": 1,
        "version": "",
        "active": True,
        "seen_at": AT,
        "silent": False,
    }
    return ComponentView(kind=kind, **{"id": kind} | fields | given)


SILENT_BEAT = component("beat", silent=True, seen_at=LONG_AGO)


def system(**given: Any) -> SystemStatus:
    fields: dict[str, Any] = {
        "now": NOW, "queues": [queue(enqueued=3)], "workers": [worker()],
        "components": [component(), component("beat")], "last_tick_at": NOW - 1, "schedules": 2,
        "succeeded": 100, "failed": 3,
    }  # fmt: skip
    return SystemStatus(**fields | given)


def test_a_healthy_system_has_no_alerts() -> None:
    assert find_alerts(system()) == []
    assert (
        find_alerts(system(queues=[queue(workers=0), queue(paused=True)], schedules=0, components=[component()])) == []
    )


@pytest.mark.parametrize(
    ("given", "severity", "words", "page"),
    [
        ({"queues": [queue(enqueued=2, workers=0)]}, "error", "2 jobs in mail, and no worker", "queues"),
        ({"queues": [queue(enqueued=1, paused=True)]}, "warning", "1 job in mail, which is paused", "queues"),
        ({"last_tick_at": NOW - 60, "components": []}, "error", "No coordinator is running since", "workers"),
        ({"last_tick_at": None, "components": []}, "error", "No coordinator is running:", "workers"),
        ({"last_tick_at": NOW - 20}, "warning", "The coordinator is 20 seconds behind", "workers"),
        ({"last_tick_at": NOW - 90}, "error", "The coordinator is 90 seconds behind", "workers"),
        ({"overdue_since": NOW - 120}, "error", "are not released", "jobs?state=scheduled&sort=due"),
        (
            {"components": [component(), SILENT_BEAT]},
            "error",
            "and no beat since",
            "recurring",
        ),
        ({"components": [component()]}, "error", "2 recurring jobs and no beat:", "recurring"),
        ({"dead_letters": 1}, "warning", "1 dead letter", "dead-letters"),
        ({"workers": [worker(silent=True)]}, "warning", "1 worker without a heartbeat for 15 seconds: h:7", "workers"),
        (
            {"workers": [worker(problem="queue 'mail' does not exist")]},
            "error",
            "Worker h:7 does not take all jobs: queue 'mail' does not exist.",
            "workers",
        ),
        ({"failed": 20}, "warning", "20 jobs failed for good in the last five minutes, 17 %", "jobs?state=failed"),
    ],
)
def test_each_alert_says_what_to_do(given: dict[str, Any], severity: str, words: str, page: str) -> None:
    (alert,) = find_alerts(system(**given))
    assert alert.severity == severity
    assert words in alert.what
    assert alert.do
    assert alert.page.startswith(page)


def test_a_few_failures_among_many_jobs_and_stopped_workers_give_no_alert() -> None:
    assert find_alerts(system(failed=5, succeeded=0)) == []
    assert find_alerts(system(failed=10, succeeded=100)) == []
    assert find_alerts(system(workers=[worker(silent=True, lost=True)])) == []
