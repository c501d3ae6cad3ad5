"""Decides how much of each work queue may be out at a worker: its window, which is 0 while the queue is shut.

A queue has a work queue for each priority, the highest first. A window grows while jobs are short. What a worker cannot
start soon is not let in: a work queue of which a delivery has waited too long is shut, and so is what would wait behind
it. It is opened when a slot is free, by as much as there is free, in the order of preference or by weights. One of
which nothing came for a while is opened together with the next, so that most jobs wait for no look.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from broker_jobs.broker.names import priority_of, queue_of, work_queue, work_queues
from broker_jobs.consumer.local_queue import LocalQueue
from broker_jobs.consumer.prefetch import MEDIUM_SECONDS, first_prefetch, next_prefetch
from broker_jobs.messages.priority import NORMAL, PRIORITIES
from broker_jobs.served_queues import ServedQueues

LOWER_AFTER_LOOKS = 8
"""A lower prefetch must be right for this many looks in a row: lowering shuts the queue for a moment."""
GROW_WAIT_SECONDS = 0.25
"""While a delivery of a queue waits longer than this, its prefetch does not grow."""
QUIET_LOOKS = 40
"""Looks, four a second, after which a work queue is quiet of which nothing came."""


class Windows:
    """The windows of the work queues of a worker. Not thread-safe. Work queues are named as in the broker."""

    def __init__(self, queues: ServedQueues, local_queue: LocalQueue, prefetch_max: int) -> None:
        self._queues = queues
        self._local_queue = local_queue
        self._prefetch_max = prefetch_max
        self.sizes = {name: self._first(name) for name in _work_queues(queues)}
        """Work queue -> its prefetch; 0: it is shut."""
        self._targets = dict(self.sizes)
        """Work queue -> the prefetch that is right; a window grows up to it as slots become free."""
        self._turns = dict.fromkeys(queues.names, 0)
        """Queue -> what it is owed of its share of the openings."""
        self._opening = 1
        """How many shut queues are opened at the next look. It doubles while slots stay free."""
        self._lower_looks = dict.fromkeys(self.sizes, 0)
        self._slots = local_queue.slots
        """How many there were at the last look: a spare one is for a job that does not end."""
        self._quiet_looks = dict.fromkeys(self.sizes, QUIET_LOOKS)
        """Work queue -> the looks since something of it came; of what is normal it does not matter."""

    def change(self, queues: ServedQueues) -> None:
        """Serve other queues, or with other weights, limits or concurrency: all are shut, and opened as slots allow."""
        self._queues = queues
        self.sizes = dict.fromkeys(_work_queues(queues), 0)
        self._targets = {name: self._first(name) for name in self.sizes}
        self._turns = dict.fromkeys(queues.names, 0)
        self._lower_looks = dict.fromkeys(self.sizes, 0)
        self._quiet_looks = {name: self._quiet_looks.get(name, QUIET_LOOKS) for name in self.sizes}

    def pause(self, queues: Iterable[str]) -> None:
        """Let nothing of these queues in, of whatever priority."""
        self.shut(name for queue in queues for name in work_queues(queue))

    def shut(self, names: Iterable[str]) -> None:
        """Let nothing of these work queues in."""
        for name in names:
            if name in self.sizes:
                self.sizes[name] = self._lower_looks[name] = 0
                self._targets[name] = min(self._targets[name], self._local_queue.slots)

    def shut_behind(self, name: str) -> None:
        """A delivery of this work queue has waited too long: shut it, and what comes after it and would wait too."""
        if name not in self.sizes:
            return
        names = list(self.sizes)
        behind = names[names.index(name) :]
        if self._local_queue.at_limit(queue_of(name)):
            behind = [each for each in behind if queue_of(each) == queue_of(name)]
        elif self._queues.weights:
            behind += [each for each in names if queue_of(each) != queue_of(name)]
        self.shut(behind)

    def hand_over(self, owned: Mapping[str, int]) -> None:
        """The broker does not count these runs any more: shut what would let a delivery in for one of them."""
        for name, size in self.sizes.items():
            share = self._share(queue_of(name), owned)
            if share <= 0 or share < size <= 2 * self._local_queue.slots:
                self.shut([name])

    def waits_for_slot(self, paused: Collection[str]) -> bool:
        """Whether a work queue is shut that is to be opened when a slot is free. `paused`: queues."""
        return any(
            not size and queue_of(name) not in paused and not self._local_queue.at_limit(queue_of(name))
            for name, size in self.sizes.items()
        )

    def open(self, paused: Collection[str], *, looked: bool) -> None:
        """Open shut work queues if slots are free, and let windows that are too small grow by what is free.

        Args:
            paused: these queues stay shut.
            looked: slots were free at the last look too, so the work queues that are open have nothing.
        """
        local = self._local_queue
        if not local.free:
            self._opening = 1
            if self._queues.weights and self.waits_for_slot(paused):
                # A window would let the next delivery of its queue in when its job ends, whosever turn it is.
                self.shut(self.sizes)
            return
        if looked and self._queues.weights:
            # What is open, lets something in and got nothing is empty: else it took a turn of its queue each time.
            for name, size in self.sizes.items():
                if size > local.running(queue_of(name)) and self._quiet_looks[name]:
                    self._quiet_looks[name] = QUIET_LOOKS
        for name, size in self.sizes.items():
            if 0 < size < self._targets[name]:
                self.sizes[name] = min(self._targets[name], size + local.room(queue_of(name)))
        usable = [name for name in self.sizes if queue_of(name) not in paused and local.room(queue_of(name))]
        openable = [name for name in usable if not self.sizes[name]]
        first = next((name for name in usable if self._may_have(name) or not self.sizes[name]), None)
        if not openable:
            self._opening = 1
        elif looked or self._queues.weights or first == openable[0]:
            for name in self._next_open(openable):
                self.sizes[name] = min(local.room(queue_of(name)), self._prefetch_max)
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
            waits_seconds: how long the oldest delivery of each work queue has waited, where one does.
        """
        came = self._local_queue.came()
        more, self._slots = self._local_queue.slots - self._slots, self._local_queue.slots
        for name, size in self.sizes.items():
            self._quiet_looks[name] = 0 if name in came else self._quiet_looks[name] + 1
            share = self._share(queue_of(name), owned)
            if not size or share <= 0:
                self._targets[name] = self._first(name)
                continue
            if more > 0:  # what has the slots holds the window too
                self._targets[name] = max(self._targets[name], size + more)
            if not self._may_have(name):  # what ends is of others
                continue
            target = next_prefetch(size, mean_run_seconds, share, self._prefetch_max, several=self._is_chosen(name))
            self._lower_looks[name] = self._lower_looks[name] + 1 if target < size else 0
            if target < size and self._lower_looks[name] >= LOWER_AFTER_LOOKS:
                self.shut([name])  # it is opened as slots allow: what is here already does not count for a new window
                self._targets[name] = target
            elif target > size and has_ended and mean_run_seconds is not None:
                self._targets[name] = target
                if mean_run_seconds < MEDIUM_SECONDS and waits_seconds.get(name, 0.0) < GROW_WAIT_SECONDS:
                    self.sizes[name] = target

    def _next_open(self, names: list[str]) -> list[str]:
        """Whose turn it is to be opened: by preference, or by weights, and within a queue by priority."""
        if not self._queues.weights:
            return self._until_one_may_have(names, self._opening)
        chosen: list[str] = []
        shut: dict[str, list[str]] = {}
        for name in names:
            shut.setdefault(queue_of(name), []).append(name)
        for _ in range(min(self._opening, len(shut))):
            for queue in shut:
                self._turns[queue] += self._queues.weights[queue]
            turn = max(shut, key=self._turns.__getitem__)
            self._turns[turn] -= sum(self._queues.weights[queue] for queue in shut)
            chosen += self._until_one_may_have(shut.pop(turn), 1)
        return chosen

    def _until_one_may_have(self, names: list[str], count: int) -> list[str]:
        """The first of these, up to so many that are not quiet."""
        chosen: list[str] = []
        for name in names:
            chosen.append(name)
            count -= self._may_have(name)
            if count <= 0:
                break
        return chosen

    def _may_have(self, name: str) -> bool:
        """Whether something of a work queue came lately. What is normal may always have something."""
        return priority_of(name) == NORMAL or self._quiet_looks[name] < QUIET_LOOKS

    def _first(self, name: str) -> int:
        share = max(1, self._share(queue_of(name), {}))
        return first_prefetch(share, self._prefetch_max, several=self._is_chosen(name))

    def _share(self, queue: str, owned: Mapping[str, int]) -> int:
        """How many jobs of a queue can run beside the runs that were handed over."""
        share = self._local_queue.slots - sum(owned.values())
        limit = self._queues.limits.get(queue)
        return share if limit is None else min(share, limit - owned.get(queue, 0))

    def _is_chosen(self, name: str) -> bool:
        """Whether a delivery of this work queue may be at hand that does not start next.

        What is high goes before others of its queue, so one more is kept at hand. Of a limited queue few could start.
        """
        several = len(self._queues.names) > 1 or work_queue(queue_of(name), PRIORITIES[0]) == name
        return several and queue_of(name) not in self._queues.limits


def _work_queues(queues: ServedQueues) -> list[str]:
    """The work queues of these, in the order of preference."""
    return [name for queue in queues.names for name in work_queues(queue)]
