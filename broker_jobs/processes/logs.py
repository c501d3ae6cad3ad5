"""Sets logging up for our own processes: one structured line per record on stderr, passwords in URLs masked.

A library leaves logging to the program, so nothing calls this in yours. A line is
`time level logger: sentence key=value…`; the keys are those of `extra`.
"""

from __future__ import annotations

import logging
import re
import sys
from datetime import UTC, datetime

URL_PASSWORD = re.compile(r"(?P<head>\b[a-z][a-z0-9+.-]*://[^\s:/@]*):(?!password@)[^\s/]+@", re.IGNORECASE)
"""The password in a URL. It extends to the last @ before a slash, as a password may contain @. The word "password" is
left as it is: it occurs in examples."""

MAX_TRACE_CHARS = 50_000
"""The end of a traceback that is logged."""

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_QUIET = {"uvicorn": logging.WARNING, "asyncio": logging.WARNING, "pika": logging.WARNING, "kombu": logging.WARNING}


def mask_passwords(text: str) -> str:
    """Replace the password of every URL in a text by ***."""
    return URL_PASSWORD.sub(r"\g<head>:***@", text) if "://" in text else text


class LineFormatter(logging.Formatter):
    """Formats a record as one line, followed by the lines of a traceback; passwords are masked in both."""

    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        extra = "".join(f" {name}={_value(value)}" for name, value in vars(record).items() if name not in _STANDARD)
        sentence = record.getMessage().replace("\n", "\\n")
        line = f"{at} {record.levelname:<7} {record.name}: {sentence}{extra}"
        if record.exc_info:
            line += "\n" + _end_of(self.formatException(record.exc_info))
        return mask_passwords(line)


def set_up(level: str) -> None:
    """Log records of `level` (DEBUG, INFO, WARNING, ERROR) and above to stderr. A second call changes the level."""
    root = logging.getLogger()
    root.setLevel(level.upper())
    if not any(isinstance(handler.formatter, LineFormatter) for handler in root.handlers):
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(LineFormatter())
        root.addHandler(handler)
    for name, least in _QUIET.items():
        logging.getLogger(name).setLevel(max(least, root.level))


def name_role(role: str) -> None:
    """Add `role=` to each line of this process, where several with different roles write into one log."""

    def add(record: logging.LogRecord) -> bool:
        record.__dict__.setdefault("role", role)
        return True

    for handler in logging.getLogger().handlers:
        if isinstance(handler.formatter, LineFormatter):
            handler.addFilter(add)


def _end_of(trace: str) -> str:
    """The end of a traceback: the text of an exception may be very long."""
    return trace if len(trace) <= MAX_TRACE_CHARS else f"…{trace[-MAX_TRACE_CHARS:]}"


def _value(value: object) -> str:
    text = str(value)
    return f'"{text}"' if " " in text or not text else text
