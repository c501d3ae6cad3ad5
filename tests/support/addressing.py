"""Chooses the exchange and key of a message by what it is, as every part of the program does."""

from typing import Any

from broker_jobs.broker import names
from broker_jobs.broker.roles import command_exchange

EXCHANGES = {"events": names.REPORT, "tick": names.TICK, "look": names.TICK}


def address(kind: str, body: Any = None) -> tuple[str, str]:
    """The exchange and routing key for a message of this type; of a command its kind decides."""
    if kind == "command":
        return command_exchange(body["kind"]), names.COMMAND_KEY
    return EXCHANGES.get(kind, names.OFFER), names.LOG_KEY
