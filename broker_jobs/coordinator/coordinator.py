"""Runs a coordinator: deliveries in, transactions, acknowledgements at the commit, then what follows it.

One thread decides (`coordinator`), one looks at queue depths and for a wedged self (`coordinator-watch`); deliveries
come from the exchange's I/O thread through one inbox. Which coordinator is active is told by who gets the log
(transitions R7): without a log delivery for 5 s it releases nothing, ends no lease and sweeps nothing.
"""

from __future__ import annotations

import itertools
import logging
import threading
import traceback
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from typing import NamedTuple, TypeVar

from pydantic import ValidationError

from broker_jobs.broker import names
from broker_jobs.broker.delay import LEVELS
from broker_jobs.broker.interface import Broker, Consumer, Delivery, Message, PublishFailure, Unconfirmed
from broker_jobs.broker.topology import fixed_topology, work_topology
from broker_jobs.clock import Clock, Instant
from broker_jobs.coordinator import release
from broker_jobs.coordinator.due_timers import DueTimers
from broker_jobs.coordinator.effects import Effects
from broker_jobs.coordinator.engine import Engine
from broker_jobs.coordinator.input_queue import MOST_INPUTS, InputQueue, QueuedInput
from broker_jobs.coordinator.inputs import (
    NEWER,
    CheckpointRead,
    ChunkReceived,
    CommandReceived,
    HeartbeatReceived,
    Input,
    ReadAgain,
    UnknownParents,
    Unreadable,
    WorkItemsWaiting,
    alone,
    read_again,
)
from broker_jobs.coordinator.leases import LEFT
from broker_jobs.coordinator.lost_messages import LostMessageDetector
from broker_jobs.coordinator.observer import CoordinatorObserver
from broker_jobs.coordinator.overdue import Overdue
from broker_jobs.coordinator.precise_timer import AHEAD_SECONDS, PreciseTimer
from broker_jobs.coordinator.queries import reply
from broker_jobs.coordinator.records import (
    FromWorker,
    JobRecord,
    LeaseOver,
    ProvenLost,
    Released,
    ReleaseFailed,
    ReleaseUnknown,
    TimerDue,
    Unroutable,
    job_id,
)
from broker_jobs.errors import BrokerError, BrokerRefused, StoreError
from broker_jobs.messages import codec
from broker_jobs.messages.batch import BatchCommit
from broker_jobs.messages.commands import DeleteDeadLetter, ReplayDeadLetter, Reply
from broker_jobs.messages.control import Control
from broker_jobs.messages.envelope import id_created_at, new_id
from broker_jobs.messages.events import Returned, Tick
from broker_jobs.messages.process_info import ProcessInfo, this_process
from broker_jobs.messages.published import PublishedEvent
from broker_jobs.settings import Settings
from broker_jobs.store.migrate import NewerSchemaError
from broker_jobs.store.open import Store
from broker_jobs.store.records import DeadLetterRow
from broker_jobs.store.row import Row

logger = logging.getLogger(__name__)

TICK_SECONDS = 1.0
TICK_AGAIN_SECONDS = 2.0
"""A tick that was not read for so long may be lost, or buffered, or for another coordinator: one more is sent. Of all
that are out one counts, so log time does not run through a stall; and an idle coordinator still reads a tick before
ACTIVE_SECONDS are over."""
ACTIVE_SECONDS = 5.0
"""Without a log delivery for so long a coordinator is not the active one."""
LOOK_AHEAD_SECONDS = 15.0
LOOK_EVERY_SECONDS = 10.0
PURGE_EVERY_SECONDS = 60.0
PURGE_ROWS = 1_000
WATCH_EVERY_SECONDS = 5.0
UNKNOWN_PARENTS_EVERY_SECONDS = 600.0
NEVER_SEEN_SECONDS = 86_400.0
"""A parent that was not seen for so long is not waited for any more."""
MOST_UNKNOWN_PARENTS = 500
DELAY_QUEUES_EVERY_LOOKS = 6
"""The delay queues has many queues and moves slowly."""
WEDGED_SECONDS = 60.0
STORE_PATIENCE_SECONDS = 300.0
"""A store that is away for longer: give the deliveries back once, come again when it answers."""
RELEASE_TIMEOUT_SECONDS = 10.0
DECLARE_TIMEOUT_SECONDS = 3.0
SLOW_SECONDS = 1.0
"""A transaction that takes longer has too many inputs for its store; the next one gets half of them."""
LEAST_INPUTS = 100
MOST_IN_FLIGHT = 10_000
"""Releases that may wait for their confirms: what is due beyond them waits in the store, not in memory."""
MOST_DUE_NOTICES = 2_000
MOST_DUE = 50_000
"""Timers that one look sets; when they have rung and there are more, it looks again."""
MOST_SAID = 500
MOST_TRACED = 4_000
"""Characters of an error, and of its traceback, that are kept with what it was raised by."""
DEAD_LETTERS_PAGE = 100
FINAL_TICK_SECONDS = 2.0
PREFETCH = {names.LOG: 1_000, names.COMMAND: 500, names.DUE: 1_000, names.DEAD_LETTERS: 100}


Stored = TypeVar("Stored")


class _NotStoredError(Exception):
    """The store could not be written before this coordinator had to stop: nothing may be acknowledged."""


LOOK_TAKES_SECONDS = 10.0
"""The longest a look at a queue's depth takes."""


class _Depth(NamedTuple):
    queue: str
    ready: int
    seen_at: Instant


def _least_kept(settings: Settings) -> float:
    """Until so many seconds after its end every job is known."""
    return min(settings.keep_succeeded, settings.keep_deleted, settings.keep_failed)


def _keep(settings: Settings) -> float:
    """After so many seconds no ended job is known any more; a day at least, as some are made long before they come."""
    return max(settings.keep_succeeded, settings.keep_deleted, settings.keep_failed, NEVER_SEEN_SECONDS)


def _ignore(reason: str) -> None:
    """Nobody wants to know why a coordinator gave up beside its log and its health."""
    logger.debug("%s", reason)


class Coordinator:
    """One coordinator. Several may run: one is active, the others wait for its log."""

    def __init__(
        self,
        broker: Broker,
        store: Store,
        settings: Settings,
        clock: Clock,
        *,
        id: str | None = None,
        observer: CoordinatorObserver | None = None,
        on_fatal: Callable[[str], None] | None = None,
    ) -> None:
        self.id = id or new_id()
        self._broker = broker
        self._store = store
        self._settings = settings
        self._clock = clock
        self._observer = observer or CoordinatorObserver()
        self._on_fatal = on_fatal or _ignore
        self._engine = Engine(store, self.id, since=clock.now(), max_body=settings.max_body, keep=_keep(settings))
        self._input_queue = InputQueue()
        self._timers = DueTimers()
        self._precise_timer = PreciseTimer(clock, self._publish_releases, self._clock_went_back)
        self._lost_messages = LostMessageDetector()
        self._subscriptions: dict[str, Consumer] = {}
        self._control_consumer: Consumer | None = None
        self._lost: SimpleQueue[tuple[str, int]] = SimpleQueue()
        self._looks = itertools.count()
        self._overdue = Overdue()
        self._depths: deque[_Depth] = deque(maxlen=10_000)
        self._thread: threading.Thread | None = None
        self._watcher: threading.Thread | None = None
        self._stopping = threading.Event()
        self._fatal: str | None = None
        self._active = False
        self._caught_up = False
        """Whether the log was read up to our start: before, a tick may still come that says the store went back."""
        self._frozen: int | None = None
        self._accepted_before = 0
        self._in_flight = 0
        self._counting = threading.Lock()
        self._more_due = False
        self._most = MOST_INPUTS
        self._rounds = 0
        self._serial = 0
        self._store_id = ""
        self._process_info = ProcessInfo()
        never = float("-inf")
        self._log_heard = never
        self._last_tick = never
        self._last_look = never
        self._last_purge = never
        self._last_unknown_parents = clock.monotonic()
        self._store_down_since: float | None = None

    # ---- life

    def start(self) -> None:
        """Start deciding; tolerates twice. The exchange and the store are started by the caller."""
        if self._thread is not None:
            return
        self._stopping.clear()
        self._process_info = this_process()
        if self._settings.declare:
            self._broker.apply(fixed_topology())
        meta = self._store.reader.meta()
        self._store_id, self._serial = meta.store_id, meta.serial
        self._decide_newer()
        self._subscribe()
        self._thread = threading.Thread(target=self._run, name="coordinator", daemon=True)
        self._watcher = threading.Thread(target=self._watch, name="coordinator-watch", daemon=True)
        self._precise_timer.start()
        self._thread.start()
        self._watcher.start()
        logger.info("coordinator %s started on store %s", self.id, self._store.url_masked)

    def stop(self, timeout: float = 10.0) -> None:
        """Finish the transaction and the releases under way, then leave; tolerates twice and never-started."""
        thread, watcher = self._thread, self._watcher
        if thread is None:
            return
        for subscription in self._subscriptions.values():
            subscription.cancel()
        self._stopping.set()
        self._input_queue.wake()
        thread.join(timeout)
        self._precise_timer.stop()
        if watcher is not None:
            watcher.join(timeout)
        self._unsubscribe()
        self._subscriptions.clear()
        self._thread = self._watcher = None
        logger.info("coordinator %s stopped", self.id)

    @property
    def active(self) -> bool:
        """Whether this coordinator has had a log delivery in the last 5 s."""
        return self._clock.monotonic() - self._log_heard < ACTIVE_SECONDS

    def healthy(self) -> tuple[bool, str]:
        """Whether it works, and the sentence for the health page."""
        if self._fatal is not None:
            return False, self._fatal
        if self._thread is not None and not self._thread.is_alive():
            return False, "the coordinator's thread has died"
        if self._store_down_since is not None:
            return False, "the store does not answer"
        if self._frozen is not None:
            return False, "the store is older than the log: it was restored; releases nothing until it is accepted"
        return True, "active" if self.active else "standby"

    # ---- the loop

    def _run(self) -> None:
        try:
            while not self._stopping.is_set() and self._fatal is None:
                self._input_queue.wait(self._patience())
                self._step()
                self._rounds += 1
            self._drain()
            if self._fatal is None:
                self._send_final_tick()
            else:
                self._unsubscribe()
        except _NotStoredError:
            logger.error("coordinator %s leaves without having stored everything; the log keeps it", self.id)
        except BaseException as error:
            self._fail(f"the coordinator's thread ended: {error!r}")
            self._unsubscribe()  # a dead consumer would keep the log from every other coordinator
            raise

    def _patience(self) -> float:
        now = self._clock.now()
        ring = self._timers.next_at()
        until_ring = TICK_SECONDS if ring is None or self._frozen is not None or not self._able() else ring - now
        until_tick = self._next_tick() - self._clock.monotonic()
        return max(0.0, min(until_ring, until_tick, TICK_SECONDS))

    def _step(self) -> None:
        self._forget_lost()
        self._tick()
        self._activity()
        pieces = self._input_queue.take(self._most)
        if any(piece.delivery is not None and piece.delivery.queue == names.LOG for piece in pieces):
            self._log_heard = self._clock.monotonic()
            self._activity()
        if self._active and self._frozen is None and self._able():
            pieces += [
                QueuedInput(TimerDue(id), None)
                for id in self._timers.ring(self._clock.now() + AHEAD_SECONDS, min(MOST_DUE_NOTICES, self._most))
            ]
        if pieces:
            self._declare_queues(pieces)
            self._commit(pieces)
            self._input_queue.acknowledge(self._subscriptions)
        self._purge()

    def _able(self) -> bool:
        """Whether a release would go out now; during an alarm it would only wait, expire, and be made again."""
        if self._stopping.is_set() or not self._broker.connected or self._broker.blocked:
            return False
        return self._in_flight < MOST_IN_FLIGHT

    def _drain(self) -> None:
        """The releases that were published are noted before leaving, so that nobody has to be unsure of them."""
        deadline = self._clock.monotonic() + RELEASE_TIMEOUT_SECONDS
        while self._in_flight > 0 or self._input_queue.has_own():
            if self._fatal is not None or self._clock.monotonic() > deadline:
                return
            self._input_queue.wait(0.1)
            own = self._input_queue.take(self._most)
            if own:
                self._commit(own)
                self._input_queue.acknowledge(self._subscriptions)

    def _send_final_tick(self) -> None:
        """A last tick, which nobody here reads: whoever comes next learns how far the store had come.

        So it notices when the store was put back to a backup meanwhile.
        """
        serial = max(self._serial, self._frozen or 0)
        tick = release.tick(self.id, self._store_id, serial, self._clock.now(), self._process_info)
        self._broker.publish([tick], timeout=FINAL_TICK_SECONDS).result()

    def _next_tick(self) -> float:
        """When the next tick is sent: a second after the one before, if that was read."""
        return self._last_tick + (TICK_AGAIN_SECONDS if self._engine.tick_is_out else TICK_SECONDS)

    def _tick(self) -> None:
        now = self._clock.monotonic()
        if now < self._next_tick():
            return
        self._last_tick = now
        serial = max(self._serial, self._frozen or 0)  # who comes after a restart is to learn of it too
        sent_at = self._clock.now()
        tick = release.tick(self.id, self._store_id, serial, sent_at, self._process_info)
        self._engine.tick_sent(sent_at)
        self._broker.publish([tick, release.checkpoint(tick)] if self._active else [tick], timeout=5.0)
        self._engine.waiters.forget(self._clock.now())

    def _activity(self) -> None:
        active = self.active
        if active and not self._active:
            effects = self._persist(lambda: self._engine.become_active(self._clock.now()))
            self._active = True
            self._observer.active(True)
            self._set_timers(effects)
            self._more_due = len(effects.timers) >= MOST_DUE
            self._last_look = self._clock.monotonic()
            logger.info("coordinator %s is the active one", self.id)
        elif self._active and not active:
            self._active = False
            self._observer.active(False)
            self._timers.clear()
            self._lost_messages.worker_lost()
            logger.info("coordinator %s has had no log delivery for %g s: it stands by", self.id, ACTIVE_SECONDS)
        rung = self._more_due and not self._timers
        if active and (rung or self._clock.monotonic() - self._last_look >= LOOK_EVERY_SECONDS):
            self._look_ahead()

    def _look_ahead(self) -> None:
        """A lost due notice or a failover costs a moment, not a job: the rows know their time."""
        self._last_look = self._clock.monotonic()
        before = self._clock.now() + LOOK_AHEAD_SECONDS

        def look() -> list[tuple[Instant, str]]:
            with self._store.transaction() as tx:
                return tx.due(before, limit=MOST_DUE)

        found = self._persist(look)
        self._more_due = len(found) == MOST_DUE
        for due_at, id in found:
            self._timers.set(id, due_at)

    # ---- one transaction and what follows it

    def _commit(self, pieces: list[QueuedInput]) -> None:
        started = self._clock.monotonic()
        effects = self._apply_safely(pieces)
        now = self._clock.monotonic()
        self._pace(now - started)
        for one in effects:
            self._follow(one)
            self._observer.committed(now - started, one.rows)

    def _pace(self, seconds: float) -> None:
        """Keep transactions short on a slow store: nothing is released after one of ACTIVE_SECONDS, however often."""
        if seconds > SLOW_SECONDS:
            self._most = max(LEAST_INPUTS, self._most // 2)
        elif seconds < SLOW_SECONDS / 4:
            self._most = min(MOST_INPUTS, self._most * 2)

    def _apply_safely(self, pieces: list[QueuedInput]) -> list[Effects]:
        """All pieces in one transaction; when a decision raises, in halves, until the one that raises is put aside."""
        try:
            return self._apply([piece.input for piece in pieces])
        except _NotStoredError:
            raise
        except Exception as error:  # noqa: BLE001  # whatever a decision raises, the log must go on
            if len(pieces) == 1:
                return self._put_aside(pieces[0], error)
            logger.warning("a batch of %d records raised; its halves are decided apart", len(pieces))
        half = len(pieces) // 2
        return self._apply_safely(pieces[:half]) + self._apply_safely(pieces[half:])

    def _apply(self, inputs: list[Input]) -> list[Effects]:
        may_release = self.active and self._caught_up and self._frozen is None
        effects = self._persist(
            lambda: self._engine.apply(
                inputs, self._clock.now(), may_release=may_release and self._able(), ahead=AHEAD_SECONDS
            )
        )
        self._rounds += 1
        return [effects]

    def _put_aside(self, piece: QueuedInput, error: Exception) -> list[Effects]:
        """Keep a record that cannot be decided, without its neighbours, for a person to look at and to replay."""
        logger.error("a record cannot be decided; it is set aside (see broker-jobs dead-letters)", exc_info=error)
        if piece.delivery is None:
            return []
        said = " ".join(str(getattr(error, "orig", None) or error).split())
        asked = piece.input
        if isinstance(asked, CommandReceived) and asked.reply_to:
            refusal = Reply(id=asked.command.id, ok=False, refused=f"it cannot be carried out: {said}"[:MOST_SAID])
            self._broker.publish([reply(asked.reply_to, refusal)], timeout=RELEASE_TIMEOUT_SECONDS)
            if isinstance(asked.command, ReplayDeadLetter | DeleteDeadLetter):
                return []  # what it names is kept, and who asked for it knows
        trace = "".join(traceback.format_tb(error.__traceback__))
        reason = f"{type(error).__name__}: {said}"[:MOST_SAID] + "\n" + trace[-MOST_TRACED:]
        origin = {names.LOG: "log", names.COMMAND: "command", names.DUE: "due"}.get(piece.delivery.queue, "dead")
        return self._apply([Unreadable(origin, reason, alone(piece.delivery, piece.input))])

    def _persist(self, work: Callable[[], Stored]) -> Stored:
        """The result of a transaction; while the store is away it is tried again, and nothing is acknowledged."""
        pause, away = 0.1, False
        while True:
            try:
                result = work()
            except NewerSchemaError as error:  # the log belongs to who understands the store
                self._fail(str(error))
                self._unsubscribe()
                raise _NotStoredError from error
            except StoreError as error:
                now = self._clock.monotonic()
                if self._store_down_since is None:
                    self._store_down_since = now
                    logger.error("the store does not answer (%s); the log waits and is tried again", error)
                elif now - self._store_down_since > STORE_PATIENCE_SECONDS and not away:
                    away = True
                    logger.error("the store is away for long: deliveries are given back until it answers")
                    self._unsubscribe()
                if self._stopping.wait(pause):
                    raise _NotStoredError from error
                pause = min(pause * 2, 5.0)
                continue
            if self._store_down_since is not None:
                logger.warning("the store answers again after %.0f s", self._clock.monotonic() - self._store_down_since)
                self._store_down_since = None
            if away:
                self._subscribe()
            return result

    def _follow(self, effects: Effects) -> None:
        self._serial = effects.meta.serial
        for kind, count in effects.kinds.items():
            self._observer.records(kind, count)
        for origin, reason in effects.dead_letters:
            logger.error(
                "a message from the %s queue is a dead letter now: %s; look at it with broker-jobs dead-letters",
                origin,
                reason,
            )
            self._observer.dead_letters(origin)
        for note in effects.notes:
            self._observer.noted(note)
        if effects.caught_up and not self._caught_up:
            self._caught_up = True
            self._last_look = float("-inf")  # what came due meanwhile
        if effects.went_back is not None:
            self._freeze(effects.went_back, effects.meta.accepted_serial)
        if self._frozen is not None and effects.meta.accepted_serial != self._accepted_before:
            logger.warning("the restored store was accepted: releases go on")
            self._frozen = None
        if effects.foreign is not None:
            logger.error("coordinator %s writes another store than this one: it is told to stop", effects.foreign)
            only = Control(version=0, store=self._store_id)
            self._broker.publish([release.broadcast(only)], timeout=RELEASE_TIMEOUT_SECONDS)
        if effects.control is not None:
            broadcasts = [release.broadcast(control) for control in (*effects.control_before, effects.control)]
            self._broker.publish(broadcasts, timeout=RELEASE_TIMEOUT_SECONDS).add_done_callback(self._told)
        if effects.messages:
            self._broker.publish(effects.messages, timeout=RELEASE_TIMEOUT_SECONDS)
        if effects.releases:
            self._release(effects.releases, effects.release_messages)
            self._observer.released(len(effects.releases), effects.late)
        self._set_timers(effects)
        if effects.next:
            self._input_queue.add(list(effects.next))
        if effects.more:
            self._input_queue.add([WorkItemsWaiting()])
        now = self._clock.monotonic()
        if effects.counted_at is not None and now - self._last_tick > TICK_SECONDS:
            self._last_tick = now  # it came late: a whole second passes before the next one
        if effects.tick_at is not None:
            self._observer.lag(max(0.0, self._clock.now() - effects.tick_at))
            self._judge(effects)

    def _set_timers(self, effects: Effects) -> None:
        if self._active:
            for id, due_at in effects.timers:
                self._timers.set(id, due_at)
        elif effects.timers:
            self._broker.publish(release.looks([id for id, _ in effects.timers]), timeout=RELEASE_TIMEOUT_SECONDS)

    # ---- releases

    def _release(self, rows: list[Row], messages: list[Message]) -> None:
        if not self.active:
            self._input_queue.add([ReleaseFailed(row.id, row.epoch, "its coordinator stepped down") for row in rows])
            return
        self._fly(len(rows))
        now = self._clock.now()
        early = [pair for pair in zip(rows, messages, strict=True) if (pair[0].released_at or 0.0) > now]
        if early:
            self._precise_timer.hold([row for row, _ in early], [message for _, message in early])
            timely = [pair for pair in zip(rows, messages, strict=True) if (pair[0].released_at or 0.0) <= now]
            rows, messages = [row for row, _ in timely], [message for _, message in timely]
        self._publish_releases(rows, messages)

    def _publish_releases(self, rows: list[Row], messages: list[Message]) -> None:
        for start in range(0, len(rows), 1_000):
            chunk = [(row.id, row.epoch) for row in rows[start : start + 1_000]]
            future = self._broker.publish(messages[start : start + 1_000], timeout=RELEASE_TIMEOUT_SECONDS)
            future.add_done_callback(lambda done, chunk=chunk: self._confirmed(chunk, done))  # type: ignore[misc]

    def _confirmed(self, chunk: list[tuple[str, int]], done: Future[list[PublishFailure | None]]) -> None:
        """On the exchange's I/O thread: what became of the releases is news for the next transaction."""
        records: list[Input] = []
        for (id, epoch), failure in zip(chunk, done.result(), strict=True):
            if failure is None:
                records.append(Released(id, epoch))
            elif failure.kind is Unconfirmed.NOT_SENT:
                records.append(ReleaseFailed(id, epoch, failure.reason))
            else:
                records.append(ReleaseUnknown(id, epoch))
        # First the news, then the count: who waits for the last one takes it in then. That all went well is no reason
        # for a transaction of its own: most outcomes come in the next one.
        if all(isinstance(record, Released) for record in records) and not self._stopping.is_set():
            self._input_queue.add_quietly(records)
        else:
            self._input_queue.add(records)
        self._fly(-len(chunk))

    def _clock_went_back(self, rows: list[Row]) -> None:
        """On the gate's thread: the time of these is far away again."""
        self._input_queue.add([ReleaseFailed(row.id, row.epoch, "the clock was set back") for row in rows])
        self._fly(-len(rows))

    def _told(self, done: Future[list[PublishFailure | None]]) -> None:
        """On the exchange's I/O thread: who missed a part of the news must not believe that it has all of it."""
        if any(failure is not None for failure in done.result()):
            self._engine.untold = True

    def _fly(self, count: int) -> None:
        with self._counting:
            self._in_flight += count

    # ---- once a tick: the dead, the graces, the lost

    def _judge(self, effects: Effects) -> None:
        if not self._active or self._frozen is not None or effects.tick_at is None:
            return
        log_now, read_until = effects.meta.log_time, effects.tick_at
        dead = self._engine.leases.dead(log_now, read_until)
        for worker, reason in dead:
            level = logging.INFO if reason == LEFT else logging.WARNING
            logger.log(level, "%s: worker %s; its jobs are looked after", reason, worker)
            self._engine.forget_worker(worker)
            self._lost_messages.worker_lost()
        self._input_queue.add(list(self._persist(lambda: self._found(dead, log_now, read_until))))

    def _found(self, dead: list[tuple[str, str]], log_now: float, read_until: Instant) -> list[JobRecord]:
        now = self._clock.now()
        records: list[JobRecord] = []
        with self._store.transaction() as tx:
            for worker, reason in dead:
                records += [LeaseOver(id, worker, reason) for id in tx.owned_by(worker)]
                tx.remove_worker(worker)
            records += [TimerDue(id) for id in tx.grace_over(log_now, limit=2_000)]
            over = {worker for worker, _ in dead}  # their rows are looked after in the next transaction
            self._engine.leases.watch([worker for worker in tx.owners() if worker not in over], log_now)
            records += self._engine.unsure_in(tx, now, log_now)
            held: set[str] | None = None
            # What is out in the rows may have ended long ago: the log must have been read beyond the look at the queue.
            while self._depths and self._depths[0].seen_at + LOOK_TAKES_SECONDS < read_until:
                depth = self._depths.popleft()
                before = self._lost_messages.seen(depth.queue, depth.ready, log_now, depth.seen_at)
                if before is None:
                    continue
                held = self._engine.held_by_workers() if held is None else held
                ids = [id for id in tx.out_since(depth.queue, before, limit=2_000) if id not in held]
                records += [ProvenLost(row.id, row.epoch) for row in tx.load(ids).values()]
        return records

    def _freeze(self, serial: int, accepted_serial: int) -> None:
        if self._frozen is None or serial > self._frozen:
            # The serial itself goes on growing with what the log tells, so it does not say whether it was accepted.
            self._frozen, self._accepted_before = serial, accepted_serial
            logger.critical(
                "the log has seen serial %d of this store, which is at %d: it went back (restored from a backup?). "
                "Nothing is released until a person accepts it: broker-jobs store accept",
                serial,
                self._serial,
            )

    # ---- maintenance

    def _purge(self) -> None:
        if not self._active or self._clock.monotonic() - self._last_purge < PURGE_EVERY_SECONDS:
            return
        settings, now = self._settings, self._clock.now()

        def purge() -> int:
            with self._store.transaction() as tx:
                return tx.purge(
                    now=now, keep_succeeded=settings.keep_succeeded, keep_deleted=settings.keep_deleted,
                    keep_failed=settings.keep_failed, limit=PURGE_ROWS,
                )  # fmt: skip

        if self._persist(purge) < PURGE_ROWS:
            self._last_purge = self._clock.monotonic()
            self._input_queue.add([WorkItemsWaiting()])

    def _declare_queues(self, pieces: list[QueuedInput]) -> None:
        """A job whose queue does not exist: the queue is declared, so that its first job may come before its worker."""
        declared: dict[str, str | None] = {}
        for number, piece in enumerate(pieces):
            event = piece.input.event if isinstance(piece.input, FromWorker) else None
            if not isinstance(event, Returned) or event.reason != "no queue":
                continue
            try:
                queue = codec.decode(event.envelope).queue
            except codec.Undecodable:
                continue
            if queue not in declared:
                declared[queue] = self._declare(queue)
            refused = declared[queue]
            if refused is not None:
                lost = Unroutable(event.id, event.epoch, refused, event.envelope)
                pieces[number] = QueuedInput(lost, piece.delivery)

    def _declare(self, queue: str) -> str | None:
        """Why the queue cannot be; None where it exists now, or the broker is away and the job will come again."""
        if not self._settings.declare:
            return f"queue {queue!r} does not exist; declare it: broker-jobs topology apply -Q {queue}"
        try:
            self._broker.apply(work_topology(queue), timeout=DECLARE_TIMEOUT_SECONDS)
        except BrokerRefused as error:
            return f"queue {queue!r} does not exist and cannot be declared: {error}"
        except BrokerError as error:
            logger.warning("queue %r does not exist and cannot be declared now (%s); it is tried again", queue, error)
            return None
        logger.warning("queue %r did not exist when a job was sent to it: declared; does a worker serve it?", queue)
        return None

    def _decide_newer(self) -> None:
        """What an older program set aside, as a newer version wrote it, may be plain to this one.

        All else that was set aside is for a person. What was readable was decided, but for one record, and is not
        decided again: its jobs may have ended, and be forgotten since.
        """
        page = self._store.reader.newer_dead_letters(limit=DEAD_LETTERS_PAGE)
        while page:
            for row in page:
                inputs = read_again(row)
                if inputs and not any(isinstance(one, Unreadable) for one in inputs) and self._are_known(row, inputs):
                    self._decide_again(row)
            page = self._store.reader.newer_dead_letters(after=page[-1], limit=DEAD_LETTERS_PAGE)

    def _are_known(self, row: DeadLetterRow, inputs: list[Input]) -> bool:
        """Whether none of their jobs can have ended and been forgotten."""
        forgotten = self._clock.now() - _least_kept(self._settings)
        for one in inputs:
            match one:
                case ChunkReceived():
                    ids = [member.envelope.id for member in one.members]
                case BatchCommit() | PublishedEvent() | Tick() | HeartbeatReceived():
                    ids = []
                case (
                    CommandReceived()
                    | ReadAgain()
                    | CheckpointRead()
                    | UnknownParents()
                    | Unreadable()
                    | WorkItemsWaiting()
                ):
                    return False
                case _:
                    ids = [job_id(one)]
                    if self._store.reader.job(ids[0]) is not None:
                        continue
            if row.at < forgotten or any((id_created_at(id) or row.at) < forgotten for id in ids):
                logger.warning("message %s was set aside long ago and can be read now: replay it, or delete it", row.id)
                return False
        return True

    def _decide_again(self, row: DeadLetterRow) -> None:
        try:
            effects = self._engine.apply([ReadAgain(row.id)], self._clock.now(), may_release=False)
        except StoreError:
            raise
        except Exception as error:
            logger.exception("message %s can be read now, but not be decided: it is for a person", row.id)
            with self._store.transaction() as tx:
                tx.drop_dead_letter(row.id)
                reason = f"{type(error).__name__}: {error}"[:MOST_SAID]
                tx.add_dead_letter(
                    row.id.replace(NEWER, "", 1), at=row.at, origin=row.origin, reason=reason, body=row.body,
                    exchange=row.exchange, key=row.key, type=row.type, message_id=row.message_id,
                )  # fmt: skip
            return
        self._set_timers(effects)
        logger.info("message %s, which a newer version wrote, is decided now", row.id)

    def _subscribe(self) -> None:
        for queue, prefetch in PREFETCH.items():
            self._subscriptions[queue] = self._broker.subscribe(
                [queue],
                lambda deliveries, queue=queue: self._input_queue.put(queue, deliveries),  # type: ignore[misc]
                prefetch=prefetch,
                on_lost=lambda channel, queue=queue: self._lost_channel(queue, channel),  # type: ignore[misc]
            )

        _, self._control_consumer = self._broker.subscribe_private(self._on_control, bind_to=names.CONTROL)

    def _on_control(self, deliveries: list[Delivery]) -> None:
        """Of what is told to workers one thing is for coordinators: whose store is the truth."""
        for delivery in deliveries:
            try:
                store = Control.model_validate_json(delivery.body).store
            except ValidationError:
                continue
            if store is not None and store != self._store_id:
                self._fail(
                    f"the active coordinator on this broker writes another store ({store}; this one is "
                    f"{self._store_id}, {self._store.url_masked}): two stores are two truths. "
                    "Give all coordinators one BROKER_JOBS_STORE"
                )
                self._input_queue.wake()

    def _unsubscribe(self) -> None:
        if self._control_consumer is not None:
            self._control_consumer.close()
        for subscription in self._subscriptions.values():
            subscription.close()

    def _lost_channel(self, queue: str, channel: int) -> None:
        self._lost.put((queue, channel))
        self._input_queue.wake()

    def _forget_lost(self) -> None:
        try:
            while True:
                self._input_queue.lost(*self._lost.get_nowait())
        except Empty:
            return

    def _watch(self) -> None:
        """Looks at depths for lost-message detection and the metrics, and ends a coordinator that is stuck."""
        rounds, since = -1, 0.0
        while not self._stopping.wait(WATCH_EVERY_SECONDS):
            try:
                self._look_at_depths()
                self._look_for_unknown_parents()
            except (BrokerError, StoreError) as error:
                logger.debug("no look at queue depths now: %s", error)
            except Exception:
                logger.exception("a look at the queues failed; it is tried again")
            # By looks, not by the clock: a program that was frozen as a whole is not stuck when it thaws.
            since = since + WATCH_EVERY_SECONDS if self._rounds == rounds and self._store_down_since is None else 0.0
            rounds = self._rounds
            if since > WEDGED_SECONDS:
                self._fail(f"its thread has not come round for {since:.0f} s; leaving it to another coordinator")
                self._unsubscribe()
                return

    def _look_for_unknown_parents(self) -> None:
        """What waits for a parent that nobody has seen; only where all that was in the log has been read."""
        if not (self._active and self._caught_up and self._frozen is None):
            return
        if self._clock.monotonic() - self._last_unknown_parents < UNKNOWN_PARENTS_EVERY_SECONDS:
            return
        now = self._clock.now()
        made = now - _keep(self._settings)
        found = self._store.reader.unknown_parents(
            since=now - NEVER_SEEN_SECONDS, made=made, limit=MOST_UNKNOWN_PARENTS
        )
        if found:
            self._input_queue.add([UnknownParents(found)])
        if len(found) < MOST_UNKNOWN_PARENTS:
            self._last_unknown_parents = self._clock.monotonic()

    def _look_at_depths(self) -> None:
        for queue, paused in self._store.reader.queues().items():
            self._observer.paused(queue, paused)
            seen_at = self._clock.now()
            depth = self._broker.depth(names.work_queue(queue))
            if depth is None:
                continue
            if self._active:
                self._depths.append(_Depth(queue, depth[0], seen_at))
            self._observer.depth(queue, *depth)
            released_at = self._store.reader.oldest(queue)
            self._observer.oldest(queue, 0.0 if released_at is None else max(0.0, seen_at - released_at))
        looked = [names.LOG, names.COMMAND, names.DUE, names.DEAD_LETTERS]
        if self._active and next(self._looks) % DELAY_QUEUES_EVERY_LOOKS == 0:
            looked += [names.delay_queue(step) for step in range(LEVELS)]
        for queue in looked:
            depth = self._broker.depth(queue)
            if depth is not None:
                self._observer.depth(queue, *depth)
        overdue = self._overdue.seconds(self._store.reader.schedules(), self._clock.now())
        self._observer.kept(self._store.reader.dead_letter_count(), overdue)
        self._observer.states({str(state): count for state, count in self._store.reader.counts().items()})

    def _fail(self, reason: str) -> None:
        if self._fatal is None:
            self._fatal = reason
            logger.critical("%s", reason)
            self._on_fatal(reason)
