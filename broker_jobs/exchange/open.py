"""Chooses the exchange by the address: memory:// is the embedded one, anything else is RabbitMQ."""

from __future__ import annotations

from broker_jobs.exchange.embedded import EmbeddedExchange
from broker_jobs.exchange.port import Exchange
from broker_jobs.exchange.rabbit import RabbitExchange
from broker_jobs.settings import Settings


def exchange_for(settings: Settings, name: str) -> Exchange:
    """The exchange of these settings, not started.

    Args:
        settings: url, heartbeat and declare are read.
        name: what the broker's own pages call our connections.

    Raises:
        BrokerError: the address cannot be read.
    """
    if settings.embedded:
        return EmbeddedExchange(settings.url)
    return RabbitExchange(settings.url, name=name, heartbeat=settings.heartbeat, declare=settings.declare)
