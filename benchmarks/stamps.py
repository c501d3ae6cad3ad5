"""Writes and reads when jobs started: lines of "<expected> <started>", by the wall clock that all processes share."""

import os
import time
from pathlib import Path

_file: int | None = None


def stamp(expected: float) -> None:
    """Record that a job sent, or due, at `expected` starts now. It is one write, as several processes append."""
    global _file  # noqa: PLW0603  # opened by the first job of a process, after any fork
    now = time.time()
    if _file is None:
        _file = os.open(os.environ["BENCH_STAMPS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(_file, f"{expected!r} {now!r}\n".encode())


def read(path: Path) -> list[tuple[float, float]]:
    """All stamps, in the order they were written."""
    if not path.exists():
        return []
    lines = (line.split() for line in path.read_text().splitlines())
    return [(float(expected), float(started)) for expected, started in lines]


def count(path: Path) -> int:
    """The number of stamps."""
    return path.read_bytes().count(b"\n") if path.exists() else 0
