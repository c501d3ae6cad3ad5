"""Applies the commands of people and programs, each once: its id is the key of the audit."""

from __future__ import annotations

from collections.abc import Callable

from broker_jobs.broker.interface import Message
from broker_jobs.coordinator import bulk, commands, worker_changes
from broker_jobs.coordinator.argument_edit import changes_arguments
from broker_jobs.coordinator.broadcasts import Broadcasts
from broker_jobs.coordinator.cascade import Cascade, task_of
from broker_jobs.coordinator.conditions.batches import BatchRules
from broker_jobs.coordinator.conditions.line_calls import LineCalls, overlap_key
from broker_jobs.coordinator.conditions.lines import Lines
from broker_jobs.coordinator.effects import Effects
from broker_jobs.coordinator.inputs import CommandReceived
from broker_jobs.coordinator.job_decisions import JobDecisions
from broker_jobs.coordinator.queries import page
from broker_jobs.coordinator.records import Fired
from broker_jobs.coordinator.recurring import PAGE
from broker_jobs.coordinator.replies import Replies
from broker_jobs.coordinator.rows import Rows
from broker_jobs.coordinator.worker_watch import WorkerWatch
from broker_jobs.messages.commands import (
    AcceptStore,
    BeatHeartbeat,
    BulkDelete,
    BulkFail,
    BulkRequeue,
    ChangeWorker,
    DeclareFunctions,
    DeclareRecurring,
    DeclareSubscriptions,
    DeleteBatch,
    DeleteDeadLetter,
    DeleteJob,
    Fire,
    GetBatch,
    GetJob,
    Hello,
    ListFailures,
    ListSchedules,
    PauseQueue,
    PauseRecurring,
    PutRecurring,
    RemoveRecurring,
    ReplayDeadLetter,
    Reply,
    RequeueJob,
    RescheduleJob,
    RunJob,
    SetLimit,
    TriggerRecurring,
)

NO_DEAD_LETTER = "no dead letter has this id"


class CommandHandler:
    """The commands of one transaction.

    Args:
        replay: decides a dead letter; why that cannot be, or None.
    """

    def __init__(
        self,
        rows: Rows,
        cascade: Cascade,
        effects: Effects,
        *,
        jobs: JobDecisions,
        batches: BatchRules,
        line_calls: LineCalls,
        lines: Lines,
        broadcasts: Broadcasts,
        workers: WorkerWatch,
        replies: Replies,
        replay: Callable[[str], str | None],
    ) -> None:
        self._rows = rows
        self._tx = rows.tx
        self._cascade = cascade
        self._effects = effects
        self._jobs = jobs
        self._batches = batches
        self._line_calls = line_calls
        self._lines = lines
        self._broadcasts = broadcasts
        self._workers = workers
        self._replies = replies
        self._replay = replay
        self._made_up_for = 0
        """Planned times of recurring jobs that this transaction makes up for, beyond one of each fire."""

    def apply(self, asked: CommandReceived) -> None:
        """Apply a command, or keep a question until all inputs are decided."""
        command = asked.command
        match command:
            case GetJob() | GetBatch() | ListFailures():
                self._replies.ask(asked)
            case ListSchedules():
                shown, more = page(commands.views(self._tx, after=command.after))
                detail = {"schedules": shown, "version": self._tx.meta.schedules_version, "more": more}
                self._replies.reply(asked, Reply(id=command.id, detail=detail))
            case Hello():
                self._hello(asked, command)
            case BeatHeartbeat():
                commands.beat_heartbeat(self._tx, command)
            case DeclareFunctions():
                commands.declare_functions(self._tx, command)
                self._replies.reply(asked, Reply(id=command.id))
            case Fire():
                self._fire(asked, command)
            case _:
                self._once(asked)

    def _hello(self, asked: CommandReceived, hello: Hello) -> None:
        self._workers.hello(hello)
        if asked.reply_to:
            self._rows.see(id for id, _ in hello.running)
            detail, before = self._broadcasts.for_hello(hello, self._rows)
            self._replies.messages += [Message("", asked.reply_to, body, type="control") for body in before]
            self._replies.reply(asked, Reply(id=hello.id, detail=detail))

    def _fire(self, asked: CommandReceived, fire: Fire) -> None:
        """Make the runs of a schedule that are due; those beyond the page are left to the next transaction."""
        most = max(1, PAGE - self._made_up_for)
        made, more = commands.fire(
            self._tx,
            fire,
            self._rows.at.now,
            open_runs=self._rows.open_runs,
            waiting_runs=self._waiting_runs,
            page=most,
        )
        self._made_up_for += max(0, len(made) - 1)
        self._rows.see([fired.envelope.id for fired in made])
        for fired in made:
            self._jobs.make(fired)
        if more:
            self._effects.next.append(asked)

    def _waiting_runs(self, recurring: str) -> int:
        return self._lines.count(overlap_key(recurring), commands.MOST_WAITING_RUNS + 1)

    def _once(self, asked: CommandReceived) -> None:
        command = asked.command
        before = self._tx.audit.detail(command.id)
        if before is not None:
            self._replies.reply(asked, Reply.model_validate_json(before))
            return
        subject, given = self._command(asked)
        text = given.model_dump_json(exclude_none=True)
        self._tx.audit.add(
            command.id, at=self._rows.at.now, by=command.by, kind=command.kind, subject=subject, detail=text,
            user_id=asked.user_id,
        )  # fmt: skip
        self._replies.reply(asked, given)

    def _command(self, asked: CommandReceived) -> tuple[str, Reply]:
        command, now = asked.command, self._rows.at.now
        refused: str | None = None
        detail: dict[str, object] = {}
        match command:
            case DeleteJob() | RequeueJob() | RescheduleJob():
                said = self._jobs.decide(command)
                row = self._rows.get(command.job_id)
                detail = {"ended": said.ended_before, "state": row.state.value if row else ""}
                if isinstance(command, RescheduleJob):
                    detail["due_at"] = command.due_at
                refused, subject = said.refused, command.job_id
                if isinstance(command, RequeueJob) and changes_arguments(command) and refused is None:
                    detail["arguments"] = "changed"  # their values may be secrets, and the audit is kept long
            case DeclareSubscriptions():
                refused, subject = commands.subscribe(self._tx, command, now), command.service
            case SetLimit():
                self._line_calls.set_limit(command.key, command.limit)
                detail = {"limit": command.limit}
                subject = command.key
            case DeleteBatch():
                deleted, subject = self._batches.delete(command.batch_id), command.batch_id
                refused = "no such batch is known" if deleted is None else None
                detail = {"ended": deleted is False}
            case BulkDelete() | BulkRequeue() | BulkFail():
                refused, subject = self._bulk(command), command.filter.model_dump_json(exclude_none=True)
                detail = bulk.started() if refused is None else {}
            case PutRecurring():
                refused, subject = commands.put(self._tx, command, now), command.schedule.name
                detail = {"cron": command.schedule.cron, "tz": command.schedule.tz}
            case DeclareRecurring():
                refused, subject = commands.declare(self._tx, command, now), command.service
            case RemoveRecurring():
                refused, subject = commands.remove(self._tx, command), command.name
            case PauseRecurring():
                refused, subject = commands.pause(self._tx, command, now), command.name
                detail = {"paused": command.paused}
            case TriggerRecurring():
                made = commands.trigger(
                    self._tx, command, now, open_runs=self._rows.open_runs, waiting_runs=self._waiting_runs
                )
                subject = command.name
                if isinstance(made, str):
                    refused = made
                else:
                    detail = {"job": command.job_id}
                    self._jobs.make(made)
            case RunJob():
                subject, described = commands.run(command)
                if isinstance(described, str):
                    refused = described
                else:
                    detail = {"job": described.envelope.job}
                    refused = self._run(described)
            case ReplayDeadLetter():
                refused, subject = self._replay(command.dead_letter_id), command.dead_letter_id
            case DeleteDeadLetter():
                subject = command.dead_letter_id
                refused = None if self._tx.dead_letters.drop(subject) else NO_DEAD_LETTER
            case AcceptStore():
                detail = {"waiting": self._accept()}
                subject = "store"
            case PauseQueue():
                self._broadcasts.pauses_changed |= self._tx.queues.pause(command.queue, command.paused)
                detail = {"paused": command.paused}
                subject = command.queue
            case ChangeWorker():
                changed = worker_changes.change(self._tx, command)
                subject = command.worker or command.host
                if isinstance(changed, str):
                    refused = changed
                else:
                    self._broadcasts.changes += changed
                    detail = worker_changes.told(command, changed)
            case _:
                raise TypeError(f"{command.kind} is no command that is audited")
        return subject, Reply(id=command.id, ok=refused is None, refused=refused, detail=detail)

    def _bulk(self, command: BulkDelete | BulkRequeue | BulkFail) -> str | None:
        self._rows.write()  # what came before it is meant too
        begun = bulk.begin(self._tx, command, self._rows.at.now)
        if isinstance(begun, str):
            return begun
        task = task_of(begun)
        self._cascade.add(task.kind, task.target, task.state)
        return None

    def _run(self, made: Fired) -> str | None:
        """Make a job that a person describes; the refusal, or None."""
        if self._jobs.is_known(made.envelope.id):
            return f"a job with the id {made.envelope.id} is known already"
        self._jobs.make(made)
        return None

    def _accept(self) -> int:
        """Accept a restored store; rows of this transaction, which are written over those that leap, leap too."""
        waiting = self._tx.accept_restored()
        for id, row in self._tx.jobs.load(self._rows.old).items():
            known = self._rows[id]
            if known is self._rows.old[id]:
                self._rows.put(row)
            elif row.epoch > known.epoch:
                self._rows.put(known.evolve(epoch=row.epoch))
            self._rows.old[id] = row
        return waiting
