"""Sets logging up: one structured line a record on stderr, with the passwords of addresses masked.

A library leaves logging to the program; only our own processes call this. A line is
`time level logger: sentence key=value…`; the keys are what a caller put into `extra`.
"""

from __future__ import annotations

import logging
import re
import sys
from datetime import UTC, datetime

URL_PASSWORD = re.compile(r"(?P<head>\b[a-z][a-z0-9+.-]*://[^\s:/@]*):(?!password@)[^\s/]+@", re.IGNORECASE)
"""The password of an address; greedy up to the last @ before a slash, as passwords hold @ now and then. The word
"password" itself stands in examples."""

MAX_TRACE_CHARS = 50_000
"""Of one traceback in the log."""

_OWN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_QUIET = {"uvicorn": logging.WARNING, "asyncio": logging.WARNING, "pika": logging.WARNING, "kombu": logging.WARNING}


def mask_passwords(text: str) -> str:
    """The text with the password of every address in it replaced by ***."""
    return URL_PASSWORD.sub(r"\g<head>:***@", text) if "://" in text else text


class LineFormatter(logging.Formatter):
    """Writes a record as one line; a traceback follows on lines of its own. Masks what it writes, tracebacks too."""

    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        extra = "".join(f" {name}={_value(value)}" for name, value in vars(record).items() if name not in _OWN)
        sentence = record.getMessage().replace("\n", "\\n")
        line = f"{at} {record.levelname:<7} {record.name}: {sentence}{extra}"
        if record.exc_info:
            line += "\n" + _end_of(self.formatException(record.exc_info))
        return mask_passwords(line)


def set_up(level: str) -> None:
    """Send records of `level` (DEBUG, INFO, WARNING, ERROR) and above to stderr. Called twice it changes the level."""
    root = logging.getLogger()
    root.setLevel(level.upper())
    if not any(isinstance(handler.formatter, LineFormatter) for handler in root.handlers):
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(LineFormatter())
        root.addHandler(handler)
    for name, least in _QUIET.items():
        logging.getLogger(name).setLevel(max(least, root.level))


def _end_of(trace: str) -> str:
    """A traceback, without its beginning where an exception's text makes it endless."""
    return trace if len(trace) <= MAX_TRACE_CHARS else f"…{trace[-MAX_TRACE_CHARS:]}"


def _value(value: object) -> str:
    text = str(value)
    return f'"{text}"' if " " in text or not text else text
