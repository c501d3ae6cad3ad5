"""Works off a bulk command: one decision a job, a page a transaction, in the order of ids.

What is left is kept in the mark itself: behind which id to go on, and up to which there was a job when the command
came. So it ends, also where jobs do not change by it and while new ones come; and how far it is stands in the audit,
where the command's reply is kept.
"""

from __future__ import annotations

from collections.abc import Callable

from pydantic import BaseModel, ConfigDict

from broker_jobs.clock import Instant
from broker_jobs.coordinator.records import GivenUp, JobRecord
from broker_jobs.coordinator.rows import Rows
from broker_jobs.coordinator.state_machine.context import Decision
from broker_jobs.messages.commands import BulkDelete, BulkFail, BulkRequeue, DeleteJob, JobFilter, Reply, RequeueJob
from broker_jobs.messages.state import FINAL, State
from broker_jobs.store.records import WorkItemRow
from broker_jobs.store.selection import JobSelection
from broker_jobs.store.write import Transaction

DELETE, REQUEUE, FAIL = "bulk delete", "bulk requeue", "bulk fail"
KINDS = (DELETE, REQUEUE, FAIL)
NOT_ENDED = tuple(state for state in State if not state.is_final)


class BulkRemainder(BaseModel):
    """What is left of a bulk command, as its mark keeps it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    filter: JobFilter
    by: str
    since: Instant
    """When it came, by the latest clock: jobs made later are not meant."""
    until: str
    """The highest id there was then."""
    after: str = ""
    """The last id looked at."""
    done: int = 0
    refused: int = 0


def begin(tx: Transaction, command: BulkDelete | BulkRequeue | BulkFail, now: Instant) -> WorkItemRow | str:
    """The mark of a bulk command, or why it is refused."""
    state = command.filter.state
    if isinstance(command, BulkRequeue) and state is not None and state not in FINAL:
        return f"only ended jobs can be requeued together, not {state} ones: failed, deleted or succeeded"
    if isinstance(command, BulkFail) and state not in (None, State.AWAITING):
        return f"only held jobs can be failed together, which no living worker knows, not {state} ones"
    until, since = tx.selector.extent(now)
    left = BulkRemainder(filter=command.filter, by=command.by, since=since, until=until)
    return WorkItemRow(command.kind, command.id, left.model_dump_json(exclude_none=True))


def started() -> dict[str, object]:
    """The detail of the first reply; the audit's grows with the pages."""
    return {"started": True, "finished": False, "done": 0, "refused": 0}


def work(
    tx: Transaction,
    work_item: WorkItemRow,
    limit: int,
    *,
    rows: Rows,
    decide: Callable[[JobRecord], Decision],
    now: Instant,
) -> tuple[WorkItemRow | None, int]:
    """Work off a page: what is left of the mark (None: nothing), and how many jobs were decided.

    Args:
        tx: the transaction.
        work_item: of a bulk command.
        limit: jobs it may decide.
        rows: the jobs of the transaction, written as they are now.
        decide: decides one record.
        now: wall time.
    """
    left = BulkRemainder.model_validate_json(work_item.outcome)
    wanted = wanted_of(work_item.kind, left.filter, left.since)
    page = tx.selector.matching(wanted, after=left.after, until=left.until, limit=limit)
    rows.see(page.ids)
    done = refused = 0
    for id in page.ids:
        row = rows[id]
        if row.state not in wanted.states or (row.is_alias and not wanted.aliases):
            continue  # decided a moment ago, in this transaction
        if _decide(work_item, left.by, id, decide, now).refused is None:
            done += 1
        else:
            refused += 1
    left = left.model_copy(update={"after": page.after, "done": left.done + done, "refused": left.refused + refused})
    detail = {"started": True, "finished": page.done, "done": left.done, "refused": left.refused}
    tx.audit.note(work_item.target, Reply(id=work_item.target, detail=detail).model_dump_json(exclude_none=True))
    rest = None if page.done else WorkItemRow(work_item.kind, work_item.target, left.model_dump_json(exclude_none=True))
    return rest, len(page.ids)


def _decide(
    work_item: WorkItemRow, by: str, id: str, decide: Callable[[JobRecord], Decision], now: Instant
) -> Decision:
    if work_item.kind == DELETE:
        return decide(DeleteJob(id=work_item.target, at=now, by=by, job_id=id))
    if work_item.kind == FAIL:
        return decide(GivenUp(id, by))
    return decide(RequeueJob(id=work_item.target, at=now, by=by, job_id=id))


def wanted_of(kind: str, given: JobFilter, since: Instant) -> JobSelection:
    """Which jobs a bulk command means that came at `since`."""
    usual = tuple(State) if given.ids is not None else NOT_ENDED if kind == DELETE else (State.FAILED,)
    unknown = given.unknown or kind == FAIL
    if unknown:  # they wait for something other than time
        usual = (State.AWAITING,)
    return JobSelection(
        states=usual if given.state is None else (given.state,), queue=given.queue, job=given.job, batch=given.batch,
        recurring=given.recurring, tag=given.tag, created_from=given.created_after, created_before=given.created_before,
        known_at=since, error_text=given.error_text, ids=None if given.ids is None else tuple(given.ids),
        aliases=kind == DELETE, unknown=unknown,
    )  # fmt: skip
