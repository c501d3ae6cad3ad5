"""What must be true of a store at any moment, as queries; tests of crashes end with it."""

from __future__ import annotations

from broker_jobs.job.state import State
from broker_jobs.store import Store
from broker_jobs.store.row import Row, Wire


def broken(store: Store) -> list[str]:
    """Every broken rule, as a sentence; empty when all is well."""
    reader = store.reader
    rows: list[Row] = []
    before: str | None = None
    while page := reader.jobs(limit=500, before_id=before):
        rows += page
        before = page[-1].id
    return [sentence for row in rows for sentence in _of_row(row)] + _of_counters(store, rows)


def _of_row(row: Row) -> list[str]:
    found = []
    if not row.state.is_final and row.wire is Wire.NONE and row.due_at is None and row.state is not State.AWAITING:
        found.append(f"{row.id} is {row.state} and nothing will move it")
    if row.state is State.ENQUEUED and row.wire is Wire.NONE:
        found.append(f"{row.id} is enqueued and nothing of it is out")
    if row.state is State.PROCESSING and (row.owner is None or row.wire is not Wire.OUT):
        found.append(f"{row.id} runs nowhere")
    if (row.wire is Wire.SENDING) != (row.sender is not None):
        found.append(f"{row.id} is sent by nobody, or not sent and has a sender")
    if row.wire is Wire.NONE and row.state is State.ENQUEUED:
        found.append(f"{row.id} waits in a queue that does not have it")
    if row.state.is_final != (row.ended_at is not None):
        found.append(f"{row.id} is {row.state} and its end is {row.ended_at}")
    if row.due_at is not None and row.released_at is not None and row.state is State.ENQUEUED:
        if row.released_at < row.due_at and row.epoch > 1:
            found.append(f"{row.id} was released {row.due_at - row.released_at:.3f} s before it was due")
    if row.fence > row.epoch:
        found.append(f"{row.id} is fenced up to {row.fence}, beyond its epoch {row.epoch}")
    return found


def _of_counters(store: Store, rows: list[Row]) -> list[str]:
    counted = dict.fromkeys(State, 0)
    for row in rows:
        counted[row.state] += 1
    kept = store.reader.counts()
    return [
        f"{kept.get(state, 0)} jobs are counted as {state}, {number} are"
        for state, number in counted.items()
        if kept.get(state, 0) != number
    ]
