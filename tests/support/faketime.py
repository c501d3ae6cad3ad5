"""Gives a process a wall clock of its own, which a test sets while it runs; its monotonic clock stays true."""

from __future__ import annotations

import time
from pathlib import Path

from tests.support.process import ServerMissingError

SEEN_SECONDS = 1
"""The process looks so often how its clock is set."""


def _find_library() -> Path:
    found = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
    if not found:
        raise ServerMissingError("libfaketime is not installed; on Debian: sudo apt-get install libfaketime")
    return found[0]


class FakeClock:
    """The wall clock of the processes that are started with its `environment`."""

    def __init__(self, folder: Path) -> None:
        self._library = _find_library()
        self._file = folder / "faketime"
        self.offset = 0.0
        self.set(0.0)

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs in its environment to have this clock."""
        return {
            "LD_PRELOAD": str(self._library),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_CACHE_DURATION": str(SEEN_SECONDS),
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "DONT_FAKE_MONOTONIC": "1",
        }

    def set(self, seconds: float) -> None:
        """Set it ahead of the true time by so many seconds; a running process sees it within a second or two."""
        fresh = self._file.with_suffix(".new")
        fresh.write_text(f"{seconds:+.0f}\n")
        fresh.replace(self._file)
        self.offset = seconds

    def now(self) -> float:
        """What it shows."""
        return time.time() + self.offset
