"""Decides one input after the other: a single match says what each kind of input does."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from broker_jobs.coordinator import commands
from broker_jobs.coordinator.admission import Admission
from broker_jobs.coordinator.cascade import Cascade, Kind
from broker_jobs.coordinator.command_handler import NO_DEAD_LETTER, CommandHandler
from broker_jobs.coordinator.conditions.batches import BatchRules, ChunkTooLateError
from broker_jobs.coordinator.conditions.dependencies import DependencyRules, not_known
from broker_jobs.coordinator.consequences import Consequences
from broker_jobs.coordinator.effects import Effects
from broker_jobs.coordinator.failures import WORK, item_of
from broker_jobs.coordinator.inputs import (
    CheckpointRead,
    ChunkReceived,
    CommandReceived,
    HeartbeatReceived,
    Input,
    MarkRemoved,
    ReadAgain,
    SupervisedReceived,
    UnknownParents,
    Unreadable,
    WorkItemsWaiting,
    read_again,
)
from broker_jobs.coordinator.job_decisions import JobDecisions
from broker_jobs.coordinator.log_time import LogClock
from broker_jobs.coordinator.named_jobs import named, parents_named
from broker_jobs.coordinator.poison import marks_of
from broker_jobs.coordinator.records import FromWorker, Released, TimerDue, WaitingCopy
from broker_jobs.coordinator.rows import Rows
from broker_jobs.coordinator.straight_path import StraightPath
from broker_jobs.coordinator.worker_watch import WorkerWatch
from broker_jobs.messages.batch import BatchCommit
from broker_jobs.messages.commands import Fire
from broker_jobs.messages.envelope import BATCH_PREFIX
from broker_jobs.messages.events import LogLine, Tick
from broker_jobs.messages.published import PublishedEvent
from broker_jobs.store.due import LINE_PREFIX
from broker_jobs.store.records import DeadLetterRow, DependencyRow

NEVER_COMMITTED_SECONDS = 86_400.0
"""Log time after which a batch is abandoned whose producer ended inside its block."""


class Dispatch:
    """The inputs of one transaction, decided in their order."""

    def __init__(
        self,
        rows: Rows,
        cascade: Cascade,
        effects: Effects,
        *,
        jobs: JobDecisions,
        admission: Admission,
        dependencies: DependencyRules,
        batches: BatchRules,
        consequences: Consequences,
        command_handler: CommandHandler,
        log_clock: LogClock,
        workers: WorkerWatch,
        straight_path: StraightPath,
    ) -> None:
        self._rows = rows
        self._tx = rows.tx
        self._cascade = cascade
        self._effects = effects
        self._jobs = jobs
        self._admission = admission
        self._dependencies = dependencies
        self._batches = batches
        self._consequences = consequences
        self._command_handler = command_handler
        self._log_clock = log_clock
        self._workers = workers
        self._straight_path = straight_path
        self._single: set[str] = set()
        """Members of chunks that nothing else in this transaction is about."""
        self._added: set[str] = set()
        """Those of them that were added, without their rows."""
        self.confirmed: list[tuple[str, int]] = []
        """Releases of jobs that no other input here is about: noted without reading their rows."""

    def load(self, inputs: list[Input]) -> None:
        """Read the jobs and schedules that these inputs name, all at once."""
        self._see(inputs)
        if any(isinstance(one, ChunkReceived) for one in inputs):
            self._single = _named_once(inputs)

    def _see(self, inputs: list[Input]) -> None:
        self._rows.see({id for one in inputs for id in named(one)}.union(*map(parents_named, inputs)))
        self._tx.schedules.know(fire.name for one in inputs if (fire := _fire(one)) is not None)

    def apply(self, one: Input) -> None:
        """Decide one input."""
        kinds = self._effects.kinds
        match one:
            case FromWorker():
                self._workers.heard(one.worker)
                kinds[one.event.kind] += 1
                if isinstance(one.event, LogLine):
                    self._jobs.add_line(one.event)
                self._jobs.decide(one)
            case HeartbeatReceived():
                kinds["heartbeat"] += 1
                self._workers.beat(one)
            case SupervisedReceived():
                kinds["supervised"] += 1
                self._workers.supervised(one)
            case Tick():
                kinds["tick"] += 1
                self._log_clock.tick(one)
            case CheckpointRead():
                self._log_clock.checkpoint(one.tick)
            case CommandReceived():
                kinds[one.command.kind] += 1
                self._command_handler.apply(one)
            case Unreadable():
                self._jobs.dead_letter(one)
            case MarkRemoved():
                for mark in marks_of(one.hash):
                    self._tx.dead_letters.remove_mark(mark)
            case ReadAgain():
                self.replay(one.dead_letter_id)
            case ChunkReceived():
                kinds["chunk"] += 1
                self._chunk(one)
            case BatchCommit():
                kinds["commit"] += 1
                self._batches.commit(one)
            case PublishedEvent():
                kinds["published"] += 1
                for made in commands.published(self._tx, one):
                    self._jobs.make(made)
            case Released() if one.id not in self._rows:
                kinds["released"] += 1
                self.confirmed.append((one.id, one.epoch))
            case UnknownParents():
                self._unknown_parents(one.dependencies)
            case WorkItemsWaiting():
                self._batches.never_committed(self._tx.meta.log_time - NEVER_COMMITTED_SECONDS)
                self._consequences.take_up()
            case TimerDue() if one.id.startswith(LINE_PREFIX):
                self._cascade.add(Kind.CALL, one.id.removeprefix(LINE_PREFIX))
            case _:
                kinds[type(one).__name__.lower()] += 1
                self._jobs.decide(one)

    def replay(self, dead_letter_id: str) -> str | None:
        """Decide a dead letter now; why that cannot be, or None."""
        row = self._tx.dead_letters.get(dead_letter_id)
        if row is None:
            return NO_DEAD_LETTER
        if row.origin == WORK:
            return self._work_again(row)
        inputs = read_again(row)
        for one in inputs:
            if isinstance(one, Unreadable):
                return f"it still cannot be read: {one.reason}"
        self._see(inputs)
        for one in inputs:
            self.apply(one)
        self._tx.dead_letters.drop(dead_letter_id)
        return None

    def _work_again(self, row: DeadLetterRow) -> str | None:
        """Carry out a work item that was set aside; why that cannot be, or None."""
        if not self._consequences.do_again(item_of(row.body)):
            first_line = row.reason.partition("\n")[0]
            return f"it still cannot be carried out, and is kept ({first_line})"
        self._tx.dead_letters.drop(row.id)
        return None

    def _chunk(self, chunked: ChunkReceived) -> None:
        """Some members of a batch submission have come."""
        chunk = chunked.chunk
        if not self._batches.takes(chunk):
            if self._new_in(chunked):  # no repetition
                raise ChunkTooLateError(
                    f"submission {chunk.submission} has begun, or has another chunk {chunk.number}, without these "
                    "jobs: enqueue them anew"
                )
            return
        new = self._new_in(chunked)
        abandoned = self._batches.add(chunk, new)
        added: set[str] = set()
        if abandoned is None:
            alone = [member for id, member in new.items() if id in self._single]
            added = self._straight_path.add_members(chunk.batch, alone)
            self._added |= added
        for member in (member for id, member in new.items() if id not in added):
            self._jobs.make_member(replace(member, member=True))
            self._admission.member(self._rows[member.envelope.id], abandoned)
        self._batches.seen(chunk)

    def _new_in(self, chunked: ChunkReceived) -> dict[str, WaitingCopy]:
        """The members of a chunk that are not known, by id."""
        new: dict[str, WaitingCopy] = {}
        for member in chunked.members:
            id = member.envelope.id
            if id not in self._rows and id not in self._added:
                new.setdefault(id, member)
        return new

    def _unknown_parents(self, dependencies: list[DependencyRow]) -> None:
        """These wait for what is not known and hardly comes any more: jobs fail, batches end."""
        for dependency in self._dependencies.unknown(dependencies):
            row = self._rows.get(dependency.holder)
            if row is not None and row.is_waiting:
                self._admission.fail(row, not_known(dependency))
                continue
            self._tx.dependencies.mark_unsatisfied([dependency])
            if dependency.holder.startswith(BATCH_PREFIX):
                self._batches.abandon(dependency.holder.removeprefix(BATCH_PREFIX), not_known(dependency))


def _named_once(inputs: list[Input]) -> set[str]:
    """The members of chunks that no other of these inputs is about."""
    times = Counter(id for one in inputs for id in (*named(one), *parents_named(one)))
    times.update(one.id for one in inputs if isinstance(one, Released))
    members = (id for one in inputs if isinstance(one, ChunkReceived) for id in named(one))
    return {id for id in members if times[id] == 1}


def _fire(one: Input) -> Fire | None:
    return one.command if isinstance(one, CommandReceived) and isinstance(one.command, Fire) else None
