"""A broker that records what is published, and replies as the test sets it up: a `Broker`, not a mock."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

from broker_jobs import BrokerJobs
from broker_jobs.broker.interface import Delivery, Message, PublishFailure
from broker_jobs.broker.topology import Topology
from broker_jobs.errors import BrokerError
from broker_jobs.messages.codec import decode
from broker_jobs.messages.commands import COMMAND, Command, Reply
from broker_jobs.messages.envelope import Envelope

REPLIES = "jobs.v1.reply." + "0" * 32


class NoConsumer:
    """A consumer that acknowledges nothing."""

    def close(self) -> None:
        """Do nothing."""


class RecordingBroker:
    """Records messages. `fail` returns the failure of a message; `answer` the reply to a command, or None."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.topologies: list[Topology] = []
        self.batches: list[int] = []
        self.unreachable: str | None = None
        self.fail: Callable[[Message], PublishFailure | None] = lambda _: None
        self.answer: Callable[[Command], Reply | None] = lambda _: None
        self.started = 0
        self.stopped = 0
        self._on_deliveries: Callable[[list[Delivery]], None] | None = None

    connected = True
    problem: str | None = None
    blocked = False

    def start(self, timeout: float = 10.0) -> None:
        if self.unreachable is not None:
            raise BrokerError(self.unreachable)
        self.started += 1

    def stop(self, timeout: float = 5.0) -> None:
        self.stopped += 1

    def apply(self, topology: Topology, timeout: float = 10.0) -> None:
        self.topologies.append(topology)

    def publish(self, messages: Sequence[Message], timeout: float = 10.0) -> Future[list[PublishFailure | None]]:
        self.messages.extend(messages)
        self.batches.append(len(messages))
        future: Future[list[PublishFailure | None]] = Future()
        future.set_result([self.fail(message) for message in messages])
        for message in messages:
            if message.type == "command" and message.reply_to is not None:
                self._reply(message)
        return future

    def subscribe_private(
        self,
        on_deliveries: Callable[[list[Delivery]], None],
        *,
        bind_to: str | None = None,
        on_ready: Callable[[int], None] | None = None,
    ) -> tuple[str, Any]:
        self._on_deliveries = on_deliveries
        return REPLIES, NoConsumer()

    def subscribe(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError

    def depth(self, queue: str, timeout: float = 10.0) -> tuple[int, int] | None:
        raise NotImplementedError

    def purge(self, queue: str, timeout: float = 10.0) -> int:
        raise NotImplementedError

    def _reply(self, message: Message) -> None:
        assert message.reply_to == REPLIES
        assert self._on_deliveries is not None
        reply = self.answer(COMMAND.validate_json(message.body))
        if reply is not None:
            body = reply.model_dump_json().encode()
            self._on_deliveries([
                Delivery(1, 1, REPLIES, body, False, "", REPLIES, "reply", reply.id, None, message.message_id, 0)
            ])  # fmt: skip

    @property
    def last(self) -> Message:
        """The last message."""
        return self.messages[-1]

    @property
    def envelope(self) -> Envelope:
        """The envelope in the last message."""
        return decode(self.last.body)

    @property
    def commands(self) -> list[Command]:
        """The commands published so far."""
        return [COMMAND.validate_json(message.body) for message in self.messages if message.type == "command"]


def program(monkeypatch: Any, broker: RecordingBroker, **settings: Any) -> BrokerJobs:
    """A BrokerJobs that publishes to `broker`."""
    monkeypatch.setattr("broker_jobs.app.broker_for", lambda _settings, _name: broker)
    for name, value in settings.items():
        monkeypatch.setenv(f"BROKER_JOBS_{name.upper()}", str(value))
    return BrokerJobs("amqp://user:secret@host/")
