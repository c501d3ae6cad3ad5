"""Applies batches of inputs to the store, one transaction each, and keeps what a coordinator knows between them."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable

from broker_jobs.clock import Instant, LogTime, WallTime
from broker_jobs.coordinator.effects import HORIZON_SECONDS, Effects
from broker_jobs.coordinator.inputs import Input
from broker_jobs.coordinator.leadership import OwnTicks
from broker_jobs.coordinator.liveness import Liveness
from broker_jobs.coordinator.queries import Waiters
from broker_jobs.coordinator.state_machine.context import Context
from broker_jobs.coordinator.unit_of_work import Memory, UnitOfWork
from broker_jobs.store.open import Store
from broker_jobs.store.records import WorkItemRow

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
    ) -> None:
        self.id = id
        self.max_body = max_body
        """Bytes the message of a job with changed arguments may have."""
        self.ticks = OwnTicks(id)
        self.liveness = Liveness(id)
        self.memory = Memory(id, since, self.ticks, self.liveness)
        self.skipped_items: frozenset[WorkItemRow] = frozenset()
        """Work items that raise: they are dropped, as they are dead letters by now."""
        self.tells_together = True
        """Off while a transaction is repeated that failed so."""
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
                work = UnitOfWork(
                    tx,
                    at,
                    memory,
                    may_release=may_release,
                    skipped=self.skipped_items,
                    tells_together=self.tells_together,
                )
                effects = work.run(list(inputs))
        except BaseException:  # what was to be broadcast is not committed, so it is not broadcast
            memory.broadcast_failed, memory.broadcast_all_at = memory.broadcast_failed or failed, all_at
            raise
        memory.waiters.told(effects.told)
        memory.jobs_wait = effects.jobs_wait if effects.tick_at is not None else memory.jobs_wait or effects.jobs_wait
        if effects.counted_at is not None:
            self.ticks.counted(WallTime(effects.counted_at))
        return effects

    def become_active(self, now: Instant) -> Effects:
        """Give every worker a whole lease, and look at what is due soon."""
        with self._store.transaction() as tx:
            workers = {worker.id for worker in tx.processes.workers()} | set(tx.in_flight.owners())
            senders = [sender for _, sender in tx.in_flight.publishing() if sender]
            self.memory.jobs_wait = True
            self.liveness.begin(workers, senders, LogTime(tx.meta.log_time))
            effects = Effects(tx.meta)
            effects.timers = [(id, due_at) for due_at, id in tx.due.jobs(now + HORIZON_SECONDS, limit=50_000)]
            effects.more = bool(tx.work_items.oldest(limit=1))
            return effects

    def may_gather(self) -> bool:
        """Whether nobody waits for what an outcome may bring: no job for its release, no caller for its answer."""
        return not self.memory.jobs_wait and not self.memory.waiters

    @property
    def waiters(self) -> Waiters:
        """The callers that wait for an end."""
        return self.memory.waiters

    def broadcast_failed(self) -> None:
        """A broadcast could not be published: everything is broadcast again."""
        self.memory.broadcast_failed = True
