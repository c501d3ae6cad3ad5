"""The pauses before retries, as an option: a list of them, or `Backoff`, which grows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, NoReturn

from broker_jobs.clock import Seconds, as_seconds
from broker_jobs.errors import OptionError
from broker_jobs.messages.envelope import MAX_BACKOFFS, MAX_DELAY_SECONDS, MAX_FACTOR, Growth

_HUGE = 1e300
"""What is not below is no number to calculate with: NaN, infinity, an int that no float holds."""


@dataclass(frozen=True)
class Backoff:
    """Pauses that grow: the first is `first`, each other one `factor` times the one before, none is over `cap`.

    @jobs.job(retries=20, backoff=Backoff(first=2, factor=2, cap=timedelta(minutes=10), jitter=0.5))

    Before the n-th retry: min(cap, first * factor^(n-1)), of which a random part of up to `jitter` is taken away. So a
    pause is never longer than `cap`, and jobs that failed together are not run again together.

    Args:
        first: seconds or a timedelta, more than 0.
        factor: 1 to 1,000; 1: all pauses are the same.
        cap: seconds or a timedelta, `first` or more and at most ten years.
        jitter: 0 to 1; 0: no chance, 0.5: each pause is between its half and its whole, 1: between nothing and its
            whole.

    Raises:
        OptionError: one of them is out of range.
    """

    first: Seconds = 1.0
    factor: float = 2.0
    cap: Seconds = timedelta(hours=1)
    jitter: float = 0.1

    def __post_init__(self) -> None:
        first, cap = _length("first", self.first), _length("cap", self.cap)
        if cap < first:
            _wrong("cap", f"{first:g} seconds or more, which is `first`", self.cap)
        if not _is_number(self.factor) or not 1 <= self.factor <= MAX_FACTOR:
            _wrong("factor", f"a number from 1 to {MAX_FACTOR:_}", self.factor)
        if not _is_number(self.jitter) or not 0 <= self.jitter <= 1:
            _wrong("jitter", "a number from 0 to 1", self.jitter)

    @property
    def growth(self) -> Growth:
        """As it travels."""
        return Growth(
            first=as_seconds(self.first), factor=float(self.factor), cap=as_seconds(self.cap), jitter=float(self.jitter)
        )


def backoff_option(value: Any) -> tuple[float, ...] | Growth:
    """Check the option `backoff`. Raises OptionError."""
    if isinstance(value, Backoff):
        return value.growth
    if isinstance(value, int | float | timedelta):
        raise OptionError(
            f"backoff must be a sequence of lengths, or Backoff(…), not {value!r}; write backoff=[{value!r}]"
        )
    if not isinstance(value, Sequence) or isinstance(value, str | bytes) or not value:
        raise OptionError(
            f"backoff must be a sequence of lengths, as [1, 5, timedelta(minutes=1)], or Backoff(…), not {value!r}"
        )
    if len(value) > MAX_BACKOFFS:
        raise OptionError(
            f"backoff must be at most {MAX_BACKOFFS:_} lengths (the last one is repeated), not {len(value):_}; "
            "for pauses that grow write backoff=Backoff(first=1, factor=2, cap=3600)"
        )
    return tuple(_pause(item) for item in value)


def _pause(value: Any) -> float:
    if not _is_length(value) or not as_seconds(value) >= 0:
        raise OptionError(f"backoff must be 0 seconds or more, in seconds or as a timedelta, not {value!r}")
    if as_seconds(value) > MAX_DELAY_SECONDS:
        raise OptionError(f"backoff must be 10 years or less, not {value!r}")
    return as_seconds(value)


def _length(name: str, value: Any) -> float:
    if not _is_length(value):
        _wrong(name, "seconds or a timedelta", value)
    seconds = as_seconds(value)
    if not 0 < seconds <= MAX_DELAY_SECONDS:
        _wrong(name, "more than 0 seconds and at most 10 years", value)
    return seconds


def _wrong(name: str, must: str, value: object) -> NoReturn:
    raise OptionError(f"Backoff({name}=…) must be {must}, not {value!r}")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and -_HUGE < value < _HUGE


def _is_length(value: Any) -> bool:
    return isinstance(value, timedelta) or _is_number(value)
