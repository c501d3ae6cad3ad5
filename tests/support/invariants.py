"""What must be true of a store at any moment, as queries; tests of crashes end with it."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any

from sqlalchemy import select

from broker_jobs.messages import codec
from broker_jobs.messages.state import State
from broker_jobs.store import Store, schema
from broker_jobs.store.lines import Stage
from broker_jobs.store.row import Conditions, Publication, Row, WaitReason


def broken(store: Store) -> list[str]:
    """Every broken rule, as a sentence; empty when all is well."""
    reader = store.reader
    rows: list[Row] = []
    before: str | None = None
    while page := reader.jobs.newest(limit=500, before_id=before):
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
    kept = store.reader.statistics.counts()
    found = [
        f"{kept.get(state, 0)} jobs are counted as {state}, {number} are"
        for state, number in counted.items()
        if kept.get(state, 0) != number
    ]
    waiting = Counter(row.priority for row in rows if row.state is State.ENQUEUED and row.priority is not None)
    shown = Counter[str]()
    for queue in store.reader.queues.rows(0.0):
        shown.update(queue.waiting)
    if +shown != waiting:
        found.append(f"{dict(shown)} enqueued jobs are counted by priority, {dict(waiting)} are")
    return found


def _of_dependencies(store: Store, rows: dict[str, Row]) -> list[str]:
    """What waits has something that it waits for, and what has run waits for nothing.

    Dependencies may stay of a job that was deleted: unsatisfied ones, as it comes back with its parent, and all of one
    that a person deleted, as nobody looks at them again.
    """
    found = []
    of: dict[str, list[Any]] = defaultdict(list)
    marked = {(mark.kind, mark.target) for mark in _all(store, "work_items")}
    roots = {group.id: group.root for group in _all(store, "alias_groups")}
    shown = {
        id: rows.get(roots.get(row.alias_group or "", ""), row) if row.is_alias else row for id, row in rows.items()
    }
    marked |= {("job", id) for id, row in rows.items() if row.is_alias and ("group", row.alias_group) in marked}
    over = {("job", id) for id in rows if shown[id].state.is_final}
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
    for id, row in rows.items():
        unsatisfied = [dependency for dependency in of[id] if dependency.unsatisfied]
        parents = [dependency for dependency in of[id] if dependency.kind != "open"]  # that goes when its batch begins
        if row.state in (State.SUCCEEDED, State.FAILED) and parents:
            found.append(f"{id} has {row.state} and waits for {parents[0].target} still")
        if row.state is not State.AWAITING:
            continue
        if unsatisfied:
            found.append(f"{id} waits though {unsatisfied[0].target} ended otherwise")
        if row.waits & WaitReason.DEPENDENCY and not of[id]:
            found.append(f"{id} waits for a dependency, and has none")
    return found


def _of_batches(store: Store, rows: dict[str, Row]) -> list[str]:
    """A batch's open count is that of its members and sub-batches that have not ended."""
    found = []
    batches = {batch.id: batch for batch in _all(store, "batches")}
    ends: dict[str, Counter[str]] = defaultdict(Counter)
    for row in rows.values():
        if row.batch is not None and row.batch in batches and row.counted_as is not None:
            ends[row.batch][row.counted_as] += 1
            if not row.is_alias and row.counted_as != (row.state.value if row.state.is_final else "open"):
                found.append(f"{row.id} is {row.state} and counted as {row.counted_as}")
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
    """What lines say is what their entries are, and what the rows of jobs say."""
    found = []
    lines = {line.key: line for line in _all(store, "lines")}
    entries: dict[str, list[Any]] = defaultdict(list)
    of_job: dict[str, dict[str, Any]] = defaultdict(dict)
    for entry in _all(store, "line_entries"):
        entries[entry.key].append(entry)
        of_job[entry.job_id][entry.key] = entry
    for key, here in entries.items():
        line = lines.get(key)
        stages = Counter(entry.stage for entry in here)
        if line is None:
            found.append(f"{key} has entries and no line")
            continue
        if (line.taken, line.turns) != (stages[Stage.SLOT], stages[Stage.TURN]):
            found.append(f"{key} counts {line.taken} slots and {line.turns} turns, its entries are {dict(stages)}")
        if line.kind not in ("rate", "concurrency") and line.taken + line.turns > 1:
            found.append(f"{line.taken} slots and {line.turns} turns of {key}, which has one")
        if line.limit_set is None and line.kind == "concurrency" and line.rank == line.limit_code:
            if line.taken + line.turns > line.limit_code:
                found.append(f"{line.taken} slots and {line.turns} turns of {key}, which has {line.limit_code}")
        for entry in here:
            found += _of_entry(line, entry, rows.get(entry.job_id))
    for key, line in lines.items():
        if (line.taken or line.turns) and key not in entries:
            found.append(f"{key} counts {line.taken} slots and {line.turns} turns, and has no entries")
    for id, row in rows.items():
        if row.waits & WaitReason.UNKNOWN:
            kept = [entry.key for entry in of_job[id].values() if entry.stage != Stage.PLACE]
            if row.publication is not Publication.NONE or kept:
                found.append(f"{id} is held as unknown, is {row.publication!r} and has more than places: {kept}")
        waits = [entry.key for entry in of_job[id].values() if entry.stage == Stage.WAITS]
        if bool(row.waits & WaitReason.LINE) != (len(waits) == 1):
            found.append(f"{id} waits for {row.waits} and stands in {waits}")
        if (row.state is State.AWAITING) != bool(row.waits):
            found.append(f"{id} is {row.state} and waits for {row.waits}")
        if (
            row.publication is not Publication.NONE
            and row.fence < row.epoch
            and row.envelope
            and not row.state.is_final
        ):
            for limit in codec.decode(row.envelope).limits:
                entry = of_job[id].get(f"{limit.kind}:{limit.key}")
                if limit.kind != "rate" and (entry is None or entry.stage != Stage.SLOT):
                    found.append(f"{id} is out ({row.state}) and has no slot of {limit.kind}:{limit.key}")
    return found + _of_unique_keys(store, rows)


def _of_entry(line: Any, entry: Any, row: Row | None) -> list[str]:
    if row is None:
        return [f"{entry.job_id} is not known and stands in {entry.key}"]
    if row.is_alias:
        return [f"{row.id} is an alias and stands in {entry.key}"]
    is_clear = row.publication is Publication.NONE and row.grace_until is None
    if entry.stage == Stage.SLOT:
        kept = line.kind in ("ordered", "overlap") and row.is_waiting and row.conditions & Conditions.RELEASED
        return [f"{row.id} has a slot of {entry.key} and runs nowhere"] if is_clear and not kept else []
    if not row.is_waiting:
        return [f"{row.id} is {row.state} and waits in {entry.key}"]
    return []


def _of_unique_keys(store: Store, rows: dict[str, Row]) -> list[str]:
    found = []
    waits_after = set()
    for key in _all(store, "unique_keys"):
        row = rows.get(key.job_id)
        if row is None or row.is_alias:
            found.append(f"the key {key.key} has {key.job_id}, which is {'unknown' if row is None else 'an alias'}")
            continue
        is_clear = row.publication is Publication.NONE and row.grace_until is None
        if key.scope != "window" and row.state.is_final and is_clear:
            found.append(f"the key {key.key} has {key.job_id}, which is gone")
        if key.after is not None:
            waits_after.add(key.job_id)
            before = rows.get(key.after)
            if before is None or (before.publication is Publication.NONE and before.grace_until is None):
                found.append(f"{key.job_id} waits for its key behind {key.after}, which runs nowhere")
    for id, row in rows.items():
        if bool(row.waits & WaitReason.UNIQUE) != (id in waits_after):
            found.append(f"{id} waits for {row.waits!r}, and its key says otherwise")
    roots = {group.id: group.root for group in _all(store, "alias_groups")}
    for id, row in rows.items():
        root = rows.get(roots.get(row.alias_group or "", ""))
        if row.is_alias and (root is None or root.is_alias):
            found.append(f"{id} is an alias of {row.alias_group}, whose root is {roots.get(row.alias_group or '')}")
    return found


def _all(store: Store, table: str) -> list[Any]:
    with store.reader._reading() as connection:
        return list(connection.execute(select(schema.metadata.tables[table])))
