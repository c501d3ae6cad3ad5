"""Accepts, opens and abandons batch submissions: chunks, then a commit, then the beginning.

Until its submission is accepted a member takes nothing. The commit, with all the chunks that it counts and that of the
submission around it, is the acceptance of all members. They begin when the batch waits for nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from broker_jobs.coordinator.cascade import Cascade, Kind
from broker_jobs.coordinator.conditions.batch_rows import BatchRows
from broker_jobs.coordinator.conditions.dependencies import WAITS_FOR_ITSELF, DependencyRules, Verdict, named
from broker_jobs.coordinator.queries import batch_holder
from broker_jobs.coordinator.rows import Rows
from broker_jobs.messages.batch import BatchCommit, Chunk
from broker_jobs.messages.state import State
from broker_jobs.store.records import DependencyRow, SubmissionRow
from broker_jobs.store.row import Row, WaitReason

NEVER_COMMITTED = "its batch was never completed"
CANCELLED = "its batch was deleted"
ABANDONED = "its batch had been abandoned"
ACCEPTED = "accepted"
OPENED = "opened"
UNACCEPTED, WAITING = "commit", "begin"
"""What a member waits for: the commit of its submission, or the beginning of its batch."""


class ChunkTooLateError(Exception):
    """A chunk brings jobs when its submission has begun, or in place of another chunk with its number."""


class Members(NamedTuple):
    """A page of the members of a submission."""

    accepted: list[str]
    """To be admitted."""
    begun: list[str]
    """Those that waited for their batch, to be asked again."""
    abandoned: list[str]
    is_last: bool


class BatchRules:
    """Batch submissions, in one transaction."""

    def __init__(self, rows: Rows, cascade: Cascade, batch_rows: BatchRows, dependencies: DependencyRules) -> None:
        self._rows = rows
        self._tx = rows.tx
        self._cascade = cascade
        self._batches = batch_rows
        self._dependencies = dependencies

    # ---- what arrives

    def takes(self, chunk: Chunk) -> bool:
        """Whether a chunk is to be taken: it counts once, however often it comes."""
        submission = self._submission(chunk.submission, chunk.batch)
        if submission.opened and not _is_abandoned(submission):
            return False
        return self._tx.submissions.take_chunk(chunk.submission, chunk.number)

    def add(self, chunk: Chunk, members: Iterable[str]) -> str | None:
        """The members of a chunk are known: they wait. Why they end at once, if their submission was abandoned."""
        submission = self._submission(chunk.submission, chunk.batch)
        abandoned = _is_abandoned(submission)
        since = self._rows.at.log_now
        self._tx.dependencies.add(
            DependencyRow(id, "open", chunk.submission, UNACCEPTED, abandoned, since) for id in members
        )
        batch = self._batches.made(chunk.batch, chunk.created_at)
        if abandoned and batch.state == State.AWAITING.value:
            batch.state = State.PROCESSING.value  # was not known when it was abandoned: it ends with these
        submission.seen += 1
        self._tx.submissions.save(submission)
        return ABANDONED if abandoned else None

    def seen(self, chunk: Chunk) -> None:
        """All members of a chunk are counted: its submission may be complete."""
        submission = self._tx.submissions.get(chunk.submission)
        if submission is not None:
            self._advance(submission)

    def commit(self, commit: BatchCommit) -> None:
        """A submission is complete when the chunks its commit counts are there."""
        submission = self._submission(commit.submission, commit.batch)
        if submission.chunks is not None:
            return
        if commit.abandoned:
            if not submission.opened:
                self._abandon_submission(submission, NEVER_COMMITTED)
            return
        batch = self._batches.made(commit.batch, commit.created_at)
        batch.title = commit.title or batch.title
        if commit.parent is not None:
            self._batches.put_inside(batch, commit.parent, commit.created_at)
        for inside in commit.batches:  # their commits come before this one as a rule
            self._batches.put_inside(self._batches.made(inside, commit.created_at), commit.batch, commit.created_at)
        submission.chunks, submission.parent_submission = commit.chunks, commit.parent_submission
        self._tx.submissions.save(submission)
        above = [] if batch.parent is None else self._batches.around(batch.parent)
        waits_for_itself = (
            self._dependencies.leads_up(self._batches.around(batch.id), named(commit.parents))
            or (bool(above) and self._dependencies.leads_up(above, [("batch", batch.id)]))
            or self._dependencies.waits_for_its_inside(commit.batch, commit.parents, commit.parent_submission)
        )
        if waits_for_itself:
            self.abandon(commit.batch, WAITS_FOR_ITSELF)
            return
        holder = batch_holder(commit.batch)
        self._dependencies.wait_for(holder, commit.parents)
        verdict = self._dependencies.judge(holder)
        around = self._around(commit)
        if verdict.unsatisfied is not None or (around is not None and _is_abandoned(around)):
            self.abandon(commit.batch, verdict.unsatisfied or ABANDONED)
            return
        self._advance(submission)

    def _submission(self, id: str, batch: str) -> SubmissionRow:
        return self._tx.submissions.get(id) or SubmissionRow(id, batch, since=self._rows.at.log_now)

    def _around(self, commit: BatchCommit) -> SubmissionRow | None:
        """The submission a batch was made in; kept from now on, so that it is abandoned if it is never committed."""
        if commit.parent_submission is None:
            return None
        known = self._tx.submissions.get(commit.parent_submission)
        if known is None and commit.parent is not None and commit.parent_submission != commit.submission:
            known = SubmissionRow(commit.parent_submission, commit.parent, since=self._rows.at.log_now)
            self._tx.submissions.save(known)
        return known

    # ---- acceptance and beginning

    def _advance(self, submission: SubmissionRow) -> None:
        """Accept a submission that is complete, and open it where its batch may begin; so those made inside it."""
        changed = [submission]
        for one in changed:  # no recursion: batches may be inside batches a thousand deep
            if self._has_advanced(one):
                changed += self._tx.submissions.unopened(under=one.id)

    def _has_advanced(self, submission: SubmissionRow) -> bool:
        if submission.opened or submission.chunks is None or submission.seen < submission.chunks:
            return False
        above: SubmissionRow | None = None
        if submission.parent_submission is not None:
            above = self._tx.submissions.get(submission.parent_submission)
            if above is None or not (above.accepted or above.opened):
                return False
        begins = (above is None or above.opened) and not self._tx.dependencies.of([batch_holder(submission.batch)])
        if submission.accepted and not begins:
            return False
        submission.accepted, submission.opened = True, begins
        self._tx.submissions.save(submission)
        self._tx.submissions.forget_chunks(submission.id)
        self._cascade.add(Kind.OPEN, submission.id, OPENED if begins else ACCEPTED)
        batch = self._batches.made(submission.batch, self._rows.at.now)
        if begins:
            self._batches.begin(batch)
        return True

    def members(self, submission_id: str, state: str, limit: int) -> Members:
        """A page of the members of a submission that is accepted, open or abandoned."""
        if state not in (ACCEPTED, OPENED):
            page = self._tx.dependencies.members_of(submission_id, (UNACCEPTED, WAITING), limit)
            self._tx.dependencies.mark_unsatisfied(page)
            return Members([], [], [dependency.holder for dependency in page], len(page) < limit)
        phases = (UNACCEPTED,) if state == ACCEPTED else (UNACCEPTED, WAITING)
        page = self._tx.dependencies.members_of(submission_id, phases, limit)
        if state == ACCEPTED:
            self._tx.dependencies.set_phase(page, WAITING)
        else:
            self._tx.dependencies.drop(page)
        accepted = [dependency.holder for dependency in page if dependency.on_end == UNACCEPTED]
        begun = [dependency.holder for dependency in page if dependency.on_end == WAITING]
        return Members(accepted, begun, [], len(page) < limit)

    def judged(self, id: str, verdict: Verdict) -> None:
        """What a batch waits for has changed."""
        if verdict.unsatisfied is not None:
            self.abandon(id, verdict.unsatisfied)
        elif not verdict.open:
            for submission in self._tx.submissions.unopened(batch=id):
                self._advance(submission)

    # ---- what can not begin any more

    def never_committed(self, before: float) -> None:
        """Submissions known since before a log time whose commit never came: nothing of them starts or stays."""
        for submission in self._tx.submissions.uncommitted(before, limit=100):
            self._abandon_submission(submission, NEVER_COMMITTED)

    def _abandon_submission(self, submission: SubmissionRow, reason: str) -> None:
        """Nothing of a submission starts, nor of those that were made inside it and would have begun with it."""
        abandoned = [submission]
        for one in abandoned:
            one.accepted, one.opened = False, True
            self._tx.submissions.save(one)
            self._tx.submissions.forget_chunks(one.id)
            self._cascade.add(Kind.OPEN, one.id, reason)
            batch = self._batches.get(one.batch)
            if batch is not None and batch.state == State.AWAITING.value:
                batch.state = State.PROCESSING.value
            abandoned += self._tx.submissions.unopened(under=one.id)

    def delete(self, id: str) -> bool | None:
        """Delete what has not ended, in batches inside it too; None: no such batch, False: it has ended."""
        batch = self._batches.get(id)
        if batch is None:
            return None
        if batch.ended_at is not None:
            return False
        self.abandon(id, CANCELLED, deletes=True)
        return True

    def abandon(self, id: str, reason: str, *, deletes: bool = False) -> None:
        """Nothing of a batch that has not begun shall begin; it ends when its members have. `deletes`: those too that
        have begun."""
        abandoned = [id]
        for one in abandoned:
            if self._is_abandoned_alone(one, reason, deletes=deletes):
                abandoned += self._batches.inside(one)

    def _is_abandoned_alone(self, id: str, reason: str, *, deletes: bool) -> bool:
        """Whether there was something to abandon, so that the batches inside it are asked too."""
        batch = self._batches.get(id)
        if batch is None:
            return False
        for submission in self._tx.submissions.unopened(batch=id):
            submission.accepted, submission.opened = False, True  # what comes later of those inside it is abandoned too
            self._tx.submissions.save(submission)
            self._cascade.add(Kind.OPEN, submission.id, reason)  # a member's parents do not revive it
        if batch.ended_at is not None:
            return False
        if batch.state == State.AWAITING.value:
            batch.state = State.PROCESSING.value
        if deletes:
            self._cascade.add(Kind.DELETE_MEMBERS, id)
        return True

    def is_uncommitted(self, row: Row) -> bool:
        """Whether a job is a member of a submission that is not complete, deleted or not."""
        if row.waits & WaitReason.COMMIT:
            return True
        if row.batch is None or row.state is not State.DELETED:
            return False
        found = self._tx.dependencies.of([row.id])
        return any(d.kind == "open" and d.on_end == UNACCEPTED and not d.unsatisfied for d in found)


def _is_abandoned(submission: SubmissionRow) -> bool:
    """Whether it was closed before all of it had come, so that its members do not begin."""
    return submission.opened and not submission.accepted
