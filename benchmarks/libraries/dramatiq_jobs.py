"""Dramatiq, as its documentation starts; publisher confirms are on."""

import os
import time

import dramatiq
from dramatiq.brokers.rabbitmq import RabbitmqBroker

from benchmarks import stamps

broker = RabbitmqBroker(url=os.environ.get("BENCH_URL", "amqp://127.0.0.1"), confirm_delivery=True)
dramatiq.set_broker(broker)


def _empty() -> None:
    """Do nothing."""


empty = dramatiq.actor(actor_name="empty")(_empty)
stamp = dramatiq.actor(actor_name="stamp")(stamps.stamp)


class Enqueuer:
    """Enqueues one at a time."""

    def send_empty(self) -> None:
        empty.send()

    def send_stamp(self) -> None:
        stamp.send(time.time())

    def close(self) -> None:
        broker.close()
