"""What every part of the lookup has: the store's reader, the rule of masking, the functions that programs declared."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from broker_jobs.clock import Clock, Instant, as_datetime
from broker_jobs.dashboard.masking import Given, Masking, Named
from broker_jobs.dashboard.views import Argument, FunctionView
from broker_jobs.store import Reader


class Known:
    """The ground the parts of the lookup stand on."""

    def __init__(self, reader: Reader, masking: Masking, clock: Clock, keep: Mapping[str, float]) -> None:
        """Args:
        reader: of the store.
        keep: retention in seconds by final state.
        """
        self._reader = reader
        self._masking = masking
        self._clock = clock
        self._keep = keep

    def functions(self) -> list[FunctionView]:
        """The functions that programs have declared, by name."""
        return []

    def function(self, name: str) -> FunctionView | None:
        """One of them, or None."""
        return next((each for each in self.functions() if each.name == name), None)

    def _declared(self) -> dict[str, FunctionView]:
        return {each.name: each for each in self.functions()}


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
