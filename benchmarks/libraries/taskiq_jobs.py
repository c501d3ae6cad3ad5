"""taskiq with taskiq-aio-pika, as its documentation starts; aio-pika confirms publishes by itself."""

import asyncio
import os
import time

from taskiq_aio_pika import AioPikaBroker

from benchmarks import stamps

broker = AioPikaBroker(os.environ.get("BENCH_URL", "amqp://127.0.0.1"))


async def _empty() -> None:
    """Do nothing."""


async def _stamp(expected: float) -> None:
    stamps.stamp(expected)


empty = broker.task(task_name="empty")(_empty)
stamp = broker.task(task_name="stamp")(_stamp)


class Enqueuer:
    """Enqueues one at a time, or a hundred at once."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._loop.run_until_complete(broker.startup())

    def send_empty(self) -> None:
        self._loop.run_until_complete(empty.kiq())

    def send_stamp(self) -> None:
        self._loop.run_until_complete(stamp.kiq(time.time()))

    def send_many(self, count: int) -> None:
        self._loop.run_until_complete(_send_many(count))

    def close(self) -> None:
        self._loop.run_until_complete(broker.shutdown())
        self._loop.close()


async def _send_many(count: int) -> None:
    for start in range(0, count, 100):
        await asyncio.gather(*(empty.kiq() for _ in range(min(100, count - start))))
