"""What a program that was taken over can still do with its role's user: each cell of the table in SECURITY.md.

Each role tries everything, on every exchange, with its name, without one, and by way of a queue of its own that
dead-letters. What the table allows happens, and nothing else does.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pika
import pytest
from pika.adapters.blocking_connection import BlockingChannel
from pika.exceptions import AMQPError, ChannelClosedByBroker, NackError, UnroutableError

from broker_jobs.broker import names
from broker_jobs.broker.roles import COMMANDS, TYPES
from broker_jobs.broker.topology import fixed_topology
from broker_jobs.messages.state import State
from broker_jobs.store import Store
from tests.deploy.test_rabbitmq_roles import Parts
from tests.deploy.test_rabbitmq_roles import parts as parts
from tests.support.shipped import ROOT, ShippedBroker
from tests.support.wait import eventually

pytestmark = [pytest.mark.rabbitmq, pytest.mark.slow]

INTERNAL = {exchange.name for exchange in fixed_topology().exchanges if exchange.internal}
EXCHANGES = [exchange.name for exchange in fixed_topology().exchanges if not exchange.internal] + [""]
WORK_QUEUE = names.work_queue("default")
VICTIM = "victim"
"""A job of another program, whose id the intruder knows."""
ADMIN = pika.BasicProperties(user_id="admin")
NO = "\N{EN DASH}"
HEAD = "| a program that was taken over, and has the user of a |"


class Try(NamedTuple):
    """A message, and how one sees in the store that it was believed."""

    type: str
    body: dict[str, Any]
    happened: Callable[[Store], object]


def job(id: str, **fields: Any) -> dict[str, Any]:
    return {"id": id, "job": "greet", "created_at": "2026-03-01T00:00:00Z", **fields}


def command(kind: str, mark: str, **fields: Any) -> Try:
    """A command that is audited, whatever the answer is."""
    return Try("command", {"kind": kind, "id": mark, "at": 1.0, **fields}, lambda store: store.reader.audit.get(mark))


def enqueued(mark: str) -> list[Try]:
    known = lambda store: store.reader.jobs.get(mark)  # noqa: E731  # short, and three times the same
    return [Try("job", job(mark), known), Try("repeat", job(mark), known), Try("job", job(mark, epoch=0), known)]


def batch(mark: str) -> list[Try]:
    submission = {"batch": mark, "submission": f"{mark}.1", "created_at": 1.0}
    member = json.dumps(job(mark, epoch=0, batch=mark))
    return [
        Try("chunk", submission | {"number": 0, "jobs": [member]}, lambda store: store.reader.jobs.get(mark)),
        Try("commit", submission | {"chunks": 1}, lambda store: store.reader.batches.get(mark)),
    ]


def events(mark: str) -> list[Try]:
    told = [
        {"kind": "started", "id": mark, "epoch": 1, "at": 1.0},
        {"kind": "succeeded", "id": mark, "epoch": 1, "started_at": 1.0, "ended_at": 1.0, "result": '"paid"'},
    ]
    body = {"worker": {"id": f"not a worker {mark}"}, "sent_at": 1.0, "events": told}
    return [Try("events", body, lambda store: store.reader.jobs.get(mark))]


def fire(mark: str) -> list[Try]:
    body = {"kind": "fire", "id": mark, "at": 1.0, "name": "nightly", "version": 1, "planned_at": time.time()}

    def fired(store: Store) -> object:
        return [row for row in store.reader.jobs.newest(limit=100) if row.recurring == "nightly"]

    return [Try("command", body, fired)]


def functions(mark: str) -> list[Try]:
    info = {"name": mark, "queue": "default"}
    declared = {"kind": "functions declare", "id": mark, "at": 1.0, "service": mark, "functions": [info]}
    return [
        Try(
            "command",
            declared,
            lambda store: [one for one in store.reader.declarations.functions() if one.name == mark],
        ),
        command("recurring declare", f"{mark}-r", service=mark, schedules=[]),
        command("subscriptions declare", f"{mark}-s", service=mark, subscriptions=[]),
    ]


def tick(mark: str) -> list[Try]:
    def counted(store: Store) -> object:
        return [one for one in store.reader.processes.components() if one.id == mark]

    body = {"coordinator": mark, "store": "another", "serial": 1, "sent_at": 1.0}
    return [Try("tick", body, counted), Try("checkpoint", body, counted)]


def operated(mark: str) -> list[Try]:
    return [
        command("queue pause", f"{mark}-p", queue="mail", paused=False),
        command("limit set", f"{mark}-l", key="nobodys", limit=1),
        command("worker change", f"{mark}-w", worker="nobody", concurrency=1),
    ]


ABILITIES: dict[str, Callable[[str], list[Try]]] = {
    "enqueue any job with any arguments": enqueued,
    "submit batches": batch,
    "delete, requeue or reschedule a job, or delete a batch, whose id it knows": lambda mark: [
        command("requeue", f"{mark}-q", job_id="nobody"),
        command("reschedule", f"{mark}-r", job_id=VICTIM, due_at=4e9),
        command("delete", f"{mark}-d", job_id="nobody"),
        command("batch delete", f"{mark}-b", batch_id="nobody"),
    ],
    "run a job from a form": lambda mark: [command("run", mark, call=json.dumps(job(mark)))],
    "delete, requeue or fail many jobs at once": lambda mark: [
        command("bulk delete", f"{mark}-d", filter={"ids": ["nobody"]}),
        command("bulk requeue", f"{mark}-q", filter={"ids": ["nobody"]}),
        command("bulk fail", f"{mark}-f", filter={"ids": ["nobody"]}),
    ],
    "report that a job has started, or how it ended": events,
    "declare functions, recurring jobs and subscriptions": functions,
    "fire a recurring job whose time has come": fire,
    "add, remove, pause or trigger a recurring job": lambda mark: [
        command("recurring put", f"{mark}-p", schedule={
            "name": mark, "cron": "0 0 1 1 *", "call": json.dumps(job(mark))}),
        command("recurring pause", f"{mark}-s", name="nobodys", paused=True),
        command("recurring trigger", f"{mark}-t", name="nobodys", job_id=mark),
        command("recurring remove", f"{mark}-r", name="nobodys"),
    ],
    "pause queues, change limits and workers": operated,
    "accept a restored store": lambda mark: [command("store accept", mark)],
    "replay or delete dead letters": lambda mark: [
        command("dead letter replay", f"{mark}-r", dead_letter_id="nobodys"),
        command("dead letter delete", f"{mark}-d", dead_letter_id="nobodys"),
    ],
    "speak as a coordinator": tick,
}  # fmt: skip
"""What is tried by messages: a row of the table -> its messages, made with a mark of their own."""


def listen(channel: BlockingChannel) -> None:
    queue = new_queue()
    channel.queue_declare(queue, exclusive=True)
    channel.queue_bind(queue, names.CONTROL)


READING: dict[str, list[Callable[[BlockingChannel], object]]] = {
    "take jobs out of their queues": [lambda channel: channel.basic_get(WORK_QUEUE)],
    "read the log or the commands": [
        lambda channel: channel.basic_get(names.LOG),
        lambda channel: channel.basic_get(names.COMMAND),
    ],
    "listen to what coordinators tell all workers": [listen],
    "declare or delete queues of jobs": [
        lambda channel: channel.queue_delete(WORK_QUEUE, if_empty=True, if_unused=True),
        lambda channel: channel.queue_declare("jobs.v1.work.nobodys", durable=True),
    ],
    "speak in the name of another user": [
        partial(BlockingChannel.basic_publish, exchange=exchange, routing_key="log", body=b"{}", properties=ADMIN)
        for exchange in EXCHANGES
    ],
}
"""What the node itself allows or not: a row of the table -> what is tried."""


def new_queue() -> str:
    return f"jobs.v1.reply.{uuid.uuid4().hex}"


def table() -> dict[str, dict[str, bool]]:
    """The table of SECURITY.md: row -> role -> whether it can."""
    lines = (ROOT / "SECURITY.md").read_text(encoding="utf-8").splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith(HEAD))
    cells = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in lines[start:][: next(n for n, line in enumerate(lines[start:]) if not line.startswith("|"))]
    ]
    roles = cells[0][1:]
    assert all(cell in ("yes", NO) for row in cells[2:] for cell in row[1:])
    return {row[0]: {role: cell == "yes" for role, cell in zip(roles, row[1:], strict=True)} for row in cells[2:]}


class Intruder:
    """Somebody with the password of a role."""

    def __init__(self, node: ShippedBroker, role: str) -> None:
        self.role = role
        self._connection = pika.BlockingConnection(pika.URLParameters(node.address(role)))
        self._channel = self._connection.channel()
        self._channel.confirm_delivery()
        self._refused: set[str] = set()

    def may(self, action: Callable[[BlockingChannel], object]) -> bool:
        """Whether the node lets it."""
        if not self._channel.is_open:
            self._channel = self._connection.channel()
            self._channel.confirm_delivery()
        try:
            action(self._channel)
        except ChannelClosedByBroker as closed:
            if closed.reply_code not in (403, 406):
                raise
            return False
        except (NackError, UnroutableError):
            return True
        return True

    def says(self, exchange: str, one: Try, user_id: str | None) -> None:
        """Publish a message to an exchange, if the node takes it."""
        if exchange in self._refused:
            return
        is_command = one.type in ("command", "checkpoint")
        key = names.COMMAND_KEY if is_command else "default" if exchange == names.SUBMIT else names.LOG_KEY
        if exchange == "":
            key = names.COMMAND if is_command else names.LOG
        properties = pika.BasicProperties(type=one.type, user_id=user_id, delivery_mode=2)
        body = json.dumps(one.body).encode()
        if not self.may(lambda channel: channel.basic_publish(exchange, key, body, properties)):
            self._refused.add(exchange)

    def close(self) -> None:
        """Leave."""
        with suppress(AMQPError):
            self._connection.close()


@pytest.fixture
def intruder(shipped: ShippedBroker, request: pytest.FixtureRequest) -> Iterator[Intruder]:
    made = Intruder(shipped, request.param)
    yield made
    made.close()


ROLES = ("producer", "worker", "beat", "dashboard")


def all_read(parts: Parts, store: Store, mark: str) -> None:
    """Wait until the coordinator has decided all that was published before."""
    last = parts.producer("producer").remote("greet").using(id=f"last-{mark}").schedule(timedelta(hours=1))
    eventually(lambda: store.reader.jobs.get(last.id), 30, "the log is read")
    parts.producer("dashboard").limits.set(f"last-{mark}", 1)  # returns when it is applied


def test_the_table_has_a_row_for_everything_that_is_tried() -> None:
    assert list(table()) == [*ABILITIES, *READING]
    assert all(tuple(row) == ROLES for row in table().values())
    tried = {one.body["kind"] for made in ABILITIES.values() for one in made("x") if one.type == "command"}
    asked = {"get job", "get batch", "list failures", "list schedules", "hello", "beat heartbeat"}
    assert tried | asked == {kind for kinds in COMMANDS.values() for kind in kinds}
    types = {one.type for made in ABILITIES.values() for one in made("x")}
    assert types | {"look", "published"} == {type for kinds in TYPES.values() for type in kinds}  # noqa: A001


@pytest.mark.parametrize("intruder", ROLES, indirect=True)
def test_what_a_taken_over_program_says_is_believed_as_the_table_says(
    shipped: ShippedBroker, parts: Parts, intruder: Intruder
) -> None:
    coordinator = parts.start("coordinator", "coordinator")
    store = coordinator.store
    assert store is not None
    parts.producer("producer").remote("greet").using(id=VICTIM).schedule(timedelta(hours=1))
    board = parts.producer("dashboard")
    board.recurring.put("nightly", "* * * * * *", board.remote("greet").bind("x"))
    put_at = time.time()
    eventually(lambda: time.time() > put_at + 2, what="a planned time has come")
    tried: dict[str, list[Try]] = {}
    for number, (row, made) in enumerate(ABILITIES.items()):
        named = tried[row] = made(f"mark-{number}")
        for one in named:
            for exchange in EXCHANGES:
                intruder.says(exchange, one, intruder.role)
        for one in made(f"nameless-{number}") if row != "fire a recurring job whose time has come" else ():
            tried.setdefault("nameless", []).append(one)
            for exchange in EXCHANGES:
                intruder.says(exchange, one, None)
    all_read(parts, store, intruder.role)
    expected = {row: cells[intruder.role] for row, cells in table().items() if row in ABILITIES}
    happened = {row: {bool(one.happened(store)) for one in tried[row]} for row in ABILITIES}
    assert happened == {row: {can} for row, can in expected.items()}
    assert [one.body for one in tried["nameless"] if one.happened(store)] == []
    victim = store.reader.jobs.get(VICTIM)
    assert victim is not None
    assert victim.state is State.SCHEDULED
    assert coordinator.health().ok


@pytest.mark.parametrize("intruder", ROLES, indirect=True)
def test_the_node_lets_a_taken_over_program_read_and_declare_as_the_table_says(intruder: Intruder) -> None:
    allowed = {row: sum(intruder.may(action) for action in actions) > 0 for row, actions in READING.items()}
    assert allowed == {row: cells[intruder.role] for row, cells in table().items() if row in READING}


QUESTIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "producer": (names.REQUEST, {"kind": "get job", "job_id": "nobody"}),
    "worker": (names.REPORT, {"kind": "hello", "worker": {"id": "w"}, "queues": []}),
    "beat": (names.FIRE, {"kind": "list schedules"}),
    "dashboard": (names.REQUEST, {"kind": "get job", "job_id": "nobody"}),
}
"""Role -> a question that it may ask: the coordinator answers into a queue of the asker's choice."""


@pytest.mark.parametrize("intruder", ROLES, indirect=True)
def test_a_reply_queue_that_dead_letters_does_not_speak_for_the_coordinator(
    shipped: ShippedBroker, parts: Parts, intruder: Intruder, tmp_path: Path
) -> None:
    coordinator = parts.start("coordinator", "coordinator")
    store = coordinator.store
    assert store is not None
    asked_at, question = QUESTIONS[intruder.role]
    forwarded = 0
    for exchange in [*EXCHANGES, *INTERNAL]:
        for key in (names.LOG_KEY, names.COMMAND_KEY):
            queue = new_queue()
            arguments = {
                "x-dead-letter-exchange": exchange,
                "x-dead-letter-routing-key": {"log": names.LOG, "command": names.COMMAND}[key] if not exchange else key,
                "x-message-ttl": 1,
            }
            if not intruder.may(lambda channel: channel.queue_declare(queue, exclusive=True, arguments=arguments)):  # noqa: B023  # called at once
                continue
            forwarded += 1
            properties = pika.BasicProperties(
                type="command", user_id=intruder.role, reply_to=queue, correlation_id=queue, delivery_mode=2
            )
            body = json.dumps(question | {"id": queue, "at": 1.0}).encode()
            assert intruder.may(
                lambda channel: channel.basic_publish(asked_at, names.COMMAND_KEY, body, properties)  # noqa: B023
            )
    assert forwarded > 0
    before = store.reader.statistics.counts()

    def answers_are_dead_letters() -> bool:
        dead = store.reader.dead_letters.oldest(limit=200)
        told = [row for row in dead if row.dead_lettered]
        return bool([row for row in told if row.user_id == "coordinator" and row.reason])

    eventually(answers_are_dead_letters, 30, "answers that were dead-lettered to the log or the commands")
    all_read(parts, store, intruder.role)
    assert {
        state: count for state, count in store.reader.statistics.counts().items() if state is not State.SCHEDULED
    } == {state: count for state, count in before.items() if state is not State.SCHEDULED}
    assert [row.kind for row in store.reader.audit.newest()] == ["limit set"]
    assert coordinator.health().ok
