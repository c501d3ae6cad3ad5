"""Celery, as its documentation starts: its own queue, acknowledged early; publisher confirms are on."""

import os
import time

from celery import Celery

from benchmarks import stamps

app = Celery("bench", broker=os.environ.get("BENCH_URL", "amqp://"))
app.conf.broker_transport_options = {"confirm_publish": True}
app.conf.task_ignore_result = True
app.conf.worker_send_task_events = False
app.conf.broker_connection_retry_on_startup = True


def _empty() -> None:
    """Do nothing."""


empty = app.task(name="empty")(_empty)
stamp = app.task(name="stamp")(stamps.stamp)


class Enqueuer:
    """Enqueues one at a time."""

    def send_empty(self) -> None:
        empty.delay()

    def send_stamp(self) -> None:
        stamp.delay(time.time())

    def close(self) -> None:
        app.close()
