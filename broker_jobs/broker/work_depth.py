"""Looks at the work queues of a queue, one for each priority, together."""

from __future__ import annotations

from typing import NamedTuple

from broker_jobs.broker.interface import Broker
from broker_jobs.broker.names import work_queue
from broker_jobs.messages.priority import PRIORITIES, Priority


class WorkDepth(NamedTuple):
    """What is ready in the work queues of a queue.

    `consumers`: of the work queue that has fewest, as a worker consumes them all. `missing`: names of work queues that
    do not exist, while others do.
    """

    ready: dict[Priority, int]
    consumers: int
    missing: tuple[str, ...] = ()

    @property
    def total(self) -> int:
        """The ready messages of all priorities."""
        return sum(self.ready.values())


def work_depth(broker: Broker, queue: str, timeout: float = 10.0) -> WorkDepth | None:
    """Return what is ready in a queue, or None if it does not exist.

    Raises BrokerError as `Broker.depth`. It takes `timeout` seconds at most.
    """
    of_one = timeout / len(PRIORITIES)
    depths: dict[Priority, tuple[int, int] | None] = {
        priority: broker.depth(work_queue(queue, priority), of_one) for priority in PRIORITIES
    }
    known = [depth for depth in depths.values() if depth is not None]
    if not known:
        return None
    ready: dict[Priority, int] = {priority: 0 if depth is None else depth[0] for priority, depth in depths.items()}
    return WorkDepth(
        ready,
        min(consumers for _, consumers in known),
        tuple(work_queue(queue, priority) for priority, depth in depths.items() if depth is None),
    )
