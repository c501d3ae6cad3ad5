"""Shows a supervisor what a worker process runs, in memory that both share, even while the process does not answer.

A run is written down before its function is called, by the thread that calls it. So the supervisor knows it even if the
function keeps the GIL from its first moment. Both write and read without a lock: a lock would be held by a process that
is killed.
"""

from __future__ import annotations

import multiprocessing
import struct
from typing import NamedTuple

from broker_jobs.clock import Instant

_RECORD = struct.Struct("=HQd100s")
"""Length of the id, epoch, start, id."""
_SIZE = 128
_USED = b"\1"
_FREE = b"\0"
_FIRST = 1
"""Before the record is the byte that says whether it is used."""
FEWEST_PLACES = 64
MOST_PLACES = 4_096


class BoardRun(NamedTuple):
    """A run that is on the board."""

    id: str
    epoch: int
    started_at: Instant


class RunBoard:
    """The runs of one worker process, which writes it. Its supervisor reads it. A spawned process inherits it."""

    def __init__(self, concurrency: int) -> None:
        """`concurrency`: of the process. Runs beyond twice of it, or beyond 4,096, are not shown."""
        self._places = min(max(FEWEST_PLACES, 2 * concurrency), MOST_PLACES)
        self._memory = multiprocessing.get_context("spawn").RawArray("c", self._places * _SIZE)
        self._free = list(range(self._places))

    def begin(self, id: str, epoch: int, started_at: Instant) -> int | None:
        """Write a run down; its place on the board, None if there is no room."""
        try:
            place = self._free.pop()  # one step of the interpreter, as is the append below
        except IndexError:
            return None
        text = id.encode("ascii", "replace")[:100]
        _RECORD.pack_into(self._memory, place * _SIZE + _FIRST, len(text), epoch, started_at, text)
        self._memory[place * _SIZE] = _USED
        return place

    def end(self, place: int | None) -> None:
        """Remove a run."""
        if place is not None:
            self._memory[place * _SIZE] = _FREE
            self._free.append(place)

    def runs(self) -> list[BoardRun]:
        """What the process runs now, or ran when it ended."""
        found = []
        for offset in range(0, self._places * _SIZE, _SIZE):
            if self._memory[offset] != _USED:
                continue
            record = self._memory[offset : offset + _SIZE]
            if record[:1] != _USED or record != self._memory[offset : offset + _SIZE]:
                continue  # it is being written
            length, epoch, started_at, text = _RECORD.unpack_from(record, _FIRST)
            found.append(BoardRun(text[:length].decode("ascii", "replace"), epoch, started_at))
        return sorted(found, key=lambda run: run.started_at)
