"""Decides which queues a message reaches, as RabbitMQ would: fanout, direct, exchange to exchange, alternate. Pure.

Apart from the embedded exchange, which uses it, so that the rules can be read and tested without threads.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from broker_jobs.broker.topology import BindingSpec, ExchangeSpec, QueueSpec, Topology
from broker_jobs.errors import BrokerError

Spec = TypeVar("Spec", ExchangeSpec, QueueSpec)


class Routes:
    """The exchanges and bindings that have been declared."""

    def __init__(self) -> None:
        self.queues: dict[str, QueueSpec] = {}
        self._exchanges: dict[str, ExchangeSpec] = {}
        self._bindings: dict[str, list[BindingSpec]] = {}
        self._known: dict[tuple[str, str], tuple[str, ...]] = {}

    def declare(self, topology: Topology) -> list[QueueSpec]:
        """Take exchanges, queues and bindings over, all or none; returns the queues that are new.

        Raises:
            BrokerError: something exists by this name in another shape, or a binding leads from or to nowhere.
        """
        exchanges = _merged(self._exchanges, topology.exchanges, "exchange")
        queues = _merged(self.queues, topology.queues, "queue")
        for binding in topology.bindings:
            if binding.source not in exchanges:
                raise BrokerError(f"no exchange {binding.source!r} to bind {binding.target!r} to")
            if binding.target not in (exchanges if binding.to_exchange else queues):
                raise BrokerError(f"nothing is named {binding.target!r}, so it cannot be bound to {binding.source!r}")
        new = [queue for name, queue in queues.items() if name not in self.queues]
        self._exchanges, self.queues = exchanges, queues
        for binding in topology.bindings:
            bindings = self._bindings.setdefault(binding.source, [])
            if binding not in bindings:
                bindings.append(binding)
        self._known.clear()
        return new

    def forget(self, queue: str) -> None:
        """Delete a queue and its bindings."""
        self.queues.pop(queue, None)
        for source, bindings in self._bindings.items():
            self._bindings[source] = [each for each in bindings if each.to_exchange or each.target != queue]
        self._known.clear()

    def has_exchange(self, name: str) -> bool:
        """Whether messages can be published to this exchange; the empty name is the default one."""
        return name == "" or name in self._exchanges

    def queues_for(self, exchange: str, key: str) -> tuple[str, ...]:
        """The queues a message reaches, each once however many ways lead there; empty: it is unroutable."""
        if exchange == "":
            return (key,) if key in self.queues else ()
        found = self._known.get((exchange, key))
        if found is None:
            if len(self._known) > 10_000:  # keys come from outside
                self._known.clear()
            found = self._known[exchange, key] = self._walk(exchange, key)
        return found

    def _walk(self, exchange: str, key: str) -> tuple[str, ...]:
        queues: dict[str, None] = {}
        seen = {exchange}
        waiting = [exchange]
        while waiting:
            spec = self._exchanges[waiting.pop(0)]
            matching = [
                binding for binding in self._bindings.get(spec.name, ()) if spec.kind == "fanout" or binding.key == key
            ]
            queues.update((binding.target, None) for binding in matching if not binding.to_exchange)
            onward = [binding.target for binding in matching if binding.to_exchange]
            if not matching and spec.alternate in self._exchanges:
                onward.append(spec.alternate)
            for name in onward:
                if name not in seen:
                    seen.add(name)
                    waiting.append(name)
        return tuple(queues)


def _merged(known: dict[str, Spec], given: Iterable[Spec], what: str) -> dict[str, Spec]:
    merged = dict(known)
    for spec in given:
        if merged.setdefault(spec.name, spec) != spec:
            raise BrokerError(f"{what} {spec.name!r} exists in another shape: {merged[spec.name]}, not {spec}")
    return merged
