"""Holds what all queries share: the store's reader, masking, the clock, and the functions that programs declared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from broker_jobs.clock import Clock, Instant, as_datetime
from broker_jobs.dashboard.masking import MaskedArgument, Masking, ParameterNames
from broker_jobs.dashboard.views import Argument, FunctionView, Parameter
from broker_jobs.store import FunctionRow, Reader

FUNCTIONS_CACHE_SECONDS = 5.0
"""Every row of a list needs the functions, and they change only with a deployment."""


class FunctionQueries:
    """The functions that programs have declared."""

    def __init__(self, reader: Reader, clock: Clock) -> None:
        self._reader = reader
        self._clock = clock
        self._cached: tuple[float, dict[str, FunctionView]] | None = None

    def all(self) -> list[FunctionView]:
        """Every declared function, by name."""
        return list(self.by_name().values())

    def get(self, name: str) -> FunctionView | None:
        """One function, or None."""
        return self.by_name().get(name)

    def by_name(self) -> dict[str, FunctionView]:
        """Every declared function by its name; up to five seconds old."""
        now = self._clock.monotonic()
        if self._cached is None or now - self._cached[0] > FUNCTIONS_CACHE_SECONDS:
            self._cached = now, {row.name: _function(row) for row in self._reader.declarations.functions()}
        return self._cached[1]


@dataclass(frozen=True)
class QueryContext:
    """What all queries share."""

    reader: Reader
    masking: Masking
    clock: Clock
    retention: Mapping[str, float]
    """Seconds by final state."""
    functions: FunctionQueries = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "functions", FunctionQueries(self.reader, self.clock))


def _function(row: FunctionRow) -> FunctionView:
    parameters = [Parameter.model_validate(each) for each in row.parameters]
    return FunctionView(
        name=row.name, queue=row.queue, service=row.service, doc=row.doc, parameters=parameters,
        seen_at=as_datetime(row.seen_at), **row.options,
    )  # fmt: skip


def parameter_names(function: FunctionView | None) -> ParameterNames:
    """What masking needs to know of a function's parameters."""
    if function is None:
        return ParameterNames()
    return ParameterNames(
        positional=[each.name for each in function.parameters if each.kind in ("positional", "either")],
        rest=next((each.name for each in function.parameters if each.kind == "args"), ""),
        secret={each.name for each in function.parameters if each.secret},
    )


def argument_view(argument: MaskedArgument) -> Argument:
    """An argument as it is shown."""
    return Argument(name=argument.name, value=argument.value, masked=argument.masked)


def optional_datetime(instant: Instant | None) -> datetime | None:
    """An instant as it is shown; None stays None."""
    return None if instant is None else as_datetime(instant)
