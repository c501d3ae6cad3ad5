"""Applies a batch of inputs to the store: one transaction, one lock, and what must follow the commit as a value.

The thin hand that the pure decisions move. It publishes nothing and knows no broker: the caller acknowledges the log
at the commit and then carries out the `Effects`. Any crash repeats a batch, and repeating changes nothing.
"""

from __future__ import annotations

import logging
import random
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

from broker_jobs.broker import names
from broker_jobs.broker.delay import level_seconds
from broker_jobs.broker.interface import Message
from broker_jobs.clock import Instant, LogTime, RemoteTime, WallTime
from broker_jobs.coordinator import bulk, commands
from broker_jobs.coordinator.argument_edit import changes_arguments
from broker_jobs.coordinator.broadcasts import Broadcasts
from broker_jobs.coordinator.dependencies import DependencyRules
from broker_jobs.coordinator.inputs import (
    COPY_SLACK_SECONDS,
    CheckpointRead,
    ChunkReceived,
    CommandReceived,
    HeartbeatReceived,
    Input,
    MarkRemoved,
    ReadAgain,
    UnknownParents,
    Unreadable,
    WorkItemsWaiting,
    read_again,
)
from broker_jobs.coordinator.leadership import OwnTicks
from broker_jobs.coordinator.limits import LimitRules
from broker_jobs.coordinator.liveness import Leases, Liveness
from broker_jobs.coordinator.queries import Waiters, page
from broker_jobs.coordinator.records import (
    DependencyFailed,
    DependencyMet,
    DueNotice,
    Fired,
    FromWorker,
    JobRecord,
    LeaseOver,
    Released,
    TimerDue,
    WaitingCopy,
    job_id,
)
from broker_jobs.coordinator.recurring import PAGE
from broker_jobs.coordinator.release import delay_copy, release
from broker_jobs.coordinator.replies import Replies
from broker_jobs.coordinator.result_arguments import MissingResultError, parents_of, with_results
from broker_jobs.coordinator.state_machine import Context, Decision, decide, is_clear, is_due
from broker_jobs.messages import codec
from broker_jobs.messages.batch import BatchCommit
from broker_jobs.messages.commands import (
    AcceptStore,
    BeatHeartbeat,
    BulkDelete,
    BulkRequeue,
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
from broker_jobs.messages.control import Control, Fence
from broker_jobs.messages.envelope import Envelope
from broker_jobs.messages.events import LogLine, Tick
from broker_jobs.messages.published import PublishedEvent
from broker_jobs.messages.state import State
from broker_jobs.store.open import Store
from broker_jobs.store.records import Meta, WorkerRow, WorkItemRow
from broker_jobs.store.row import Publication, Row
from broker_jobs.store.views import ComponentRow
from broker_jobs.store.write import Transaction

logger = logging.getLogger(__name__)

NEVER_COMMITTED_SECONDS = 86_400.0
"""A batch whose producer died inside its block is given up after so much log time."""
RUNS_ALONE_FROM = 2
"""A job whose worker died so often runs alone among its kind in a queue, so that neighbours are not blamed."""


HORIZON_SECONDS = 30.0
"""The timer of a job that comes due later is set when it comes nearer; until then the store remembers it."""
WAITING_LOOKED_AT = 100
"""Of the runs that wait for the one before them: only the first goes on."""
ALL_BROADCASTS_SECONDS = 5.0
"""All is told to everybody at most once in so long: a heartbeat is often behind by what is just under way."""
MOST_LOOKS = 100
"""A transaction changes a job some ten times; one that goes on changing would keep the transaction from its end."""
SMALL_CHARS = 4_096
"""Envelopes up to this length are kept decoded for the rest of a transaction."""
_CHANCE = random.Random()  # our own, not the global one of the program we run in
_NO_DEAD_LETTER = "no dead letter has this id"

CLOCK_STEP_SECONDS = 60.0
"""A tick that is so much older than the newest is of a clock that was set back: the log is read up to it."""


UNCOMMITTED = (
    "its batch is not complete: the jobs of a batch begin together when its block has ended; "
    "delete it if it must not run"
)


class UnsettledError(Exception):
    """The decisions of one transaction never come to an end."""


@dataclass(slots=True)
class Effects:
    """What follows a commit."""

    meta: Meta
    releases: list[Row] = field(default_factory=list)
    release_messages: list[Message] = field(default_factory=list)
    """One for each of `releases`, made inside the transaction: a row that cannot be released raises there, alone."""
    messages: list[Message] = field(default_factory=list)
    control: Control | None = None
    control_before: list[Control] = field(default_factory=list)
    """What is published before `control`."""
    timers: list[tuple[str, Instant]] = field(default_factory=list)
    next: list[Input] = field(default_factory=list)
    """Records found on the way, and what goes on in the next batch."""
    more: bool = False
    """Something is marked to be worked off in the next transactions."""
    rows: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)
    dead_letters: list[tuple[str, str]] = field(default_factory=list)
    """(origin, reason) of messages put aside."""
    late: list[float] = field(default_factory=list)
    caught_up: bool = False
    """A tick of our own came back: all that was in the log when we started has been read."""
    tick_at: Instant | None = None
    """When our own newest tick of the batch was sent: the log has been read up to then, by our own clock."""
    counted_at: Instant | None = None
    """When our own tick was sent that counted; those sent before this commit and not read yet count no more."""
    foreign: str | None = None
    """A coordinator that writes another store lives on this broker: two stores are two truths."""
    went_back: int | None = None
    """A tick showed this serial, ahead of the store: it was restored from a backup."""
    lost_workers: int = 0
    told: list[str] = field(default_factory=list)
    """Jobs and batches whose end is answered by `messages`."""


class Engine:
    """The store's one hand. Not thread-safe: a coordinator has one thread for it."""

    def __init__(
        self,
        store: Store,
        id: str,
        *,
        since: Instant = 0.0,
        chance: Callable[[], float] = _CHANCE.random,
        max_body: int = 256 * 1024,
        keep: float = 90 * 86_400.0,
    ) -> None:
        self.id = id
        self.since = since
        """When this coordinator started: what a foreign store's coordinator told before is of the past."""
        self.max_body = max_body
        """Bytes the message of a job with changed arguments may have."""
        self.keep = keep
        """Seconds after which every ended job is forgotten."""
        self.liveness = Liveness(id)
        self.ticks = OwnTicks(id)
        self.waiters = Waiters()
        self._store = store
        self._chance = chance
        self.skipped_items: frozenset[WorkItemRow] = frozenset()
        """Work items that raise: they are dropped, as they are dead letters by now."""
        self.work_is_left = True
        """Marks may be in the store; nobody knows at the start."""
        self.serial = -1
        """The store's, after our own newest transaction: at another one somebody else may have left marks."""
        self.told_all_at: Instant = float("-inf")
        self.untold = False
        """Whether news for the workers could not be published: all of it is told again."""

    def apply(self, inputs: Iterable[Input], now: Instant, *, may_release: bool = True, ahead: float = 0.0) -> Effects:
        """Decide all inputs in their order, in one transaction. Raises whatever a decision or the store raises.

        What comes due within `ahead` seconds is released too: its row's `released_at` is in the future, and the caller
        lets it go then.
        """
        untold, told_all_at = self.untold, self.told_all_at
        try:
            with self._store.transaction() as tx:
                batch = _UnitOfWork(self, tx, now, may_release=may_release, ahead=ahead)
                effects = batch.run(list(inputs))
        except BaseException:  # what was to be told is not committed, so nobody is told
            self.untold, self.told_all_at = self.untold or untold, told_all_at
            raise
        self.waiters.told(effects.told)
        if effects.counted_at is not None:
            self.ticks.counted(WallTime(effects.counted_at))
        self.work_is_left, self.serial = effects.more, effects.meta.serial  # only what was committed is worked off
        return effects

    def become_active(self, now: Instant) -> Effects:
        """Whoever becomes active gives every worker a whole lease and looks at what is due soon."""
        with self._store.transaction() as tx:
            workers = {worker.id for worker in tx.workers()} | set(tx.owners())
            senders = [sender for _, sender in tx.publishing() if sender]
            self.liveness.begin(workers, senders, LogTime(tx.meta.log_time))
            effects = Effects(tx.meta)
            effects.timers = [(id, due_at) for due_at, id in tx.due(now + HORIZON_SECONDS, limit=50_000)]
            return effects

    # What the unit of work below says of leases and ticks goes to their owners.

    @property
    def leases(self) -> Leases:
        """The leases of workers."""
        return self.liveness.leases

    def listed(self, worker: str, ids: set[str]) -> None:
        """Remember what a worker listed in its heartbeat."""
        self.liveness.listed(worker, ids)

    def seconds_of(self, tick: Tick) -> float | None:
        """What a tick adds to log time; None if it does not count."""
        return self.ticks.seconds_of(tick)

    def ticked(self, coordinator: str, log_now: float) -> None:
        """A coordinator's tick was read."""
        self.liveness.coordinators.ticked(coordinator, LogTime(log_now))

    def shows(self, coordinator: str, at: Instant) -> bool:
        """Whether it is time to store that a coordinator lives."""
        return self.liveness.coordinators.shows(coordinator, RemoteTime(at))

    @property
    def chance(self) -> Callable[[], float]:
        """Where chance comes from."""
        return self._chance


class _UnitOfWork:
    """One transaction's work: rows as they are and as they become."""

    def __init__(self, engine: Engine, tx: Transaction, now: Instant, *, may_release: bool, ahead: float) -> None:
        self._engine = engine
        self._tx = tx
        self._now = now
        self._may_release = may_release
        self._old: dict[str, Row] = {}
        self._rows: dict[str, Row] = {}
        self._at = Context(now, tx.meta.log_time, engine.id, engine.chance, ahead, engine.max_body)
        self._effects = Effects(tx.meta)
        self._broadcasts = Broadcasts(tx)
        self._fragile: set[str] = set()
        """Queues in which a job that runs alone is out: asked once, as thousands may wait for it."""
        self._lines: list[tuple[str, Instant, int, str]] = []
        self._replies: list[tuple[str, Reply]] = []
        self._heartbeats: list[HeartbeatReceived] = []
        self._confirmed: list[tuple[str, int]] = []
        """Releases of jobs that nothing else here is about: noted without reading their rows."""
        self._made_up_for = 0
        """Planned times of recurring jobs that this transaction makes up for, beyond one of each fire."""
        self._looked: dict[str, Row] = {}
        """Rows whose consequences have been drawn, as they were then."""
        self._looks: Counter[str] = Counter()
        """How often."""
        self._envelopes: dict[str, tuple[str, Envelope]] = {}
        """By job: the text of an envelope, and what it says."""
        self._flushed: dict[str, Row] = {}
        """Rows as they were last written."""
        self._limits = LimitRules(
            tx,
            self._rows,
            self._see,
            self._decide,
            now,
            until=self._at.until,
            waits_for=lambda id, other: self._waits.waits_for(id, other),  # noqa: PLW0108  # it is made below
            ended_before=lambda row: self._waits.ended_before(row),  # noqa: PLW0108  # as above
        )
        self._waits = DependencyRules(
            tx,
            self._rows,
            self._see,
            self._decide,
            now,
            arrived=self._limits.held,
            flush=self._flush,
            forgotten=now - engine.keep,
            skipped=engine.skipped_items,
        )
        self._query_replies = Replies(tx, engine.waiters, self._rows, self._see, waits=self._waits, now=now)

    def run(self, inputs: list[Input]) -> Effects:
        told = [
            one.tick if isinstance(one, CheckpointRead) else one
            for one in inputs
            if isinstance(one, Tick | CheckpointRead)
        ]
        if any(self._is_ahead(tick) for tick in told):
            self._may_release = False  # the store went back: not even what comes before the tick in this batch
        self._load(inputs)
        for one in inputs:
            self._input(one)
        self._settle()
        self._waits.save()
        self._effects.more = self._waits.more
        self._save()
        self._watch_workers()
        self._query_replies.answer()
        self._effects.messages += self._query_replies.messages
        self._effects.told = self._query_replies.told
        self._tell()
        return self._effects

    # ---- reading

    def _load(self, inputs: list[Input]) -> None:
        ids: set[str] = set()
        fired: set[str] = set()
        for one in inputs:
            match one:
                case CommandReceived(command=Fire() as fire):
                    fired.add(fire.name)
                case CommandReceived(command=DeleteJob() | RequeueJob() | RescheduleJob() | GetJob() as command):
                    ids.add(command.job_id)
                case ChunkReceived():
                    ids.update(member.envelope.id for member in one.members)
                case (
                    ReadAgain()
                    | MarkRemoved()
                    | CommandReceived()
                    | HeartbeatReceived()
                    | Tick()
                    | CheckpointRead()
                    | Unreadable()
                    | BatchCommit()
                    | PublishedEvent()
                ):
                    pass
                case WorkItemsWaiting() | UnknownParents() | Released():
                    pass
                case _:
                    ids.add(job_id(one))
        self._see(ids)
        self._tx.know_schedules(fired)

    def _see(self, ids: Iterable[str]) -> None:
        self._confirm()
        wanted = [id for id in ids if id not in self._old and id not in self._rows]
        if wanted:
            found = self._tx.load(wanted)
            self._old.update(found)
            self._rows.update(found)

    # ---- deciding

    def _input(self, one: Input) -> None:
        match one:
            case FromWorker():
                self._engine.leases.heard(one.worker, LogTime(self._at.log_now))
                self._effects.kinds[one.event.kind] += 1
                if isinstance(one.event, LogLine):
                    row = self._rows.get(one.event.id)
                    self._lines.append((one.event.id, one.event.at, row.attempt if row else 1, one.event.text))
                self._decide(one)
            case HeartbeatReceived():
                self._effects.kinds["heartbeat"] += 1
                self._heartbeats.append(one)
            case Tick():
                self._effects.kinds["tick"] += 1
                self._tick(one)
            case CommandReceived():
                self._effects.kinds[one.command.kind] += 1
                self._asked(one)
            case Unreadable():
                self._dead_letter(one)
            case MarkRemoved():
                self._tx.remove_poison_mark(one.hash)
            case ReadAgain():
                self._replay(one.dead_letter_id)
            case ChunkReceived():
                self._effects.kinds["chunk"] += 1
                self._waits.chunk(one)
            case BatchCommit():
                self._effects.kinds["commit"] += 1
                self._waits.commit(one)
            case PublishedEvent():
                self._effects.kinds["published"] += 1
                for answer_job in commands.published(self._tx, one):
                    self._see([answer_job.envelope.id])
                    self._make(answer_job)
            case Released() if one.id not in self._rows:
                self._effects.kinds["released"] += 1
                self._confirmed.append((one.id, one.epoch))
            case CheckpointRead():
                if self._is_ahead(one.tick):
                    self._effects.went_back = max(one.tick.serial, self._effects.went_back or 0)
            case UnknownParents():
                self._waits.unknown_parents(one.dependencies)
            case WorkItemsWaiting():
                self._waits.never_committed(self._at.log_now - NEVER_COMMITTED_SECONDS)
            case _:
                self._effects.kinds[type(one).__name__.lower()] += 1
                fresh = job_id(one) not in self._rows
                self._decide(one)
                if (
                    isinstance(one, WaitingCopy | DueNotice) and fresh
                ):  # a due notice may be read before the copy of its envelope
                    self._limits.held(one)
                if isinstance(one, WaitingCopy) and fresh:
                    self._waits.held(one)

    def _make(self, fired: Fired) -> None:
        """A job of a recurring time, a trigger or an event: made once, and held by its keys like any other."""
        fresh = fired.envelope.id not in self._rows
        self._decide(fired)
        if fresh:
            self._limits.held(fired)

    def _decide(self, record: JobRecord) -> Decision:
        if isinstance(record, TimerDue) and not self._may_release:
            return Decision()
        id = job_id(record)
        row = self._rows.get(id)
        if isinstance(record, TimerDue) and row is not None and is_due(row, self._at):
            if not self._may_run_beside_others(row):
                return Decision()
            envelope = self._envelope(row)
            if envelope is not None and envelope.limits:
                if not self._limits.may_go(row, envelope.limits):
                    return Decision()
                row = self._rows[id]
            if envelope is not None and envelope.result_args:
                record = self._result_argument(row, envelope)
                row = self._rows[id]
        elif (
            isinstance(record, TimerDue) and row is not None and row.grace_until is not None and is_clear(row, self._at)
        ):
            self._limits.grace_ended(row)
        if isinstance(record, RequeueJob | RescheduleJob) and row is not None and self._waits.is_uncommitted(row):
            return Decision(refused=UNCOMMITTED)
        new, said = decide(row, record, self._at)
        self._effects.notes += said.metrics
        if new is not None:
            self._rows[id] = new
            if isinstance(record, RequeueJob | RescheduleJob) and row is not None and new is not row:
                if row.state in (State.AWAITING, State.DELETED):
                    self._tx.forget_dependencies([id])  # a person runs it, whatever it waited for
                if isinstance(record, RescheduleJob) and is_clear(new, self._at):
                    self._limits.put_off(new)
            if said.cancel:
                self._broadcasts.cancel.append(id)
            if said.fenced_runner is not None:
                self._broadcasts.fences.append(Fence(id=id, epoch=new.epoch))
                self._broadcasts.cancel.append(id)
        return said

    def _envelope(self, row: Row) -> Envelope | None:
        """What a job's envelope says; None: it was never seen."""
        known = self._envelopes.get(row.id)
        if known is not None and known[0] is row.envelope:
            return known[1]
        if not row.envelope:
            return None
        envelope = codec.decode(row.envelope)
        if len(row.envelope) <= SMALL_CHARS:
            self._envelopes[row.id] = (row.envelope, envelope)
        return envelope

    def _result_argument(self, row: Row, envelope: Envelope) -> TimerDue | DependencyFailed:
        """Put parents' results into a job's arguments; without them it cannot run."""
        parents = parents_of(envelope)
        self._see(parents)
        try:
            self._rows[row.id] = with_results(row, envelope, {id: self._rows[id] for id in parents if id in self._rows})
        except MissingResultError as missing:
            return DependencyFailed(row.id, str(missing))
        return TimerDue(row.id)

    def _may_run_beside_others(self, row: Row) -> bool:
        """From the second crash on a job is released only while no other such job of its queue is out."""
        if row.crashes < RUNS_ALONE_FROM:
            return True
        if row.queue not in self._fragile:
            here = any(
                other.crashes >= RUNS_ALONE_FROM
                and other.publication is not Publication.NONE
                and other.queue == row.queue
                for other in self._rows.values()
            )
            if here or self._tx.fragile_out(row.queue, RUNS_ALONE_FROM):
                self._fragile.add(row.queue)
        if row.queue in self._fragile:
            self._effects.timers.append((row.id, self._now + 1.0))
            return False
        self._fragile.add(row.queue)  # this one goes
        return True

    def _settle(self) -> None:
        """What the decisions bring with them: ends let others go, what is due is released at once."""
        pending = self._engine.work_is_left or self._tx.meta.serial != self._engine.serial
        while True:
            self._draw_consequences()
            if not pending and not self._waits.has_work_items:
                return
            self._flush()
            if not self._waits.work(pending=pending):
                return
            pending = False

    def _draw_consequences(self) -> None:
        """Look at every row that has changed since it was last looked at, until none has."""
        while changed := [id for id, row in self._rows.items() if self._before(id) is not row]:
            ends: list[tuple[Row, State | None]] = []
            changes = [(self._rows[id], self._before(id)) for id in changed]
            for changed_row, before in changes:
                row = self._look(changed_row)
                id = row.id
                if before is None or before.state is not row.state:
                    ends.append((row, None if before is None else before.state))
                    if row.recurring and row.state.is_final:
                        self._next_of(row.recurring)
                if is_due(row, self._at) and self._may_release:
                    self._decide(TimerDue(id))
            self._limits.changed(changes)
            self._waits.ended(ends)

    def _look(self, row: Row) -> Row:
        """The row whose consequences are drawn now: the one that has changed, or one that ends its changing."""
        self._looks[row.id] += 1
        if self._looks[row.id] > MOST_LOOKS:
            self._set_aside(row)
            row = self._rows[row.id]
        self._looked[row.id] = row
        return row

    def _set_aside(self, row: Row) -> None:
        """End a job that changes without end, so that the transaction ends: what else is in it is decided.

        Raises:
            UnsettledError: not even that ends it.
        """
        if self._looks[row.id] > 2 * MOST_LOOKS:
            raise UnsettledError(f"job {row.id} changed {2 * MOST_LOOKS} times in one transaction")
        if self._looks[row.id] > MOST_LOOKS + 1:
            return
        reason = f"its conditions gave no answer in {MOST_LOOKS} rounds; requeue it to try again (last: {row.reason})"
        logger.error("job %s is now a dead letter: %s", row.id, reason)
        self._decide(DependencyFailed(row.id, reason))
        self._tx.add_dead_letter(
            f"log:{row.id}"[:200], at=self._now, origin="log", reason=f"job {row.id}: {reason}",
            body=row.envelope.encode(), exchange=names.OFFER, key=names.LOG_KEY, type="job", message_id=row.id,
        )  # fmt: skip
        self._effects.dead_letters.append(("log", reason))

    def _before(self, id: str) -> Row | None:
        return self._looked.get(id) or self._old.get(id)

    def _goes_on(self, recurring: str) -> bool:
        """Whether a run of a recurring job is on its way, as the rows will be after this batch."""
        if any(id not in self._rows for id in self._tx.going_of(recurring)):
            return True
        runs = (row.state for row in self._rows.values() if row.recurring == recurring)
        return any(not state.is_final and state is not State.AWAITING for state in runs)

    def _unended(self, recurring: str) -> bool:
        """Whether a run of a recurring job is on its way or waits for one that is."""
        if self._goes_on(recurring) or any(id not in self._rows for id in self._tx.waiting_of(recurring)):
            return True
        return any(row.recurring == recurring and row.state is State.AWAITING for row in self._rows.values())

    def _next_of(self, recurring: str) -> None:
        """A run of a recurring job ended: the first that waits for it goes on (overlap="queue")."""
        if self._goes_on(recurring):
            return
        first = self._first_waiting_of(recurring)
        if first is None and len(self._tx.waiting_of(recurring, limit=WAITING_LOOKED_AT)) == WAITING_LOOKED_AT:
            self._flush()  # those that were looked at have ended in this transaction, and the query finds others now
            first = self._first_waiting_of(recurring)
        if first is not None:
            self._decide(DependencyMet(first))

    def _first_waiting_of(self, recurring: str) -> str | None:
        """The first run of a recurring job that waits for the one before it, and for no parent and no batch."""
        waiting = self._tx.waiting_of(recurring, limit=WAITING_LOOKED_AT)
        self._see(waiting)
        candidates = {*waiting, *(id for id, row in self._rows.items() if row.recurring == recurring)}
        waiting = [id for id in candidates if self._rows[id].state is State.AWAITING]
        held = {dependency.holder for dependency in self._tx.dependencies_of(waiting)}
        return min((id for id in waiting if id not in held), default=None,
                   key=lambda id: self._rows[id].due_at or 0.0)  # fmt: skip

    # ---- writing

    def _confirm(self) -> None:
        """Note confirmed releases, before a row that may be among them is read."""
        self._tx.confirm(self._confirmed)
        self._confirmed.clear()

    def _flush(self) -> None:
        """Write what has changed so far: marks are worked off by queries."""
        changed = {id: row for id, row in self._rows.items() if (self._flushed.get(id) or self._old.get(id)) is not row}
        self._tx.save(changed.values())
        self._flushed |= changed

    def _save(self) -> None:
        changed = [(self._old.get(id), row) for id, row in self._rows.items() if row is not self._old.get(id)]
        rows = [self._with_delay_copy(old, row) for old, row in changed]
        for (old, _), row in zip(changed, rows, strict=True):
            self._follow(old, row)
        self._confirm()
        self._tx.save(rows)
        if self._lines:
            self._tx.add_lines(self._lines)
        self._effects.rows = len(rows)

    def _with_delay_copy(self, old: Row | None, row: Row) -> Row:
        """A long wait gets a copy in the delay queues, so that a lost store loses no delayed job."""
        due_later = row.state is State.SCHEDULED and row.publication is Publication.NONE and row.due_at is not None
        if not due_later or row.copy_until is not None or (row.due_at or 0.0) <= self._now + HORIZON_SECONDS:
            return row
        if old is not None and old.state is State.SCHEDULED and old.due_at == row.due_at and old.copy_until is None:
            return row
        copy = delay_copy(row, self._now)
        if copy is None:
            return row
        message, step = copy
        self._effects.messages.append(message)
        return row.evolve(copy_until=self._now + level_seconds(step) + COPY_SLACK_SECONDS)

    def _follow(self, old: Row | None, row: Row) -> None:
        if row.publication is Publication.PUBLISHING and (old is None or old.epoch != row.epoch):
            self._effects.releases.append(row)
            self._effects.release_messages.append(release(row, self._envelope(row)))
            if row.due_at is not None:
                self._effects.late.append(max(0.0, self._now - row.due_at))
        elif row.state is State.SCHEDULED and row.publication is Publication.NONE:
            if row.due_at is not None and row.due_at <= self._now + HORIZON_SECONDS:
                self._effects.timers.append((row.id, row.due_at))
        if row.fence > (old.fence if old is not None else 0):
            self._broadcasts.fences.append(Fence(id=row.id, epoch=row.fence))
        if row.state.is_final:
            self._query_replies.ended(row)

    def _dead_letter(self, unread: Unreadable) -> None:
        delivery = unread.delivery
        self._tx.add_dead_letter(
            unread.id, at=self._now, origin=unread.origin, reason=unread.reason, body=delivery.body,
            exchange=delivery.exchange, key=delivery.key, type=delivery.type, message_id=delivery.message_id,
            user_id=delivery.user_id, dead_lettered=delivery.dead_lettered,
        )  # fmt: skip
        self._effects.dead_letters.append((unread.origin, unread.reason))

    # ---- log time and workers

    def _is_ahead(self, tick: Tick) -> bool:
        meta = self._tx.meta
        return tick.store == meta.store_id and tick.serial > max(meta.serial, meta.accepted_serial)

    def _tick(self, tick: Tick) -> None:
        meta = self._tx.meta
        if tick.store != meta.store_id:
            self._effects.foreign = tick.coordinator if tick.sent_at > self._engine.since else None
            return
        self._effects.caught_up |= tick.coordinator == self._engine.id
        if self._engine.shows(tick.coordinator, tick.sent_at):
            active = tick.coordinator == self._engine.id  # who reads the log is it
            self._tx.save_component(
                ComponentRow(tick.coordinator, "coordinator", tick.host, tick.pid, tick.version, active, tick.sent_at)
            )
        if self._is_ahead(tick):
            self._effects.went_back = max(tick.serial, self._effects.went_back or 0)
        seconds = self._engine.seconds_of(tick) if self._effects.counted_at is None else None
        if seconds is not None:
            meta.log_time += seconds
            self._effects.counted_at = tick.sent_at
        stepped_back = meta.last_tick_at - tick.sent_at > CLOCK_STEP_SECONDS
        meta.last_tick_at = tick.sent_at if stepped_back else max(meta.last_tick_at, tick.sent_at)
        self._at = replace(self._at, log_now=meta.log_time)
        if tick.coordinator == self._engine.id:
            self._effects.tick_at = tick.sent_at
        self._engine.ticked(tick.coordinator, meta.log_time)

    def _watch_workers(self) -> None:
        newest = {beaten.worker.id: beaten for beaten in self._heartbeats}
        for beaten in self._heartbeats:
            self._heartbeat(beaten)
        # Only the newest is held against the rows: those before it may be older than a start that was read with them.
        for id, beaten in newest.items():
            missing = self._engine.leases.unlisted(id, beaten.heartbeat, self._tx.owned_by(id))
            reason = "its worker lives but no longer has it"
            self._effects.next += [LeaseOver(job, id, reason) for job in missing]

    def _heartbeat(self, beaten: HeartbeatReceived) -> None:
        ref, beat = beaten.worker, beaten.heartbeat
        leases = self._engine.leases
        leases.heard(ref.id, LogTime(self._at.log_now), ref, RemoteTime(beaten.sent_at))
        leases.replaced(ref, RemoteTime(beaten.sent_at))
        self._engine.listed(ref.id, {id for id, _ in beat.running} | set(beat.received))
        self._tx.save_worker(
            WorkerRow(
                id=ref.id, host=ref.host, slot=ref.slot, pid=ref.pid, queues=tuple(beat.queues),
                concurrency=beat.concurrency, running=len(beat.running), done=beat.done, cpu_percent=beat.cpu_percent,
                rss_bytes=beat.rss_bytes, version=beat.version, seen_at=beaten.sent_at, lost=beat.leaving,
            )
        )  # fmt: skip
        if beat.leaving:
            leases.leaving(ref.id, RemoteTime(beaten.sent_at))
        elif beat.control_version < self._tx.meta.control_version:
            self._broadcasts.missed = True

    # ---- asking

    def _asked(self, asked: CommandReceived) -> None:
        command = asked.command
        match command:
            case GetJob() | GetBatch() | ListFailures():
                self._query_replies.ask(asked)
            case ListSchedules():
                shown, more = page(commands.views(self._tx, after=command.after))
                detail = {"schedules": shown, "version": self._tx.meta.schedules_version, "more": more}
                self._query_replies.reply(asked, Reply(id=command.id, detail=detail))
            case Hello():
                self._hello(asked, command)
            case BeatHeartbeat():
                commands.beat_heartbeat(self._tx, command)
            case DeclareFunctions():
                commands.declare_functions(self._tx, command)
                self._query_replies.reply(asked, Reply(id=command.id))
            case Fire():
                self._fired(asked, command)
            case _:
                self._once(asked)

    def _fired(self, asked: CommandReceived, fire: Fire) -> None:
        """Make the runs of a schedule that are due; those beyond the page are left to the next transaction."""
        page = max(1, PAGE - self._made_up_for)
        made, more = commands.fire(self._tx, fire, self._now, self._unended, page)
        self._made_up_for += max(0, len(made) - 1)
        self._see([fired.envelope.id for fired in made])
        for fired in made:
            self._make(fired)
        if more:
            self._effects.next.append(asked)

    def _once(self, asked: CommandReceived) -> None:
        """A command that changes something is applied once: its id is the key of the audit."""
        command = asked.command
        before = self._tx.audited(command.id)
        if before is not None:
            self._query_replies.reply(asked, Reply.model_validate_json(before))
            return
        subject, given = self._command(asked)
        text = given.model_dump_json(exclude_none=True)
        self._tx.audit(
            command.id, at=self._now, by=command.by, kind=command.kind, subject=subject, detail=text,
            user_id=asked.user_id,
        )  # fmt: skip
        self._query_replies.reply(asked, given)

    def _command(self, asked: CommandReceived) -> tuple[str, Reply]:
        command, now = asked.command, self._now
        refused: str | None = None
        detail: dict[str, object] = {}
        match command:
            case DeleteJob() | RequeueJob() | RescheduleJob():
                said = self._decide(command)
                row = self._rows.get(command.job_id)
                detail = {"ended": said.ended_before, "state": row.state.value if row else ""}
                if isinstance(command, RescheduleJob):
                    detail["due_at"] = command.due_at
                refused, subject = said.refused, command.job_id
                if isinstance(command, RequeueJob) and changes_arguments(command) and refused is None:
                    detail["arguments"] = "changed"  # their values may be secrets, and the audit is kept long
            case DeclareSubscriptions():
                refused, subject = commands.subscribe(self._tx, command), command.origin
            case SetLimit():
                self._limits.set_most(command.key, command.limit)
                detail = {"limit": command.limit}
                subject = command.key
            case DeleteBatch():
                deleted, subject = self._waits.delete_batch(command.batch_id), command.batch_id
                refused = "no such batch is known" if deleted is None else None
                detail = {"ended": deleted is False}
            case BulkDelete() | BulkRequeue():
                self._flush()  # what came before it is meant too
                refused, subject = self._waits.bulk(command), command.filter.model_dump_json(exclude_none=True)
                detail = bulk.started() if refused is None else {}
            case PutRecurring():
                refused, subject = commands.put(self._tx, command, now), command.schedule.name
                detail = {"cron": command.schedule.cron, "tz": command.schedule.tz}
            case DeclareRecurring():
                refused, subject = commands.declare(self._tx, command, now), command.origin
            case RemoveRecurring():
                refused, subject = commands.remove(self._tx, command), command.name
            case PauseRecurring():
                refused, subject = commands.pause(self._tx, command, now), command.name
                detail = {"paused": command.paused}
            case TriggerRecurring():
                refused, fired = commands.trigger(self._tx, command, now)
                subject = command.name
                detail = {"job": command.job_id}
                for one in fired:
                    self._see([one.envelope.id])
                    self._make(one)
            case RunJob():
                subject, made = commands.run(command)
                if isinstance(made, str):
                    refused = made
                else:
                    detail = {"job": made.envelope.job}
                    refused = self._run(made)
            case ReplayDeadLetter():
                refused, subject = self._replay(command.dead_letter_id), command.dead_letter_id
            case DeleteDeadLetter():
                subject = command.dead_letter_id
                refused = None if self._tx.drop_dead_letter(subject) else _NO_DEAD_LETTER
            case AcceptStore():
                detail = {"waiting": self._accept()}
                subject = "store"
            case PauseQueue():
                self._broadcasts.pauses_changed |= self._tx.pause_queue(command.queue, command.paused)
                detail = {"paused": command.paused}
                subject = command.queue
            case _:
                raise TypeError(f"{command.kind} is no command that is audited")
        return subject, Reply(id=command.id, ok=refused is None, refused=refused, detail=detail)

    def _run(self, made: Fired) -> str | None:
        """Make a job that a person describes; the refusal, or None."""
        self._see([made.envelope.id])
        if made.envelope.id in self._rows:
            return f"a job with the id {made.envelope.id} is known already"
        self._make(made)
        return None

    def _replay(self, dead_letter_id: str) -> str | None:
        """Decide a dead letter now; the refusal, or None."""
        row = self._tx.dead_letter(dead_letter_id)
        if row is None:
            return _NO_DEAD_LETTER
        inputs = read_again(row)
        for one in inputs:
            if isinstance(one, Unreadable):
                return f"it still cannot be read: {one.reason}"
        self._load(inputs)
        for one in inputs:
            self._input(one)
        self._tx.drop_dead_letter(dead_letter_id)
        return None

    def _accept(self) -> int:
        """Accept a restored store; rows of this batch, which are saved over those that leap, leap too."""
        waiting = self._tx.accept_restored()
        for id, row in self._tx.load(self._old).items():
            if self._rows[id] is self._old[id]:
                self._rows[id] = row
            elif row.epoch > self._rows[id].epoch:
                self._rows[id] = self._rows[id].evolve(epoch=row.epoch)
            self._old[id] = row
        return waiting

    def _hello(self, asked: CommandReceived, hello: Hello) -> None:
        leases = self._engine.leases
        leases.heard(hello.worker.id, LogTime(self._at.log_now), hello.worker, RemoteTime(hello.at))
        leases.replaced(hello.worker, RemoteTime(hello.at))
        if asked.reply_to:
            self._see(id for id, _ in hello.running)
            detail, before = self._broadcasts.for_hello(hello, self._rows)
            self._query_replies.messages += [Message("", asked.reply_to, body, type="control") for body in before]
            self._query_replies.reply(asked, Reply(id=hello.id, detail=detail))

    def _tell(self) -> None:
        engine = self._engine
        wanted = self._broadcasts.missed or engine.untold
        all_of_it = wanted and abs(self._now - engine.told_all_at) >= ALL_BROADCASTS_SECONDS
        controls = self._broadcasts.controls(all_of_it=all_of_it)
        if controls:
            *self._effects.control_before, self._effects.control = controls
        if all_of_it:
            engine.told_all_at, engine.untold = self._now, False
