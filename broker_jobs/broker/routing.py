"""Computes which queues a message reaches, by RabbitMQ's rules: fanout, direct, exchange to exchange, alternate. Pure.

The broker in memory uses it. It is separate so that the rules can be tested without threads.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from broker_jobs.broker.topology import BindingSpec, ExchangeSpec, QueueSpec, Topology
from broker_jobs.errors import BrokerError

Spec = TypeVar("Spec", ExchangeSpec, QueueSpec)


class Routes:
    """The declared exchanges, queues and bindings."""

    def __init__(self) -> None:
        self.queues: dict[str, QueueSpec] = {}
        self._exchanges: dict[str, ExchangeSpec] = {}
        self._bindings: dict[str, list[BindingSpec]] = {}
        self._cache: dict[tuple[str, str], tuple[str, ...]] = {}

    def declare(self, topology: Topology) -> list[QueueSpec]:
        """Add exchanges, queues and bindings, all or none. Returns the new queues.

        Raises:
            BrokerError: one exists with other arguments, or a binding names an exchange or queue that does not exist.
        """
        exchanges = _merged(self._exchanges, topology.exchanges, "exchange")
        queues = _merged(self.queues, topology.queues, "queue")
        for binding in topology.bindings:
            if binding.source not in exchanges:
                raise BrokerError(f"cannot bind {binding.target!r}: there is no exchange {binding.source!r}")
            if binding.target not in (exchanges if binding.to_exchange else queues):
                raise BrokerError(f"cannot bind {binding.target!r} to {binding.source!r}: it does not exist")
        new = [queue for name, queue in queues.items() if name not in self.queues]
        self._exchanges, self.queues = exchanges, queues
        for binding in topology.bindings:
            bindings = self._bindings.setdefault(binding.source, [])
            if binding not in bindings:
                bindings.append(binding)
        self._cache.clear()
        return new

    def delete(self, queue: str) -> None:
        """Delete a queue and its bindings."""
        self.queues.pop(queue, None)
        for source, bindings in self._bindings.items():
            self._bindings[source] = [each for each in bindings if each.to_exchange or each.target != queue]
        self._cache.clear()

    def has_exchange(self, name: str) -> bool:
        """Whether this exchange exists. The empty name is the default exchange."""
        return name == "" or name in self._exchanges

    def is_internal(self, name: str) -> bool:
        """Whether clients may not publish to this exchange."""
        return name in self._exchanges and self._exchanges[name].internal

    def queues_for(self, exchange: str, key: str) -> tuple[str, ...]:
        """Return the queues that a message reaches, each once. Empty: it is unroutable."""
        if exchange == "":
            return (key,) if key in self.queues else ()
        found = self._cache.get((exchange, key))
        if found is None:
            if len(self._cache) > 10_000:  # bounded, as producers choose the keys
                self._cache.clear()
            found = self._cache[exchange, key] = self._compute(exchange, key)
        return found

    def _compute(self, exchange: str, key: str) -> tuple[str, ...]:
        queues: dict[str, None] = {}
        seen = {exchange}
        pending = [exchange]
        while pending:
            spec = self._exchanges[pending.pop(0)]
            matching = [
                binding for binding in self._bindings.get(spec.name, ()) if spec.kind == "fanout" or binding.key == key
            ]
            queues.update((binding.target, None) for binding in matching if not binding.to_exchange)
            targets = [binding.target for binding in matching if binding.to_exchange]
            if not matching and spec.alternate in self._exchanges:
                targets.append(spec.alternate)
            for name in targets:
                if name not in seen:
                    seen.add(name)
                    pending.append(name)
        return tuple(queues)


def _merged(existing: dict[str, Spec], added: Iterable[Spec], what: str) -> dict[str, Spec]:
    merged = dict(existing)
    for spec in added:
        if merged.setdefault(spec.name, spec) != spec:
            raise BrokerError(f"{what} {spec.name!r} exists with other arguments: {merged[spec.name]}, not {spec}")
    return merged
