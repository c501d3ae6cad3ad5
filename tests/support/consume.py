"""A consumer whose callback is given the consumer: deliveries come before `subscribe` has returned it."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future

from broker_jobs.broker.interface import Broker, Consumer, Delivery

TIMEOUT_SECONDS = 60.0


def consume(
    broker: Broker, queues: Sequence[str], take: Callable[[Consumer, list[Delivery]], None], *, prefetch: int
) -> Consumer:
    """Consume queues; each list of deliveries goes to `take`, in the thread of the broker."""
    made: Future[Consumer] = Future()

    def on_deliveries(deliveries: list[Delivery]) -> None:
        take(made.result(TIMEOUT_SECONDS), deliveries)

    made.set_result(broker.subscribe(queues, on_deliveries, prefetch=prefetch))
    return made.result()
