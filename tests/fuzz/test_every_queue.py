"""Hostile messages into every queue of a real RabbitMQ, while coordinator, worker and beat are at work."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pika
import pytest
from pydantic import ValidationError

from broker_jobs.broker import names
from broker_jobs.broker.interface import Delivery
from broker_jobs.broker.topology import fixed_topology
from broker_jobs.coordinator.input_queue import READERS, _read
from broker_jobs.messages.control import Control
from broker_jobs.messages.new_id import new_id
from broker_jobs.messages.state import State
from tests.fuzz.deliveries import Messages
from tests.fuzz.fuzz import is_for_all
from tests.support.rabbitmq import Vhost
from tests.support.system import System
from tests.support.wait import eventually

pytestmark = pytest.mark.rabbitmq

INTERNAL = {exchange.name for exchange in fixed_topology().exchanges if exchange.internal}
READ = (names.LOG, names.COMMAND, names.DUE, names.DEAD_LETTERS)
DIRECT_REPLY = "amq.rabbitmq.reply-to"
"""RabbitMQ itself refuses it from a channel that consumes nothing from it."""
STRANGE_HEADERS: list[dict[str, Any]] = [
    {"x-death": [{"queue": names.LOG, "reason": "expired", "count": 1}]},
    {"x-death": "once"},
    {"x-delivery-count": 2**62},
    {"x-delivery-count": "many", "nested": {"a": [1, {"b": None}]}},
]


@pytest.fixture
def system(vhost: Vhost, tmp_path: Path) -> Iterator[System]:
    """A system on SQLite; no part of it is started."""
    system = System(vhost, tmp_path)
    yield system
    system.close()


def stops_everybody(body: bytes) -> bool:
    """Whether a control message rightly ends the coordinators: another store is the true one."""
    try:
        return Control.model_validate_json(body).store is not None
    except ValidationError:
        return False


def roads(made: Delivery, private: list[str], turn: int) -> tuple[str, str]:
    """(exchange, routing key): by its exchange as a rule, else straight into a queue, or to all who listen."""
    if made.exchange not in INTERNAL and turn % 3:
        key = names.COMMAND_KEY if made.queue == names.COMMAND else names.LOG_KEY
        return made.exchange, "default" if made.exchange in (names.SUBMIT, names.WORK) else key
    queues = [*READ, *names.work_queues("default"), names.delay_queue(0), *private]
    return [("", queues[turn // 3 % len(queues)]), (names.CONTROL, "")][turn % 11 == 0]


@pytest.mark.parametrize("seed", ["fixed", "fresh"])
def test_hostile_messages_in_every_queue_disturb_nothing(system: System, seed: str) -> None:
    seed = seed if seed == "fixed" else new_id()
    parts = [system.here("coordinator"), system.here("worker", concurrency=4), system.here("beat")]
    before = system.enqueue(5)
    later = system.jobs.work.using(id="innocent").schedule(timedelta(hours=1))
    system.succeeded(before)
    untouched = eventually(lambda: system.row(later.id))
    private = [queue["name"] for queue in system.vhost.queues() if queue["name"].startswith("jobs.v1.reply.")]
    messages = Messages(seed)
    with system.vhost.channel() as channel:
        for turn in range(400):
            made = messages.next()
            if is_for_all(_read(READERS[made.queue], made)) or stops_everybody(made.body):
                continue
            exchange, key = roads(made, private, turn)
            reply_to = None if made.reply_to == DIRECT_REPLY else made.reply_to
            expires = {"expiration": str(turn)} if turn % 17 == 0 else {}
            properties = pika.BasicProperties(
                type=made.type[:100], delivery_mode=2, reply_to=reply_to, message_id=made.message_id,
                headers=STRANGE_HEADERS[turn % len(STRANGE_HEADERS)] if turn % 7 == 0 else None,
                user_id="guest" if turn % 2 else None, priority=turn % 256, timestamp=turn, **expires,
            )  # fmt: skip
            body = made.body.replace(b'"work"', b'"of nobody"')  # its arguments would be seconds
            channel.basic_publish(exchange, key, body, properties)

    def all_read() -> bool:
        return all(system.vhost.queue(queue)["messages"] <= (queue == names.COMMAND) for queue in READ)

    eventually(all_read, 60, "all messages are read")
    assert system.store.reader.dead_letters.count() > 50, seed
    system.succeeded(system.enqueue(100))
    assert [part.fatal for part in parts] == [[], [], []], seed
    assert [part.program.broker.reconnects for part in parts] == [0, 0, 0], seed
    coordinator, worker = parts[0].program.coordinator, parts[1].program.worker
    assert coordinator is not None
    assert coordinator.healthy() == (True, "active"), seed
    assert worker is not None
    assert worker.running
    now = system.row(later.id)
    assert (now.state, now.epoch, now.due_at) == (State.SCHEDULED, untouched.epoch, untouched.due_at), seed
