"""Says what the name of a program may be, its service name as OpenTelemetry calls it, and how its code is named."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import Field

MAX_SERVICE_CHARS = 100
SERVICE_PATTERN = "[A-Za-z0-9][A-Za-z0-9._-]*"
_NAME = re.compile(SERVICE_PATTERN)
ServiceText = Annotated[str, Field(max_length=MAX_SERVICE_CHARS, pattern=rf"^({SERVICE_PATTERN})?$")]
"""The name of a program in a message; empty: it has none."""
MAX_KNOWN_JOBS = 10_000
"""Jobs that a worker lists in its hello."""
CodeDigest = Annotated[str, Field(max_length=64, pattern="^[0-9a-f]*$")]
"""Names the set of jobs that a program has."""


def why_no_service_name(name: str) -> str | None:
    """Why this is no name of a program, and what to write instead; None: it is one, or it is empty."""
    if not name or (len(name) <= MAX_SERVICE_CHARS and _NAME.fullmatch(name)):
        return None
    shown = name if len(name) <= MAX_SERVICE_CHARS else f"{name[:MAX_SERVICE_CHARS]}…"
    return (
        f"{shown!r} is not the name of a program; write 1 to {MAX_SERVICE_CHARS} letters, digits, dots, hyphens and "
        "underscores that begin with a letter or digit, such as shop or shop.mail"
    )
