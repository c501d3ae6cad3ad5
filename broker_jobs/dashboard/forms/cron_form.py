"""Reads the form of a recurring job's schedule, and previews its next times. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from zoneinfo import ZoneInfo, available_timezones

from broker_jobs.clock import Instant, as_datetime
from broker_jobs.dashboard.forms.form import Form
from broker_jobs.dashboard.views import ScheduleSummary
from broker_jobs.errors import OptionError

PREVIEW_TIMES = 5
RULES = {"misfire": ("once", "skip", "all"), "overlap": ("allow", "skip", "queue")}


@dataclass(frozen=True)
class CronFields:
    """The fields of the form, as text."""

    cron: str = ""
    tz: str = "UTC"
    misfire: str = "once"
    overlap: str = "allow"


@dataclass(frozen=True)
class NextTime:
    """One of the next times, in its own time zone and in UTC."""

    at: datetime
    local: str
    utc: str


@dataclass(frozen=True)
class CronPreview:
    """The next times of a typed schedule, or the mistake in it; neither: no preview was requested."""

    times: list[NextTime]
    tz: str = "UTC"
    mistake: str = ""


NO_PREVIEW = CronPreview([])


def fields_of_schedule(schedule: ScheduleSummary) -> CronFields:
    """The form of an existing recurring job."""
    return CronFields(schedule.cron, schedule.tz, schedule.misfire, schedule.overlap)


def read_cron_fields(form: Form) -> CronFields:
    """The submitted fields.

    Raises:
        OptionError: an unknown rule, which this form never sends.
    """
    for name, known in RULES.items():
        if form.text(name) not in known:
            raise OptionError(f"{name} must be one of {', '.join(known)}, not {form.text(name)!r}")
    return CronFields(form.text("cron"), form.text("tz"), form.text("misfire"), form.text("overlap"))


def preview_times(cron: str, tz: str, next_of: Callable[[str, str, int], list[Instant]]) -> CronPreview:
    """The next times of a typed schedule, or the mistake in it."""
    try:
        return CronPreview(local_times((as_datetime(at) for at in next_of(cron, tz, PREVIEW_TIMES)), tz), tz)
    except OptionError as error:
        return CronPreview([], mistake=str(error))


def local_times(times: Iterable[datetime], tz: str) -> list[NextTime]:
    """Instants in a time zone and in UTC. A zone that this machine does not know is shown in UTC."""
    try:
        zone: ZoneInfo | None = ZoneInfo(tz)
    except (ValueError, OSError, KeyError):  # ZoneInfoNotFoundError is a KeyError
        zone = None
    return [
        NextTime(at, _clock_time(at.astimezone(zone or UTC), offset=True), _clock_time(at.astimezone(UTC)))
        for at in times
    ]


def _clock_time(at: datetime, *, offset: bool = False) -> str:
    return f"{at:%a %Y-%m-%d %H:%M:%S}" + (f" {at:%Z}" if offset else "")


@cache
def zones() -> tuple[str, ...]:
    """The time zones to choose from: those of places, without deprecated aliases."""
    areas = ("Africa/", "America/", "Asia/", "Atlantic/", "Australia/", "Europe/", "Indian/", "Pacific/")
    return ("UTC", *sorted(name for name in available_timezones() if name.startswith(areas)))
