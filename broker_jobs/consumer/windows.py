"""Decides how much of each queue may be out at a worker: its window, which is 0 while the queue is shut.

A window grows while jobs are short. What a worker cannot start soon is not let in: a queue of which a delivery has
waited too long is shut, and so is what would wait behind it. It is opened when a slot is free, by as much as there is
free, in the order of preference or by weights.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from broker_jobs.consumer.local_queue import LocalQueue
from broker_jobs.consumer.prefetch import MEDIUM_SECONDS, first_prefetch, next_prefetch
from broker_jobs.served_queues import ServedQueues

LOWER_AFTER_LOOKS = 8
"""A lower prefetch must be right for this many looks in a row: lowering shuts the queue for a moment."""
GROW_WAIT_SECONDS = 0.25
"""While a delivery of a queue waits longer than this, its prefetch does not grow."""


class Windows:
    """The windows of the queues of a worker. Not thread-safe."""

    def __init__(self, queues: ServedQueues, local_queue: LocalQueue, prefetch_max: int) -> None:
        self._queues = queues
        self._local_queue = local_queue
        self._prefetch_max = prefetch_max
        self.sizes = {queue: self._first(queue) for queue in queues.names}
        """Queue -> its prefetch; 0: it is shut."""
        self._targets = dict(self.sizes)
        """Queue -> the prefetch that is right; a window grows up to it as slots become free."""
        self._turns = dict.fromkeys(queues.names, 0)
        """Queue -> what it is owed of its share of the openings."""
        self._opening = 1
        """How many shut queues are opened at the next look. It doubles while slots stay free."""
        self._lower_looks = dict.fromkeys(queues.names, 0)

    def change(self, queues: ServedQueues) -> None:
        """Serve other queues, or with other weights, limits or concurrency: all are shut, and opened as slots allow."""
        self._queues = queues
        self.sizes = dict.fromkeys(queues.names, 0)
        self._targets = {queue: self._first(queue) for queue in queues.names}
        self._turns = dict.fromkeys(queues.names, 0)
        self._lower_looks = dict.fromkeys(queues.names, 0)

    def shut(self, queues: Iterable[str]) -> None:
        """Let nothing of these queues in."""
        for queue in queues:
            if queue in self.sizes:
                self.sizes[queue] = self._lower_looks[queue] = 0
                self._targets[queue] = min(self._targets[queue], self._local_queue.concurrency)

    def shut_behind(self, queue: str) -> None:
        """A delivery of this queue has waited too long: shut it, and what comes after it and would wait too."""
        names = list(self.sizes)
        if queue not in self.sizes:
            return
        if self._local_queue.at_limit(queue):
            self.shut([queue])
        else:
            self.shut(names if self._queues.weights else names[names.index(queue) :])

    def hand_over(self, owned: Mapping[str, int]) -> None:
        """The broker does not count these runs any more: shut what would let a delivery in for one of them."""
        for queue, size in self.sizes.items():
            share = self._share(queue, owned)
            if share <= 0 or share < size <= 2 * self._local_queue.concurrency:
                self.shut([queue])

    def waits_for_slot(self, paused: Collection[str]) -> bool:
        """Whether a queue is shut that is to be opened when a slot is free."""
        return any(
            not size and queue not in paused and not self._local_queue.at_limit(queue)
            for queue, size in self.sizes.items()
        )

    def open(self, paused: Collection[str], *, looked: bool) -> None:
        """Open shut queues if slots are free, and let windows that are too small grow by what is free.

        Args:
            paused: these stay shut.
            looked: slots were free at the last look too, so the queues that are open have nothing.
        """
        local = self._local_queue
        if not local.free:
            self._opening = 1
            if self._queues.weights and self.waits_for_slot(paused):
                # A window would let the next delivery of its queue in when its job ends, whosever turn it is.
                self.shut(self.sizes)
            return
        for queue, size in self.sizes.items():
            if 0 < size < self._targets[queue]:
                self.sizes[queue] = min(self._targets[queue], size + local.room(queue))
        usable = [queue for queue in self.sizes if queue not in paused and local.room(queue)]
        openable = [queue for queue in usable if not self.sizes[queue]]
        if not openable:
            self._opening = 1
        elif looked or self._queues.weights or usable[0] == openable[0]:
            for queue in self._next_open(openable):
                self.sizes[queue] = min(local.room(queue), self._prefetch_max)
            self._opening *= 1 + looked

    def adapt(
        self,
        mean_run_seconds: float | None,
        *,
        has_ended: bool,
        owned: Mapping[str, int],
        waits_seconds: Mapping[str, float],
    ) -> None:
        """Find the prefetch that is right.

        Args:
            mean_run_seconds: of the jobs that have ended since the last look; None: nothing ran.
            has_ended: whether some have; else it is for how long those that run have run until now.
            owned: how many runs of each queue were handed over.
            waits_seconds: how long the oldest delivery of each queue has waited, where one does.
        """
        for queue, size in self.sizes.items():
            share = self._share(queue, owned)
            if not size or share <= 0:
                self._targets[queue] = self._first(queue)
                continue
            target = next_prefetch(size, mean_run_seconds, share, self._prefetch_max, several=self._is_chosen(queue))
            self._lower_looks[queue] = self._lower_looks[queue] + 1 if target < size else 0
            if target < size and self._lower_looks[queue] >= LOWER_AFTER_LOOKS:
                self.shut([queue])  # it is opened as slots allow: what is here already does not count for a new window
                self._targets[queue] = target
            elif target > size and has_ended and mean_run_seconds is not None:
                self._targets[queue] = target
                if mean_run_seconds < MEDIUM_SECONDS and waits_seconds.get(queue, 0.0) < GROW_WAIT_SECONDS:
                    self.sizes[queue] = target

    def _next_open(self, queues: list[str]) -> list[str]:
        """Whose turn it is to be opened: by preference, or by weights."""
        if not self._queues.weights:
            return queues[: self._opening]
        chosen: list[str] = []
        while queues and len(chosen) < self._opening:
            for queue in queues:
                self._turns[queue] += self._queues.weights[queue]
            turn = max(queues, key=self._turns.__getitem__)
            self._turns[turn] -= sum(self._queues.weights[queue] for queue in queues)
            chosen.append(turn)
            queues = [queue for queue in queues if queue != turn]
        return chosen

    def _first(self, queue: str) -> int:
        return first_prefetch(max(1, self._share(queue, {})), self._prefetch_max, several=self._is_chosen(queue))

    def _share(self, queue: str, owned: Mapping[str, int]) -> int:
        """How many jobs of a queue can run beside the runs that were handed over."""
        share = self._local_queue.concurrency - sum(owned.values())
        limit = self._queues.limits.get(queue)
        return share if limit is None else min(share, limit - owned.get(queue, 0))

    def _is_chosen(self, queue: str) -> bool:
        """Whether a delivery of this queue may be at hand that does not start next. Of a limited queue few could."""
        return len(self._queues.names) > 1 and queue not in self._queues.limits
