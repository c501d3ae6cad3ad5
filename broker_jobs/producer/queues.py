"""Pauses and resumes queues, and makes them before their first job."""

from __future__ import annotations

from broker_jobs.broker.names import QUEUE_NAME_RULE, is_queue_name
from broker_jobs.broker.topology import work_topology
from broker_jobs.errors import OptionError
from broker_jobs.messages.commands import PauseQueue
from broker_jobs.messages.envelope import new_id
from broker_jobs.producer.requests import RequestClient

SHOWN_CHARS = 200


class Queues:
    """The queues, by name. All methods block until RabbitMQ or the coordinator has answered."""

    def __init__(self, requests: RequestClient) -> None:
        self._requests = requests

    def declare(self, name: str, /) -> None:
        """Make a queue that no worker serves yet; a worker makes its own. Tolerates twice.

        Raises:
            OptionError: no queue may have this name.
            BrokerError: RabbitMQ refuses, or cannot be reached.
        """
        _check(name)
        connection = self._requests.connection
        connection.broker().apply(work_topology(name), connection.settings.publish_timeout)

    def pause(self, name: str, /) -> None:
        """Have no more jobs of this queue started, on any worker; running ones go on, and jobs may be enqueued.

        Raises:
            OptionError: no queue may have this name.
            ResultTimeout: no coordinator answered within the publish timeout.
            BrokerError: RabbitMQ cannot be reached.
        """
        self._pause(name, paused=True)

    def resume(self, name: str, /) -> None:
        """Have jobs of this queue started again. Raises as `pause`."""
        self._pause(name, paused=False)

    def _pause(self, name: str, *, paused: bool) -> None:
        _check(name)
        requests = self._requests
        requests.command(PauseQueue(id=new_id(), at=requests.now(), by=requests.by, queue=name, paused=paused))


def _check(name: str) -> None:
    if not is_queue_name(name):
        raise OptionError(f"{str(name)[:SHOWN_CHARS]!r} is not a queue name: use {QUEUE_NAME_RULE}")
