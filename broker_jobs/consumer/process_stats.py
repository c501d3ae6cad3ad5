"""Reads how much of the machine this process uses; psutil only here."""

from __future__ import annotations

import psutil


def virtual_bytes() -> int:
    """The address space that this process takes."""
    return int(psutil.Process().memory_info().vms)


def resident_bytes(pid: int | None) -> int:
    """The memory that a process takes; 0 if it has ended or the system refuses."""
    if pid is None:
        return 0
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return 0


class ProcessStats:
    """CPU and memory of this process."""

    def __init__(self) -> None:
        self._process = psutil.Process()
        self._process.cpu_percent()  # the first call only starts the measurement

    def rss_bytes(self) -> int:
        """Resident memory; 0 where the system refuses."""
        try:
            return int(self._process.memory_info().rss)
        except psutil.Error:
            return 0

    def read(self) -> tuple[float, int]:
        """(CPU in percent of one core since the last call, resident bytes); zeros where the system refuses."""
        try:
            return self._process.cpu_percent(), self._process.memory_info().rss
        except psutil.Error:
            return 0.0, 0
