"""Reads the part of a form that says when: now, after a while, or at a time in UTC."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from broker_jobs.clock import Instant
from broker_jobs.dashboard.forms.job_query import moment_of
from broker_jobs.dashboard.pages.frame import Form
from broker_jobs.errors import OptionError
from broker_jobs.messages.envelope import MAX_DELAY_SECONDS

UNITS = {"seconds": 1.0, "minutes": 60.0, "hours": 3600.0, "days": 86400.0}


@dataclass(frozen=True)
class When:
    """What was typed."""

    kind: Literal["now", "after", "at"] = "now"
    number: str = ""
    unit: str = "minutes"
    at: str = ""

    @classmethod
    def of(cls, form: Form) -> When:
        """From a form."""
        kind = form.text("when")
        unit = form.text("unit")
        return cls(
            kind if kind in ("after", "at") else "now",  # type: ignore[arg-type]  # one of the three
            form.text("number"),
            unit if unit in UNITS else "minutes",
            form.text("at"),
        )


def due_of(when: When, now: Instant) -> Instant | None:
    """The instant that is meant; None: now.

    Raises:
        OptionError: it is none.
    """
    if when.kind == "now":
        return None
    if when.kind == "at":
        moment = moment_of(when.at)
        if moment is None:
            raise OptionError(f"{when.at[:40]!r} is no time: write 2026-01-31T08:00")
        return moment.timestamp()
    try:
        seconds = float(when.number) * UNITS[when.unit]
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds <= MAX_DELAY_SECONDS:
        raise OptionError(f"{when.number[:40]!r} {when.unit} is no length of time from 0 to ten years")
    return now + seconds
