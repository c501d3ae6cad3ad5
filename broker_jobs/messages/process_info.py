"""Describes the process that sends a message: host, process id, version of this library."""

from __future__ import annotations

import os
import socket
from importlib.metadata import PackageNotFoundError, version
from typing import NamedTuple


class ProcessInfo(NamedTuple):
    """Host name, process id and version of this library."""

    host: str = ""
    pid: int = 0
    version: str = ""


def this_process() -> ProcessInfo:
    """The info of this process. Read at each call, as a forked child is another process."""
    try:
        known = version("broker-jobs")
    except PackageNotFoundError:  # not installed: run from a source folder
        known = ""
    return ProcessInfo(socket.gethostname(), os.getpid(), known)
