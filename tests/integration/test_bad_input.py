"""Whatever comes in that is not ours or not sound: it is kept with the reason, and nothing else is disturbed."""

import json
import random
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pika
import pytest

from broker_jobs.broker import names
from broker_jobs.coordinator import engine, job_decisions
from broker_jobs.coordinator.records import JobRecord, WaitingCopy, job_id
from broker_jobs.coordinator.state_machine.context import Context, Decision
from broker_jobs.coordinator.state_machine.decide import decide as real_decide
from broker_jobs.errors import BrokerJobsError, JobFailed
from broker_jobs.messages.commands import ReplayDeadLetter
from broker_jobs.messages.envelope import new_id
from broker_jobs.messages.state import State
from broker_jobs.store.row import Publication, Row
from tests.support.addressing import address
from tests.support.system import Here, System
from tests.support.wait import eventually

pytestmark = pytest.mark.rabbitmq

WORK = names.work_queue("default")
OURS = (WORK, names.LOG, names.COMMAND, names.DUE, names.DEAD_LETTERS)


def envelope(**fields: object) -> bytes:
    sound = {"v": 1, "id": new_id(), "job": "work", "created_at": "2026-01-01T00:00:00Z"}
    return json.dumps(sound | fields).encode()


UNSOUND = {
    "nothing": b"",
    "garbage": bytes(range(256)),
    "not UTF-8": b'{"id": "\xff\xfe"}',
    "a list": b"[1, 2, 3]",
    "null": b"null",
    "not a JSON": b'{"id": ',
    "too deep": b"[" * 100_000,
    "wrong types": envelope(args=7, epoch="one"),
    "a newer version": envelope(v=2),
    "an unknown field": envelope(after={"parent": "x"}),
    "a wrong queue": envelope(queue="a b"),
    "half a character": b'{"v": 1, "id": "x", "job": "\\ud800", "created_at": "2026-01-01T00:00:00Z"}',
    "a wrong time": envelope(created_at="yesterday"),
    "a limit of 0": envelope(limits=[{"kind": "concurrency", "key": "k", "limit": 0}]),
    "a rate without end": envelope(limits=[{"kind": "rate", "key": "k", "limit": 1, "per": float("inf")}]),
    "a unique key without a name": envelope(unique={"key": ""}),
    "a scope nobody knows": envelope(unique={"key": "k", "scope": "for ever"}),
    "dependencies without parents": envelope(after={"parents": []}),
}
ROADS = {
    "work": (names.WORK, "default"),
    "submit": (names.SUBMIT, "default"),
    "log": (names.OFFER, names.LOG_KEY),
    "command": (names.OPERATE, names.COMMAND_KEY),
    "dead": (names.DEAD_LETTERS, "anything"),
    "delay": (names.OFFER, names.delay_key(0)),
    "nowhere": (names.WORK, "no.such.queue"),
}


@pytest.fixture
def served(system: System) -> Iterator[tuple[System, Here]]:
    """A system at work, still at work afterwards."""
    parts = system.here("coordinator", "worker", concurrency=2)
    ids = system.enqueue(20, 0.01)
    yield system, parts
    receipts = system.enqueue(20)
    system.succeeded(ids + receipts)
    assert {system.starts()[id] for id in ids + receipts} == {1}
    assert parts.fatal == []
    coordinator, worker = parts.program.coordinator, parts.program.worker
    assert coordinator is not None
    assert worker is not None
    assert coordinator.healthy() == (True, "active")
    assert worker.running
    eventually(lambda: nothing_waits(system))
    system.nothing_broken()


def nothing_waits(system: System) -> bool:
    """All queues are empty, but for the coordinator's mark."""
    return all(system.vhost.queue(queue)["messages"] <= (queue == names.COMMAND) for queue in OURS)


@pytest.mark.parametrize("road", ROADS)
def test_what_cannot_be_read_is_dead_lettered_with_its_reason_whichever_way_it_comes(
    served: tuple[System, Here], road: str
) -> None:
    system, _ = served
    broker, key = ROADS[road]
    for body in UNSOUND.values():
        system.vhost.publish_raw(broker, key, body)
    ways = 2 if road in {"submit", "delay"} else 1  # there the log has a copy
    eventually(lambda: system.store.reader.dead_letters.count() == ways * len(UNSOUND), what=road)
    dead_letters = system.store.reader.dead_letters.oldest(limit=1000)
    assert {row.body for row in dead_letters} == set(UNSOUND.values())
    assert all(row.reason for row in dead_letters)
    reasons = {row.body: row.reason for row in dead_letters}
    if road != "command":
        assert "version 2; this program reads version 1" in reasons[UNSOUND["a newer version"]]
        assert "after" in reasons[UNSOUND["an unknown field"]]


@pytest.mark.parametrize("kind", ["events", "tick", "look", "repeat", "job", "what is this"])
def test_a_wrong_body_of_each_type_of_record_is_dead_lettered(served: tuple[System, Here], kind: str) -> None:
    system, _ = served
    properties = pika.BasicProperties(type=kind, delivery_mode=2)
    bodies = list(UNSOUND.values())
    if kind == "look":  # a list of nothing known
        bodies.remove(UNSOUND["a list"])
    for body in bodies:
        system.vhost.publish_raw(*address(kind), body, properties)
    eventually(lambda: system.store.reader.dead_letters.count() == len(bodies))


def test_strange_properties_harm_nothing(served: tuple[System, Here]) -> None:
    system, _ = served
    strange: list[dict[str, Any]] = [
        {"message_id": "x" * 255, "type": "y" * 255},
        {"message_id": "null \x00 inside", "type": "job\x00"},
        {"headers": {"x-delivery-count": "many", "x-death": [{"queue": "x"}], "nested": {"a": [1, {"b": None}]}}},
        {"reply_to": "no.such.queue", "correlation_id": "c"},
        {"expiration": "1"},
        {"priority": 255, "content_type": "application/x-java-serialized-object", "content_encoding": "gzip"},
        {"timestamp": 2**62},
    ]
    for number, one in enumerate(strange):
        for road, (broker, key) in ROADS.items():
            body = f"\x80 garbage {number} {road}".encode("latin-1")
            system.vhost.publish_raw(broker, key, body, pika.BasicProperties(delivery_mode=2, **one))
    expired = 1  # may be gone before anybody reads it
    eventually(lambda: system.store.reader.dead_letters.count() >= (len(ROADS) - 1) * (len(strange) - expired))


def test_a_question_cannot_make_the_coordinator_write_to_a_queue_of_others(served: tuple[System, Here]) -> None:
    system, _ = served
    body = json.dumps({"kind": "get job", "id": "q", "at": 1.0, "job_id": "j"}).encode()
    properties = pika.BasicProperties(type="command", reply_to=WORK, delivery_mode=2)
    system.vhost.publish_raw(names.REQUEST, names.COMMAND_KEY, body, properties)
    (dead_letter,) = eventually(system.store.reader.dead_letters.oldest)
    assert "which is no reply queue" in dead_letter.reason
    assert WORK in dead_letter.reason


class Killed(BaseException):
    """What ends a coordinator in the middle of a transaction."""


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_message_that_ends_every_coordinator_is_set_aside_and_nothing_else_is(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    apply = engine.Engine.apply
    hands: list[int] = []

    def dying(self: Any, inputs: Any, *args: Any, **options: Any) -> Any:
        if any(isinstance(one, WaitingCopy) and one.envelope.id == "poison" for one in inputs):
            hands.append(sum(isinstance(one, WaitingCopy) for one in inputs))
            raise Killed
        return apply(self, inputs, *args, **options)

    monkeypatch.setattr(engine.Engine, "apply", dying)
    ids = [f"near-{n}" for n in range(20)]
    for id in (*ids[:10], "poison", *ids[10:]):
        system.jobs.work.using(id=id).enqueue()
    for number in range(1, 5):
        parts = system.here("coordinator")
        eventually(lambda number=number: len(hands) == number, 30)  # type: ignore[misc]
        parts.stop()
    assert hands[0] > 1
    assert hands[2:] == [1, 1], "from its third delivery it is decided alone, and twice"
    assert system.store.reader.dead_letters.oldest() == []
    system.here("coordinator", "worker", concurrency=4)
    (dead_letter,) = eventually(system.store.reader.dead_letters.oldest, 30)
    assert b'"poison"' in dead_letter.body
    assert "a coordinator ended while" in dead_letter.reason
    system.succeeded(ids)
    assert system.starts() == dict.fromkeys(ids, 1)
    assert len(hands) == 4


EDGES: dict[str, dict[str, object]] = {
    "an epoch no database holds": {"epoch": 10**30},
    "an attempt no database holds": {"attempt": 10**30},
    "no end of a timeout": {"policy": {"timeout": float("inf")}},
    "a timeout that is no number": {"policy": {"timeout": float("nan")}},
    "expires beyond all calendars": {"policy": {"expires": 1e300}},
    "expires never": {"policy": {"expires": float("inf")}},
    "retries without end": {"policy": {"retries": 10**6, "backoff": [0]}},
    "created before Christ": {"created_at": "0001-01-01T00:00:00+14:00"},
    "created at the end": {"created_at": "9999-12-31T23:59:59.999999-14:00"},
    "due before Christ": {"due_at": "0001-01-01T00:00:00+14:00"},
    "text with zeros": {"job": "wo\x00rk", "tags": ["a\x00b"], "recurring": "\x00"},
    "arguments that do not fit": {"args": ["x", "y"], "policy": {"retries": 0}},
    "long names": {"job": "x" * 200, "tags": ["t" * 100] * 50},
}


@pytest.mark.parametrize("road", ["submit", "log", "dead", "delay"])
def test_a_message_at_the_edges_of_the_format_disturbs_no_other(served: tuple[System, Here], road: str) -> None:
    system, _ = served
    broker, key = ROADS[road]
    ids = {name: new_id() for name in EDGES}
    for name, fields in EDGES.items():
        system.vhost.publish_raw(broker, key, envelope(**({"id": ids[name]} | fields)))

    def all_seen() -> bool:
        known = system.rows(ids.values())
        dead_letters = b"".join(row.body for row in system.store.reader.dead_letters.oldest(limit=1000)).decode(
            errors="replace"
        )
        assert not (missing := [name for name, id in ids.items() if id not in known and id not in dead_letters]), (
            missing
        )
        return True

    eventually(all_seen)


RECORDS: dict[str, tuple[str, dict[str, object]]] = {
    "an epoch no database holds": ("events", {
        "worker": {"id": "w"}, "sent_at": 1.0, "events": [
            {"kind": "started", "id": "before", "epoch": 1, "at": 1.0},
            {"kind": "started", "id": "x", "epoch": 10**30, "at": 1.0},
            {"kind": "started", "id": "after", "epoch": 1, "at": 1.0},
        ]}),
    "a process number no database holds": ("events", {
        "worker": {"id": "w", "pid": 10**30}, "sent_at": 1.0, "events": [{"kind": "heartbeat", "at": 1.0}]}),
    "a time no calendar has": ("command", {
        "kind": "reschedule", "id": "c", "at": 1.0, "job_id": "later", "due_at": 1e300}),
}  # fmt: skip


@pytest.mark.parametrize("name", RECORDS)
def test_a_record_beyond_all_bounds_is_put_aside_alone(served: tuple[System, Here], name: str) -> None:
    system, _ = served
    system.jobs.work.using(id="later").schedule(timedelta(hours=1))
    eventually(lambda: system.row("later"))
    kind, body = RECORDS[name]
    system.vhost.publish_raw(*address(kind, body), json.dumps(body).encode(), pika.BasicProperties(type=kind))
    (dead_letters,) = eventually(system.store.reader.dead_letters.oldest)
    assert "Input should be less than" in dead_letters.reason
    if name == "an epoch no database holds":
        assert b"before" not in dead_letters.body
        assert set(system.rows(["before", "x", "after"])) == {"before", "after"}
        with system.store.transaction() as transaction:  # these two are of no worker that lives
            transaction.jobs.save([row.evolve(**ENDED) for row in system.rows(["before", "after"]).values()])


def test_a_record_whose_decision_raises_is_put_aside_alone_and_decided_when_a_person_replays_it(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No message is known that brings a decision to raise; here one is made to, as a mistake of ours would."""

    def mistaken(row: Row | None, record: JobRecord, at: Context) -> Decision:
        if job_id(record) == "poison":
            raise ZeroDivisionError("a mistake of ours")
        return real_decide(row, record, at)

    monkeypatch.setattr(job_decisions, "decide", mistaken)
    parts = system.here("coordinator", "worker", concurrency=2)
    ids = system.enqueue(20)
    system.jobs.work.using(id="poison").enqueue()
    ids += system.enqueue(20)
    (dead_letters,) = eventually(system.store.reader.dead_letters.oldest)
    assert "a mistake of ours" in dead_letters.reason
    system.succeeded(ids)
    assert system.starts() == dict.fromkeys(ids, 1)
    assert parts.fatal == []
    parts.stop()
    monkeypatch.setattr(job_decisions, "decide", real_decide)
    system.here("coordinator", "worker", concurrency=2)
    system.succeeded(system.enqueue(1))
    assert [row.id for row in system.store.reader.dead_letters.oldest()] == [
        dead_letters.id
    ]  # its time has passed: a person decides
    assert system.starts()["poison"] == 0
    replay(system, dead_letters.id)
    system.succeeded(["poison"])
    assert system.store.reader.dead_letters.oldest() == []
    assert system.starts()["poison"] == 1


def replay(system: System, id: str) -> None:
    """Have a message that was put aside decided again."""
    requests = system.jobs.program._requests
    requests.command(ReplayDeadLetter(**requests.command_fields(), dead_letter_id=id))


def test_of_a_bundle_one_event_is_put_aside_and_a_finished_job_never_runs_again_because_of_it(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others of the bundle were applied; decided again when its jobs are forgotten, one would run once more."""

    def mistaken(row: Row | None, record: JobRecord, at: Context) -> Decision:
        if job_id(record) == "poison":
            raise ZeroDivisionError("a mistake of ours")
        return real_decide(row, record, at)

    monkeypatch.setattr(job_decisions, "decide", mistaken)
    parts = system.here("coordinator")
    failed = {
        "kind": "failed", "id": "j", "epoch": 1, "started_at": 1.0, "ended_at": 1.0,
        "error": {"type": "E", "message": "m"}, "envelope": envelope(id="j", epoch=1).decode(),
    }  # fmt: skip
    poison = {"kind": "succeeded", "id": "poison", "epoch": 1, "started_at": 1.0, "ended_at": 1.0}
    body = json.dumps({"v": 1, "worker": {"id": "w"}, "sent_at": 1.0, "events": [failed, poison]}).encode()
    system.vhost.publish_raw(names.REPORT, names.LOG_KEY, body, pika.BasicProperties(type="events", delivery_mode=2))
    eventually(lambda: system.row("j").error)
    (dead_letters,) = eventually(system.store.reader.dead_letters.oldest)
    assert b"poison" in dead_letters.body
    assert b'"j"' not in dead_letters.body
    assert "a mistake of ours" in dead_letters.reason.partition("\n")[0]
    assert "mistaken" in dead_letters.reason
    parts.stop()
    monkeypatch.setattr(job_decisions, "decide", real_decide)
    with system.store.transaction() as transaction:  # it ended, and is forgotten by now
        transaction.jobs.save([system.row("j").evolve(**ENDED)])
        assert transaction.purge(now=1e10, keep_succeeded=1, keep_deleted=1, keep_failed=1, limit=10) == 1
    system.here("coordinator", "worker", concurrency=2)
    system.succeeded(system.enqueue(1))
    assert "j" not in system.rows()
    replay(system, dead_letters.id)
    assert system.is_in("poison", State.SUCCEEDED).id == "poison"
    assert system.starts()["j"] == 0


@pytest.mark.parametrize("origin", ["log", "due"])
def test_what_a_newer_version_wrote_is_decided_by_the_first_that_reads_it_unless_its_job_may_be_forgotten(
    system: System, origin: str
) -> None:
    """As an older program has kept it."""
    now = time.time()
    kept = {"fresh": now - 60.0, "old": now - 8 * 86_400.0, "old and known": now - 8 * 86_400.0}
    known, exchange = new_id(), names.EXPIRED if origin == "due" else names.OFFER
    ids = {"fresh": new_id(), "old": "an-old-one", "old and known": known}
    with system.store.transaction() as transaction:
        transaction.jobs.save([Row(id=known, state=State.SUCCEEDED, epoch=1, created_at=now, ended_at=now)])
        for name, at in kept.items():
            transaction.dead_letters.add(
                f"{origin}:newer:{name}", at=at, origin=origin, reason="unknown field",
                body=envelope(id=ids[name], epoch=0), exchange=exchange, key=names.LOG_KEY, type="job",
            )  # fmt: skip
        transaction.dead_letters.add(
            "command:newer:requeue", at=now, origin="command", reason="unknown field",
            body=json.dumps({"kind": "requeue", "id": "c", "at": now, "job_id": known}).encode(),
        )  # fmt: skip
    system.here("coordinator", "worker", concurrency=2)
    system.succeeded([ids["fresh"]])
    assert {row.id for row in system.store.reader.dead_letters.oldest()} == {
        f"{origin}:newer:old",
        "command:newer:requeue",
    }
    assert system.starts() == {ids["fresh"]: 1}


ENDED: dict[str, object] = {"state": State.DELETED, "publication": Publication.NONE, "owner": None, "ended_at": 1.0}


@pytest.mark.parametrize("how", ["huge", "unprintable", "not text", "exit"])
def test_whatever_a_job_raises_is_told_and_shown(served: tuple[System, Here], how: str) -> None:
    system, _ = served
    receipt = system.jobs.explode.enqueue(how)
    with pytest.raises(JobFailed):
        receipt.result(timeout=120)
    row = system.row(receipt.id)
    assert row.state is State.FAILED
    assert row.error is not None
    assert len(row.error) < 100_000


@pytest.mark.parametrize("how", ["huge result", "no JSON"])
def test_a_result_that_cannot_be_kept_is_no_failure(served: tuple[System, Here], how: str) -> None:
    system, _ = served
    receipt = system.jobs.explode.enqueue(how)
    with pytest.raises(BrokerJobsError, match="succeeded, but its result was not kept"):
        receipt.result(timeout=120)
    assert system.row(receipt.id).attempt == 1


@pytest.mark.slow
def test_bytes_changed_on_the_way_disturb_no_other_job(served: tuple[System, Here]) -> None:
    system, _ = served
    chance = random.Random(new_id())
    sound = [
        envelope(args=[0.0]),
        b'{"v":1,"worker":{"id":"w"},"sent_at":1.0,"events":[{"kind":"started","id":"a","epoch":1,"at":1.0}]}',
        b'{"kind":"delete","id":"c","at":1.0,"job_id":"a"}',
    ]
    with system.vhost.channel() as channel:
        for _ in range(400):
            body = bytearray(chance.choice(sound))
            for _ in range(chance.randint(1, 6)):
                body[chance.randrange(len(body))] = chance.choice(b'{}[]",:0919eE-\\\x00\xff truefalsn')
            road = chance.choice([*ROADS.values()])
            kind = chance.choice(["", "events", "job", "repeat"])
            channel.basic_publish(*road, bytes(body), pika.BasicProperties(type=kind, delivery_mode=2))
    eventually(lambda: system.store.reader.dead_letters.count() > 100)
    eventually(lambda: nothing_waits(system))
    strange = [row for row in system.rows().values() if row.state is State.PROCESSING and row.owner == "w"]
    with system.store.transaction() as transaction:  # what came through: jobs of a worker that never was
        transaction.jobs.save([row.evolve(**ENDED) for row in strange])
