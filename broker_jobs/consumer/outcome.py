"""Says how an attempt ended, and turns exceptions into that. Pure.

An outcome is what the worker knows; the event made of it (reporter.py) is what it reports.
"""

from __future__ import annotations

import math
import traceback
from types import TracebackType
from typing import Any, NamedTuple, TypeAlias, assert_never

from broker_jobs.errors import GiveUp, Retry
from broker_jobs.messages.envelope import MAX_DELAY_SECONDS
from broker_jobs.messages.events import (
    MAX_ERROR_MESSAGE_CHARS,
    MAX_RESULT_BYTES,
    MAX_TRACEBACK_CHARS,
    ErrorInfo,
    FailureKind,
    ReturnReason,
)

MAX_TYPE_CHARS = 200


class Completed(NamedTuple):
    """The function returned; `result` is JSON text, `lost` says why there is none."""

    result: str | None
    lost: str | None = None


class Raised(NamedTuple):
    """The function failed, could not be called, or was stopped."""

    error: ErrorInfo
    ended: FailureKind = "raised"
    final: bool = False
    runs_on: bool = False
    retry_after: float | None = None
    exception: BaseException | None = None
    """What was raised, for the log; it does not travel."""


class Interruption(NamedTuple):
    """It was asked to stop because the worker has to leave; it stopped, or ends with the process."""


class NotRun(NamedTuple):
    """It was not run; the coordinator decides how the job continues."""

    reason: ReturnReason
    redelivered: bool = False


Outcome: TypeAlias = Completed | Raised | Interruption | NotRun

EXPIRED = Raised(
    ErrorInfo(type="Expired", message="it waited longer than its `expires` and was not started"), final=True
)


def returned(text: str) -> Completed:
    """The outcome of a result that could be written as JSON; one over the cap is lost, which is no reason to retry."""
    if len(text) * 4 > MAX_RESULT_BYTES and (size := len(text.encode("utf-8", "replace"))) > MAX_RESULT_BYTES:
        return Completed(None, f"result too large: {size} bytes, at most {MAX_RESULT_BYTES} are kept")
    return Completed(text)


def unwritable(error: BaseException) -> Completed:
    """The outcome of a result that would not arrive as it is: succeeded without it, as the work is done."""
    return Completed(None, clip(message_of(error), 1000))


def raised(
    error: BaseException, retry_on: tuple[type[Exception], ...], never_retry: tuple[type[Exception], ...] = ()
) -> Raised:
    """The outcome of an exception that left the function.

    `Retry` asks for a delay, `GiveUp` is final, and so is what `never_retry` names or `retry_on` does not name; one
    that names Exception means everything, SystemExit too. If both name a class of the exception, the nearer decides.
    """
    info = describe(error)
    if isinstance(error, Retry):
        return Raised(info, retry_after=_bounded(error.after), exception=error)
    final = isinstance(error, GiveUp) or not _is_retried(error, retry_on, never_retry)
    return Raised(info, final=final, exception=error)


def _is_retried(
    error: BaseException, retry_on: tuple[type[Exception], ...], never_retry: tuple[type[Exception], ...]
) -> bool:
    if never_retry:
        for kind in type(error).__mro__:
            if kind in never_retry:
                return False
            if kind in retry_on:
                return True
    return Exception in retry_on or isinstance(error, retry_on)


def _bounded(after: float | None) -> float | None:
    """A delay as it can travel: of what is no number the job's back-off, and never more than ten years."""
    if after is None or math.isnan(after):
        return None
    return min(max(after, 0.0), float(MAX_DELAY_SECONDS))


def misfit(error: BaseException) -> Raised:
    """The outcome of arguments that do not fit the function; retried, as a deployment may fix it."""
    info = ErrorInfo(type="ArgumentsError", message=_clipped_message(error))
    return Raised(info, exception=error)


def _clipped_message(error: BaseException) -> str:
    return clip(message_of(error), MAX_ERROR_MESSAGE_CHARS)


def timed_out(seconds: float, error: BaseException | None = None, *, runs_on: bool = False) -> Raised:
    """The outcome of an attempt that was stopped at its timeout; `error` shows where it stood."""
    where = "" if error is None else describe(error).traceback
    info = ErrorInfo(type="TimedOut", message=f"timed out after {seconds:g} s", traceback=where)
    return Raised(info, ended="timed out", runs_on=runs_on, exception=error)


def stopped() -> Raised:
    """The outcome of a running job that was deleted and stopped as asked."""
    info = ErrorInfo(type="Cancelled", message="it was deleted while it ran, and stopped")
    return Raised(info, ended="cancelled")


class ChildTraceback(Exception):
    """The traceback of another process, as text, so that a log shows it."""


def outcome_json(outcome: Outcome) -> dict[str, Any]:
    """An outcome as JSON has it, on its way from a child process."""
    match outcome:
        case Completed():
            return {"is": "completed", **outcome._asdict()}
        case Raised():
            values = outcome._asdict() | {"error": outcome.error.model_dump()}
            del values["exception"]
            return {"is": "raised", **values}
        case Interruption():
            return {"is": "interruption"}
        case NotRun():
            return {"is": "not run", **outcome._asdict()}
        case _:
            assert_never(outcome)


def outcome_of_json(values: dict[str, Any]) -> Outcome:
    """The outcome that a child process has written.

    Raises:
        KeyError, TypeError, ValueError: it is none.
    """
    given = {name: value for name, value in values.items() if name != "is"}
    match values["is"]:
        case "completed":
            return Completed(**given)
        case "raised":
            error = ErrorInfo.model_validate(given.pop("error"))
            return Raised(error, exception=ChildTraceback(f"in a child process\n{error.traceback}"), **given)
        case "interruption":
            return Interruption()
        case _:
            return NotRun(**given)


def describe(error: BaseException) -> ErrorInfo:
    """An exception as it is shown. Never raises, whatever `str(error)` does."""
    try:
        frames = error.__traceback__
        while frames is not None and frames.tb_next is not None and _is_ours(frames):
            frames = frames.tb_next
        lines = "".join(traceback.format_exception(type(error), error, frames))
    except BaseException as unprintable:  # noqa: BLE001  # an exception's own __str__ may raise anything
        lines = f"(no traceback: {type(unprintable).__name__} while it was written)"
    return ErrorInfo(
        type=clip(_type_name(error), MAX_TYPE_CHARS),
        message=clip(message_of(error), MAX_ERROR_MESSAGE_CHARS),
        traceback=clip_start(lines, MAX_TRACEBACK_CHARS),
    )


def _is_ours(frames: TracebackType) -> bool:
    """Whether the outermost of these frames is the worker's, not the job's."""
    return str(frames.tb_frame.f_globals.get("__name__")).startswith("broker_jobs.consumer.")


def can_be_written(error: BaseException | None) -> bool:
    """Whether a log handler can format an exception: its own `__str__` may raise anything."""
    try:
        traceback.format_exception(error)
    except BaseException:  # noqa: BLE001
        return False
    return True


class RemoteTraceback(Exception):
    """The traceback of another process, as text. As the cause of an exception it is printed before it."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


def remote_exception(error: ErrorInfo) -> BaseException | None:
    """An exception of a job's own process, for the log, of a class of the same name; None: no traceback."""
    if not error.traceback:
        return None
    shown: Exception = type(error.type, (Exception,), {"__module__": "builtins"})(error.message)
    shown.__cause__ = RemoteTraceback(error.traceback)
    return shown


def message_of(error: BaseException) -> str:
    """The text of an exception, or why it has none."""
    try:
        text = str(error)
        if text.__class__ is not str:  # a subclass may misbehave later
            text = str.__str__(text)
        return text
    except BaseException as unprintable:  # noqa: BLE001  # an exception's own __str__ may raise anything
        return f"(no message: {type(unprintable).__name__} while it was written)"


def clip(text: str, chars: int) -> str:
    """The text's beginning where it is too long, in characters that UTF-8 can carry."""
    text = text if len(text) <= chars else f"{text[: chars - 1]}…"
    return text.encode("utf-8", "replace").decode("utf-8")


def clip_start(text: str, chars: int) -> str:
    """The text's end where it is too long (of a traceback the end matters)."""
    text = text if len(text) <= chars else f"…{text[-(chars - 1) :]}"
    return text.encode("utf-8", "replace").decode("utf-8")


def _type_name(error: BaseException) -> str:
    kind = type(error)
    return (
        kind.__qualname__ if kind.__module__ in {"builtins", "__main__"} else f"{kind.__module__}.{kind.__qualname__}"
    )
