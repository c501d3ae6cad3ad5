"""Durable files to which many processes append: what jobs, producers and faults did, one JSON line each."""

from __future__ import annotations

import json
import multiprocessing
import os
import time
from functools import cache
from pathlib import Path
from typing import Any

RUNS = "runs.jsonl"
ACCEPTED = "accepted.jsonl"
FAULTS = "faults.jsonl"
COMMANDS = "commands.jsonl"


class Journal:
    """One such file. A line is one write to a file opened for appending: lines do not mix, a kill -9 leaves them."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def write(self, what: str, **fields: Any) -> None:
        """Append a line with the times and the process that writes it. CLOCK_MONOTONIC is one for all processes."""
        supervisor = multiprocessing.parent_process()  # faults strike it together with its worker processes
        pid = os.getpid() if supervisor is None else supervisor.pid
        line = {"what": what, "mono": time.monotonic(), "wall": time.time(), "pid": pid, **fields}
        os.write(self._file, json.dumps(line).encode() + b"\n")

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)


@cache
def journal_of(folder: str, name: str) -> Journal:
    """The journal of this process in a folder."""
    return Journal(Path(folder) / name)


def read(path: Path) -> list[dict[str, Any]]:
    """All lines in their order; none while there is no file."""
    try:
        text = path.read_text()
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in text.splitlines()]
