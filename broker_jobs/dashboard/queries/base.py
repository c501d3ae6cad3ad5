"""What every part of the lookup has: the store's reader, the rule of masking, the functions that programs declared."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from broker_jobs.clock import Clock, Instant, as_datetime
from broker_jobs.dashboard.masking import Given, Masking, Named
from broker_jobs.dashboard.views import Argument, FunctionView, Parameter
from broker_jobs.store import FunctionRow, Reader

FUNCTIONS_KEPT_SECONDS = 5.0
"""Every line of a list needs them, and they change with a deploy."""


class BaseQueries:
    """The ground the parts of the lookup stand on."""

    def __init__(self, reader: Reader, masking: Masking, clock: Clock, keep: Mapping[str, float]) -> None:
        """Args:
        reader: of the store.
        masking: what is hidden.
        clock: tells what is silent, late or to come.
        keep: retention in seconds by final state.
        """
        self._reader = reader
        self._masking = masking
        self._clock = clock
        self._keep = keep
        self._functions: tuple[float, dict[str, FunctionView]] | None = None

    def functions(self) -> list[FunctionView]:
        """The functions that programs have declared, by name."""
        return list(self._declared().values())

    def function(self, name: str) -> FunctionView | None:
        """One of them, or None."""
        return self._declared().get(name)

    def _declared(self) -> dict[str, FunctionView]:
        now = self._clock.monotonic()
        if self._functions is None or now - self._functions[0] > FUNCTIONS_KEPT_SECONDS:
            self._functions = now, {row.name: _function(row) for row in self._reader.functions()}
        return self._functions[1]


def _function(row: FunctionRow) -> FunctionView:
    parameters = [Parameter.model_validate(each) for each in row.parameters]
    return FunctionView(
        name=row.name, queue=row.queue, origin=row.origin, doc=row.doc, parameters=parameters,
        seen_at=as_datetime(row.seen_at), **row.options,
    )  # fmt: skip


def named_of(function: FunctionView | None) -> Named:
    """What masking must know of a function's parameters."""
    if function is None:
        return Named()
    return Named(
        positional=[each.name for each in function.parameters if each.kind in ("positional", "either")],
        rest=next((each.name for each in function.parameters if each.kind == "args"), ""),
        secret={each.name for each in function.parameters if each.secret},
    )


def argument(given: Given) -> Argument:
    """An argument as it is shown."""
    return Argument(name=given.name, value=given.value, masked=given.masked)


def moment(instant: Instant | None) -> datetime | None:
    """An instant as it is shown; None stays."""
    return None if instant is None else as_datetime(instant)
