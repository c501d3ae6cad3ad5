"""Runs a RabbitMQ cluster on loopback, of one node or of three that hold each queue together."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Self

from tests.support.process import ServerFailedError
from tests.support.rabbitmq import Broker, Vhost

BOOT_SECONDS = 240.0
"""A node of a cluster waits for the others, which may be frozen."""


class Cluster:
    """The nodes, all started and joined, and a virtual host."""

    def __init__(self, nodes: int) -> None:
        first = Broker(name="test1@localhost", boot_seconds=BOOT_SECONDS)
        others = [
            Broker(beside=first, name=f"test{number}@localhost", boot_seconds=BOOT_SECONDS)
            for number in range(2, nodes + 1)
        ]
        self.nodes = [first, *others]
        try:
            first.start()
            self.together(node.start for node in others)
            for node in others:
                node.join(first)
            self.vhost: Vhost = first.vhost()
        except BaseException:
            self.dispose()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.dispose()

    @property
    def url(self) -> str:
        """The addresses of all nodes, for AMQP clients."""
        return ",".join(node.url(self.vhost.name) for node in self.nodes)

    def heal(self) -> None:
        """Let all nodes run: those that are down wait for each other, so they are started at once."""
        for node in self.nodes:
            node.thaw()
        self.together(node.start for node in self.nodes)

    def close_connections(self) -> int:
        """Let RabbitMQ close all client connections of the virtual host; return how many."""
        for node in self.nodes:
            if node.is_running():
                try:
                    return Vhost(node, self.vhost.name).close_connections()
                except ServerFailedError:
                    continue
        return 0

    def together(self, calls: Iterable[Callable[[], object]]) -> None:
        """Call all of these at once, and wait for all."""
        with ThreadPoolExecutor() as pool:
            for done in [pool.submit(call) for call in calls]:
                done.result()

    def dispose(self) -> None:
        """Kill all nodes and remove all they wrote."""
        for node in reversed(self.nodes):
            node.dispose()
