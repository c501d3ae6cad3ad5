"""A declaration is repeated until it is answered, and then no more."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from broker_jobs.broker import names
from broker_jobs.broker.interface import Consumer, Delivery, Message
from broker_jobs.broker.memory import MemoryBroker
from broker_jobs.broker.topology import fixed_topology
from broker_jobs.clock import SystemClock
from broker_jobs.messages.commands import (
    COMMAND,
    DeclareFunctions,
    DeclareSubscriptions,
    FunctionInfo,
    ParameterInfo,
    Reply,
)
from broker_jobs.messages.commands import Subscription as Subscribed
from broker_jobs.processes import declare
from broker_jobs.processes.declare import Declarer
from tests.support.consume import consume
from tests.support.wait import eventually

LONG = ParameterInfo(name="text", kind="either", required=False, default="x" * 100_000)


class Coordinator:
    """Reads commands, and answers or refuses them."""

    def __init__(self, broker: MemoryBroker) -> None:
        self.received: list[DeclareSubscriptions] = []
        self.functions: list[DeclareFunctions] = []
        self.silent = 0
        self.refused: str | None = None
        self._broker = broker
        consume(broker, [names.COMMAND], self._receive, prefetch=10)

    def _receive(self, consumer: Consumer, deliveries: list[Delivery]) -> None:
        for delivery in deliveries:
            command = COMMAND.validate_json(delivery.body)
            consumer.ack(delivery.channel, delivery.tag)
            if isinstance(command, DeclareFunctions):
                self.functions.append(command)
            else:
                assert isinstance(command, DeclareSubscriptions)
                self.received.append(command)
            if len(self.received) + len(self.functions) <= self.silent:
                continue
            reply = Reply(id=command.id, ok=self.refused is None, refused=self.refused).model_dump_json().encode()
            assert delivery.reply_to is not None
            self._broker.publish([Message("", delivery.reply_to, reply, "reply", correlation_id=command.id)])


@pytest.fixture
def broker() -> Iterator[MemoryBroker]:
    broker = MemoryBroker("memory://")
    broker.start()
    broker.apply(fixed_topology())
    yield broker
    broker.stop()


@pytest.fixture
def declarer(broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch) -> Iterator[Declarer]:
    monkeypatch.setattr(declare, "FIRST_PAUSE_SECONDS", 0.01)
    subscribed = [Subscribed(event="user.registered", call="{}")]
    declarer = Declarer(broker, SystemClock(), "shop", subscribed, "me")
    yield declarer
    declarer.stop()


def threads_of(declarer: Declarer) -> bool:
    thread = declarer._thread
    return thread is not None and thread.is_alive()


def test_it_is_repeated_until_it_is_answered(broker: MemoryBroker, declarer: Declarer) -> None:
    coordinator = Coordinator(broker)
    coordinator.silent = 2
    declarer.start()
    declarer.start()
    assert declarer.wait(20)
    eventually(lambda: not threads_of(declarer), what="its thread ends")
    assert len(coordinator.received) == 3
    assert {command.id for command in coordinator.received} == {coordinator.received[0].id}
    assert (coordinator.received[0].service, coordinator.received[0].by) == ("shop", "me")
    assert [each.event for each in coordinator.received[0].subscriptions] == ["user.registered"]


def test_a_refusal_is_logged_and_the_declaration_not_repeated(
    broker: MemoryBroker, declarer: Declarer, caplog: pytest.LogCaptureFixture
) -> None:
    coordinator = Coordinator(broker)
    coordinator.refused = "not of this version"
    with caplog.at_level(logging.ERROR):
        declarer.start()
        assert declarer.wait(20)
        # Another thread handles what a thread of the broker logs.
        refusal = "the coordinator refuses the subscriptions of this program: not of this version"
        eventually(lambda: refusal in caplog.text, what="the refusal in the log")
    eventually(lambda: not threads_of(declarer), what="its thread ends")


def test_without_a_coordinator_it_goes_on_until_it_is_stopped(declarer: Declarer) -> None:
    declarer.start()
    assert not declarer.wait(0.05)
    assert threads_of(declarer)
    declarer.stop()
    declarer.stop()
    assert not threads_of(declarer)


def test_functions_are_declared_too_until_that_is_answered(broker: MemoryBroker, declarer: Declarer) -> None:
    coordinator = Coordinator(broker)
    coordinator.silent = 3
    functions = [FunctionInfo(name=f"f{n}", queue="q", parameters=[LONG]) for n in range(3)]
    both = Declarer(broker, SystemClock(), "shop", [], "me", functions=lambda: functions)
    both.start()
    eventually(lambda: not threads_of(both), what="its thread ends")
    commands = {command.id: command for command in coordinator.functions}
    assert [command.functions[0].name for command in commands.values()] == ["f0", "f1", "f2"]
    assert [command.last for command in commands.values()] == [False, False, True]
    assert len({command.at for command in commands.values()}) == 1
    assert len(coordinator.functions) > 3


def test_functions_that_cannot_be_described_do_not_prevent_subscriptions(
    broker: MemoryBroker, declarer: Declarer, caplog: pytest.LogCaptureFixture
) -> None:
    coordinator = Coordinator(broker)

    def fails() -> list[FunctionInfo]:
        raise RuntimeError("no")

    broken = Declarer(broker, SystemClock(), "shop", [], "me", functions=fails)
    broken.start()
    assert broken.wait(20)
    eventually(lambda: not threads_of(broken), what="its thread ends")
    assert (len(coordinator.received), coordinator.functions) == (1, [])
    assert "could not be described" in caplog.text
