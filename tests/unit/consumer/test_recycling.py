"""A worker leaves after so many runs, or over so much memory: once, with its reason, and only if it is replaced."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from broker_jobs.consumer.recycling import Recycling


class Left:
    """What was said when a worker left."""

    def __init__(self) -> None:
        self.said: list[tuple[str, bool]] = []

    def __call__(self, reason: str, *, patient: bool = False) -> None:
        self.said.append((reason, patient))


def test_exactly_max_jobs_begin_in_many_threads() -> None:
    left = Left()
    recycling = Recycling(left, max_jobs=100, max_memory=None)
    with ThreadPoolExecutor(8) as pool:
        begun = list(pool.map(lambda _: recycling.begin(), range(400)))
    assert sum(begun) == 100
    assert left.said == [("it has taken 100 jobs, its max_jobs", True)]


def test_without_limits_nothing_leaves() -> None:
    left = Left()
    recycling = Recycling(left, max_jobs=None, max_memory=None)
    assert all(recycling.begin() for _ in range(1_000))
    recycling.look()
    assert left.said == []


def test_a_process_over_its_memory_leaves_once_after_it_has_run_something(caplog: pytest.LogCaptureFixture) -> None:
    left = Left()
    recycling = Recycling(left, max_jobs=None, max_memory=1)
    recycling.look()
    recycling.look()
    assert left.said == [], "a fresh process would take as much"
    assert caplog.text.count("before its first job") == 1
    recycling.begin()
    recycling.look()
    recycling.look()
    ((reason, patient),) = left.said
    assert "more than its max_memory of 1" in reason
    assert patient


def test_the_limits_do_not_hold_where_nothing_replaces_the_process(caplog: pytest.LogCaptureFixture) -> None:
    recycling = Recycling(None, max_jobs=1, max_memory=1)
    assert recycling.begin()
    assert recycling.begin()
    recycling.look()
    assert caplog.text == ""
    recycling.leave("a run outlives its timeout")
    recycling.leave("another one")
    assert "this worker should leave (a run outlives its timeout)" in caplog.text
    assert "another one" not in caplog.text
