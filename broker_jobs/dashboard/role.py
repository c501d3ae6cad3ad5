"""Defines roles and visitors. Pure: importing a role loads no web framework."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum


class Role(IntEnum):
    """What a visitor may do; each role includes those before it."""

    NONE = 0
    """Nothing."""
    VIEWER = 1
    """See everything that is not masked."""
    OPERATOR = 2
    """Act on jobs, queues, batches and recurring jobs."""
    ADMIN = 3
    """Also set limits, replay and delete dead letters, run jobs from a form and add recurring jobs."""


@dataclass(frozen=True)
class Visitor:
    """A person or program that may use the dashboard.

    Args:
        role: what the visitor may do.
        name: shown in the audit; empty: the name of the login method.
    """

    role: Role
    name: str = ""
