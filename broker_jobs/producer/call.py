"""Holds a job with its arguments and options, checked but not enqueued: for many at once, and for recurring jobs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from broker_jobs.function.options import CallOptions

if TYPE_CHECKING:
    from broker_jobs.producer.job import Job

R_co = TypeVar("R_co", covariant=True)


@dataclass(frozen=True)
class Call(Generic[R_co]):
    """A job with arguments and options, not enqueued. Made by `job.bind(…)`; nothing is done with it."""

    job: str
    args: tuple[object, ...]
    kwargs: Mapping[str, object]
    options: CallOptions
    source: Job[..., R_co] = field(repr=False, compare=False)
    bound: tuple[list[Any], dict[str, Any]] = field(repr=False, compare=False)


def call_shown(method: str, args: tuple[object, ...], kwargs: Mapping[str, object]) -> str:
    """A call as one writes it: "enqueue(42, loud=True)"; long arguments are cut."""
    parts = [_short(arg) for arg in args] + [f"{name}={_short(value)}" for name, value in kwargs.items()]
    return f"{method}({', '.join(parts)})"


def _short(value: object, limit: int = 60) -> str:
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"
