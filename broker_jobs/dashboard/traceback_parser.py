"""Reads the text of a Python traceback, for showing it: errors that led to one another, each with its frames. Pure.

The text comes from wherever a job ran, cut in the middle at times, and is believed nothing: what is no traceback gives
no frames, and its reader shows the text itself.
"""

from __future__ import annotations

import re

from broker_jobs.dashboard.views import Frame, RaisedView

MOST_FRAMES = 500

_FRAME = re.compile(r'^[ |]*File "([^"\n]{0,1000})", line (\d{1,9})(?:, in ([^\n]{0,1000}))?$')
_BEGINS = "Traceback (most recent call last):"
_LINKS = {
    "The above exception was the direct cause of the following exception:": "cause",
    "During handling of the above exception, another exception occurred:": "context",
}
_MARKS = frozenset(" ~^|")


def errors_of(traceback: str) -> list[RaisedView]:
    """The errors in a traceback, the first one raised first; empty where it is none."""
    found: list[RaisedView] = []
    frames: list[Frame] = []
    said: list[str] = []
    led = ""
    left = MOST_FRAMES
    inside = False
    for line in traceback.splitlines():
        bare = line.strip(" |+-")
        if bare == _BEGINS:
            inside = True
        elif bare in _LINKS:
            _close(found, frames, said, led)
            frames, said, led, inside = [], [], _LINKS[bare], False
        elif (match := _FRAME.match(line)) is not None and left:
            file, number, function = match.groups()
            frames.append(Frame(file=file, line=int(number), function=function or "", code=""))
            said, inside, left = [], True, left - 1
        elif inside and frames and not said and line.startswith(("    ", "  |   ")):
            if not set(line) <= _MARKS:
                code = frames[-1].code
                frames[-1] = frames[-1].model_copy(update={"code": f"{code}\n{bare}" if code else bare})
        elif inside and frames and not said and bare.startswith("[Previous line repeated"):
            frames[-1] = frames[-1].model_copy(update={"code": f"{frames[-1].code}\n{bare}"})
        elif inside and frames and (bare or said):
            said.append(line.strip("\r"))
    _close(found, frames, said, led)
    return found


def _close(found: list[RaisedView], frames: list[Frame], said: list[str], led: str) -> None:
    if frames:
        error = "\n".join(said).strip()
        found.append(RaisedView(error=error, frames=frames, led_by=led))  # type: ignore[arg-type]  # of _LINKS, or empty
