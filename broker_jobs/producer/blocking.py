"""Warns where a blocking call stops an event loop."""

from __future__ import annotations

import asyncio
import warnings


def warn_if_blocking(call: str, instead: str, until: str = "RabbitMQ confirms") -> None:
    """Warn, once per line of the program, when this thread runs an event loop.

    To be called by the public method itself: the line that is named is that of its caller.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    instead = instead if instead.startswith("async ") else f"await {instead}"
    warnings.warn(f"{call} blocks the event loop until {until}; write {instead}", RuntimeWarning, stacklevel=3)
