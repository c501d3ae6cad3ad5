"""Reads a submitted form: its fields, and the part that selects when a job runs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from starlette.datastructures import FormData

from broker_jobs.clock import Instant
from broker_jobs.dashboard.forms.typed_values import parse_datetime
from broker_jobs.errors import OptionError
from broker_jobs.messages.envelope import MAX_DELAY_SECONDS

UNITS = {"seconds": 1.0, "minutes": 60.0, "hours": 3600.0, "days": 86400.0}


class Form:
    """The fields of a submitted form, as text."""

    def __init__(self, data: FormData) -> None:
        self._data = data

    def text(self, name: str, default: str = "") -> str:
        """One field, stripped of white space; the default if it is missing."""
        value = self._data.get(name)
        return value.strip() if isinstance(value, str) else default

    def raw(self, name: str, default: str = "") -> str:
        """One field as typed, with line ends as \\n."""
        value = self._data.get(name)
        return value.replace("\r\n", "\n") if isinstance(value, str) else default

    def all(self, name: str) -> list[str]:
        """Every value of a field, such as check boxes."""
        return [value for value in self._data.getlist(name) if isinstance(value, str)]

    def __contains__(self, name: object) -> bool:
        return name in self._data


@dataclass(frozen=True)
class RunTime:
    """The typed run time: now, after a delay, or at a time in UTC."""

    kind: Literal["now", "after", "at"] = "now"
    number: str = ""
    unit: str = "minutes"
    at: str = ""

    @classmethod
    def read(cls, form: Form) -> RunTime:
        """From a submitted form."""
        kind = form.text("when")
        unit = form.text("unit")
        return cls(
            kind if kind in ("after", "at") else "now",  # type: ignore[arg-type]  # one of the three
            form.text("number"),
            unit if unit in UNITS else "minutes",
            form.text("at"),
        )

    def due_at(self, now: Instant) -> Instant | None:
        """The due time; None: now.

        Raises:
            OptionError: no valid time was typed.
        """
        if self.kind == "now":
            return None
        if self.kind == "at":
            at = parse_datetime(self.at)
            if at is None:
                raise OptionError(f"{self.at[:40]!r} is no time: write 2026-01-31T08:00")
            return at.timestamp()
        try:
            seconds = float(self.number) * UNITS[self.unit]
        except ValueError:
            seconds = math.nan
        if not 0 <= seconds <= MAX_DELAY_SECONDS:
            raise OptionError(f"{self.number[:40]!r} {self.unit} is no delay: write a number from 0 up to ten years")
        return now + seconds
