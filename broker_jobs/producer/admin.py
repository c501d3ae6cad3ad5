"""Changes limits and queues at run time: `jobs.limits` and `jobs.queues`."""

from __future__ import annotations

from broker_jobs.broker.names import QUEUE_NAME_RULE, is_queue_name
from broker_jobs.broker.topology import work_topology
from broker_jobs.errors import OptionError
from broker_jobs.function.keys import check_key, check_limit
from broker_jobs.messages.commands import PauseQueue, SetLimit
from broker_jobs.messages.envelope import new_id
from broker_jobs.producer.requests import RequestClient

SHOWN_CHARS = 200


class Limits:
    """Sets and clears limits by their keys: `jobs.limits`. Each method blocks until the coordinator has answered."""

    def __init__(self, requests: RequestClient) -> None:
        self._requests = requests

    def set(self, key: str, limit: int, /) -> None:
        """Replace the number of a limit, for all jobs with this key, until `clear`.

        It overrides the number that jobs are enqueued with. With a lower number, running jobs go on.

        jobs.limits.set("smtp", 2)

        Args:
            key: the key of a Concurrency or a RateLimit with its arguments filled in: "tenant:7", not
                "tenant:{tenant_id}".
            limit: 0 to 1,000,000. 0 holds all jobs of the key back.

        Raises:
            OptionError: the key or the limit is out of range.
            ResultTimeout: no coordinator answered within the publish timeout.
            BrokerError: RabbitMQ cannot be reached.
        """
        check_limit(limit, f"limits.set({key!r}, …)", least=0)
        self._set(key, limit)

    def clear(self, key: str, /) -> None:
        """Return to the number that the jobs are enqueued with. Raises as `set`."""
        self._set(key, None)

    def _set(self, key: object, limit: int | None) -> None:
        check_key(key, "the key of a limit")
        requests = self._requests
        requests.command(SetLimit(id=new_id(), at=requests.now(), by=requests.by, key=str(key), limit=limit))


class Queues:
    """Pauses, resumes and declares queues by name: `jobs.queues`. Each method blocks until it is done."""

    def __init__(self, requests: RequestClient) -> None:
        self._requests = requests

    def declare(self, name: str, /) -> None:
        """Declare a queue that no worker serves yet. Workers declare their own. A repeated call changes nothing.

        Raises:
            OptionError: this is no queue name.
            BrokerError: RabbitMQ refuses, or cannot be reached.
        """
        _check_queue_name(name)
        connection = self._requests.connection
        connection.broker().apply(work_topology(name), connection.settings.publish_timeout)

    def pause(self, name: str, /) -> None:
        """Start no more jobs of this queue, on any worker. Running jobs go on; jobs can still be enqueued.

        jobs.queues.pause("mail")

        Raises:
            OptionError: this is no queue name.
            ResultTimeout: no coordinator answered within the publish timeout.
            BrokerError: RabbitMQ cannot be reached.
        """
        self._pause(name, paused=True)

    def resume(self, name: str, /) -> None:
        """Start jobs of this queue again. Raises as `pause`."""
        self._pause(name, paused=False)

    def _pause(self, name: str, *, paused: bool) -> None:
        _check_queue_name(name)
        requests = self._requests
        requests.command(PauseQueue(id=new_id(), at=requests.now(), by=requests.by, queue=name, paused=paused))


def _check_queue_name(name: str) -> None:
    if not is_queue_name(name):
        raise OptionError(f"{str(name)[:SHOWN_CHARS]!r} is not a queue name: use {QUEUE_NAME_RULE}")
