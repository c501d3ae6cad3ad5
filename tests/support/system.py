"""The whole system on a broker and a store of a test's own: parts here in threads, parts in processes to be killed."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from broker_jobs.broker.factory import broker_for
from broker_jobs.broker.rabbitmq import RabbitBroker
from broker_jobs.broker.topology import fixed_topology, work_topology
from broker_jobs.errors import StoreError
from broker_jobs.messages.state import State
from broker_jobs.processes.program import Program
from broker_jobs.producer.receipt import Receipt
from broker_jobs.settings import Settings
from broker_jobs.store import Store
from broker_jobs.store.row import Row
from tests.support.faketime import FakeClock
from tests.support.invariants import broken
from tests.support.process import Lodging, freeze
from tests.support.rabbitmq import Vhost
from tests.support.system_jobs import Mark, SystemJobs
from tests.support.wait import PATIENCE, eventually, while_it_moves

ROOT = Path(__file__).parents[2]
PROGRAM = ROOT / "tests" / "integration" / "programs" / "system_program.py"
PRODUCER_PROGRAM = PROGRAM.with_name("producer_program.py")
WORKER_HEARTBEAT_SECONDS = 0.2


class Lodger:
    """A process that runs parts of the system."""

    def __init__(self, lodging: Lodging, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process = process
        self._lodging = lodging
        self._log = log

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def log(self) -> str:
        """All it has written."""
        return self._log.read_text(errors="replace")

    def said(self, text: str, timeout: float = 30) -> None:
        """Wait until its log holds a text."""
        eventually(lambda: text in self.log, timeout, f"{text!r} in the log:\n{self.log}")

    def kill9(self) -> None:
        """End it as a power cut would."""
        self._lodging.kill(self.process)

    def freeze(self) -> None:
        """Stop it where it stands; its connections stay open."""
        freeze(self.pid)

    def thaw(self) -> None:
        """Let it go on."""
        self.process.send_signal(signal.SIGCONT)

    def leave(self) -> None:
        """Ask it to leave in order."""
        self.process.send_signal(signal.SIGTERM)

    def left(self, timeout: float = 30) -> None:
        """Wait until it has left in order."""
        try:
            code = self.process.wait(timeout * PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.send_signal(signal.SIGUSR1)
            eventually(lambda: "Current thread" in self.log, 5, "where it is")
            raise AssertionError(f"it has not left:\n{self.log}") from None
        assert code == 0, self.log


class Here(NamedTuple):
    """Parts of the system in threads of this process."""

    program: Program
    stop: Callable[[], None]
    fatal: list[str]


class System:
    """Broker, store, a producer in this process, and whatever parts a test starts."""

    def __init__(self, vhost: Vhost, folder: Path, store_url: str = "", url: str = "") -> None:
        self.vhost = vhost
        self.folder = folder
        self.url = url or vhost.url
        self.store_url = store_url or f"sqlite:///{folder / 'store.db'}"
        self.jobs = SystemJobs(self.url, self.store_url, folder)
        self.store = Store(self.store_url)
        self._ends = ExitStack()
        self._lodging = Lodging("system")
        self._count = 0
        self._ends.callback(self._lodging.close)
        self._ends.callback(self.store.close)
        self._ends.callback(self.jobs.program.stop, 0)
        broker = RabbitBroker(vhost.url, name="system")
        broker.start(30)
        self._ends.callback(broker.stop)
        self.broker = broker
        broker.apply(fixed_topology(), 60)
        broker.apply(work_topology("default"), 60)
        self.store.open()

    def close(self) -> None:
        """Stop everything; runs that wait are let go."""
        for name in ("", *(path.name.removeprefix("wait-") for path in self.folder.glob("wait-*"))):
            self.go(name)
        self._ends.close()

    # --- parts ---

    def start(
        self,
        *roles: str,
        slot: str = "",
        url: str = "",
        store: str = "",
        clock: FakeClock | None = None,
        program: Path | None = None,
        **settings: Any,
    ) -> Lodger:
        """Start parts, or another program, in a process of their own; returns before they are up."""
        self._count += 1
        log = self.folder / f"{self._count}-{'-'.join(roles)}.log"
        description = {
            "url": url or self.url,
            "store": store or self.store_url,
            "folder": str(self.folder),
            "roles": roles,
            "slot": slot,
            "worker_heartbeat": WORKER_HEARTBEAT_SECONDS,
            **settings,
        }
        command = [sys.executable, str(program or PROGRAM), json.dumps(description)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), **(clock.environment if clock is not None else {})}
        process = self._lodging.start(command, log=log, env=environment)
        return Lodger(self._lodging, process, log)

    def here(self, *roles: str, slot: str = "", url: str = "", store: str = "", **settings: Any) -> Here:
        """Start parts in threads of this process."""
        known = {"worker_heartbeat": WORKER_HEARTBEAT_SECONDS, "url": url or self.url, "store": store or self.store_url}
        loaded = Settings.load(**(known | settings))
        broker = broker_for(loaded, "+".join(roles))
        fatal: list[str] = []
        program = Program(self.jobs.program.registry, loaded, broker, roles=roles, slot=slot, on_fatal=fatal.append)
        program.start()

        def stop() -> None:
            program.stop(0)
            broker.stop()

        self._ends.callback(stop)
        return Here(program, stop, fatal)

    # --- jobs ---

    def enqueue(self, count: int, seconds: float = 0.0) -> list[str]:
        """Enqueue so many jobs; their confirmed ids."""
        work = self.jobs.work
        return [receipt.id for receipt in self.jobs.program.enqueue_many(work.bind(seconds) for _ in range(count))]

    @contextmanager
    def busy(self, ids: list[str], backlog: int = 200) -> Iterator[None]:
        """Enqueue jobs meanwhile, so that about `backlog` of them always wait; their ids are added to `ids`."""
        stop = threading.Event()

        def enqueue() -> None:
            while not stop.wait(0.05):
                if len(ids) - len(self.ended()) < backlog:
                    ids.extend(self.enqueue(backlog // 2, 0.05))

        thread = threading.Thread(target=enqueue, name="busy", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join(30)

    def go(self, name: str) -> None:
        """Let the runs of `hold(name)` end."""
        (self.folder / f"go-{name}").touch()

    def hold(self, name: str, **options: Any) -> Receipt[str]:
        """Enqueue a job that waits for `go(name)`; at the end of the test it is let go."""
        (self.folder / f"wait-{name}").touch()
        return self.jobs.after.using(**options).enqueue(name)

    # --- what became of them ---

    def marks(self, kind: str) -> list[Mark]:
        return [mark for mark in self.jobs.marks() if mark.kind == kind]

    def starts(self) -> Counter[str]:
        """How often each job was started."""
        return Counter(mark.id for mark in self.marks("started"))

    def ended(self) -> set[str]:
        """The jobs whose function ran to its end."""
        return {mark.id for mark in self.marks("ended")}

    def row(self, id: str) -> Row:
        """A job's row; AssertionError while it is not known."""
        row = self.store.reader.jobs.get(id)
        assert row is not None, f"{id} is not in the store"
        return row

    def rows(self, ids: Iterable[str] | None = None) -> dict[str, Row]:
        """The rows of jobs, as far as they are known; None: of all."""
        wanted, found, before = None if ids is None else set(ids), dict[str, Row](), None
        while page := self.store.reader.jobs.newest(limit=500, before_id=before):
            found |= {row.id: row for row in page if wanted is None or row.id in wanted}
            before = page[-1].id
        return found

    def states(self, ids: Sequence[str]) -> dict[str, int]:
        """How many of these jobs are in each state."""
        found = self.rows(ids)
        counted = Counter(str(row.state) for row in found.values())
        counted["unknown"] = len(set(ids)) - len(found)
        return {state: count for state, count in counted.items() if count}

    def succeeded(self, ids: Sequence[str]) -> None:
        """Wait until all of these jobs are stored as succeeded."""
        want = {str(State.SUCCEEDED): len(set(ids))}
        while_it_moves(lambda: self.states(ids), lambda states: states == want, 60, "all succeeded")

    def succeeded_soon(self, ids: Sequence[str]) -> None:
        """As `succeeded`, while log time passes quickly for what waits for it."""
        self.runs_settled()
        with self.log_time_passes():
            self.succeeded(ids)

    def is_in(self, id: str, *states: State, timeout: float = 20) -> Row:
        """Wait until a job is in one of these states."""

        def there() -> Row:
            row = self.row(id)
            assert row.state in states, f"{row.state}: {row.reason}; {row.history}"
            return row

        return eventually(there, timeout, f"{id} is {' or '.join(states)}")

    def runs_settled(self, *, dead: int = 0) -> None:
        """Wait until nothing runs and every run that ended is stored; what is left waits for log time.

        `dead` is the pid of a worker that was killed: of its runs nothing is awaited.
        """

        def left() -> tuple[int, int, int]:
            ended = {mark.id for mark in self.marks("ended") if mark.pid != dead}
            started = {mark.id for mark in self.marks("started") if mark.pid != dead}
            rows = self.rows()
            stored = {id for id, row in rows.items() if row.state is State.SUCCEEDED}
            enqueued = {id for id, row in rows.items() if row.state is State.ENQUEUED}
            return len(started - ended), len(ended - stored), len(enqueued)

        while_it_moves(left, lambda seen: not any(seen), 60, "runs that go on, are not stored, are to begin: none")

    def nothing_broken(self) -> None:
        """The store's invariants hold."""
        assert broken(self.store) == []

    # --- time ---

    def tick(self, seconds: int = 1) -> None:
        """Let so many seconds of log time pass at once. The coordinator sees it with its next transaction."""
        with self.store.transaction() as tx:
            tx.meta.log_time += seconds

    @contextmanager
    def log_time_passes(self, per_second: int = 20) -> Iterator[None]:
        """Let log time pass so much faster than ours. Heartbeats come five times a second, so nobody dies of it."""
        stop = threading.Event()

        def pass_it() -> None:
            while not stop.wait(0.1):
                with contextlib.suppress(StoreError):
                    self.tick(max(1, per_second // 10))

        thread = threading.Thread(target=pass_it, name="log clock", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join(30)
