"""Pauses and resumes queues, and makes them before their first job."""

from __future__ import annotations

from broker_jobs.errors import OptionError
from broker_jobs.exchange.names import QUEUE_NAME_RULE, is_queue_name
from broker_jobs.exchange.topology import work_topology
from broker_jobs.job.envelope import new_id
from broker_jobs.outcome.command import PauseQueue
from broker_jobs.producer.ask import Asker

SHOWN_CHARS = 200


class Queues:
    """The queues, by name. All methods block until RabbitMQ or the coordinator has answered."""

    def __init__(self, asker: Asker) -> None:
        self._asker = asker

    def declare(self, name: str, /) -> None:
        """Make a queue that no worker serves yet; a worker makes its own. Tolerates twice.

        Raises:
            OptionError: no queue may have this name.
            BrokerError: RabbitMQ refuses, or cannot be reached.
        """
        _check(name)
        sender = self._asker.sender
        sender.exchange().apply(work_topology(name), sender.settings.publish_timeout)

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
        asker = self._asker
        asker.command(PauseQueue(id=new_id(), at=asker.now(), by=asker.by, queue=name, paused=paused))


def _check(name: str) -> None:
    if not is_queue_name(name):
        raise OptionError(f"{str(name)[:SHOWN_CHARS]!r} is no queue name: {QUEUE_NAME_RULE}")
