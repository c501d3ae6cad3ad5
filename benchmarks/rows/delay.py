"""Measures delays: how late jobs are on an idle system, and how fast many due jobs start. None may be early."""

from __future__ import annotations

import json
import random
import time

from benchmarks import stamps
from benchmarks.figure import Figure, Row, percentile
from benchmarks.harness import Harness, Sandbox, wait_for
from benchmarks.rows.whole import System

LEAD_SECONDS = 4.0
"""Between the last publish and the first due time of many."""


def delay(harness: Harness) -> Row:
    """Lateness from due time to the first line of the function, by the machine's one clock."""
    row = Row("Delayed jobs")
    longest = harness.scale.seconds(20)
    many = harness.scale.of(20_000)
    for measure, step in (
        (f"300 delays of 10 ms to {longest:.0f} s, idle", _idle),
        (f"{many:,} due within {harness.scale.seconds(10):.0f} s", _spread),
        (f"{many:,} due at one instant", _at_once),
    ):
        with harness.sandbox() as sandbox:
            system = System(sandbox, harness.broker.pid)
            late, rate = step(harness, sandbox)
            system.close()
        row.add(*_figures(measure, late, rate))
    return row


def _idle(harness: Harness, sandbox: Sandbox) -> tuple[list[float], float | None]:
    longest = harness.scale.seconds(20)
    logarithmic = [0.01 * (longest / 0.01) ** random.random() for _ in range(100)]
    even = [random.uniform(0.01, longest) for _ in range(200)]
    start = time.time() + 1.5
    _schedule(sandbox, sorted(start + each for each in logarithmic + even))
    return _collect(sandbox, 300, longest + 30), None


def _spread(harness: Harness, sandbox: Sandbox) -> tuple[list[float], float | None]:
    count, seconds = harness.scale.of(20_000), harness.scale.seconds(10)
    start = time.time() + count / 1_500 + LEAD_SECONDS
    took = _schedule(sandbox, [start + seconds * number / count for number in range(count)])
    _must_be_ahead(start, took)
    late = _collect(sandbox, count, start - time.time() + seconds + 120)
    return late, _rate(sandbox)


def _at_once(harness: Harness, sandbox: Sandbox) -> tuple[list[float], float | None]:
    count = harness.scale.of(20_000)
    start = time.time() + count / 1_500 + LEAD_SECONDS
    took = _schedule(sandbox, [start] * count)
    _must_be_ahead(start, took)
    late = _collect(sandbox, count, start - time.time() + 120)
    return late, _rate(sandbox)


def _schedule(sandbox: Sandbox, dues: list[float]) -> float:
    """Schedule stamps; the seconds it took."""
    file = sandbox.folder / "dues"
    file.write_text(json.dumps(dues))
    return float(sandbox.run("schedule", file=str(file))["seconds"])


def _collect(sandbox: Sandbox, count: int, timeout: float) -> list[float]:
    wait_for(lambda: stamps.count(sandbox.stamps) >= count, f"{count} jobs to come due", timeout, poll=0.2)
    return [(started - due) * 1000 for due, started in stamps.read(sandbox.stamps)]


def _rate(sandbox: Sandbox) -> float:
    starts = [started for _, started in stamps.read(sandbox.stamps)]
    return len(starts) / (max(starts) - min(starts))


def _must_be_ahead(start: float, took: float) -> None:
    if time.time() > start:
        raise RuntimeError(f"publishing took {took:.1f} s, the first was due before its end: the machine is too busy")


def _figures(measure: str, late: list[float], rate: float | None) -> list[Figure]:
    early = sum(1 for each in late if each < 0)
    note = "none early" if early == 0 else f"{early} EARLY, by up to {-min(late):.2f} ms"
    figures = [
        Figure(measure, f"late, {name}", "ours", "ms", (value,), less_is_better=True, compared=False)
        for name, value in (("p50", percentile(late, 50)), ("p99", percentile(late, 99)), ("max", max(late)))
    ]
    figures[0] = Figure(
        measure, "late, p50", "ours", "ms", (percentile(late, 50),), less_is_better=True, compared=False, note=note
    )
    if rate is not None:
        figures.append(Figure(measure, "came due and started", "ours", "/s", (rate,), compared=False))
    return figures
