"""Recurring jobs: a declaration sends nothing, `put` acts at once, and mistakes raise where they are written."""

import logging
from typing import Any

import pytest

from broker_jobs import BrokerJobs
from broker_jobs.errors import ArgumentsError, DefinitionError, OptionError, UsageError
from broker_jobs.messages.codec import decode
from broker_jobs.messages.commands import (
    PauseRecurring,
    PutRecurring,
    RemoveRecurring,
    Reply,
    Schedule,
    TriggerRecurring,
)
from tests.unit.producer.recording import RecordingBroker


@pytest.fixture
def report(jobs: BrokerJobs) -> Any:
    @jobs.job(queue="reports", retries=2)
    def report(days: int = 7) -> None: ...

    return report


@pytest.fixture
def welcome(jobs: BrokerJobs) -> Any:
    @jobs.job
    def welcome(user_id: int) -> None: ...

    return welcome


def test_declaring_remembers_and_sends_nothing(jobs: BrokerJobs, broker: RecordingBroker, report: Any) -> None:
    jobs.recurring("weekly", "0 9 * * MON", report, tz="Europe/Istanbul", misfire="skip", overlap="queue")
    assert broker.started == 0
    (schedule,) = jobs.recurring.declared("shop")
    assert schedule.model_dump(exclude={"call"}) == {
        "name": "weekly", "cron": "0 9 * * MON", "tz": "Europe/Istanbul", "misfire": "skip", "overlap": "queue",
        "service": "shop",
    }  # fmt: skip
    template = decode(schedule.call)
    assert (template.job, template.queue, template.policy.retries) == ("report", "reports", 2)
    assert (template.args, template.recurring, template.epoch) == ([], "weekly", 0)


def test_the_same_code_declares_the_same_schedule(jobs: BrokerJobs, report: Any) -> None:
    jobs.recurring("weekly", "0 9 * * MON", report.using(tags=["a"]).bind(3))
    assert jobs.recurring.declared("shop") == jobs.recurring.declared("shop")


def test_a_job_that_needs_arguments_is_refused(jobs: BrokerJobs, welcome: Any) -> None:
    with pytest.raises(ArgumentsError) as caught:
        jobs.recurring("w", "0 9 * * MON", welcome)
    assert str(caught.value) == "welcome(user_id: int) needs user_id; write welcome.bind(…)"


def test_what_is_no_call_is_refused(jobs: BrokerJobs, welcome: Any) -> None:
    with pytest.raises(ArgumentsError, match=r"write \.bind\(…\), not \.enqueue\(…\)"):
        jobs.recurring("w", "0 9 * * MON", welcome.enqueue(1))
    with pytest.raises(ArgumentsError, match=r"takes a job or job\.bind"):
        jobs.recurring.put("w", "0 9 * * MON", lambda: 1)  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="id belongs to one call"):
        jobs.recurring("w", "0 9 * * MON", welcome.using(id="x").bind(1))


def test_a_wrong_cron_and_a_wrong_zone_are_named(jobs: BrokerJobs, report: Any) -> None:
    with pytest.raises(OptionError) as caught:
        jobs.recurring("w", "0 9 * * MO", report)
    assert str(caught.value) == "cron '0 9 * * MO': 'MO' is not a valid weekday (MON … SUN)"
    with pytest.raises(OptionError) as caught:
        jobs.recurring("w", "0 9 * * MON", report, tz="Europe/Istambul")
    assert str(caught.value) == "unknown time zone 'Europe/Istambul'; did you mean 'Europe/Istanbul'?"


def test_a_wrong_option_names_the_nearest(jobs: BrokerJobs, report: Any) -> None:
    with pytest.raises(OptionError, match="tz must be the name of a time zone as 'Europe/Istanbul', not None"):
        jobs.recurring("w", "* * * * *", report, tz=None)  # type: ignore[arg-type]
    with pytest.raises(OptionError, match=r"no option 'timezon'\. Options of recurring: misfire, overlap, tz"):
        jobs.recurring("w", "* * * * *", report, timezon="UTC")  # type: ignore[call-arg]
    with pytest.raises(OptionError, match="misfire must be 'skip' or 'once' or 'all', not 'never'"):
        jobs.recurring("w", "* * * * *", report, misfire="never")  # type: ignore[arg-type]


def test_two_of_one_name_are_refused_with_both_places(jobs: BrokerJobs, report: Any) -> None:
    jobs.recurring("weekly-report", "* * * * *", report)
    with pytest.raises(DefinitionError) as caught:
        jobs.recurring("weekly-report", "* * * * *", report)
    here = "tests/unit/producer/test_recurring.py"
    text = str(caught.value)
    assert text.startswith(f"recurring 'weekly-report' is declared twice: {here}:")
    assert text.count(here) == 2


def test_the_same_line_run_again_declares_again(jobs: BrokerJobs, report: Any) -> None:
    for minute in (1, 2):
        jobs.recurring("weekly", f"{minute} * * * *", report)
    assert [schedule.cron for schedule in jobs.recurring.declared("shop")] == ["2 * * * *"]


def test_putting_acts_at_once(jobs: BrokerJobs, broker: RecordingBroker, welcome: Any) -> None:
    broker.answer = lambda command: Reply(id=command.id)
    jobs.recurring.put("tenant-7", "*/5 * * * * *", welcome.bind(7))
    command = broker.commands[-1]
    assert isinstance(command, PutRecurring)
    assert command.schedule.service == ""
    assert decode(command.schedule.call).args == [7]
    assert jobs.recurring.declared("shop") == []


def test_recurring_jobs_are_named_in_commands(jobs: BrokerJobs, broker: RecordingBroker) -> None:
    broker.answer = lambda command: Reply(id=command.id)
    receipt = jobs.recurring.trigger("weekly")
    jobs.recurring.pause("weekly")
    jobs.recurring.resume("weekly")
    jobs.recurring.remove("weekly")
    trigger, pause, resume, remove = broker.commands
    assert isinstance(trigger, TriggerRecurring)
    assert trigger.job_id == receipt.id
    assert isinstance(pause, PauseRecurring)
    assert isinstance(resume, PauseRecurring)
    assert (pause.paused, resume.paused) == (True, False)
    assert isinstance(remove, RemoveRecurring)


def test_an_unknown_recurring_job_is_refused_in_the_coordinators_words(
    jobs: BrokerJobs, broker: RecordingBroker
) -> None:
    broker.answer = lambda command: Reply(id=command.id, ok=False, refused="no recurring job 'weekli'")
    with pytest.raises(UsageError, match="no recurring job 'weekli'"):
        jobs.recurring.trigger("weekli")


def test_declaring_after_the_first_enqueue_without_a_beat_warns(
    jobs: BrokerJobs, report: Any, caplog: pytest.LogCaptureFixture
) -> None:
    report.enqueue()
    with caplog.at_level(logging.WARNING):
        jobs.recurring("weekly", "0 9 * * MON", report)
    assert "jobs.recurring.put(…)" in caplog.text


def test_a_schedule_is_valid_for_the_wire(jobs: BrokerJobs, report: Any) -> None:
    jobs.recurring("weekly", "0 9 * * MON", report)
    (schedule,) = jobs.recurring.declared("shop")
    assert Schedule.model_validate_json(schedule.model_dump_json()) == schedule
