"""Decides a command that changes workers: which are meant, whether they can do it, and what they are told.

A change is kept until its worker is gone, so that one who missed the broadcast gets it with the next snapshot.
"""

from __future__ import annotations

from broker_jobs.messages.commands import ChangeWorker
from broker_jobs.messages.control import WorkerChange
from broker_jobs.served_queues import ServedQueues
from broker_jobs.store.records import WorkerRow
from broker_jobs.store.write import Transaction


def change(tx: Transaction, command: ChangeWorker) -> list[WorkerChange] | str:
    """What each worker does from now on, or why the command is refused. All workers that are meant change, or none."""
    if bool(command.worker) == bool(command.host):
        return "name either one worker or a host"
    if command.concurrency is None and command.queues is None and command.queue_limits is None:
        return "nothing changes: give a concurrency, queues or limits of queues"
    named = f"the id {command.worker}" if command.worker else f"host {command.host}"
    rows = [
        row for row in tx.processes.workers() if command.worker == row.id or (command.host and command.host == row.host)
    ]
    alive = [row for row in rows if not row.lost]
    if not alive:
        return f"no worker with {named} is running" + ("; it has left or was declared dead" if rows else "")
    before = tx.processes.changes()
    changed: list[WorkerChange] = []
    for row in alive:
        known = WorkerChange.model_validate_json(before[row.id]) if row.id in before else None
        made = _changed(row, known, command)
        if isinstance(made, str):
            return made if len(alive) == 1 else f"worker {row.id}: {made}"
        changed.append(made)
    for each in changed:
        tx.processes.save_change(each.workers[0], each.model_dump_json())
    return changed


def _changed(row: WorkerRow, known: WorkerChange | None, command: ChangeWorker) -> WorkerChange | str:
    """What a worker does from now on: what it was told before, and the new on top."""
    concurrency = known.concurrency if command.concurrency is None and known else command.concurrency
    queues = known.queues if command.queues is None and known else command.queues
    limits = known.queue_limits if command.queue_limits is None and known else command.queue_limits
    now_served = list(row.served or row.queues) if queues is None else queues
    if command.queue_limits is None and limits is not None:  # those of queues that are served no more fall away
        names = {written.partition(":")[0] for written in now_served}
        limits = {queue: limit for queue, limit in limits.items() if queue in names}
    try:
        ServedQueues.parse(now_served, limits)
    except ValueError as error:
        return str(error)
    return WorkerChange(id=command.id, workers=[row.id], concurrency=concurrency, queues=queues, queue_limits=limits)


def told(command: ChangeWorker, changed: list[WorkerChange]) -> dict[str, object]:
    """What the audit and the answer say."""
    asked = command.model_dump(include={"concurrency", "queues", "queue_limits"}, exclude_none=True)
    return {"workers": [worker for each in changed for worker in each.workers], **asked}
