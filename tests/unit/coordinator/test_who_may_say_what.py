"""The coordinator believes a message only from the exchange of the role that may send it; all else is a dead letter."""

from __future__ import annotations

from functools import partial
from typing import Any, get_args

import pytest

from broker_jobs.broker import names
from broker_jobs.broker.interface import Delivery
from broker_jobs.broker.roles import COMMANDS, MOVED_BY_BROKER, TYPES, command_exchange
from broker_jobs.broker.topology import fixed_topology
from broker_jobs.coordinator.input_queue import InputQueue
from broker_jobs.coordinator.inputs import (
    CommandReceived,
    Input,
    Unreadable,
    read_again,
    read_command,
    read_dead_letter,
    read_due_notice,
    read_log,
)
from broker_jobs.messages import commands
from broker_jobs.messages.batch import BatchCommit, Chunk
from broker_jobs.messages.envelope import Envelope
from broker_jobs.messages.events import Bundle, Started, Tick, WorkerRef
from broker_jobs.messages.published import PublishedEvent
from broker_jobs.store.records import DeadLetterRow

JOB = b'{"id": "j", "job": "work", "created_at": "2026-03-01T00:00:00Z"}'
MEMBER = '{"id": "m", "job": "work", "created_at": "2026-03-01T00:00:00Z", "epoch": 0, "batch": "b"}'
TICK = Tick(coordinator="c", store="s", serial=1, sent_at=1.0)
BODIES: dict[str, bytes] = {
    "job": JOB,
    "repeat": JOB,
    "events": Bundle(worker=WorkerRef(id="w"), sent_at=1.0, events=[Started(id="j", epoch=1, at=1.0)])
    .model_dump_json()
    .encode(),
    "chunk": Chunk(batch="b", submission="s", created_at=1.0, number=0, jobs=[MEMBER]).model_dump_json().encode(),
    "commit": BatchCommit(batch="b", submission="s", created_at=1.0, chunks=1).model_dump_json().encode(),
    "published": PublishedEvent.model_validate({"id": "e", "event": "e", "created_at": "2026-03-01T00:00:00Z"})
    .model_dump_json()
    .encode(),
    "tick": TICK.model_dump_json().encode(),
    "checkpoint": TICK.model_dump_json().encode(),
    "look": b'["j"]',
    "command": b'{"kind": "get job", "id": "c", "at": 1.0, "job_id": "j"}',
}
"""A sound body of each type of message."""
KINDS = sorted(
    each.model_fields["kind"].default for each in get_args(get_args(commands.Command)[0]) if "kind" in each.model_fields
)
EXCHANGES = sorted({"", names.CONTROL, *(exchange.name for exchange in fixed_topology().exchanges)})
QUEUES = (names.LOG, names.COMMAND, names.DUE, names.DEAD_LETTERS)


def delivery(queue: str, exchange: str, kind: str, body: bytes, **properties: Any) -> Delivery:
    made = Delivery(
        channel=1, tag=1, queue=queue, body=body, redelivered=False, exchange=exchange, key="k", type=kind,
        message_id="m", reply_to=None, correlation_id=None, delivery_count=0, user_id="ann",
        dead_lettered=exchange in MOVED_BY_BROKER,
    )  # fmt: skip
    return made._replace(**properties)


def read(one: Delivery) -> list[Input]:
    match one.queue:
        case names.LOG:
            return read_log(one)
        case names.COMMAND:
            return [read_command(one)]
        case names.DUE:
            return [read_due_notice(one)]
        case _:
            return [read_dead_letter(one)]


def believed(one: Delivery) -> bool:
    return not any(isinstance(each, Unreadable) for each in read(one))


@pytest.mark.parametrize("queue", QUEUES)
def test_a_type_is_believed_from_its_exchange_and_from_no_other(queue: str) -> None:
    found = {(exchange, kind) for exchange in EXCHANGES for kind in BODIES if kind != "command"
             if believed(delivery(queue, exchange, kind, BODIES[kind]))}  # fmt: skip
    expected = {(exchange, kind) for (of, exchange), kinds in TYPES.items() if of == queue for kind in kinds}
    assert found == {(exchange, kind) for exchange, kind in expected if kind != "command"}


def test_every_kind_of_command_is_believed_from_one_exchange() -> None:
    assert sorted(kind for kinds in COMMANDS.values() for kind in kinds) == KINDS
    assert {command_exchange(kind) for kind in KINDS} == set(COMMANDS)


@pytest.mark.parametrize("exchange", EXCHANGES)
def test_a_command_from_another_exchange_says_from_which_it_would_be_believed(exchange: str) -> None:
    (answer,) = read(delivery(names.COMMAND, exchange, "command", b'{"kind": "store accept", "id": "c", "at": 1.0}'))
    if exchange == names.OPERATE:
        assert isinstance(answer, CommandReceived)
        assert answer.user_id == "ann"
    else:
        assert isinstance(answer, Unreadable)
        assert exchange in answer.reason
        if exchange in COMMANDS:
            assert names.OPERATE in answer.reason


@pytest.mark.parametrize(("place", "kinds"), TYPES.items())
def test_what_the_broker_dead_lettered_to_the_exchange_of_a_role_is_believed_of_nothing(
    place: tuple[str, str], kinds: frozenset[str]
) -> None:
    """A queue of the sender's own may dead-letter the coordinator's replies there, in the coordinator's name."""
    queue, exchange = place
    if exchange in MOVED_BY_BROKER:
        return
    for kind in kinds:
        (unread,) = read(delivery(queue, exchange, kind, BODIES[kind], dead_lettered=True))
        assert isinstance(unread, Unreadable)
        assert "dead-lettered" in unread.reason


def test_a_forged_message_is_not_believed_when_it_is_replayed() -> None:
    for exchange, moved in ((names.OFFER, False), (names.REPORT, True)):
        row = DeadLetterRow(
            "log:x", 1.0, "log", "forged", BODIES["events"], exchange, "log", "events", dead_lettered=moved
        )
        (unread,) = read_again(row)
        assert isinstance(unread, Unreadable)
    (told,) = read_again(DeadLetterRow("log:x", 1.0, "log", "late", BODIES["events"], names.REPORT, "log", "events"))
    assert not isinstance(told, Unreadable)


def test_a_type_that_only_a_newer_version_knows_is_decided_by_the_first_that_believes_it() -> None:
    for exchange, kind, moved, newer in (
        (names.OFFER, "of tomorrow", False, True),
        (names.OFFER, "events", False, False),
        (names.OFFER, "of tomorrow", True, False),
        (names.CONTROL, "of tomorrow", False, False),
    ):
        (unread,) = read(delivery(names.LOG, exchange, kind, JOB, dead_lettered=moved))
        assert isinstance(unread, Unreadable)
        assert (unread.newer, unread.id.startswith("log:newer:")) == (newer, newer)


@pytest.mark.parametrize(
    "reply_to", ["jobs.v1.log", "amq.rabbitmq.reply-to", "jobs.v1.reply.x", "jobs.v1.work.default"]
)
def test_a_question_whose_reply_would_go_elsewhere_is_a_dead_letter(reply_to: str) -> None:
    asked = delivery(names.COMMAND, names.REQUEST, "command", BODIES["command"])
    (unread,) = read(asked._replace(reply_to=reply_to))
    assert isinstance(unread, Unreadable)
    assert reply_to in unread.reason
    assert believed(asked._replace(reply_to=names.new_reply_queue()))


def test_a_message_without_its_sender_is_a_dead_letter_where_roles_are_in_use() -> None:
    for queue, exchange, kind in (
        (names.LOG, names.SUBMIT, "job"),
        (names.COMMAND, names.REQUEST, "command"),
        (names.DUE, names.EXPIRED, "job"),
        (names.DEAD_LETTERS, names.WORK, "job"),
    ):
        for required in (True, False):
            now = iter(range(100))
            inbox = InputQueue(require_user_id=required, monotonic=partial(next, now))
            inbox.put(queue, [delivery(queue, exchange, kind, BODIES[kind], user_id="")])
            inbox.put(queue, [delivery(queue, exchange, kind, BODIES[kind])])
            inbox.wait(0)
            anonymous, known = (piece.input for piece in [*inbox.take(), *inbox.take()])  # a copy is held for a moment
            assert isinstance(anonymous, Unreadable) is required
            assert not isinstance(known, Unreadable)


def test_the_wire_has_the_types_that_are_believed() -> None:
    assert {kind for kinds in TYPES.values() for kind in kinds} == set(BODIES)
    Envelope.model_validate_json(JOB)
