"""The form of a recurring job's times: what was typed, and the next times that come of it. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from zoneinfo import ZoneInfo, available_timezones

from broker_jobs.clock import Instant, as_datetime
from broker_jobs.dashboard.pages.frame import Form
from broker_jobs.dashboard.views import ScheduleLine
from broker_jobs.errors import OptionError

SHOWN = 5
"""So many next times are shown."""
RULES = {"misfire": ("once", "skip", "all"), "overlap": ("allow", "skip", "queue")}


@dataclass(frozen=True)
class CronFields:
    """The fields of the form, as text."""

    cron: str = ""
    tz: str = "UTC"
    misfire: str = "once"
    overlap: str = "allow"


@dataclass(frozen=True)
class CronForm:
    """One of the next times, as a clock in its zone shows it, and as one in UTC does."""

    at: datetime
    local: str
    utc: str


@dataclass(frozen=True)
class Preview:
    """The next times of a form, or what is wrong with it; neither: nothing was asked."""

    times: list[CronForm]
    tz: str = "UTC"
    mistake: str = ""


NOTHING = Preview([])


def times_of(schedule: ScheduleLine) -> CronFields:
    """The form of a recurring job as it stands."""
    return CronFields(schedule.cron, schedule.tz, schedule.misfire, schedule.overlap)


def typed(form: Form) -> CronFields:
    """What was typed.

    Raises:
        OptionError: a rule that is none, which no form of ours sends.
    """
    for name, known in RULES.items():
        if form.text(name) not in known:
            raise OptionError(f"{name} must be one of {', '.join(known)}, not {form.text(name)!r}")
    return CronFields(form.text("cron"), form.text("tz"), form.text("misfire"), form.text("overlap"))


def preview(cron: str, tz: str, next_of: Callable[[str, str, int], list[Instant]]) -> Preview:
    """The next times of what was typed, or what is wrong with it."""
    try:
        return Preview(planned((as_datetime(at) for at in next_of(cron, tz, SHOWN)), tz), tz)
    except OptionError as error:
        return Preview([], mistake=str(error))


def planned(times: Iterable[datetime], tz: str) -> list[CronForm]:
    """Instants as two clocks show them. A zone this machine does not know is shown in UTC."""
    try:
        zone: ZoneInfo | None = ZoneInfo(tz)
    except (ValueError, OSError, KeyError):  # ZoneInfoNotFoundError is a KeyError
        zone = None
    return [CronForm(at, _clock(at.astimezone(zone or UTC), offset=True), _clock(at.astimezone(UTC))) for at in times]


def _clock(at: datetime, *, offset: bool = False) -> str:
    return f"{at:%a %Y-%m-%d %H:%M:%S}" + (f" {at:%Z}" if offset else "")


@cache
def zones() -> tuple[str, ...]:
    """The time zones to choose from: those of places, without the old names of the same ones."""
    areas = ("Africa/", "America/", "Asia/", "Atlantic/", "Australia/", "Europe/", "Indian/", "Pacific/")
    return ("UTC", *sorted(name for name in available_timezones() if name.startswith(areas)))
