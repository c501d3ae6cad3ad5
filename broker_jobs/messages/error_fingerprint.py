"""Gives errors of one kind that were raised at one place the same fingerprint. Pure.

It is made of the type and of where the program's own code was, without line numbers, values and folders, so that it
stays the same over hosts, installations and small changes. The text of the message is left out, as it has values.
"""

from __future__ import annotations

import hashlib
import re

from broker_jobs.messages.events import ErrorInfo

MOST_FRAMES = 20
"""Of the innermost frames so many count: the outer ones of a deep call may have been cut from the traceback."""
_FRAME = re.compile(r'[ |]*File "([^"]*)", line \d+(?:, in (.*))?$')
_LINKS = frozenset(
    {
        "The above exception was the direct cause of the following exception:",
        "During handling of the above exception, another exception occurred:",
    }
)
_LIBRARY_FOLDERS = frozenset({"site-packages", "dist-packages", "broker_jobs"})


def fingerprint(error: ErrorInfo, job: str) -> str:
    """The fingerprint of an error: 16 hexadecimal digits. `job` counts where the traceback has no frames."""
    frames = _frames(error.traceback)
    own = [frame for frame in frames if is_own_code(frame[0])] or frames
    places = list(dict.fromkeys(f"{_short(file)}:{function}" for file, function in own))  # a recursion counts once
    parts = [error.type, *(places[-MOST_FRAMES:] or [job])]
    return hashlib.blake2b("\n".join(parts).encode("utf-8", "replace"), digest_size=8).hexdigest()


def is_own_code(file: str) -> bool:
    """Whether a file belongs to the program itself, not to a library."""
    parts = file.replace("\\", "/").split("/")
    return not (
        _LIBRARY_FOLDERS.intersection(parts)
        or file.startswith("<")
        or any(part.startswith("python3") for part in parts)
    )


def _frames(traceback: str) -> list[tuple[str, str]]:
    """(file, function) of the exception that was raised last; what its message says is not read as frames."""
    frames: list[tuple[str, str]] = []
    in_message = False
    for line in traceback.splitlines():
        if line in _LINKS:
            frames, in_message = [], False
        elif in_message:
            continue
        elif (match := _FRAME.match(line)) is not None:
            frames.append((match[1], match[2] or ""))
        elif frames and not line.startswith((" ", "|")):  # the line of the exception
            in_message = True
    return frames


def _short(file: str) -> str:
    """The file and the folder it is in: where a program is installed differs by host and release."""
    return "/".join(file.replace("\\", "/").split("/")[-2:])
