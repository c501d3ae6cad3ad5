"""Makes the broker of the settings: memory:// is the broker in memory, any other address is RabbitMQ."""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker_jobs.broker.interface import Broker

if TYPE_CHECKING:
    from broker_jobs.settings import Settings


def broker_for(settings: Settings, name: str) -> Broker:
    """Return the broker of these settings, not started.

    Args:
        settings: `url`, `heartbeat` and `declare` are read.
        name: shown by RabbitMQ's management pages for our connections.

    Raises:
        BrokerError: the address is not valid.
    """
    # Only the client library that is used is imported.
    if settings.in_memory:
        from broker_jobs.broker.memory import MemoryBroker  # noqa: PLC0415

        return MemoryBroker(settings.url)
    from broker_jobs.broker.rabbitmq import RabbitBroker  # noqa: PLC0415

    return RabbitBroker(settings.url, name=name, heartbeat=settings.heartbeat, declare=settings.declare)
