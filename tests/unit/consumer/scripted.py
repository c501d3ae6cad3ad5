"""An exchange that does what a test tells it, in the order the test tells it: for rules about order.

Publishes are confirmed at once, or held until the test confirms or fails them. Deliveries are handed in by the test.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from datetime import UTC, datetime
from typing import Any

from broker_jobs.broker import names
from broker_jobs.broker.interface import Delivery, Message, PublishFailure, Unconfirmed
from broker_jobs.broker.topology import Topology
from broker_jobs.consumer.worker import Worker
from broker_jobs.function.definition import define
from broker_jobs.function.registry import Registry
from broker_jobs.messages.codec import encode
from broker_jobs.messages.commands import Reply
from broker_jobs.messages.control import Control
from broker_jobs.messages.envelope import Envelope, Policy, new_id
from broker_jobs.settings import Settings
from tests.support.wait import eventually


class ScriptedSubscription:
    """Records what is done with it."""

    def __init__(self) -> None:
        self.acks: list[tuple[int, int, bool]] = []
        self.prefetch: dict[str, int] = {}
        self.paused: set[str] = set()
        self.stopping: set[str] = set()
        """Paused, and the broker has not confirmed it."""
        self.cancelled = False
        self.closed = False

    @property
    def consuming(self) -> bool:
        return not self.cancelled

    @property
    def problem(self) -> str | None:
        return None

    def ack(self, channel: int, tag: int, *, multiple: bool = False) -> None:
        self.acks.append((channel, tag, multiple))

    def requeue(self, channel: int, tag: int) -> None:
        raise AssertionError("a worker returns by an event, never by requeue")

    def set_prefetch(self, count: int | Mapping[str, int]) -> None:
        assert isinstance(count, Mapping), "a worker names the queue"
        self.prefetch.update(count)

    def pause(self, queue: str, *, paused: bool) -> None:
        (self.paused.add if paused else self.paused.discard)(queue)

    def has_stopped(self, queue: str) -> bool:
        return queue in self.paused - self.stopping

    def cancel(self) -> None:
        self.cancelled = True

    def close(self) -> None:
        self.closed = True

    def acked(self, tag: int, channel: int = 1) -> bool:
        return any(c == channel and (t == tag or (multiple and t >= tag)) for c, t, multiple in self.acks)


class ScriptedExchange:
    """The port, by hand. `hold`: publishes to the log wait until `confirm` or `fail`."""

    connected = True
    problem: str | None = None
    blocked = False
    reconnects = 0

    def __init__(self) -> None:
        self.hold = False
        self.answer_hello = True
        self.published: list[Message] = []
        self.held: list[tuple[Sequence[Message], Future[list[PublishFailure | None]]]] = []
        self.subscription = ScriptedSubscription()
        self.subscribed = threading.Event()
        self.private = ScriptedSubscription()
        self.prefetch: dict[str, int] = {}
        self.channel = 1
        self._tag = 0
        self._take: Callable[[list[Delivery]], None] | None = None
        self._hear: Callable[[list[Delivery]], None] | None = None
        self._private_ready: Callable[[int], None] | None = None
        self._lost: Callable[[int], None] | None = None
        self.queues: list[str] = []

    # --- the port ---

    def start(self, timeout: float = 10.0) -> None: ...

    def stop(self, timeout: float = 5.0) -> None: ...

    def apply(self, topology: Topology, timeout: float = 10.0) -> None: ...

    def publish(self, messages: Sequence[Message], timeout: float = 10.0) -> Future[list[PublishFailure | None]]:
        future: Future[list[PublishFailure | None]] = Future()
        self.published.extend(messages)
        if self.hold and messages[0].type == "events":
            self.held.append((messages, future))
        else:
            future.set_result([None] * len(messages))
        if self.answer_hello and messages[0].type == "command":
            hello = json.loads(messages[0].body)
            reply = Reply(id=hello["id"], detail=Control(version=1, snapshot=True, paused=[]).model_dump())
            threading.Thread(target=self.say, args=(reply,)).start()
        return future

    def subscribe(
        self,
        queues: Sequence[str],
        on_deliveries: Callable[[list[Delivery]], None],
        *,
        prefetch: int | Mapping[str, int],
        on_lost: Callable[[int], None] | None = None,
        on_ready: Callable[[int], None] | None = None,
    ) -> ScriptedSubscription:
        self.queues = list(queues)
        assert isinstance(prefetch, Mapping), "a worker names the queue"
        self._take, self._lost, self.prefetch = on_deliveries, on_lost, dict(prefetch)
        self.subscribed.set()
        return self.subscription

    def subscribe_private(
        self,
        on_deliveries: Callable[[list[Delivery]], None],
        *,
        bind_to: str | None = None,
        on_ready: Callable[[int], None] | None = None,
    ) -> tuple[str, ScriptedSubscription]:
        assert bind_to == names.CONTROL
        self._hear, self._private_ready = on_deliveries, on_ready
        return "private-1", self.private

    def depth(self, queue: str, timeout: float = 10.0) -> tuple[int, int] | None:
        return None

    def purge(self, queue: str, timeout: float = 10.0) -> int:
        return 0

    # --- the test's hand ---

    def deliver(
        self,
        *bodies: bytes | Envelope,
        redelivered: bool = False,
        queue: str = "default",
        exchange: str = names.WORK,
    ) -> list[int]:
        """Hand deliveries in as one read of the socket; their tags."""
        assert self._take is not None
        deliveries = []
        for body in bodies:
            self._tag += 1
            raw = encode(body) if isinstance(body, Envelope) else body
            deliveries.append(
                Delivery(
                    self.channel, self._tag, names.work_queue(queue), raw, redelivered,
                    exchange, queue, "", "", None, None, 0,
                )
            )  # fmt: skip
        self._take(deliveries)
        return [delivery.tag for delivery in deliveries]

    def say(self, said: Control | Reply) -> None:
        """Speak as the coordinator."""
        assert self._hear is not None
        body = said.model_dump_json().encode()
        self._hear([Delivery(9, 0, "private-1", body, False, names.CONTROL, "", "", "", None, None, 0)])

    def lose_channel(self) -> None:
        """The connection is lost and comes back as another channel."""
        assert self._lost is not None
        lost, self.channel, self._tag = self.channel, self.channel + 1, 0
        self._lost(lost)

    def reconnect_private(self) -> None:
        assert self._private_ready is not None
        self._private_ready(10)

    def confirm(self) -> None:
        """Confirm the oldest held publish."""
        messages, future = self.held.pop(0)
        future.set_result([None] * len(messages))

    def fail(self, kind: Unconfirmed = Unconfirmed.UNKNOWN) -> None:
        """End the oldest held publish without a confirm."""
        messages, future = self.held.pop(0)
        future.set_result([PublishFailure(kind, "a test said so")] * len(messages))

    def events(self, *kinds: str) -> list[dict[str, Any]]:
        """All events that were published, of these kinds."""
        bundles = [json.loads(message.body) for message in self.published if message.type == "events"]
        found = [event for bundle in bundles for event in bundle["events"]]
        return [event for event in found if event["kind"] in kinds] if kinds else found

    def event(self, kind: str, job_id: str) -> dict[str, Any]:
        """Wait for an event of a job."""
        found = eventually(
            lambda: [event for event in self.events(kind) if event.get("id") == job_id], what=f"{kind} of {job_id}"
        )
        return found[0]


def envelope(job: str, *args: Any, **fields: Any) -> Envelope:
    policy = Policy(**{k: fields.pop(k) for k in ("retries", "timeout", "expires") if k in fields})
    fields.setdefault("id", new_id())
    fields.setdefault("created_at", datetime.now(UTC))
    return Envelope(job=job, args=list(args), policy=policy, **fields)


def registry_of(*functions: Callable[..., Any], **options: Any) -> Registry:
    """A registry of these functions, all with these options."""
    registry = Registry()
    for function in functions:
        registry.add(define(function, options))
    return registry


def start_worker(registry: Registry, broker: ScriptedExchange, **given: Any) -> Worker:
    given.setdefault("queues", ["default"])
    given.setdefault("concurrency", 4)
    given.setdefault("settings", Settings(publish_timeout=1.0))
    worker = Worker(registry, broker, **given)
    worker.start()
    assert broker.subscribed.wait(10)
    return worker
