"""Names what somebody may do in the dashboard, and who they are. Pure: naming a role loads no web framework."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum


class Role(IntEnum):
    """What somebody may do; each may do what those before it may."""

    NONE = 0
    """Nothing."""
    VIEWER = 1
    """See everything that is not masked."""
    OPERATOR = 2
    """Act on jobs, queues, batches and recurring jobs."""
    ADMIN = 3
    """Set limits, replay and delete dead letters, run jobs from a form and add recurring jobs too."""


@dataclass(frozen=True)
class Visitor:
    """Somebody who may come in.

    Args:
        role: what they may do.
        name: who they are, for the audit; empty: the dashboard says how they came in.
    """

    role: Role
    name: str = ""
