"""Changes limits at run time: how many of a key run at once, or start in a time."""

from __future__ import annotations

from broker_jobs.function.keys import check_key, check_limit
from broker_jobs.messages.commands import SetLimit
from broker_jobs.messages.envelope import new_id
from broker_jobs.producer.requests import RequestClient


class Limits:
    """The limits, by their keys. All methods block until the coordinator has answered."""

    def __init__(self, requests: RequestClient) -> None:
        self._requests = requests

    def set(self, key: str, limit: int, /) -> None:
        """Have this number count for a key from now on, whatever its jobs are enqueued with; until `clear`.

        Args:
            key: of a Concurrency or a RateLimit, as it is for a job: "tenant:7", not "tenant:{tenant_id}".
            limit: 1 or more; with a lower one what runs goes on. To stop all of them pause their queue.

        Raises:
            OptionError: no such key or limit can be.
            ResultTimeout: no coordinator answered within the publish timeout.
            BrokerError: RabbitMQ cannot be reached.
        """
        check_limit(limit, f"limits.set({key!r}, …)")
        self._set(key, limit)

    def clear(self, key: str, /) -> None:
        """Have the number count again that the jobs are enqueued with. Raises as `set`."""
        self._set(key, None)

    def _set(self, key: object, limit: int | None) -> None:
        check_key(key, "the key of a limit")
        requests = self._requests
        requests.command(SetLimit(id=new_id(), at=requests.now(), by=requests.by, key=str(key), limit=limit))
