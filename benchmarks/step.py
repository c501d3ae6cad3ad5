"""Runs one step of a row in a process of its own: `python -m benchmarks.step STEP '{"argument": …}'`.

Its result is the last line that it prints, as JSON.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks import bare, meter


def publish_one(library: str, seconds: float, count: int = 0) -> dict[str, Any]:
    """Send empty jobs one after the other for a while, or a number of them."""
    connection = _connection(library)
    connection.send_empty()  # connects
    sent = 0
    start = now = time.perf_counter()
    cpu = time.process_time()
    while sent < count if count else now - start < seconds:
        connection.send_empty()
        sent += 1
        now = time.perf_counter()
    result = {"count": sent, "seconds": now - start, "cpu": time.process_time() - cpu}
    connection.close()
    return result


def publish_many(library: str, count: int, rounds: int = 1) -> dict[str, Any]:
    """Send empty jobs pipelined, in several rounds."""
    connection = _connection(library)
    connection.send_many(200)  # connects
    seconds, cpus = [], []
    for _ in range(rounds):
        start, cpu = time.perf_counter(), time.process_time()
        connection.send_many(count)
        seconds.append(time.perf_counter() - start)
        cpus.append(time.process_time() - cpu)
    connection.close()
    return {"count": count, "seconds": seconds, "cpu": sum(cpus)}


def publish_paced(library: str, rate: float, seconds: float) -> dict[str, Any]:
    """Send empty jobs at a rate, twenty times a second."""
    connection = _connection(library)
    connection.send_many(1)
    sent = 0
    cpu = time.process_time()
    start = time.perf_counter()
    while (passed := time.perf_counter() - start) < seconds:
        due = int(min(passed + 0.05, seconds) * rate) - sent
        if due > 0:
            connection.send_many(due)
            sent += due
        time.sleep(max(0.0, passed + 0.05 - (time.perf_counter() - start)))
    result = {"count": sent + 1, "seconds": time.perf_counter() - start, "cpu": time.process_time() - cpu}
    connection.close()
    return result


def publish_stamps(library: str, count: int, gap: float) -> dict[str, Any]:
    """Send stamps with a pause between them, so that the system is idle at each."""
    connection = _connection(library)
    for _ in range(count):
        connection.send_stamp()
        time.sleep(gap)
    connection.close()
    return {"count": count}


def schedule(file: str) -> dict[str, Any]:
    """Schedule stamps with us, at the instants that a file lists."""
    ours = importlib.import_module("benchmarks.libraries.ours")
    dues = json.loads(Path(file).read_text())
    start = time.perf_counter()
    ours.schedule_at(dues)
    return {"seconds": time.perf_counter() - start}


def schedule_far(count: int) -> dict[str, Any]:
    """Schedule empty jobs for next month with us."""
    ours = importlib.import_module("benchmarks.libraries.ours")
    start = time.perf_counter()
    ours.schedule_far(count)
    return {"count": count, "seconds": time.perf_counter() - start}


def publish_children(count: int, gap: float) -> dict[str, Any]:
    """Send parents with a child each to us, with a pause between them, so that the system is idle at each."""
    ours = importlib.import_module("benchmarks.libraries.ours")
    for _ in range(count):
        ours.send_family()
        time.sleep(gap)
    ours.jobs.stop()
    return {"count": count}


def publish_batch(count: int) -> dict[str, Any]:
    """Send one batch of empty jobs to us, and a child that stamps when it has ended."""
    ours = importlib.import_module("benchmarks.libraries.ours")
    began = time.perf_counter()
    ours.connect()
    start = time.perf_counter()
    ours.send_batch(count)
    seconds = time.perf_counter() - start
    rss = meter.memory(os.getpid()).rss
    ours.jobs.stop()
    return {"count": count, "seconds": seconds, "before": start - began, "rss": rss}


def publish_limited(count: int, slots: int) -> dict[str, Any]:
    """Send empty jobs that share slots to us."""
    ours = importlib.import_module("benchmarks.libraries.ours")
    start = time.perf_counter()
    ours.send_limited(count, slots)
    seconds = time.perf_counter() - start
    ours.jobs.stop()
    return {"count": count, "seconds": seconds}


def publish_delayed(count: int, seconds: float) -> dict[str, Any]:
    """Enqueue empty jobs with us that come due at one instant."""
    ours = importlib.import_module("benchmarks.libraries.ours")
    ours.connect()
    start = time.perf_counter()
    ours.send_delayed(count, time.time() + seconds)
    took = time.perf_counter() - start
    if took > seconds:
        raise RuntimeError(
            f"publishing took {took:.1f} s, they were due after {seconds:.1f} s: the machine is too busy"
        )
    ours.jobs.stop()
    return {"count": count, "seconds": took}


def publish_families(count: int) -> dict[str, Any]:
    """Send empty jobs to us, each with a child."""
    ours = importlib.import_module("benchmarks.libraries.ours")
    ours.send_families(count)
    ours.jobs.stop()
    return {"count": count}


def publish_siblings(count: int) -> dict[str, Any]:
    """Send one parent to us that ends when all of its children are here."""
    ours = importlib.import_module("benchmarks.libraries.ours")
    ours.send_siblings(count)
    ours.jobs.stop()
    return {"count": count}


def put_schedules(count: int) -> dict[str, Any]:
    """Declare schedules of every second with us."""
    ours = importlib.import_module("benchmarks.libraries.ours")
    ours.put_schedules(count)
    ours.jobs.stop()
    return {"count": count}


def consume(url: str, kind: str, stamping: bool = False) -> None:
    """Consume with bare pika until ended."""
    bare.consume(url, kind, stamping=stamping)


def store_rows(url: str, count: int, how: str, rounds: int) -> dict[str, Any]:
    """Write rows of jobs, through the store or with plain SQLAlchemy."""
    rows = importlib.import_module("benchmarks.rows.store_rows")
    result: dict[str, Any] = rows.write(url, count, how, rounds)
    return result


def records(url: str, full: int, count: int, rounds: int) -> dict[str, Any]:
    """Apply records of the log, on a store with many jobs."""
    rows = importlib.import_module("benchmarks.rows.records")
    result: dict[str, Any] = rows.write(url, full, count, rounds)
    return result


def schedules(url: str, count: int, rounds: int) -> dict[str, Any]:
    """Fire many schedules."""
    rows = importlib.import_module("benchmarks.rows.schedules")
    result: dict[str, Any] = rows.write(url, count, rounds)
    return result


def pages_fill(url: str, count: int) -> dict[str, Any]:
    """Fill a store with the jobs of a busy month."""
    rows = importlib.import_module("benchmarks.rows.pages_fill")
    result: dict[str, Any] = rows.fill(url, count)
    return result


def pages_read(url: str, what: str) -> dict[str, list[float]]:
    """Seconds of each read of the dashboard, or of each page."""
    rows = importlib.import_module("benchmarks.rows.pages_read")
    return {name: [wall for wall, _ in times] for name, times in rows.measure(url, what).items()}


def line(url: str, long: int, count: int, rounds: int) -> dict[str, Any]:
    """Let jobs through a limit that many wait for."""
    rows = importlib.import_module("benchmarks.rows.lines")
    result: dict[str, Any] = rows.pass_through(url, long, count, rounds)
    return result


STEPS = {
    step.__name__: step
    for step in (
        publish_one,
        publish_many,
        publish_paced,
        publish_stamps,
        publish_children,
        publish_batch,
        publish_limited,
        publish_delayed,
        publish_families,
        publish_siblings,
        put_schedules,
        schedule,
        schedule_far,
        consume,
        store_rows,
        records,
        line,
        schedules,
        pages_fill,
        pages_read,
    )
}


def _connection(library: str) -> Any:
    return importlib.import_module(f"benchmarks.libraries.{library}").Enqueuer()


if __name__ == "__main__":
    print(json.dumps(STEPS[sys.argv[1]](**json.loads(sys.argv[2]))))
