"""Says where a process runs and which version: what coordinators and beats tell of themselves, as workers do."""

from __future__ import annotations

import os
import socket
from importlib.metadata import PackageNotFoundError, version
from typing import NamedTuple


class ProcessInfo(NamedTuple):
    """A process among all: its host's name, its number there, its version of this library."""

    host: str = ""
    pid: int = 0
    version: str = ""


def this_process() -> ProcessInfo:
    """Of this process, now: a fork is another one."""
    try:
        known = version("broker-jobs")
    except PackageNotFoundError:  # run from a folder
        known = ""
    return ProcessInfo(socket.gethostname(), os.getpid(), known)
