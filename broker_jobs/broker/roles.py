"""Says which messages are published to which exchange, which are those that the coordinator believes from it.

RabbitMQ attests who may publish to an exchange, so its rights decide what is believed. A message that is not in these
tables becomes a dead letter. The roles in deploy/ and their tests follow from them. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping

from broker_jobs.broker import names

COMMANDS: Mapping[str, frozenset[str]] = {
    names.REQUEST: frozenset(
        {"get job", "get batch", "list failures", "delete", "requeue", "reschedule", "batch delete"}
    ),
    names.REPORT: frozenset({"hello"}),
    names.DECLARE: frozenset({"functions declare", "subscriptions declare", "recurring declare"}),
    names.FIRE: frozenset({"fire", "beat heartbeat", "list schedules"}),
    names.OPERATE: frozenset(
        {
            *(
                "bulk delete",
                "bulk requeue",
                "bulk fail",
                "run",
                "limit set",
                "queue pause",
                "worker change",
                "store accept",
            ),
            *("recurring put", "recurring remove", "recurring pause", "recurring trigger"),
            *("dead letter replay", "dead letter delete"),
        }
    ),
}
"""Exchange -> kinds of commands and questions."""

TYPES: Mapping[tuple[str, str], frozenset[str]] = {
    (names.LOG, names.SUBMIT): frozenset({"job"}),
    (names.LOG, names.OFFER): frozenset({"job", "repeat", "chunk", "commit", "published"}),
    (names.LOG, names.REPORT): frozenset({"events"}),
    (names.LOG, names.TICK): frozenset({"tick", "look"}),
    (names.LOG, names.RETURNED): frozenset({"job"}),
    (names.COMMAND, names.TICK): frozenset({"checkpoint"}),
    **{(names.COMMAND, exchange): frozenset({"command"}) for exchange in COMMANDS},
    (names.DUE, names.EXPIRED): frozenset({"job"}),
    (names.DEAD_LETTERS, names.SUBMIT): frozenset({"job"}),  # the alternate exchange keeps the first exchange's name
    (names.DEAD_LETTERS, names.WORK): frozenset({"job"}),
}
"""(Queue, exchange) -> types of messages. What workers send to DEAD is a dead letter and believed of nothing."""

MOVED_BY_BROKER = frozenset({names.EXPIRED, names.RETURNED})
"""The broker dead-letters to these exchanges, so their messages have the header `x-death`, and no others may."""

_KNOWN_TYPES = frozenset().union(*TYPES.values())
_EXCHANGES = {kind: exchange for exchange, kinds in COMMANDS.items() for kind in kinds}


def command_exchange(kind: str) -> str:
    """Return the exchange to which commands of this kind are published."""
    return _EXCHANGES[kind]


def disbelieved(queue: str, exchange: str, type: str, *, dead_lettered: bool) -> str | None:  # noqa: A002  # as in AMQP
    """Return why a message is not believed, or None.

    Args:
        queue: the queue of the coordinator in which it came.
        exchange: the exchange to which it was published.
        type: its AMQP type; jobs and commands may have none.
        dead_lettered: the broker has dead-lettered it before.
    """
    if dead_lettered and exchange not in MOVED_BY_BROKER:
        return f"it was dead-lettered to the exchange {exchange!r}, which is for messages that are published to it"
    types = TYPES.get((queue, exchange))
    if types is None:
        return f"nothing in the queue {queue} is believed from the exchange {exchange!r}"
    if (type or ("command" if queue == names.COMMAND else "job")) not in types:
        return f"the type {type!r} is not believed from the exchange {exchange!r}, only {', '.join(sorted(types))}"
    return None


def is_of_a_newer_version(queue: str, exchange: str, type: str, *, dead_lettered: bool) -> bool:  # noqa: A002
    """Whether a message that is not believed may be of a type that a newer version believes from its exchange."""
    return (queue, exchange) in TYPES and not dead_lettered and type not in _KNOWN_TYPES


def disbelieved_command(exchange: str, kind: str) -> str | None:
    """Return why a command of this kind is not believed from an exchange, or None."""
    if exchange == _EXCHANGES.get(kind):
        return None
    return f"the command {kind!r} is not believed from the exchange {exchange!r}, only from {_EXCHANGES.get(kind)!r}"
