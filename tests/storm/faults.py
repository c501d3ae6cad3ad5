"""The faults of a storm, at random: each in a thread of its own, as they overlap."""

from __future__ import annotations

import contextlib
import logging
import os
import random
import signal
import sqlite3
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial

from tests.storm.system import Part, StormSystem
from tests.support.process import ServerFailedError
from tests.support.rabbitmq import Broker

logger = logging.getLogger(__name__)

FREEZE = (0.5, 20.0)
LOCK = (1.0, 60.0)


class Faults:
    """Causes faults until it is stopped, and undoes all of them then."""

    def __init__(self, system: StormSystem, chance: random.Random, pause: float) -> None:
        self.counts: Counter[str] = Counter()
        self.failures: list[str] = []
        self._system = system
        self._chance = chance
        self._pause = pause
        self._stop = threading.Event()
        self._node_locks = [threading.Lock() for _ in system.cluster.nodes]
        self._database = threading.Lock()
        self._running: list[threading.Thread] = []

    def run(self, seconds: float) -> None:
        """Cause faults for so long; returns when all are undone."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            time.sleep(min(self._chance.expovariate(1 / self._pause), max(0.0, deadline - time.monotonic())))
            fault = self._choose()
            thread = threading.Thread(target=self._guarded, args=(fault,), daemon=True)
            thread.start()
            self._running = [*(each for each in self._running if each.is_alive()), thread]
        self._stop.set()
        for thread in self._running:
            thread.join(400)
            if thread.is_alive():
                self.failures.append("a fault does not end")

    def _guarded(self, fault: Callable[[], None]) -> None:
        try:
            fault()
        except Exception as error:
            logger.exception("a fault failed")
            self.failures.append(f"a fault failed: {error!r}")

    def _choose(self) -> Callable[[], None]:
        kinds: list[tuple[Callable[[], None], float]] = [
            (self._on_part, 12), (self._on_node, 4), (self._connections, 2), (self._on_database, 3),
        ]  # fmt: skip
        if len(self._system.cluster.nodes) > 1:
            kinds.append((self._all_nodes, 0.4))
        return self._chance.choices([kind for kind, _ in kinds], [weight for _, weight in kinds])[0]

    def _freeze_seconds(self) -> float:
        low, high = FREEZE
        return low + (high - low) * self._chance.random() ** 2

    # --- processes ---

    def _on_part(self) -> None:
        part = self._chance.choice([*self._system.parts, *self._system.producers])
        how = self._chance.choices(["kill", "freeze", "leave"], [4, 4, 1])[0]
        if not part.busy.acquire(blocking=False):
            return
        try:
            if not part.runs:
                return
            match how:
                case "kill":
                    with self._noted(part.kind, "kill -9", part.name, part.pid):
                        part.kill9()
                    self._stop.wait(self._chance.uniform(0, 4))
                case "freeze":
                    with self._noted(part.kind, "freeze", part.name, part.pid):
                        self._frozen(part, self._freeze_seconds())
                case _:
                    with self._noted(part.kind, "stop", part.name, part.pid):
                        if not part.leave(30):
                            part.kill9()
            part.start()
        finally:
            part.busy.release()

    def _frozen(self, part: Part, seconds: float) -> None:
        part.send(signal.SIGSTOP)
        try:
            self._stop.wait(seconds)
        finally:
            part.send(signal.SIGCONT)

    # --- RabbitMQ ---

    def _on_node(self) -> None:
        number = self._chance.randrange(len(self._system.cluster.nodes))
        how = self._chance.choices(["kill", "freeze", "stop"], [3, 3, 1])[0]
        self._node(number, how, self._chance.uniform(0, 6))

    def _node(self, number: int, how: str, down: float) -> None:
        node, lock = self._system.cluster.nodes[number], self._node_locks[number]
        if not lock.acquire(blocking=False):
            return
        try:
            match how:
                case "kill":
                    with self._noted("node", "kill -9", node.name):
                        node.kill9()
                        self._stop.wait(down)
                        self._up(node)
                case "freeze":
                    with self._noted("node", "freeze", node.name):
                        node.freeze()
                        try:
                            self._stop.wait(self._freeze_seconds())
                        finally:
                            node.thaw()
                case _:
                    with self._noted("node", "stop", node.name):
                        node.stop()
                        self._stop.wait(down)
                        self._up(node)
            self._stop.wait(self._chance.uniform(2, 8))
        finally:
            lock.release()

    def _up(self, node: Broker) -> None:
        for _ in range(3):
            node.start()
            with contextlib.suppress(ServerFailedError):
                if node.is_sound():
                    return
            self.counts["node restarted as it was not sound"] += 1
            node.restart()

    def _all_nodes(self) -> None:
        """End or freeze all nodes at once."""
        how = self._chance.choice(["kill", "freeze"])
        down = self._chance.uniform(0, 4)
        threads = [
            threading.Thread(target=self._guarded, args=(partial(self._node, number, how, down),), daemon=True)
            for number in range(len(self._system.cluster.nodes))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _connections(self) -> None:
        if all(lock.locked() for lock in self._node_locks):
            return
        noted = self._noted("connections", "closed", "all")
        with noted, contextlib.suppress(ServerFailedError, OSError, subprocess.TimeoutExpired):
            self._system.cluster.close_connections()

    # --- the database ---

    def _on_database(self) -> None:
        if not self._database.acquire(blocking=False):
            return
        try:
            if self._system.postgres is None:
                self._lock_sqlite()
            else:
                self._stop_postgres()
            self._stop.wait(self._chance.uniform(2, 8))
        finally:
            self._database.release()

    def _lock_sqlite(self) -> None:
        low, high = LOCK
        seconds = low + (high - low) * self._chance.random() ** 2
        foreign = sqlite3.connect(self._system.sqlite, timeout=30, isolation_level=None)
        try:
            try:
                foreign.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError:
                return  # a frozen coordinator has it
            with self._noted("store", "locked", "sqlite"):
                self._stop.wait(seconds)
                foreign.execute("ROLLBACK")
        finally:
            foreign.close()

    def _stop_postgres(self) -> None:
        server = self._system.postgres
        assert server is not None
        how = self._chance.choice(["kill -9", "stop", "immediate"])
        with self._noted("store", how, "postgres"):
            match how:
                case "kill -9":
                    server.kill9()
                case "stop":
                    server.stop()
                case _:
                    server.stop_immediately()
            self._stop.wait(self._chance.uniform(0, 8))
            server.start()

    # --- notes ---

    @contextlib.contextmanager
    def _noted(self, kind: str, how: str, target: str, pid: int = 0) -> Iterator[None]:
        """Write begin and end of a fault into the journal."""
        self.counts[f"{kind}: {how}"] += 1
        number = f"{os.getpid()}-{time.monotonic_ns()}"
        about = {"kind": kind, "how": how, "target": target, "pid_of": pid, "number": number}
        self._system.journal.write("begin", **about)
        try:
            yield
        finally:
            self._system.journal.write("over", **about)
