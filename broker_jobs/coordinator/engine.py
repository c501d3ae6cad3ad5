"""Applies batches of inputs to the store, one transaction each, and keeps what a coordinator knows between them."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable

from broker_jobs.clock import Instant
from broker_jobs.coordinator.due_timers import HORIZON_SECONDS
from broker_jobs.coordinator.effects import Effects
from broker_jobs.coordinator.inputs import Input
from broker_jobs.coordinator.leases import Leases
from broker_jobs.coordinator.log_time import Ticks
from broker_jobs.coordinator.queries import Waiters
from broker_jobs.coordinator.records import JobRecord, ReleaseUnknown
from broker_jobs.coordinator.state_machine import Context
from broker_jobs.coordinator.unit_of_work import Memory, UnitOfWork
from broker_jobs.store.open import Store
from broker_jobs.store.write import Transaction

UNTOLD_SECONDS = 60.0
"""A publish ends in ten seconds; the confirm of an own release that is missing after so long will not come."""
_CHANCE = random.Random()  # our own, not the global one of the program we run in


class Engine:
    """The only writer of the store. Not thread-safe: a coordinator has one thread for it."""

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
        self.max_body = max_body
        """Bytes the message of a job with changed arguments may have."""
        self.keep = keep
        """Seconds after which every ended job is forgotten."""
        self.memory = Memory(Ticks(id, since))
        self._store = store
        self._chance = chance

    def apply(self, inputs: Iterable[Input], now: Instant, *, may_release: bool = True, ahead: float = 0.0) -> Effects:
        """Decide all inputs in their order, in one transaction. Raises whatever a decision or the store raises.

        What comes due within `ahead` seconds is released too: its row's `released_at` is in the future, and the caller
        publishes it then.
        """
        memory = self.memory
        failed, all_at = memory.broadcast_failed, memory.broadcast_all_at
        try:
            with self._store.transaction() as tx:
                at = Context(now, tx.meta.log_time, self.id, self._chance, ahead, self.max_body)
                work = UnitOfWork(tx, at, memory, may_release=may_release, forgotten=now - self.keep)
                effects = work.run(list(inputs))
        except BaseException:  # what was to be broadcast is not committed, so it is not broadcast
            memory.broadcast_failed, memory.broadcast_all_at = memory.broadcast_failed or failed, all_at
            raise
        memory.waiters.told(effects.told)
        if effects.counted_at is not None:
            memory.ticks.counted(effects.counted_at)
        return effects

    def become_active(self, now: Instant) -> Effects:
        """Give every worker a whole lease, and look at what is due soon."""
        with self._store.transaction() as tx:
            workers = {worker.id for worker in tx.workers()} | set(tx.owners())
            self.memory.leases.begin(sorted(workers), tx.meta.log_time)
            self.memory.held.keep(workers)
            self.memory.ticks.know({sender for _, sender in tx.publishing() if sender}, tx.meta.log_time)
            effects = Effects(tx.meta)
            effects.timers = [(id, due_at) for due_at, id in tx.due(now + HORIZON_SECONDS, limit=50_000)]
            effects.more = bool(tx.work_items(limit=1))
            return effects

    # ---- what is known between transactions

    @property
    def leases(self) -> Leases:
        """The leases of workers."""
        return self.memory.leases

    @property
    def waiters(self) -> Waiters:
        """The callers that wait for an end."""
        return self.memory.waiters

    @property
    def untold(self) -> bool:
        """Whether a broadcast could not be published: everything is broadcast again."""
        return self.memory.broadcast_failed

    @untold.setter
    def untold(self, failed: bool) -> None:
        self.memory.broadcast_failed = failed

    def held_by_workers(self) -> set[str]:
        """Jobs that living workers list as running or held."""
        return self.memory.held.by(set(self.leases.living()))

    def forget_worker(self, worker: str) -> None:
        """A worker's lease is over."""
        self.memory.held.forget(worker)

    def tick_sent(self, at: Instant) -> None:
        """A tick of our own is on its way."""
        self.memory.ticks.sent(at)

    @property
    def tick_is_out(self) -> bool:
        """Whether a tick of our own is on its way."""
        return self.memory.ticks.is_out

    # ---- releases of which no confirm will come

    def unsure_releases(self, now: Instant, log_now: float) -> list[JobRecord]:
        """Releases whose confirm will not arrive: the coordinator that sent them is gone, or the confirm is overdue."""
        with self._store.transaction() as tx:
            return self.unsure_in(tx, now, log_now)

    def unsure_in(self, tx: Transaction, now: Instant, log_now: float) -> list[JobRecord]:
        """As `unsure_releases`, inside a transaction."""
        senders = dict(tx.publishing())
        ticks = self.memory.ticks
        own = tx.load(id for id, sender in senders.items() if sender == self.id)
        gone = tx.load(id for id, sender in senders.items() if sender != self.id and ticks.is_gone(sender, log_now))
        overdue = [row for row in own.values() if row.released_at is None or now - row.released_at > UNTOLD_SECONDS]
        return [ReleaseUnknown(row.id, row.epoch) for row in [*gone.values(), *overdue]]
