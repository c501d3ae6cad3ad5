"""Runs a coordinator: its threads, and the loop that decides deliveries, acknowledges them and does what follows.

Over 300 lines as it also puts the parts together, each of which has its own file.

One thread decides (`coordinator`), one looks at queues (`coordinator-watch`), one holds releases for their last
milliseconds (`coordinator-timer`). Deliveries come from the broker's I/O thread through the input queue.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from broker_jobs.broker import names
from broker_jobs.broker.interface import Broker, Delivery
from broker_jobs.broker.topology import fixed_topology
from broker_jobs.clock import Clock, LogTime, WallTime
from broker_jobs.coordinator.after_commit import AfterCommit
from broker_jobs.coordinator.effects import Effects
from broker_jobs.coordinator.engine import Engine
from broker_jobs.coordinator.failures import NotStoredError
from broker_jobs.coordinator.input_queue import InputQueue
from broker_jobs.coordinator.inputs import QueuedInput, WorkItemsWaiting
from broker_jobs.coordinator.leadership import TICK_SECONDS, Leadership
from broker_jobs.coordinator.maintenance import Maintenance
from broker_jobs.coordinator.newer_messages import NewerMessages
from broker_jobs.coordinator.observer import CoordinatorObserver
from broker_jobs.coordinator.pace import Pace
from broker_jobs.coordinator.patient_store import PatientStore
from broker_jobs.coordinator.poison import PoisonGuard
from broker_jobs.coordinator.queues import MissingQueues, QueueConsumers
from broker_jobs.coordinator.records import JobRecord
from broker_jobs.coordinator.release_publisher import RELEASE_TIMEOUT_SECONDS, ReleasePublisher
from broker_jobs.coordinator.transactions import Transactions
from broker_jobs.coordinator.watch import Watch
from broker_jobs.errors import BrokerError
from broker_jobs.messages.envelope import new_id
from broker_jobs.settings import Settings
from broker_jobs.store.open import Store

logger = logging.getLogger(__name__)


def _ignore(reason: str) -> None:
    """The reason is in the log and in the health too."""
    logger.debug("%s", reason)


PAUSE_SECONDS = 2.0
"""Between the beginnings of two rounds; in more the broker may have closed our connection and given all to another."""


READ_TO_END_SECONDS = 3.0
READ_TO_END_PAUSE_SECONDS = 0.05


class Coordinator:
    """One coordinator. Several may run: one is active, the others stand by.

    Args:
        broker: started by the caller.
        store: opened by the caller.
        settings: retention, the largest message, whether queues may be declared.
        clock: of this machine.
        id: of this coordinator; made here if it is not given.
        observer: hears what is counted.
        on_fatal: called with the reason when it cannot go on.
    """

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
        self._fatal: str | None = None
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._watcher: threading.Thread | None = None
        self._rounds = 0
        self._engine = Engine(store, self.id, since=float("-inf"), max_body=settings.max_body)
        self._liveness = self._engine.liveness
        self._pace = Pace(clock.monotonic)
        self._input_queue = InputQueue(require_user_id=settings.require_user_id, monotonic=clock.monotonic)
        self._leadership = Leadership(
            self.id, broker, clock, self._engine.ticks, store_name=store.url_masked, on_fatal=self._fail
        )
        self._consumers = QueueConsumers(broker, self._input_queue, self._on_control)
        self._publisher = ReleasePublisher(
            broker, clock, self._input_queue, self._stopping, lambda: self._leadership.active
        )
        self._patient_store = PatientStore(
            store,
            clock,
            stopping=self._stopping,
            on_fatal=self._fail,
            give_log_back=self._consumers.close,
            take_log_again=self._consumers.open,
        )
        self._transactions = Transactions(
            self._engine,
            self._patient_store,
            broker,
            clock,
            may_release=lambda: self._leadership.may_release() and self._publisher.is_able(),
            audited=lambda id: None if (row := store.reader.audit.get(id)) is None else row.detail,
        )
        self._poison_guard = PoisonGuard(store, self._patient_store, self._input_queue, clock)
        self._after_commit = AfterCommit(broker, self._engine, self._publisher, self._observer)
        self._missing_queues = MissingQueues(broker, settings)
        self._newer_messages = NewerMessages(store, self._engine, settings, clock)
        self._maintenance = Maintenance(
            store,
            settings,
            clock,
            patient_store=self._patient_store,
            leadership=self._leadership,
            timers=self._publisher.timers,
            input_queue=self._input_queue,
        )
        self._watch = Watch(
            store,
            broker,
            clock,
            leadership=self._leadership,
            liveness=self._liveness,
            observer=self._observer,
            progress=self._progress,
            on_stuck=self._stuck,
            also=self._maintenance.look_for_unknown_parents,
        )

    # ---- start and stop

    def start(self) -> None:
        """Start deciding; tolerates twice. The broker and the store are started by the caller."""
        if self._thread is not None:
            return
        self._stopping.clear()
        if self._settings.declare:
            self._broker.apply(fixed_topology())
        self._leadership.begin(self._store.reader.meta())
        for effects in self._newer_messages.decide():
            self._set_timers(effects)
        self._consumers.open()
        self._thread = threading.Thread(target=self._run, name="coordinator", daemon=True)
        self._watcher = threading.Thread(
            target=self._watch.run, args=(self._stopping,), name="coordinator-watch", daemon=True
        )
        self._publisher.start()
        self._thread.start()
        self._watcher.start()
        logger.info("coordinator %s started on store %s", self.id, self._store.url_masked)

    def stop(self, timeout: float = 10.0) -> None:
        """Finish the transaction and the releases under way, then leave; tolerates twice and never-started."""
        thread, watcher = self._thread, self._watcher
        if thread is None:
            return
        # The consumers are not cancelled: a standby would read on before it has back what was taken here, and so accept
        # jobs in another order.
        self._stopping.set()
        self._input_queue.wake()
        thread.join(timeout)
        self._publisher.stop()
        if watcher is not None:
            watcher.join(timeout)
        self._consumers.close()
        self._thread = self._watcher = None
        logger.info("coordinator %s stopped", self.id)

    def read_to_end(self) -> None:
        """Wait until the log is read to its end, for READ_TO_END_SECONDS at most. Called before stop()."""
        until = self._clock.monotonic() + READ_TO_END_SECONDS
        with suppress(BrokerError):
            while self.active and self._broker.connected and (left := until - self._clock.monotonic()) > 0:
                depth = self._broker.depth(names.LOG, left)
                if depth is not None and depth[0] == 0 and self._input_queue.log_waits() == 0:
                    return
                time.sleep(READ_TO_END_PAUSE_SECONDS)

    @property
    def active(self) -> bool:
        """Whether this coordinator has had a log delivery in the last 5 s."""
        return self._leadership.active

    def healthy(self) -> tuple[bool, str]:
        """Whether it works, and the sentence for the health page."""
        if self._fatal is not None:
            return False, self._fatal
        if self._thread is not None and not self._thread.is_alive():
            return False, "the coordinator's thread has died"
        outage = self._patient_store.outage()
        if outage is not None:
            return False, outage
        problem = self._consumers.problem()
        if problem is not None:
            return False, problem
        if self._leadership.restored:
            return False, "the store is older than the log: it was restored; releases nothing until it is accepted"
        return True, "active" if self.active else "standby"

    def _fail(self, reason: str) -> None:
        if self._fatal is None:
            self._fatal = reason
            logger.critical("%s", reason)
            self._on_fatal(reason)

    def _stuck(self, reason: str) -> None:
        """The coordinator's thread is stuck (the watch's thread)."""
        self._fail(reason)
        self._consumers.close()

    def _on_control(self, deliveries: list[Delivery]) -> None:
        self._leadership.on_control(deliveries)
        if self._fatal is not None:
            self._input_queue.wake()

    # ---- the loop

    def _run(self) -> None:
        self._round_began = self._clock.monotonic()
        try:
            while not self._stopping.is_set() and self._fatal is None:
                gather_seconds = self._pace.gather_seconds() if self._engine.may_gather() else 0.0
                self._input_queue.wait(self._patience(), gather_seconds)
                self._round()
                self._rounds += 1
            self._drain()
            if self._fatal is None:
                self._leadership.final_tick()
            else:
                self._consumers.close()
        except NotStoredError:
            logger.error("coordinator %s stops before everything is stored; the rest stays in the log", self.id)
        except BaseException as error:
            self._fail(f"the coordinator's thread ended: {error!r}")
            self._consumers.close()  # a dead consumer would keep the log from every other coordinator
            raise

    def _progress(self) -> int | None:
        """Rounds and transactions so far; None while the store is away."""
        return None if self._patient_store.is_away else self._rounds + self._transactions.count

    def _patience(self) -> float:
        """The seconds until something is to be done although nothing arrives."""
        until_tick = self._leadership.next_tick_at() - self._clock.monotonic()
        held_until = self._input_queue.held_until()
        if held_until is not None:
            until_tick = min(until_tick, held_until - self._clock.monotonic())
        due_at = self._publisher.timers.next_at()
        if due_at is None or self._leadership.restored or not self._publisher.is_able():
            return max(0.0, min(until_tick, TICK_SECONDS))
        return max(0.0, min(until_tick, TICK_SECONDS, due_at - self._clock.now()))

    def _round(self) -> None:
        began = self._clock.monotonic()
        if began - self._round_began > PAUSE_SECONDS and not self._consumers.has_answer():
            self._take_part()
            return  # nothing that came before the pause is decided until the broker has said whether it is still ours
        self._round_began = began
        self._consumers.drop_lost()
        if self._leadership.tick():
            self._engine.waiters.forget(self._clock.now())
        self._take_part()
        suspect = self._input_queue.take_suspect()
        if suspect is None:
            pieces = self._input_queue.take(self._transactions.most)
        else:
            pieces = self._poison_guard.pieces(suspect)
        if any(piece.delivery is not None and piece.delivery.queue == names.LOG for piece in pieces):
            self._leadership.log_was_read()
            self._take_part()
        if suspect is None and self._leadership.leads and self._publisher.is_able():
            pieces += self._publisher.due(self._transactions.most)
        if pieces:
            self._pace.begins(len(pieces))
            self._missing_queues.declare(pieces)
            self._decide(pieces)
            self._consumers.acknowledge()
        self._maintenance.purge()
        self._maintenance.purge_dead_letters()

    def _take_part(self) -> None:
        """Take over when the log comes here, stand by when it comes no more, and look ahead while it comes."""
        leadership = self._leadership
        if leadership.must_step_up():
            effects = self._patient_store.persist(lambda: self._engine.become_active(self._clock.now()))
            leadership.step_up()
            self._observer.active(True)
            self._set_timers(effects)
            if effects.more:  # the coordinator before this one left work items
                self._input_queue.add([WorkItemsWaiting()])
            self._maintenance.looked_ahead(len(effects.timers))
        elif leadership.must_step_down():
            leadership.step_down()
            self._observer.active(False)
            self._publisher.timers.clear()
            self._liveness.stand_by()
        if leadership.stepped_up:
            self._maintenance.look_ahead()

    def _drain(self) -> None:
        """Decide the copies that are held, and note the releases that were published before leaving, so that no
        coordinator has to be unsure of them."""
        held = self._input_queue.take_held()
        if held and self._fatal is None:
            self._decide(held)
            self._consumers.acknowledge()
        deadline = self._clock.monotonic() + RELEASE_TIMEOUT_SECONDS
        while self._publisher.in_flight > 0 or self._input_queue.has_own():
            if self._fatal is not None or self._clock.monotonic() > deadline:
                return
            self._input_queue.wait(0.1)
            own = self._input_queue.take(self._transactions.most)
            if own:
                self._decide(own)
                self._consumers.acknowledge()

    # ---- one transaction and what follows it

    def _decide(self, pieces: list[QueuedInput]) -> None:
        committed, seconds = self._transactions.apply(pieces)
        for effects in committed:
            self._follow(effects)
            self._observer.committed(seconds, effects.rows)

    def _follow(self, effects: Effects) -> None:
        if effects.foreign is not None and self._leadership.caught_up:  # else it may have been told to stop long ago
            self._leadership.refuse_foreign(effects.foreign)
        begins = self._leadership.committed(effects.meta, went_back=effects.went_back, caught_up=effects.caught_up)
        if begins:
            self._maintenance.look_again()  # for what came due meanwhile
        if effects.dead_letters:
            self._maintenance.dead_letters_were_stored()
        self._after_commit.observe(effects)
        self._after_commit.publish(effects)
        self._set_timers(effects)
        if effects.next:
            self._input_queue.add(list(effects.next))
        if effects.more:
            self._input_queue.add([WorkItemsWaiting()])
        if effects.counted_at is not None:
            self._leadership.tick_counted()
        if effects.tick_at is not None:
            self._observer.lag(max(0.0, self._clock.now() - effects.tick_at))
            self._judge(LogTime(effects.meta.log_time))

    def _set_timers(self, effects: Effects) -> None:
        self._publisher.set_timers(effects.timers, active=self._leadership.stepped_up)

    def _judge(self, log_now: LogTime) -> None:
        """Once a tick: dead workers, ended graces, lost messages."""
        if not self._leadership.leads:
            return
        dead = self._liveness.dead_workers(log_now)

        def judge() -> list[JobRecord]:
            with self._store.transaction() as tx:
                return self._liveness.judge(tx, dead, WallTime(self._clock.now()), log_now)

        self._input_queue.add(list(self._patient_store.persist(judge)))
