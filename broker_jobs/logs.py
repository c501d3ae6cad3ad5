"""Sets logging up for our own processes: one line per record on stderr, as text or JSON, passwords in URLs masked.

A library leaves logging to the program, so nothing calls this in yours, and a program that sets logging up itself keeps
what it has set up. A line of text is `time level logger: sentence key=value…`; the keys are those of `extra`.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, NamedTuple

URL_PASSWORD = re.compile(r"(?P<head>\b[a-z][a-z0-9+.-]*://[^\s:/@]*):(?!password@)[^\s/]+@", re.IGNORECASE)
"""The password in a URL. It extends to the last @ before a slash, as a password may contain @. The word "password" is
left as it is: it occurs in examples."""

MAX_TRACE_CHARS = 50_000
"""The end of a traceback that is logged."""
OURS = "broker_jobs"
"""The logger of this library."""

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_QUIET = {
    "uvicorn": logging.WARNING,
    "asyncio": logging.WARNING,
    "kombu": logging.WARNING,
    "pika": logging.CRITICAL,  # it logs several tracebacks of each attempt to connect; we log what is wrong
}


class LogSetup(NamedTuple):
    """How a process logs, for the processes that it starts. `format`: text, json, or None: as the program does."""

    level: int
    format: str | None


def mask_passwords(text: str) -> str:
    """Replace the password of every URL in a text by ***."""
    return URL_PASSWORD.sub(r"\g<head>:***@", text) if "://" in text else text


class LineFormatter(logging.Formatter):
    """Formats a record as one line, followed by the lines of a traceback; passwords are masked in both."""

    def format(self, record: logging.LogRecord) -> str:
        extra = "".join(f" {name}={_value(value)}" for name, value in _extra(record).items())
        sentence = record.getMessage().replace("\n", "\\n")
        line = f"{_time(record)} {record.levelname:<7} {record.name}: {sentence}{extra}"
        if record.exc_info:
            line += "\n" + _end_of(self.formatException(record.exc_info))
        return mask_passwords(line)


class JsonFormatter(logging.Formatter):
    """Formats a record as one JSON object on one line; passwords are masked.

    `time`, `level`, `logger`, `message`, `exception` (the traceback, if there is one), and the keys of `extra`.
    """

    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, Any] = {
            "time": _time(record),
            "level": record.levelname,
            "logger": record.name,
            "message": mask_passwords(record.getMessage()),
        }
        if record.exc_info:
            fields["exception"] = mask_passwords(_end_of(self.formatException(record.exc_info)))
        for name, value in _extra(record).items():
            plain = value if isinstance(value, int | float | bool | None) else mask_passwords(str(value))
            fields.setdefault(name, plain)
        return json.dumps(fields)


_FORMATTERS = {"text": LineFormatter, "json": JsonFormatter}
_ours = logging.StreamHandler(sys.stderr)
_level = logging.INFO


def set_up(level: str | int, layout: str = "text") -> None:
    """Log records of `level` (DEBUG, INFO, WARNING, ERROR) and above to stderr. A second call changes both.

    Where handlers are set up already, they are kept and ours is not added; `level` is then that of our own loggers.
    """
    global _level  # noqa: PLW0603  # logging itself is global
    _level = logging.getLevelNamesMapping()[level.upper()] if isinstance(level, str) else level
    _ours.stream = sys.stderr  # setStream flushes the one before it, which may be closed
    _ours.setFormatter(_FORMATTERS[layout]())
    for name, least in _QUIET.items():
        logging.getLogger(name).setLevel(least if _level > logging.DEBUG else logging.WARNING)
    _attach()


def name_role(role: str) -> None:
    """Add `role=` to each line of ours in this process, where several with different roles write into one log."""

    def add(record: logging.LogRecord) -> bool:
        record.__dict__.setdefault("role", role)
        return True

    _ours.addFilter(add)


@contextmanager
def loading() -> Iterator[None]:
    """Import a program inside the block: what it sets up of logging is what it gets.

    Its `basicConfig` does nothing where the root has a handler, so inside the block ours is at our own loggers alone.
    """
    root, own = logging.getLogger(), logging.getLogger(OURS)
    if _ours in root.handlers:
        root.removeHandler(_ours)
        root.setLevel(logging.WARNING)  # as it is in a fresh interpreter
        own.addHandler(_ours)
    try:
        yield
    finally:
        own.removeHandler(_ours)
        _attach()


def current() -> LogSetup:
    """How this process logs."""
    if _ours not in logging.getLogger().handlers:
        return LogSetup(logging.getLogger().level, None)
    return LogSetup(_level, "json" if isinstance(_ours.formatter, JsonFormatter) else "text")


def enable_again() -> None:
    """Enable our own loggers: `dictConfig` disables those that exist before it, unless it is told not to.

    A program may call it at any time, in a job too, and would read nothing of failed jobs any more.
    """
    for name, logger in list(logging.root.manager.loggerDict.items()):
        if isinstance(logger, logging.Logger) and name.partition(".")[0] == OURS:
            logger.disabled = False


def _attach() -> None:
    """Add our handler, unless the program has set up its own; then only the level of our loggers is ours."""
    root, own = logging.getLogger(), logging.getLogger(OURS)
    if any(handler is not _ours for handler in (*root.handlers, *own.handlers)):
        root.removeHandler(_ours)
        if own.level == logging.NOTSET:
            own.setLevel(_level)
        enable_again()
    else:
        root.setLevel(_level)
        if _ours not in root.handlers:
            root.addHandler(_ours)


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _extra(record: logging.LogRecord) -> dict[str, object]:
    return {name: value for name, value in vars(record).items() if name not in _STANDARD}


def _end_of(trace: str) -> str:
    """The end of a traceback: the text of an exception may be very long."""
    return trace if len(trace) <= MAX_TRACE_CHARS else f"…{trace[-MAX_TRACE_CHARS:]}"


def _value(value: object) -> str:
    text = str(value)
    return f'"{text}"' if " " in text or not text else text
