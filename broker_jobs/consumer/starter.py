"""Starts what has a slot: in a thread or on the event loop, and what follows a job that has ended.

Threads and the event loop share the slots of one local queue, so `concurrency` counts jobs of both kinds.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from broker_jobs.consumer.event_loop import EventLoop
from broker_jobs.consumer.local_queue import LocalQueue
from broker_jobs.consumer.received_delivery import ReceivedDelivery
from broker_jobs.consumer.thread_pool import ThreadPool
from broker_jobs.served_queues import ServedQueues


class Starter:
    """Takes deliveries in and has them run; any thread may call it."""

    def __init__(
        self,
        local_queue: LocalQueue,
        run: Callable[[ReceivedDelivery], None],
        run_async: Callable[[ReceivedDelivery], Coroutine[Any, Any, None]],
    ) -> None:
        """
        Args:
            local_queue: what waits, and the slots.
            run: runs a sync job in the calling thread.
            run_async: runs an async job.
        """
        self._local_queue = local_queue
        self.threads = ThreadPool(run, self._after_thread, lambda: local_queue.in_threads)
        self.loop = EventLoop(run_async, self._after_task)
        self.on_free: Callable[[], None] | None = None
        """Called when a slot has become free and nothing waits that could have it; quick, from any thread."""

    @property
    def free(self) -> int:
        """How many slots are free."""
        return self._local_queue.free

    def take(self, deliveries: Sequence[ReceivedDelivery]) -> None:
        """Start deliveries that have come in, or let them wait for a slot."""
        self.start(self._local_queue.put(deliveries))

    def start(self, deliveries: Sequence[ReceivedDelivery]) -> None:
        """Start what has a slot."""
        asynchronous: list[ReceivedDelivery] = []
        for received in deliveries:
            if received.on_loop:
                asynchronous.append(received)
            else:
                self.threads.run(received)
        if asynchronous:
            self.loop.run(asynchronous)

    def look(self) -> None:
        """Start what the machine had refused to start: threads, and the event loop."""
        self.threads.look()
        self.loop.look()

    def add_slots(self, by: int) -> None:
        """Have so many slots more, or fewer, than the concurrency says."""
        self.start(self._local_queue.add_slots(by))

    def change(self, queues: ServedQueues, concurrency: int) -> list[ReceivedDelivery]:
        """Serve other queues, or run more or fewer jobs; what runs goes on. Returns what waits of queues given up."""
        started, dropped = self._local_queue.change(queues, concurrency)
        self.start(started)
        return dropped

    def remove(self, which: Callable[[ReceivedDelivery], bool]) -> list[ReceivedDelivery]:
        """Take out what has not begun and is not to begin any more."""
        return [*self._local_queue.remove(which), *self.loop.remove(which)]

    def held(self) -> list[ReceivedDelivery]:
        """What has not begun: it waits for a slot, or for an event loop that a job blocks."""
        return [*self.loop.held(), *self._local_queue.held()]

    def oldest(self) -> dict[str, ReceivedDelivery]:
        """Work queue -> the delivery of it that waits longest; without those of which none waits."""
        oldest = self._local_queue.oldest()
        for received in reversed(self.loop.held()):  # they came before those that have no slot yet
            oldest[received.work_queue] = received
        return oldest

    def __len__(self) -> int:
        return len(self._local_queue) + len(self.loop.held())

    def _after_thread(self, received: ReceivedDelivery) -> ReceivedDelivery | None:
        following = self._local_queue.ended(received)
        if following is None:
            self._freed()
        elif following.on_loop:
            self.loop.run([following])
            return None
        return following

    def _after_task(self, received: ReceivedDelivery) -> ReceivedDelivery | None:
        following = self._local_queue.ended(received)
        if following is None:
            self._freed()
        elif not following.on_loop:
            self.threads.run(following)
            return None
        return following

    def _freed(self) -> None:
        if self.on_free is not None:
            self.on_free()
