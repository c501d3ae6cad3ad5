"""Changes limits and queues at run time: `jobs.limits` and `jobs.queues`."""

from __future__ import annotations

from broker_jobs.broker.names import QUEUE_NAME_RULE, is_queue_name
from broker_jobs.broker.topology import work_topology
from broker_jobs.errors import OptionError
from broker_jobs.function.keys import check_key, check_limit
from broker_jobs.messages.commands import Command, PauseQueue, SetLimit
from broker_jobs.producer.asyncio_support import in_thread, warn_if_blocking
from broker_jobs.producer.requests import RequestClient

SHOWN_CHARS = 200
ANSWERS = "the coordinator answers"


class Limits:
    """Sets and clears limits by their keys: `jobs.limits`. Each method waits until the coordinator has answered."""

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
        warn_if_blocking("limits.set()", "limits.set_async(…)", ANSWERS)
        self._requests.command(self._command(key, limit))

    async def set_async(self, key: str, limit: int, /) -> None:
        """As `set`, without blocking the event loop."""
        check_limit(limit, f"limits.set_async({key!r}, …)", least=0)
        await self._requests.command_async(self._command(key, limit))

    def clear(self, key: str, /) -> None:
        """Return to the number that the jobs are enqueued with. Raises as `set`."""
        warn_if_blocking("limits.clear()", "limits.clear_async(…)", ANSWERS)
        self._requests.command(self._command(key, None))

    async def clear_async(self, key: str, /) -> None:
        """As `clear`, without blocking the event loop."""
        await self._requests.command_async(self._command(key, None))

    def _command(self, key: object, limit: int | None) -> Command:
        check_key(key, "the key of a limit")
        return SetLimit(**self._requests.command_fields(), key=str(key), limit=limit)


class Queues:
    """Pauses, resumes and declares queues by name: `jobs.queues`. Each method waits until it is done."""

    def __init__(self, requests: RequestClient) -> None:
        self._requests = requests

    def declare(self, name: str, /) -> None:
        """Declare a queue that no worker serves yet. Workers declare their own. A repeated call changes nothing.

        Raises:
            OptionError: this is no queue name.
            BrokerError: RabbitMQ refuses, or cannot be reached.
        """
        warn_if_blocking("queues.declare()", "queues.declare_async(…)", "RabbitMQ answers")
        self._declare(name)

    async def declare_async(self, name: str, /) -> None:
        """As `declare`, without blocking the event loop."""
        await in_thread(lambda: self._declare(name))

    def _declare(self, name: str) -> None:
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
        warn_if_blocking("queues.pause()", "queues.pause_async(…)", ANSWERS)
        self._requests.command(self._command(name, paused=True))

    async def pause_async(self, name: str, /) -> None:
        """As `pause`, without blocking the event loop."""
        await self._requests.command_async(self._command(name, paused=True))

    def resume(self, name: str, /) -> None:
        """Start jobs of this queue again. Raises as `pause`."""
        warn_if_blocking("queues.resume()", "queues.resume_async(…)", ANSWERS)
        self._requests.command(self._command(name, paused=False))

    async def resume_async(self, name: str, /) -> None:
        """As `resume`, without blocking the event loop."""
        await self._requests.command_async(self._command(name, paused=False))

    def _command(self, name: str, *, paused: bool) -> Command:
        _check_queue_name(name)
        return PauseQueue(**self._requests.command_fields(), queue=name, paused=paused)


def _check_queue_name(name: str) -> None:
    if not is_queue_name(name):
        raise OptionError(f"{str(name)[:SHOWN_CHARS]!r} is not a queue name: use {QUEUE_NAME_RULE}")
