"""Says whether a process is healthy, and if not, why."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class Health:
    """The state of a process. `ok` decides between HTTP 200 and 503.

    `reasons` says why it is not healthy, each with what to do about it. `components` shows each part.
    """

    ok: bool
    components: dict[str, Any] = field(default_factory=dict)
    reasons: tuple[str, ...] = ()
