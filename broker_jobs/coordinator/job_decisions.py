"""Decides one record about one job, and draws what follows from it."""

from __future__ import annotations

import contextlib
from dataclasses import replace

from broker_jobs.clock import Instant
from broker_jobs.coordinator.admission import Admission
from broker_jobs.coordinator.argument_edit import changes_arguments
from broker_jobs.coordinator.broadcasts import Broadcasts
from broker_jobs.coordinator.cascade import Cascade
from broker_jobs.coordinator.conditions.limits import LimitRules
from broker_jobs.coordinator.conditions.lines import Lines
from broker_jobs.coordinator.effects import Effects
from broker_jobs.coordinator.inputs import Unreadable
from broker_jobs.coordinator.records import (
    DueNotice,
    Fired,
    FromWorker,
    JobRecord,
    ReadyCopy,
    ReleaseFailed,
    TimerDue,
    WaitingCopy,
    job_id,
)
from broker_jobs.coordinator.rows import Rows
from broker_jobs.coordinator.state_machine.attempts import attempt_of
from broker_jobs.coordinator.state_machine.context import Decision
from broker_jobs.coordinator.state_machine.decide import decide
from broker_jobs.messages import codec
from broker_jobs.messages.commands import DeleteJob, RequeueJob, RescheduleJob
from broker_jobs.messages.control import Fence
from broker_jobs.messages.events import LogLine, Returned
from broker_jobs.store.records import AttemptRow

JobCommand = DeleteJob | RequeueJob | RescheduleJob


def _is_admission(record: JobRecord) -> bool:
    """Whether a record about a job that is not known is its acceptance."""
    if isinstance(record, ReadyCopy):
        return record.envelope.has_conditions
    return isinstance(record, WaitingCopy | DueNotice | Fired)


class JobDecisions:
    """The records about jobs, in one transaction."""

    def __init__(
        self,
        rows: Rows,
        cascade: Cascade,
        effects: Effects,
        *,
        admission: Admission,
        limits: LimitRules,
        lines: Lines,
        broadcasts: Broadcasts,
    ) -> None:
        self._rows = rows
        self._tx = rows.tx
        self._cascade = cascade
        self._effects = effects
        self._admission = admission
        self._limits = limits
        self._lines = lines
        self._broadcasts = broadcasts
        self.log_lines: list[tuple[str, Instant, int, str]] = []
        self.attempts: dict[tuple[str, int], AttemptRow] = {}
        """How attempts ended, by job and epoch, but for those that simply succeeded."""

    def decide(self, record: JobRecord) -> Decision:
        """Decide one record; what it says beside the row."""
        id = job_id(record)
        if isinstance(record, TimerDue):
            self._rows.see([id])
            self._cascade.walk(id)
            return Decision()
        if isinstance(record, DeleteJob | RequeueJob | RescheduleJob):
            return self._command(record)
        self._admit_unreleased(record)
        before = self._rows.get(id)
        said = self._decide(record)
        if before is None and _is_admission(record):
            self._admission.admit(self._rows[id])
        elif isinstance(record, DueNotice):
            self._cascade.walk(id)
        if isinstance(record, ReleaseFailed) and before is not None and self._rows[id] is not before:
            self._lines.rates.give_back_start(id, record.epoch)
        return said

    def _admit_unreleased(self, record: JobRecord) -> None:
        """A worker returned a job that only the coordinator may release, before its copy was read: it is admitted."""
        if not isinstance(record, FromWorker) or not isinstance(record.event, Returned):
            return
        event = record.event
        if event.reason == "not released" and event.id not in self._rows:
            with contextlib.suppress(codec.Undecodable):
                envelope = codec.decode(event.envelope)
                if envelope.id == event.id:  # else it is of a job that may be known
                    self.decide(ReadyCopy(envelope, event.envelope))

    def make(self, fired: Fired) -> None:
        """A job of a recurring time, a person or an event: made once."""
        self._rows.see([fired.envelope.id])
        self.decide(fired)

    def make_member(self, member: WaitingCopy) -> None:
        """A member of a batch submission: it is admitted at the commit."""
        self._decide(member)

    def add_line(self, line: LogLine) -> None:
        """Keep a line that a job wrote."""
        row = self._rows.get(line.id)
        self.log_lines.append((line.id, line.at, row.attempt if row else 1, line.text))

    def dead_letter(self, unread: Unreadable) -> None:
        """Keep what cannot be read or decided, with the reason."""
        delivery = unread.delivery
        self._tx.dead_letters.add(
            unread.id, at=self._rows.at.now, origin=unread.origin, reason=unread.reason, body=delivery.body,
            exchange=delivery.exchange, key=delivery.key, type=delivery.type, message_id=delivery.message_id,
            user_id=delivery.user_id, dead_lettered=delivery.dead_lettered,
        )  # fmt: skip
        self._effects.dead_letters.append((unread.origin, unread.reason))

    def _command(self, command: JobCommand) -> Decision:
        """A command of a person. What is asked of an alias is asked of its root, but for its deletion."""
        row = self._rows.get(command.job_id)
        if isinstance(command, DeleteJob) or row is None:
            ends_alias = row is not None and row.is_alias and not self._rows.root(row).state.is_final
            said = self._decide(command)
            return replace(said, ended_before=said.ended_before and not ends_alias)
        root = self._rows.root(row)
        if root is not row and isinstance(command, RequeueJob) and changes_arguments(command):
            return Decision(row, refused=f"it is a duplicate of {root.id}: requeue that one")
        row = root
        command = command.model_copy(update={"job_id": row.id})
        refused = self._admission.why_not_again(row)
        if refused is not None:
            return Decision(refused=refused)
        said = self._decide(command)
        after = self._rows[row.id]
        if after is not row and row.is_waiting:
            if isinstance(command, RequeueJob):
                self._tx.dependencies.forget([row.id])  # a person runs it, whatever it waits for
            else:
                self._limits.rescheduled(after)
            self._cascade.walk(row.id)
        elif after is not row and isinstance(command, RescheduleJob):
            self._limits.rescheduled(after)
        return said

    def _decide(self, record: JobRecord) -> Decision:
        id = job_id(record)
        before = self._rows.get(id)
        said = decide(before, record, self._rows.at)
        after = said.row
        self._effects.notes += said.notes
        if isinstance(record, ReadyCopy | WaitingCopy | DueNotice | Fired):
            self._rows.know(record.envelope, record.body)
        if said.fenced_runner is not None and after is not None:  # the row stays as it is
            self._broadcasts.fences.append(Fence(id=id, epoch=after.epoch))
            self._broadcasts.cancel.append(id)
        attempt = attempt_of(before, record, after, self._rows.at.now)
        if attempt is not None:
            self.attempts[id, attempt.epoch] = attempt
        if after is None or after is before:
            return said
        if before is None or before.state is not after.state:
            after.changed_at = self._rows.at.now  # by this coordinator's clock; the history has that of the worker
        self._rows.put(after)
        if before is not None or not _is_admission(record):
            self._admission.follow(before, after)
        if said.cancel:
            self._broadcasts.cancel.append(id)
        return said

    def is_known(self, id: str) -> bool:
        """Whether a job is known."""
        self._rows.see([id])
        return id in self._rows
