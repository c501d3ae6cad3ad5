"""What must be true of a store at any moment, as queries; tests of crashes end with it."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any

from sqlalchemy import select

from broker_jobs.messages import codec
from broker_jobs.messages.state import State
from broker_jobs.store import Store, schema
from broker_jobs.store.limits import Stage
from broker_jobs.store.row import Publication, Row


def broken(store: Store) -> list[str]:
    """Every broken rule, as a sentence; empty when all is well."""
    reader = store.reader
    rows: list[Row] = []
    before: str | None = None
    while page := reader.jobs(limit=500, before_id=before):
        rows += page
        before = page[-1].id
    found = [sentence for row in rows for sentence in _of_row(row)] + _of_counters(store, rows)
    known = {row.id: row for row in rows}
    return found + _of_dependencies(store, known) + _of_batches(store, known) + _of_limits(store, known)


def _of_row(row: Row) -> list[str]:
    found = []
    if (
        not row.state.is_final
        and row.publication is Publication.NONE
        and row.due_at is None
        and row.state is not State.AWAITING
    ):
        found.append(f"{row.id} is {row.state} and nothing will move it")
    if row.state is State.ENQUEUED and row.publication is Publication.NONE:
        found.append(f"{row.id} is enqueued and nothing of it is out")
    if row.state is State.PROCESSING and (row.owner is None or row.publication is not Publication.PUBLISHED):
        found.append(f"{row.id} runs nowhere")
    if (row.publication is Publication.PUBLISHING) != (row.sender is not None):
        found.append(f"{row.id} is sent by nobody, or not sent and has a sender")
    if row.publication is Publication.NONE and row.state is State.ENQUEUED:
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


def _of_dependencies(store: Store, rows: dict[str, Row]) -> list[str]:
    """What waits has something that it waits for, and what has run waits for nothing.

    Dependencies may stay of a job that was deleted: unsatisfied ones, as it comes back with its parent, and all of one
    that a person deleted, as nobody looks at them again.
    """
    found = []
    of: dict[str, list[Any]] = defaultdict(list)
    marked = {(mark.kind, mark.target) for mark in _all(store, "work_items")}
    over = {("job", id) for id, row in rows.items() if row.state.is_final}
    over |= {("batch", batch.id) for batch in _all(store, "batches") if batch.ended_at is not None}
    over |= {("open", submission.id) for submission in _all(store, "batch_submissions") if submission.opened}
    for dependency in _all(store, "dependencies"):
        of[dependency.holder].append(dependency)
        holder = rows.get(dependency.holder)
        waits = dependency.holder.startswith("batch:") or (holder is not None and holder.state is State.AWAITING)
        target = (dependency.kind, dependency.target)
        if waits and not dependency.unsatisfied and target in over - marked:
            found.append(
                f"{dependency.holder} waits for {dependency.kind} {dependency.target}, which is over, and nobody "
                "will tell it"
            )
    in_line = {slot.job_id for slot in _all(store, "slots") if slot.taken == Stage.WAITS}
    for id, row in rows.items():
        unsatisfied = [dependency for dependency in of[id] if dependency.unsatisfied]
        if row.state in (State.SUCCEEDED, State.FAILED) and of[id]:
            found.append(f"{id} has {row.state} and waits for {of[id][0].target} still")
        if row.state is not State.AWAITING:
            continue
        if unsatisfied:
            found.append(f"{id} waits though {unsatisfied[0].target} ended otherwise")
        before = row.recurring and any(
            other.recurring == row.recurring and other.id != id and not other.state.is_final for other in rows.values()
        )
        if not of[id] and id not in in_line and not before:
            found.append(f"{id} waits for nothing")
    return found


def _of_batches(store: Store, rows: dict[str, Row]) -> list[str]:
    """A batch's open count is that of its members and sub-batches that have not ended."""
    found = []
    batches = {batch.id: batch for batch in _all(store, "batches")}
    ends: dict[str, Counter[str]] = defaultdict(Counter)
    for row in rows.values():
        if row.batch is not None and row.batch in batches:
            ends[row.batch][row.state.value if row.state.is_final else "open"] += 1
    for batch in batches.values():
        if batch.parent in batches:
            ends[batch.parent][batch.state if batch.ended_at is not None else "open"] += 1
    for id, batch in batches.items():
        kept = {name: getattr(batch, name) for name in ("open", "succeeded", "failed", "deleted")}
        right = {name: ends[id][name] for name in kept}
        if kept != right:
            found.append(f"batch {id} keeps {kept}, its members are {right}")
        if (batch.ended_at is not None) != State(batch.state).is_final:
            found.append(f"batch {id} is {batch.state} and its end is {batch.ended_at}")
        if batch.state == State.PROCESSING and not batch.open:
            found.append(f"batch {id} has nothing open and has not ended")
    return found


def _of_limits(store: Store, rows: dict[str, Row]) -> list[str]:
    """No more slots of a limit are taken than it has, each by a job that has not ended; and who is out has one.

    But for a message that is fenced: it must not run, and its job takes a slot when it is released again.
    A limit that a person has set is left out of the first: it may be lower than what was taken before.
    """
    found = []
    changed = {limit.key for limit in _all(store, "limits")}
    taken: dict[str, list[Any]] = defaultdict(list)
    for slot in _all(store, "slots"):
        row = rows.get(slot.job_id)
        if row is not None and row.state.is_final:
            found.append(f"{slot.job_id} has {row.state} and has or waits for a slot of {slot.key}")
        if slot.taken == Stage.TAKEN:
            taken[slot.key].append(slot)
    for key, slots in taken.items():
        most = max(slot.most for slot in slots)
        if key not in changed and len(slots) > most:
            found.append(f"{len(slots)} slots of {key} are taken, it has {most}")
    for row in rows.values():
        if row.publication is Publication.NONE or row.fence >= row.epoch or not row.envelope:
            continue
        for limit in codec.decode(row.envelope).limits:
            name = f"{limit.kind}:{limit.key}"
            if limit.kind != "rate" and not row.state.is_final and row.id not in {slot.job_id for slot in taken[name]}:
                found.append(f"{row.id} is out ({row.state}) and has no slot of {name}")
    return found


def _all(store: Store, table: str) -> list[Any]:
    with store.reader._reading() as connection:
        return list(connection.execute(select(schema.metadata.tables[table])))
