"""Measures what a job costs that waits behind many others for a slot of one limit, without a broker."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any

from benchmarks.databases import Address, databases
from benchmarks.figure import Figure, Row
from benchmarks.harness import Harness, Sandbox
from broker_jobs.coordinator.engine import Engine
from broker_jobs.coordinator.inputs import Input
from broker_jobs.coordinator.records import FromWorker, Released, WaitingCopy
from broker_jobs.messages import codec
from broker_jobs.messages.envelope import Envelope, LimitKey, Policy, new_id
from broker_jobs.messages.events import Succeeded
from broker_jobs.store import Store
from broker_jobs.store.row import Row as JobRow

LONG = (1_000, 10_000, 100_000)
SLOTS = 100


def lines(harness: Harness) -> Row:
    """Processor time for a job to succeed and the next in its line to be released, behind a short and a long line."""
    row = Row(f"Lines: a limit of {SLOTS} slots, without a broker")
    with harness.sandbox() as sandbox, databases(sandbox) as addresses:
        for database, url in addresses.items():
            _measure(row, harness, sandbox, database, url)
    return row


def _measure(row: Row, harness: Harness, sandbox: Sandbox, database: str, url: Address) -> None:
    for long in LONG[:2] if harness.scale.quick else LONG:
        arguments = {"url": url(f"line{long}"), "long": long, "rounds": harness.scale.rounds}
        done = sandbox.result(sandbox.begin("line", count=harness.scale.of(5_000), **arguments), timeout=900)
        cpu = tuple(seconds / done["count"] * 1e6 for seconds in done["cpu"])
        measure = f"{database}, {long:,} jobs in the line"
        row.add(Figure(measure, "a job", "ours", "us", cpu, less_is_better=True, compared=False))
        longest = tuple(seconds * 1e3 for seconds in done["longest"])
        row.add(Figure(measure, "longest transaction", "ours", "ms", longest, less_is_better=True, compared=False))


def pass_through(url: str, long: int, count: int, rounds: int) -> dict[str, Any]:
    """Let jobs of a limit succeed while the line behind them stays as long as it was."""
    store = Store(url)
    store.open()
    engine = Engine(store, "bench", since=time.time())
    released: list[JobRow] = []
    for start in range(0, long + SLOTS, 1_000):
        copies = [_copy() for _ in range(min(1_000, long + SLOTS - start))]
        released += engine.apply(copies, time.time()).releases
    cpus, longest = [], []
    for _ in range(rounds):
        cpu, worst, done = time.process_time(), 0.0, 0
        while done < count:
            batch, released = released, []
            confirmed: list[Input] = [Released(row.id, row.epoch) for row in batch]
            ended: list[Input] = [_success(row) for row in batch]
            for inputs in (confirmed, [*ended, *(_copy() for _ in batch)]):
                began = time.perf_counter()
                released += engine.apply(inputs, time.time()).releases
                worst = max(worst, time.perf_counter() - began)
            done += len(batch)
        cpus.append(time.process_time() - cpu)
        longest.append(worst)
    store.close()
    return {"count": count, "cpu": cpus, "longest": longest}


def _copy() -> WaitingCopy:
    envelope = Envelope(
        id=new_id(), job="limited", created_at=datetime.now(UTC), epoch=0, policy=Policy(retries=10),
        limits=(LimitKey(kind="concurrency", key="bench", limit=SLOTS),),
    )  # fmt: skip
    return WaitingCopy(envelope, codec.encode(envelope).decode())


def _success(row: JobRow) -> FromWorker:
    now = time.time()
    return FromWorker("w1", Succeeded(id=row.id, epoch=row.epoch, started_at=now, ended_at=now, result="null"), "bench")
