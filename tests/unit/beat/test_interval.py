"""Schedules at an interval: the multiples of it since 1970, as text, as a timedelta, in words."""

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker_jobs import BrokerJobs
from broker_jobs.beat.cron import check, first, interval_text, latest, next_after, next_many, words
from broker_jobs.beat.interval import interval_seconds
from broker_jobs.errors import OptionError
from broker_jobs.messages.envelope import MAX_DELAY_SECONDS
from broker_jobs.testing import Tester

SECONDS = st.integers(1, MAX_DELAY_SECONDS)


@given(SECONDS)
def test_an_interval_survives_being_written(seconds: int) -> None:
    text = interval_text(timedelta(seconds=seconds))
    assert interval_seconds(text) == interval_seconds(text.upper()) == seconds
    check(text, "UTC")


@given(SECONDS, st.floats(0, 5e9))
def test_the_next_time_is_the_next_multiple_since_1970(seconds: int, after: float) -> None:
    text = interval_text(timedelta(seconds=seconds))
    planned = next_after(text, "UTC", after)
    assert planned % seconds == 0
    assert planned - seconds <= after < planned
    assert next_after(text, "UTC", planned) == planned + seconds
    assert latest(text, "UTC", after, planned + 2 * seconds + 0.5) == planned + 2 * seconds
    assert first(text, "UTC", after, planned + 5 * seconds, 3) == next_many(text, "UTC", after, 3)


@pytest.mark.parametrize(
    ("text", "seconds", "shown"),
    [
        ("@every 5m", 300, "every 5 minutes"),
        ("@every 60s", 60, "every minute"),
        ("@EVERY 1H30M", 5_400, "every 1 hour 30 minutes"),
        ("@every 1d", 86_400, "every day"),
        ("  @every   90s ", 90, "every 1 minute 30 seconds"),
        ("@every 1d1h1m1s", 90_061, "every 1 day 1 hour 1 minute 1 second"),
    ],
)
def test_an_interval_is_shown_in_words(text: str, seconds: int, shown: str) -> None:
    assert (interval_seconds(text), words(text)) == (seconds, shown)


def test_a_cron_expression_is_shown_as_it_is_written() -> None:
    assert [words(text) for text in ("0 9 * * MON", "@daily", "@every nonsense")] == [
        "0 9 * * MON", "@daily", "@every nonsense",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("schedule", "options", "message"),
    [
        (timedelta(0), {}, "at least 1 second and at most 10 years, not 0:00:00"),
        (timedelta(seconds=-5), {}, "at least 1 second and at most 10 years"),
        (timedelta(days=3_651), {}, "at least 1 second and at most 10 years"),
        (timedelta(seconds=1.5), {}, "must be a whole number of seconds, not 1.5"),
        (timedelta(minutes=5), {"tz": "Europe/Berlin"}, "in no time zone: leave out tz='Europe/Berlin'"),
        ("@every 5", {}, "is no interval; write '@every 90s'"),
        ("@every", {}, "is no interval"),
        ("@every 0s", {}, "at least 1 second"),
        ("@every 5m 3s", {}, "is no interval"),
        ("@every 1.5h", {}, "is no interval"),
        ("@every 999999999d", {}, "at most 10 years"),
        (300, {}, "cron must be a str as '0 9 \\* \\* MON', or a timedelta, not 300"),
    ],
)
def test_what_is_no_interval_is_refused(schedule: Any, options: Any, message: str) -> None:
    jobs = BrokerJobs("memory://")

    @jobs.job
    def ping() -> None: ...

    with pytest.raises(OptionError, match=message):
        jobs.recurring("ping", schedule, ping, **options)
    with pytest.raises(OptionError, match=message):
        jobs.recurring.put("ping", schedule, ping, **options)


def test_a_recurring_job_runs_at_the_multiples_of_its_interval() -> None:
    jobs = BrokerJobs("memory://")
    ran: list[float] = []

    @jobs.job
    def note() -> None:
        ran.append(tester.clock.now())

    jobs.recurring("declared", timedelta(minutes=5), note)
    with Tester(jobs) as tester:
        tester.advance(timedelta(minutes=20))
        assert [at % 300 for at in ran] == [0] * 4
        jobs.recurring.put("put", timedelta(hours=7), note)
        ran.clear()
        tester.advance(timedelta(hours=7))
        assert len(ran) == 7 * 12 + 1
        assert sum(at % (7 * 3_600) == 0 for at in ran) >= 1
