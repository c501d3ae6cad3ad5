"""The board shows the runs of a process to its supervisor, whatever the process does."""

from __future__ import annotations

import multiprocessing
import threading

from broker_jobs.processes.run_board import BoardRun, RunBoard
from tests.support.wait import eventually


def _write(board: RunBoard) -> None:
    board.begin("in another process", 7, 5.0)


def test_a_run_is_on_the_board_until_it_ends() -> None:
    board = RunBoard(2)
    second = board.begin("second", 2, 20.0)
    first = board.begin("x" * 100, 2**53, 10.5)
    assert board.runs() == [BoardRun("x" * 100, 2**53, 10.5), BoardRun("second", 2, 20.0)]
    board.end(first)
    assert board.runs() == [BoardRun("second", 2, 20.0)]
    board.end(second)
    assert board.runs() == []


def test_what_has_no_room_is_not_shown() -> None:
    board = RunBoard(1)
    places = [board.begin(str(number), 1, 0.0) for number in range(100)]
    assert len(board.runs()) == 64
    assert places[64:] == [None] * 36
    for place in places:
        board.end(place)
    assert board.runs() == []
    assert board.begin("again", 1, 0.0) is not None


def test_it_is_shared_with_a_spawned_process_and_outlives_it() -> None:
    board = RunBoard(2)
    process = multiprocessing.get_context("spawn").Process(target=_write, args=(board,))
    process.start()
    process.join()
    assert board.runs() == [BoardRun("in another process", 7, 5.0)]


def test_a_reader_never_sees_half_a_run() -> None:
    board = RunBoard(2)
    stop = threading.Event()
    known = {("a" * 50, 1), ("b" * 100, 2)}

    def write() -> None:
        while not stop.is_set():
            for id, epoch in known:
                board.end(board.begin(id, epoch, 1.0))

    thread = threading.Thread(target=write)
    thread.start()
    seen: set[tuple[str, int]] = set()

    def look() -> bool:
        seen.update((run.id, run.epoch) for run in board.runs())
        return seen == known

    try:
        eventually(look, 60, "both seen")
        for _ in range(2_000):
            look()
    finally:
        stop.set()
        thread.join()
    assert seen == known
