"""Answers who asks, in one transaction: from the rows as they are after all of its inputs, or when an end comes."""

from __future__ import annotations

from broker_jobs.broker.interface import Message
from broker_jobs.coordinator.conditions.batch_rows import BatchRows
from broker_jobs.coordinator.inputs import CommandReceived
from broker_jobs.coordinator.queries import Waiters, answer, batch_holder, batch_view, failure_view, page, reply, view
from broker_jobs.coordinator.rows import Rows
from broker_jobs.messages.commands import GetBatch, GetJob, ListFailures, Reply
from broker_jobs.messages.state import State
from broker_jobs.store.row import Row
from broker_jobs.store.write import Transaction


class Replies:
    """Questions and their answers, in one transaction.

    Args:
        tx: the transaction.
        waiters: callers that wait for an end, from one transaction to the next.
        rows: the jobs.
        batches: the batches.
    """

    def __init__(self, tx: Transaction, waiters: Waiters, rows: Rows, batches: BatchRows) -> None:
        self._tx = tx
        self._waiters = waiters
        self._rows = rows
        self._batches = batches
        self._asked: list[CommandReceived] = []
        self.messages: list[Message] = []
        """What is published after the commit."""
        self.told: list[str] = []
        """Jobs and batches whose end is answered by them."""

    def ask(self, asked: CommandReceived) -> None:
        """Keep a question about a job or batch until all inputs are decided."""
        self._asked.append(asked)

    def reply(self, asked: CommandReceived, given: Reply) -> None:
        """Answer one who wants an answer."""
        if asked.reply_to:
            self.messages.append(reply(asked.reply_to, given))

    def ended(self, row: Row) -> None:
        """A job has ended: who waits for that is answered; if it has become an alias, when its root has ended."""
        if not self._waiters.waits_for(row.id):
            return
        root = self._rows.root(row)
        if root.state.is_final:
            self.messages += self._waiters.ended(row.id, root)
        else:
            self._waiters.follow(row.id, root.id, self._rows.at.now)
        self.told.append(row.id)

    def answer(self) -> None:
        """Answer the questions that were kept, and who waits for batches that have ended."""
        for asked in self._asked:
            match asked.command:
                case GetJob() as command if asked.reply_to:
                    self._answer_job(command, asked.reply_to)
                case GetBatch() as command if asked.reply_to:
                    self._answer_batch(command, asked.reply_to)
                case ListFailures() as command if asked.reply_to:
                    self.reply(asked, Reply(id=command.id, detail={"failures": self._failures(command)}))
                case _:
                    pass
        for batch in self._batches.ended:
            self.messages += self._waiters.batch_ended(batch)
            self.told.append(batch_holder(batch.id))

    def _answer_job(self, command: GetJob, reply_to: str) -> None:
        known = self._rows.get(command.job_id)
        row = None if known is None else self._rows.root(known)
        if command.until_ended and (row is None or not row.state.is_final):
            self._waiters.wait(row.id if row else command.job_id, reply_to, command.id, self._rows.at.now)
        else:
            self.messages.append(answer(reply_to, command.id, view(row, command.job_id)))

    def _answer_batch(self, command: GetBatch, reply_to: str) -> None:
        batch = self._batches.get(command.batch_id)
        if command.until_ended and (batch is None or batch.ended_at is None):
            self._waiters.wait(batch_holder(command.batch_id), reply_to, command.id, self._rows.at.now)
        else:
            detail = batch_view(batch, command.batch_id).model_dump(mode="json")
            self.messages.append(reply(reply_to, Reply(id=command.id, detail=detail)))

    def _failures(self, command: ListFailures) -> list[dict[str, object]]:
        """A page of a batch's failed jobs, its sub-batches' among them, with what they were called with.

        A duplicate has failed if its original has: it is shown with the error of that.
        """
        batches = [command.batch_id]
        for batch in batches:
            batches += self._tx.batches.inside(batch)
        ids = sorted(
            id for batch in batches for id in self._tx.batches.failed_members(batch, command.after, command.limit)
        )
        ids = ids[: command.limit]
        self._rows.see(ids)
        failed = ((self._rows[id], self._rows.root(self._rows[id])) for id in ids)
        return page(failure_view(row, root) for row, root in failed if root.state is State.FAILED)[0]
