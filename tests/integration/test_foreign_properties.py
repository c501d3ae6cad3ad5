"""Messages of foreign clients with properties that Python or pika cannot hold: all are read, no connection ends."""

import json
import struct
import time
from collections.abc import Sequence
from typing import Any

import pika
import pytest

from broker_jobs.broker import names
from broker_jobs.broker.interface import Delivery
from broker_jobs.errors import BrokerJobsError
from broker_jobs.messages.commands import ReplayDeadLetter
from broker_jobs.messages.envelope import new_id
from tests.support.system import System
from tests.support.wait import eventually

pytestmark = pytest.mark.rabbitmq


class Latin1(str):
    """Text that pika sends in Latin-1, as a client in another language may."""

    __slots__ = ()

    def encode(self, *_: object) -> bytes:
        return super().encode("latin-1")


class Raw(pika.BasicProperties):
    """A property list as it is sent."""

    def __init__(self, raw: bytes) -> None:
        super().__init__()
        self._raw = raw

    def encode(self) -> list[bytes]:
        return [self._raw]


GREETING = Latin1("grüße")
SHOWN = r"gr\xfc\xdfe"


def nested(depth: int) -> bytes:
    value = b"t\x01"
    for _ in range(depth):
        value = b"A" + struct.pack(">I", len(value)) + value
    return value


HEADERS = {
    "a timestamp in milliseconds": b"T" + struct.pack(">Q", 1_764_285_000_000),
    "the last timestamp": b"T" + bytes([255] * 8),
    "20,000 deep": nested(20_000),
    "a type that only RabbitMQ and pika know": b"L" + bytes(8),
    "text that is not UTF-8": b"S\x00\x00\x00\x02\xff\xfe",
    "bytes": b"x\x00\x00\x00\x02\xff\xfe",
    "100 KB": b"S" + struct.pack(">I", 100_000) + b"\xfc" * 100_000,
}
TEXTS: list[dict[str, Any]] = [
    *({name: GREETING} for name in ("content_type", "content_encoding", "correlation_id", "reply_to", "message_id")),
    *({name: GREETING} for name in ("type", "app_id", "cluster_id")),
    *({name: Latin1("\xff" * 255)} for name in ("message_id", "type", "reply_to")),
    {"headers": {GREETING: 1}},
    {"timestamp": 2**64 - 1},
]


def header(value: bytes) -> Raw:
    """Persistent, without a type, with this header."""
    table = b"\x01h" + value
    return Raw(struct.pack(">HI", 0x3000, len(table)) + table + b"\x02")


def all_properties() -> Sequence[pika.BasicProperties]:
    return [
        *(pika.BasicProperties(delivery_mode=2, **one) for one in TEXTS),
        *(header(value) for value in HEADERS.values()),
        Raw(struct.pack(">H", 0x1001) + b"\x02"),  # it says that more flags follow
    ]


ROADS = {
    "log": (names.OFFER, names.LOG_KEY),
    "command": (names.REQUEST, names.COMMAND_KEY),
    "work": (names.WORK, "default"),
    "no queue": (names.WORK, GREETING),
    "dead": (names.DEAD, GREETING),
}


def test_properties_that_nobody_reads_become_dead_letters_and_no_connection_ends(system: System) -> None:
    parts = [system.here("coordinator"), system.here("worker", concurrency=2), system.here("beat")]
    system.succeeded(system.enqueue(1))
    bodies = []
    with system.vhost.channel() as channel:
        for number, properties in enumerate(all_properties()):
            for road, (exchange, key) in ROADS.items():
                bodies.append(f"{number} {road}".encode())
                channel.basic_publish(exchange, key, bodies[-1], properties)
            channel.basic_publish(names.CONTROL, GREETING, b"nobody reads this", properties)
            large = f"{number} in several frames ".encode() + b"x" * 200_000
            bodies.append(large)
            channel.basic_publish(*ROADS["log"], large, properties)
        foreign = "über"  # RabbitMQ takes no exchange whose name is not UTF-8
        channel.exchange_declare(foreign, "fanout")
        for queue in (names.LOG, names.COMMAND, names.work_queue("default")):
            channel.queue_bind(queue, foreign)
        bodies += [b"from elsewhere"] * 3
        channel.basic_publish(foreign, GREETING, b"from elsewhere", pika.BasicProperties(type=GREETING))
    dead_letters = system.store.reader.dead_letters
    eventually(lambda: dead_letters.count() == len(bodies), 60, "all of them")
    kept = dead_letters.oldest(limit=1000)
    assert sorted(row.body for row in kept) == sorted(bodies)
    assert {row.key for row in kept if b"no queue" in row.body} == {SHOWN}
    assert {row.exchange for row in kept} >= {names.OFFER, foreign}
    system.succeeded(system.enqueue(100))
    one = next(row for row in kept if row.type == SHOWN and row.origin == "log")
    requests = system.jobs.program._requests
    with pytest.raises(BrokerJobsError, match="the type"):
        requests.command(ReplayDeadLetter(**requests.command_fields(), dead_letter_id=one.id))
    assert dead_letters.count() == len(bodies)
    for part in parts:
        assert part.fatal == []
        assert part.program.broker.reconnects == 0
    system.nothing_broken()


def test_a_sound_job_runs_whatever_its_headers_are(system: System) -> None:
    parts = system.here("coordinator", "worker", concurrency=2)
    ids = []
    with system.vhost.channel() as channel:
        for value in HEADERS.values():
            for exchange, key in [(names.SUBMIT, "default"), ROADS["work"], (names.OFFER, names.delay_key(0))]:
                ids.append(new_id())
                due = {"due_at": time.time()} if exchange == names.OFFER else {}
                body = {"v": 1, "id": ids[-1], "job": "work", "created_at": "2026-01-01T00:00:00Z", **due}
                channel.basic_publish(exchange, key, json.dumps(body).encode(), header(value))
    system.succeeded(ids)
    assert system.starts() == dict.fromkeys(ids, 1)
    assert system.store.reader.dead_letters.count() == 0
    assert parts.program.broker.reconnects == 0
    system.nothing_broken()


def test_a_message_has_the_user_whom_rabbitmq_has_checked(system: System) -> None:
    """A flag says that more flags follow. RabbitMQ ignores it; who obeys it finds another user, within the type."""
    type_, user = b"\x00\x01t\x05admin", b"guest"
    raw = struct.pack(">HB", 0x0033, len(type_)) + type_ + bytes([len(user)]) + user
    with system.vhost.channel() as channel:
        channel.queue_declare("foreign")
        channel.basic_publish("", "foreign", b"", Raw(raw))
    seen: list[Delivery] = []
    system.broker.subscribe(["foreign"], seen.extend, prefetch=1)
    (delivery,) = eventually(lambda: seen)
    assert delivery.user_id == "guest"
    assert delivery.type == type_.decode()
