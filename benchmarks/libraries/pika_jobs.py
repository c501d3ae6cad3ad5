"""Bare pika: a persistent message of the size of ours, confirmed. The upper limit."""

import os
import time

import pika

from benchmarks import bare

url = os.environ.get("BENCH_URL", "amqp://")
kind = os.environ.get("BENCH_QUEUE_TYPE", "quorum")
fanout = os.environ.get("BENCH_FANOUT", "") == "1"


class Enqueuer:
    """Publishes one at a time with a BlockingConnection, or pipelined with a SelectConnection."""

    def __init__(self) -> None:
        self._connection = pika.BlockingConnection(pika.URLParameters(url))
        self._channel = self._connection.channel()
        bare.declare(self._channel, kind, fanout=fanout)
        self._broker = bare.FANOUT if fanout else ""
        self._channel.confirm_delivery()

    def send_empty(self) -> None:
        self._publish(bare.BODY)

    def send_stamp(self) -> None:
        self._publish(repr(time.time()).encode())

    def send_many(self, count: int) -> None:
        message = (bare.BODY, bare.PERSISTENT)
        bare.publish_pipelined(url, self._broker, bare.QUEUE, (message for _ in range(count)))

    def close(self) -> None:
        self._connection.close()

    def _publish(self, body: bytes) -> None:
        self._channel.basic_publish(self._broker, bare.QUEUE, body, bare.PERSISTENT)
