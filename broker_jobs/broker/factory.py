"""Makes the broker of the settings: memory:// is the broker in memory, any other address is RabbitMQ."""

from __future__ import annotations

from typing import Protocol

from broker_jobs.broker.interface import Broker
from broker_jobs.errors import UsageError


class BrokerSettings(Protocol):
    """What is read of the settings, by which a supervisor that loads no settings can make a broker too."""

    @property
    def url(self) -> str: ...
    @property
    def heartbeat(self) -> int: ...
    @property
    def declare(self) -> bool: ...
    @property
    def in_memory(self) -> bool: ...


_refused: list[str] = []


def refuse_memory(reason: str) -> None:
    """From now on nothing in this process connects to memory://, as nothing else would see what is enqueued there.

    Args:
        reason: the first part of the error's sentence.
    """
    _refused.append(reason)


def broker_for(settings: BrokerSettings, name: str) -> Broker:
    """Return the broker of these settings, not started.

    Args:
        settings: `url`, `heartbeat` and `declare` are read.
        name: shown by RabbitMQ's management pages for our connections.

    Raises:
        BrokerError: the address is not valid.
        UsageError: memory:// in a process that cannot share it.
    """
    # Only the client library that is used is imported.
    if settings.in_memory and _refused:
        raise UsageError(f"{_refused[0]} and cannot use memory://, which lives inside one process; use RabbitMQ")
    if settings.in_memory:
        from broker_jobs.broker.memory import MemoryBroker  # noqa: PLC0415

        return MemoryBroker(settings.url)
    from broker_jobs.broker.rabbitmq import RabbitBroker  # noqa: PLC0415

    return RabbitBroker(settings.url, name=name, heartbeat=settings.heartbeat, declare=settings.declare)
