"""A coordinator in threads of this process, on the broker in memory, with a store of its own."""

from __future__ import annotations

import time
import uuid
from datetime import UTC, datetime, timedelta

from broker_jobs.broker import names
from broker_jobs.broker.interface import Message
from broker_jobs.broker.memory import MemoryBroker
from broker_jobs.broker.topology import work_topology
from broker_jobs.clock import SystemClock
from broker_jobs.coordinator.service import Coordinator
from broker_jobs.messages import codec
from broker_jobs.messages.envelope import Envelope
from broker_jobs.messages.events import Bundle, Heartbeat, Returned, Started, Succeeded, WorkerRef
from broker_jobs.messages.state import State
from broker_jobs.settings import Settings
from broker_jobs.store import Store
from broker_jobs.store.row import Row
from tests.support.wait import eventually


class CoordinatorHarness:
    """One coordinator, its broker and its store."""

    def __init__(self) -> None:
        self.settings = Settings.load(url=f"memory://{uuid.uuid4().hex}", store="sqlite://")
        self.broker = MemoryBroker(self.settings.url)
        self.store = Store("sqlite://")
        self.fatal: list[str] = []
        self.broker.start()
        self.store.open()
        self.coordinator = Coordinator(
            self.broker, self.store, self.settings, SystemClock(), on_fatal=self.fatal.append
        )

    def start(self) -> None:
        self.coordinator.start()
        self.broker.apply(work_topology("default"))
        eventually(lambda: self.coordinator.active)

    def close(self) -> None:
        self.coordinator.stop()
        self.broker.stop()
        self.store.close()

    def publish(self, *messages: Message) -> None:
        assert self.broker.publish(list(messages)).result(30) == [None] * len(messages)

    def envelope(self, id: str = "j", delay: float = 0.0, **fields: object) -> Envelope:
        now = datetime.now(UTC)
        made = {"id": id, "job": "work", "created_at": now, "epoch": 0, "due_at": now + timedelta(seconds=delay)}
        return Envelope.model_validate(made | fields)

    def hold(self, *envelopes: Envelope) -> None:
        """Give the coordinator jobs to release."""
        self.publish(*(Message(names.OFFER, names.LOG_KEY, codec.encode(one), "job", one.id) for one in envelopes))

    def tell(self, *events: Returned | Heartbeat | Started | Succeeded) -> None:
        """Speak as a worker."""
        bundle = Bundle(worker=WorkerRef(id="w1"), sent_at=time.time(), events=list(events))
        self.publish(Message(names.REPORT, names.LOG_KEY, bundle.model_dump_json().encode(), "events"))

    def row(self, id: str = "j") -> Row:
        row = self.store.reader.jobs.get(id)
        assert row is not None
        return row

    def is_in(self, state: State, id: str = "j", timeout: float = 10.0) -> Row:
        def there() -> Row:
            row = self.row(id)
            assert row.state is state, (row.state, row.reason)
            return row

        return eventually(there, timeout)
