"""Measures processes from outside: processor time and memory, of a process and all it has started."""

from __future__ import annotations

import contextlib
from typing import NamedTuple

import psutil


class Memory(NamedTuple):
    """Megabytes of a process and its children."""

    rss: float
    pss: float
    """As rss, with shared pages divided among the processes that share them; rss if the system does not report it."""


def cpu_seconds(pid: int) -> float:
    """Processor time a process and its living children have used."""
    seconds = 0.0
    for process in _family(pid):
        with contextlib.suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            seconds += times.user + times.system
    return seconds


def memory(pid: int) -> Memory:
    """What a process and its living children hold now."""
    rss = pss = 0
    for process in _family(pid):
        with contextlib.suppress(psutil.NoSuchProcess):
            full = process.memory_full_info()
            rss += full.rss
            pss += getattr(full, "pss", full.rss)
    return Memory(rss / 1e6, pss / 1e6)


def _family(pid: int) -> list[psutil.Process]:
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []
