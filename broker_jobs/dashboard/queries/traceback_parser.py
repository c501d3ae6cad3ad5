"""Parses the text of a Python traceback into its chain of exceptions, each with its stack frames. Pure.

The text comes from a worker, may be cut in the middle, and is not trusted. Text that is no traceback gives no
exceptions, and the page shows the text itself.
"""

from __future__ import annotations

import re

from broker_jobs.dashboard.views import ExceptionView, StackFrame

MAX_FRAMES = 500

_FRAME = re.compile(r'^[ |]*File "([^"\n]{0,1000})", line (\d{1,9})(?:, in ([^\n]{0,1000}))?$')
_BEGINS = "Traceback (most recent call last):"
_LINKS = {
    "The above exception was the direct cause of the following exception:": "cause",
    "During handling of the above exception, another exception occurred:": "context",
}
_MARKS = frozenset(" ~^|")


def parse_traceback(traceback: str) -> list[ExceptionView]:
    """The exceptions in a traceback, the first one raised first; empty where the text is none."""
    found: list[ExceptionView] = []
    frames: list[StackFrame] = []
    message: list[str] = []
    link = ""
    left = MAX_FRAMES
    inside = False
    for line in traceback.splitlines():
        bare = line.strip(" |+-")
        if bare == _BEGINS:
            inside = True
        elif bare in _LINKS:
            _close(found, frames, message, link)
            frames, message, link, inside = [], [], _LINKS[bare], False
        elif (match := _FRAME.match(line)) is not None and left:
            file, number, function = match.groups()
            frames.append(StackFrame(file=file, line=int(number), function=function or "", code=""))
            message, inside, left = [], True, left - 1
        elif inside and frames and not message and line.startswith(("    ", "  |   ")):
            if not set(line) <= _MARKS:
                code = frames[-1].code
                frames[-1] = frames[-1].model_copy(update={"code": f"{code}\n{bare}" if code else bare})
        elif inside and frames and not message and bare.startswith("[Previous line repeated"):
            frames[-1] = frames[-1].model_copy(update={"code": f"{frames[-1].code}\n{bare}"})
        elif inside and frames and (bare or message):
            message.append(line.strip("\r"))
    _close(found, frames, message, link)
    return found


def _close(found: list[ExceptionView], frames: list[StackFrame], message: list[str], link: str) -> None:
    if frames:
        error = "\n".join(message).strip()
        found.append(ExceptionView(error=error, frames=frames, link=link))  # type: ignore[arg-type]  # of _LINKS, or empty
