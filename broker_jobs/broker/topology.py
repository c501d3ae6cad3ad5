"""Describes exchanges, queues and bindings as values, which both brokers declare. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from broker_jobs.broker import names
from broker_jobs.broker.delay import LEVELS, level_seconds
from broker_jobs.broker.roles import COMMANDS
from broker_jobs.messages.priority import PRIORITIES

NEVER_DROP = 2_000_000_000
"""Delivery limit of queues that must never drop a message. RabbitMQ 4 uses 20 if there is none, and -1 means "drop at
the first return" on 3.10 (probed)."""
WORK_DELIVERY_LIMIT = 20


@dataclass(frozen=True)
class ExchangeSpec:
    """A durable exchange. `alternate`: the exchange that receives its unroutable messages.

    `internal`: only the broker itself moves messages to it.
    """

    name: str
    kind: str
    alternate: str | None = None
    internal: bool = False


@dataclass(frozen=True)
class QueueSpec:
    """A durable quorum queue. `dead_letter_to`: the internal exchange for messages that expire or return too often."""

    name: str
    delivery_limit: int = NEVER_DROP
    single_active: bool = False
    ttl_seconds: int | None = None
    dead_letter_to: str | None = None

    def arguments(self) -> dict[str, object]:
        """Return the x-arguments of the declaration."""
        arguments: dict[str, object] = {"x-queue-type": "quorum"}
        if self.ttl_seconds is None:
            arguments["x-delivery-limit"] = self.delivery_limit
        else:
            arguments["x-message-ttl"] = self.ttl_seconds * 1000
        if self.single_active:
            arguments["x-single-active-consumer"] = True
        if self.dead_letter_to is not None:
            arguments |= {
                "x-dead-letter-exchange": self.dead_letter_to,
                "x-dead-letter-routing-key": self.name,
                "x-dead-letter-strategy": "at-least-once",
                "x-overflow": "reject-publish",
            }
        return arguments


@dataclass(frozen=True)
class BindingSpec:
    """`target` is a queue, or an exchange if `to_exchange`."""

    source: str
    target: str
    key: str = ""
    to_exchange: bool = False


@dataclass(frozen=True)
class Topology:
    """Exchanges, queues and bindings to declare together."""

    exchanges: tuple[ExchangeSpec, ...] = ()
    queues: tuple[QueueSpec, ...] = ()
    bindings: tuple[BindingSpec, ...] = ()


def work_topology(*queues: str) -> Topology:
    """Return the topology of the work queues of these queues, one for each priority."""
    return Topology(
        queues=tuple(
            QueueSpec(name, delivery_limit=WORK_DELIVERY_LIMIT, dead_letter_to=names.RETURNED)
            for queue in queues
            for name in names.work_queues(queue)
        ),
        bindings=tuple(
            BindingSpec(names.WORK, names.work_queue(queue, priority), key=names.work_key(queue, priority))
            for queue in queues
            for priority in PRIORITIES
        ),
    )


def fixed_topology() -> Topology:
    """Return the topology of everything except the work queues."""
    levels = range(LEVELS)
    return Topology(
        exchanges=(
            ExchangeSpec(names.UNROUTABLE, "fanout", internal=True),
            ExchangeSpec(names.EXPIRED, "fanout", internal=True),
            ExchangeSpec(names.RETURNED, "fanout", internal=True),
            ExchangeSpec(names.WORK, "direct", alternate=names.UNROUTABLE),
            ExchangeSpec(names.SUBMIT, "fanout"),
            ExchangeSpec(names.OFFER, "direct", alternate=names.UNROUTABLE),
            ExchangeSpec(names.REQUEST, "direct"),
            ExchangeSpec(names.REPORT, "direct"),
            ExchangeSpec(names.DECLARE, "direct"),
            ExchangeSpec(names.FIRE, "direct"),
            ExchangeSpec(names.OPERATE, "direct"),
            ExchangeSpec(names.TICK, "direct"),
            ExchangeSpec(names.DELAY, "direct"),
            ExchangeSpec(names.CONTROL, "fanout"),
            ExchangeSpec(names.DEAD, "fanout"),
        ),
        queues=(
            QueueSpec(names.LOG, single_active=True),
            QueueSpec(names.COMMAND, single_active=True),
            QueueSpec(names.DUE),
            QueueSpec(names.DEAD_LETTERS),
            *(
                QueueSpec(names.delay_queue(n), ttl_seconds=level_seconds(n), dead_letter_to=names.EXPIRED)
                for n in levels
            ),
        ),
        bindings=(
            BindingSpec(names.SUBMIT, names.WORK, to_exchange=True),
            BindingSpec(names.SUBMIT, names.LOG),
            *(
                BindingSpec(exchange, names.LOG, key=names.LOG_KEY)
                for exchange in (names.OFFER, names.REPORT, names.TICK)
            ),
            *(BindingSpec(exchange, names.COMMAND, key=names.COMMAND_KEY) for exchange in (*COMMANDS, names.TICK)),
            *(BindingSpec(names.DELAY, names.delay_queue(n), key=names.delay_key(n)) for n in levels),
            *(BindingSpec(names.OFFER, names.delay_queue(n), key=names.delay_key(n)) for n in levels),
            *(BindingSpec(names.OFFER, names.LOG, key=names.delay_key(n)) for n in levels),
            BindingSpec(names.EXPIRED, names.DUE),
            BindingSpec(names.RETURNED, names.LOG),
            BindingSpec(names.UNROUTABLE, names.DEAD_LETTERS),
            BindingSpec(names.DEAD, names.DEAD_LETTERS),
        ),
    )
