"""Chooses the exchange by the address: memory:// is the embedded one, anything else is RabbitMQ."""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker_jobs.broker.interface import Broker

if TYPE_CHECKING:
    from broker_jobs.settings import Settings


def broker_for(settings: Settings, name: str) -> Broker:
    """The exchange of these settings, not started.

    Args:
        settings: url, heartbeat and declare are read.
        name: what the broker's own pages call our connections.

    Raises:
        BrokerError: the address cannot be read.
    """
    # Of the two client libraries only the one that is used is imported, and by whom it is used first.
    if settings.in_memory:
        from broker_jobs.broker.memory import MemoryBroker  # noqa: PLC0415

        return MemoryBroker(settings.url)
    from broker_jobs.broker.rabbitmq import RabbitBroker  # noqa: PLC0415

    return RabbitBroker(settings.url, name=name, heartbeat=settings.heartbeat, declare=settings.declare)
