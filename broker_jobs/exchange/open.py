"""Chooses the exchange by the address: memory:// is the embedded one, anything else is RabbitMQ."""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker_jobs.exchange.port import Exchange

if TYPE_CHECKING:
    from broker_jobs.settings import Settings


def exchange_for(settings: Settings, name: str) -> Exchange:
    """The exchange of these settings, not started.

    Args:
        settings: url, heartbeat and declare are read.
        name: what the broker's own pages call our connections.

    Raises:
        BrokerError: the address cannot be read.
    """
    # Of the two client libraries only the one that is used is imported, and by whom it is used first.
    if settings.embedded:
        from broker_jobs.exchange.embedded import EmbeddedExchange  # noqa: PLC0415

        return EmbeddedExchange(settings.url)
    from broker_jobs.exchange.rabbit import RabbitExchange  # noqa: PLC0415

    return RabbitExchange(settings.url, name=name, heartbeat=settings.heartbeat, declare=settings.declare)
