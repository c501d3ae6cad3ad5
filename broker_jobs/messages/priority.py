"""Defines the priorities of a job: within a queue, high before normal before low."""

from __future__ import annotations

from typing import Final, Literal

Priority = Literal["high", "normal", "low"]

PRIORITIES: tuple[Priority, ...] = ("high", "normal", "low")
"""In the order in which a worker starts what waits."""

NORMAL: Final[Priority] = "normal"
"""That of a job that names none."""
