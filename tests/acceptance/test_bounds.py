"""Whatever a message says, it stops nobody: what is out of bounds is kept as it came, and sound jobs go on."""

import json
import random
import string
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pika
import pytest

from broker_jobs import BrokerJobs, Concurrency, JobFailed, Ordered, RateLimit, Unique, result_of, results_of
from broker_jobs.errors import UsageError
from broker_jobs.messages.state import State
from broker_jobs.store.records import DeadLetterRow
from tests.support.addressing import address
from tests.support.postgres import Postgres
from tests.support.rabbitmq import Broker
from tests.support.system import System
from tests.support.wait import eventually

CHANCE = random.Random(1)
LONG = "".join(CHANCE.choices(string.ascii_letters + string.digits, k=6_000))
"""A text that no database makes shorter."""
WIDE = "".join(chr(CHANCE.randrange(0x10000, 0x20000)) for _ in range(512))
"""The longest key, of the widest characters."""
AT = 1_772_323_200.0


def envelope(id: str, **fields: object) -> dict[str, object]:
    return {"v": 1, "id": id, "job": "work", "created_at": "2026-03-01T00:00:00Z", "epoch": 0} | fields


def bundle(events: object) -> dict[str, object]:
    return {"v": 1, "worker": {"id": "w"}, "sent_at": AT, "events": events}


def started(id: str) -> dict[str, object]:
    return {"kind": "started", "id": id, "epoch": 1, "at": AT}


def part(**fields: object) -> dict[str, object]:
    return {"v": 1, "batch": "b", "submission": "a", "created_at": AT} | fields


def command(kind: str, **fields: object) -> dict[str, object]:
    return {"v": 1, "id": f"c-{len(LONG)}-{kind}-{len(fields)}", "at": AT, "kind": kind} | fields


CALL = json.dumps(envelope("template"))
LIMIT = {"kind": "concurrency", "key": "k", "limit": 1}
OUT_OF_BOUNDS: dict[str, tuple[str, Any]] = {
    "a text of 1 MB where events belong": ("events", bundle("x" * 1_000_000)),
    "a text of 3 MB where events belong": ("events", bundle("x" * 3_000_000)),
    "an object where events belong": ("events", bundle({str(n): started("j") for n in range(20_000)})),
    "5,001 events": ("events", bundle([started(f"j{n}") for n in range(5_001)])),
    "a million numbers where events belong": ("events", bundle([1] * 1_000_000)),
    "a worker with a long id": ("events", bundle([]) | {"worker": {"id": LONG}}),
    "a text where ids belong": ("look", "x" * 1_000_000),
    "5,001 ids": ("look", ["j"] * 5_001),
    "a text where a batch's jobs belong": ("chunk", part(number=0, jobs="x" * 1_000_000)),
    "5,001 jobs of a batch": ("chunk", part(number=0, jobs=[CALL] * 5_001)),
    "a text where sub-batches belong": ("commit", part(chunks=1, batches="x" * 1_000_000)),
    "a batch of no time": ("commit", part(chunks=1, created_at=1e300)),
    "more chunks than any database counts": ("commit", part(chunks=10**30)),
    "a tick of a long name": ("tick", {"coordinator": LONG, "store": "s", "serial": 1, "sent_at": AT}),
    "an event of the year 9999": (
        "published", {"v": 1, "id": "e", "event": "e", "created_at": "9999-12-31T00:00:00Z"}),
    "an event with a long name": (
        "published", {"v": 1, "id": "e", "event": LONG, "created_at": "2026-03-01T00:00:00Z"}),
    "a job with a long limit": ("job", envelope("x1", limits=[LIMIT | {"key": LONG}])),
    "a job with a long unique key": ("job", envelope("x2", unique={"key": LONG})),
    "a job with nine limits": ("job", envelope("x3", limits=[LIMIT | {"key": f"k{n}"} for n in range(9)])),
    "a job with a text for limits": ("job", envelope("x4", limits="x" * 1_000_000)),
    "a job with a text for tags": ("job", envelope("x5", tags="x" * 1_000_000)),
    "a job with a zero in its name": ("job", envelope("x6", job="wo\x00rk")),
    "a job named like a batch": ("job", envelope("batch:42")),
    "a batch is deleted like a job": ("command", command("delete", job_id="batch:43")),
    "a batch is requeued like a job": ("command", command("requeue", job_id="batch:44")),
    "a batch is rescheduled like a job": ("command", command("reschedule", job_id="batch:45", due_at=AT)),
    "a job of no name is deleted": ("command", command("delete", job_id="", v=1)),
    "a job that waits for a job named like a batch": (
        "job", envelope("x7", after={"parents": [{"id": "batch:42"}]})),
    "a result for an argument that is not there": (
        "job",
        envelope("x8", args=[None], after={"parents": [{"id": "p"}]}, result_args=[{"place": 3, "parents": ["p"]}])),
    "a limit of a long key is set": ("command", command("limit set", key=LONG, limit=1)),
    "a limit of a key with a zero is set": ("command", command("limit set", key="a\x00b", limit=2, v=1)),
    "subscriptions of a long name": (
        "command",
        command("subscriptions declare", service=LONG, subscriptions=[{"event": "e", "call": CALL}])),
    "a text where subscriptions belong": (
        "command", command("subscriptions declare", service="o", subscriptions="x" * 1_000_000)),
    "a text where recurring jobs belong": (
        "command", command("recurring declare", service="o", schedules="x" * 1_000_000)),
    "a recurring job with a cron of 400 kB": (
        "command",
        command("recurring put", schedule={"name": "n", "cron": "1," * 200_000 + "1 * * * *", "call": CALL})),
    "functions of a long name": (
        "command", command("functions declare", service="o", functions=[{"name": LONG, "queue": "q"}])),
    "a worker that serves a text": (
        "command", command("hello", worker={"id": "w"}, queues="x" * 1_000_000)),
    "a batch of a long id is deleted": ("command", command("batch delete", batch_id=LONG)),
    "a dead letter of a long id is replayed": ("command", command("dead letter replay", dead_letter_id=LONG)),
}  # fmt: skip


@pytest.fixture(
    scope="module",
    params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)],
)
def system(
    request: pytest.FixtureRequest, broker: Broker, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[System]:
    """A broker and a store of each kind, with a coordinator and a worker at work."""
    broker.heal()
    vhost = broker.vhost()
    assert vhost.opens()
    store_url = ""
    if request.param == "postgresql":
        postgres: Postgres = request.getfixturevalue("postgres")
        store_url = postgres.url(postgres.create_database())
    system = System(vhost, tmp_path_factory.mktemp("system"), store_url)
    system.here("coordinator", "worker", concurrency=4)
    yield system
    system.close()
    vhost.delete()


@pytest.fixture
def fatal_is_nothing(system: System) -> Iterator[None]:
    """Sound jobs succeed after whatever a test has done."""
    yield
    system.succeeded(system.enqueue(100))


def send(system: System, kind: str, body: Any, **properties: Any) -> bytes:
    """Publish what a foreign program might; what it was."""
    text = json.dumps(body).encode()
    system.vhost.publish_raw(*address(kind, body), text, pika.BasicProperties(type=kind, delivery_mode=2, **properties))
    return text


def cli(system: System, *arguments: str) -> str:
    """What a command prints that must succeed."""
    where = ["--store", system.store_url] if "--limit" in arguments else []
    done = subprocess.run(
        [sys.executable, "-m", "broker_jobs.cli", *arguments, "--url", system.url, *where],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def dead_letters_with(system: System, text: str, count: int = 1) -> list[DeadLetterRow]:
    """Wait for so many dead letters that have a text in their bodies."""

    def there() -> list[DeadLetterRow]:
        found = [row for row in system.store.reader.dead_letters.oldest(limit=10_000) if text.encode() in row.body]
        assert len(found) == count, [row.id for row in found]
        return found

    return eventually(there, 60, f"{count} dead-lettered with {text}")


@pytest.mark.rabbitmq
@pytest.mark.usefixtures("fatal_is_nothing")
def test_what_is_out_of_bounds_is_kept_whole_and_a_hundred_sound_jobs_succeed(system: System) -> None:
    bodies = {name: send(system, *message) for name, message in OUT_OF_BOUNDS.items()}
    ids = system.enqueue(100)
    system.succeeded(ids)

    def all_kept() -> bool:
        kept = {row.body: row.reason for row in system.store.reader.dead_letters.oldest(limit=1_000)}
        missing = [name for name, body in bodies.items() if body not in kept]
        assert not missing, missing
        assert all(kept[body] for body in bodies.values())
        return True

    eventually(all_kept, 60, "all are kept")
    listed = cli(system, "dead-letters", "--limit", "1000")
    assert listed.count("should have at most") >= 10
    assert "begin with" in listed


@pytest.mark.rabbitmq
@pytest.mark.usefixtures("fatal_is_nothing")
def test_the_longest_names_and_keys_fit_into_every_store(system: System) -> None:
    name = WIDE[:200]
    send(system, "job", envelope(
        "longest", job=name, recurring=name, tags=[WIDE[:100]] * 50, unique={"key": WIDE},
        limits=[
            {"kind": "concurrency", "key": WIDE, "limit": 1}, {"kind": "ordered", "key": WIDE},
            {"kind": "rate", "key": WIDE, "limit": 10, "per": 1},
            *({"kind": "concurrency", "key": f"k{n}", "limit": 1} for n in range(5)),
        ],
    ))  # fmt: skip
    call = json.dumps(envelope("template", job=name))
    for one in (
        command("limit set", key=WIDE, limit=3),
        command("subscriptions declare", service="s" * 100, subscriptions=[{"event": name, "call": call}]),
        command("functions declare", service="s" * 100, functions=[{"name": name, "queue": "q" * 100}]),
        command("recurring put", schedule={"name": name, "cron": "0 0 1 1 *", "call": call}),
        command("beat heartbeat", by=WIDE[:300]),
    ):
        send(system, "command", one)
    send(system, "published", {"v": 1, "id": "e", "event": name, "created_at": "2026-03-01T00:00:00Z"})
    eventually(lambda: system.row("longest"), 60)
    eventually(lambda: any(row.job == name and row.parent == "e" for row in system.rows().values()), 60)
    assert not [row for row in system.store.reader.dead_letters.oldest(limit=1_000) if name.encode() in row.body
                or json.dumps(name).encode()[1:-1] in row.body]  # fmt: skip


@pytest.mark.rabbitmq
@pytest.mark.usefixtures("fatal_is_nothing")
def test_a_record_that_cannot_be_read_is_set_aside_without_its_neighbours(system: System) -> None:
    for id in ("first", "last"):
        system.jobs.work.using(id=id).schedule(timedelta(hours=1))
    eventually(lambda: len(system.rows(["first", "last"])) == 2)
    ended = {"kind": "succeeded", "epoch": 0, "started_at": AT, "ended_at": AT}
    of_a_batch = ended | {"kind": "interrupted", "id": "batch:between", "envelope": ""}
    unreadable = [{"kind": "teleported", "id": "between"}, of_a_batch]
    events = [ended | {"id": "first"}, *unreadable, ended | {"id": "last"}]
    send(system, "events", bundle(events))
    send(system, "look", ["first", "no id, but between", "last"])
    system.succeeded(["first", "last"])
    for row in dead_letters_with(system, "between", 3):
        assert b"first" not in row.body
        assert b"last" not in row.body


@pytest.mark.rabbitmq
def test_a_result_that_is_no_json_fails_the_job_that_takes_it_and_not_its_parents_outcome(system: System) -> None:
    parent = system.jobs.work.using(id="parent").schedule(timedelta(hours=1))
    child = system.jobs.work.enqueue(result_of(parent))  # type: ignore[arg-type]  # it returns none, and says so
    outcome = {"kind": "succeeded", "id": "parent", "epoch": 0, "started_at": AT, "ended_at": AT, "result": "oops"}
    eventually(lambda: len(system.rows(["parent", child.id])) == 2)
    send(system, "events", bundle([outcome]))
    assert "is no JSON" in system.is_in(child.id, State.FAILED).reason
    assert system.row("parent").state is State.SUCCEEDED


@pytest.mark.rabbitmq
@pytest.mark.parametrize("levels", [220, 300])
def test_a_result_too_deep_to_travel_on_fails_the_job_that_takes_it_alone(system: System, levels: int) -> None:
    parent = system.jobs.work.using(id=f"deep-{levels}").schedule(timedelta(hours=1))
    child = system.jobs.work.enqueue(result_of(parent))  # type: ignore[arg-type]  # it returns none, and says so
    result = "[" * levels + "]" * levels
    outcome = {"kind": "succeeded", "id": parent.id, "epoch": 0, "started_at": AT, "ended_at": AT, "result": result}
    eventually(lambda: len(system.rows([parent.id, child.id])) == 2)
    send(system, "events", bundle([outcome]))
    assert "cannot travel on" in system.is_in(child.id, State.FAILED).reason
    assert system.row(parent.id).state is State.SUCCEEDED


@pytest.mark.rabbitmq
@pytest.mark.usefixtures("fatal_is_nothing")
def test_a_batch_with_a_zero_in_its_title_is_complete(system: System) -> None:
    with system.jobs.program.batch("a\0b") as batch:
        receipt = batch.enqueue(system.jobs.work)
    system.succeeded([receipt.id])


@pytest.mark.rabbitmq
def test_two_messages_of_one_message_id_are_both_kept(system: System) -> None:
    bodies = [{"v": 2, "id": "order-7", "job": job} for job in ("bill", "refund")]
    for body in bodies:
        send(system, "job", body, message_id="order-7")
    send(system, "job", bodies[0], message_id="order-7")
    rows = dead_letters_with(system, "order-7", 2)
    assert {json.loads(row.body)["job"] for row in rows} == {"bill", "refund"}


@pytest.mark.rabbitmq
def test_what_is_replayed_is_applied_or_refused_with_the_reason_and_what_is_deleted_is_gone(system: System) -> None:
    sound, unsound = envelope("replayed", epoch=1), {"v": 2, "id": "deleted"}
    for body in (sound, unsound):
        properties = pika.BasicProperties(type="dead-lettered:a worker could not read it", delivery_mode=2)
        system.vhost.publish_raw("jobs.v1.dead", "default", json.dumps(body).encode(), properties)
    (one,) = dead_letters_with(system, '"replayed"')
    (other,) = dead_letters_with(system, '"deleted"')
    assert one.reason == "a worker could not read it"
    cli(system, "dead-letters", "replay", one.id)
    system.succeeded_soon(["replayed"])
    refused = subprocess.run(
        [sys.executable, "-m", "broker_jobs.cli", "dead-letters", "replay", other.id, "--url", system.url],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert refused.returncode != 0
    assert "version 2" in refused.stderr
    cli(system, "dead-letters", "delete", other.id)
    listed = cli(system, "dead-letters", "--json", "--limit", "10000")
    assert not {one.id, other.id} & {row["id"] for row in json.loads(listed)}


# --- the same bounds where a program writes them ---


def program() -> tuple[BrokerJobs, Any]:
    jobs = BrokerJobs("memory://")

    @jobs.job
    def work(name: str = "") -> None:
        del name

    return jobs, work


REFUSED: dict[str, tuple[Callable[[BrokerJobs, Any], object], str]] = {
    "a long key": (lambda _, work: work.using(limit=Concurrency(LONG, 1)), "1 to 512 characters, not of 6_000"),
    "a long rate": (lambda _, work: work.using(limit=RateLimit(LONG, 1, per=1)), "a hash of what is long"),
    "a long order": (lambda _, work: work.using(limit=Ordered(LONG)), "1 to 512 characters"),
    "a long unique key": (lambda _, work: work.using(unique=Unique(LONG)), "1 to 512 characters"),
    "a key with a zero": (lambda _, work: work.using(unique="a\0b"), "null character"),
    "half a character in a key": (lambda _, work: work.using(unique="\ud800"), "half a character"),
    "a key made long": (lambda _, work: work.using(unique="{name}").enqueue(LONG), "the limit is 512"),
    "a key made of half a character": (lambda _, work: work.using(unique="{name}").enqueue("\ud800"), "half a char"),
    "nine limits": (lambda _, work: work.using(limit=[Ordered(f"k{n}") for n in range(9)]), "at most 8 limits, not 9"),
    "a long id": (lambda _, work: work.using(id=LONG), "1 to 100 of the characters"),
    "an id like a batch's": (lambda _, work: work.using(id="batch:42"), 'not beginning with "batch:"'),
    "a receipt of such an id": (lambda jobs, _: jobs.receipt("batch:42"), 'not beginning with "batch:"'),
    "a typed receipt": (lambda _, work: work.receipt(LONG), "the id of a job must be 1 to 100"),
    "a batch's receipt": (lambda jobs, _: jobs.batch_receipt(LONG), "the id of a batch must be 1 to 100"),
    "many tags": (lambda _, work: work.using(tags=["t"] * 51), "at most 50 of at most 100 characters"),
    "a tag with a zero": (lambda _, work: work.using(tags=["\0"]), "null character"),
    "a long back-off": (lambda _, work: work.using(backoff=[1] * 1_001), "at most 1_000 lengths"),
    "a long name": (lambda jobs, _: jobs.remote(LONG), "a str of 1 to 200 characters"),
    "a name with a zero": (lambda jobs, _: jobs.remote("a\0b"), "null character"),
    "a long event": (lambda jobs, _: jobs.publish(LONG), "1 to 200 characters"),
    "a long subscription": (lambda jobs, _: jobs.subscribe(LONG), "1 to 200 characters"),
    "a long schedule": (lambda jobs, work: jobs.recurring(LONG, "* * * * *", work), "1 to 200 characters"),
    "a long cron": (
        lambda jobs, work: jobs.recurring("n", "1," * 1_000 + "1 * * * *", work), "at most 1_000 characters"),
    "a trigger of a long name": (lambda jobs, _: jobs.recurring.trigger(LONG), "1 to 200 characters"),
    "a pause of a long name": (lambda jobs, _: jobs.recurring.pause(LONG), "1 to 200 characters"),
    "a removal of a long name": (lambda jobs, _: jobs.recurring.remove(LONG), "1 to 200 characters"),
    "a long limit is set": (lambda jobs, _: jobs.limits.set(LONG, 1), "1 to 512 characters"),
    "a long queue is paused": (lambda jobs, _: jobs.queues.pause(LONG), "is not a queue name"),
    "a long title": (lambda jobs, _: jobs.batch(LONG), "at most 200 characters"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_a_program_is_told_what_to_write_before_anything_is_sent(name: str) -> None:
    jobs, work = program()
    call, says = REFUSED[name]
    with pytest.raises(UsageError) as refused:
        call(jobs, work)
    assert says in str(refused.value)
    assert len(str(refused.value)) < 600
    jobs.stop()


def test_a_key_of_512_characters_and_eight_limits_are_taken(tmp_path: Path) -> None:
    jobs = BrokerJobs("memory://", store=f"sqlite:///{tmp_path / 'store.db'}")

    @jobs.job(unique=WIDE, limit=[Concurrency(WIDE[n:], 1) for n in range(8)])
    def work() -> int:
        return 7

    with jobs:
        assert work.enqueue().result(timeout=120) == 7


def test_results_too_large_for_one_message_fail_the_job_that_takes_them(tmp_path: Path) -> None:
    jobs = BrokerJobs("memory://", store=f"sqlite:///{tmp_path / 'store.db'}")

    @jobs.job
    def text() -> str:
        return "x" * 60_000

    @jobs.job
    def join(texts: list[str]) -> int:
        return len(texts)

    with jobs:
        parent = text.enqueue()
        assert join.enqueue(results_of([parent] * 100)).result(timeout=120) == 100
        with pytest.raises(JobFailed, match="return references"):
            join.enqueue(results_of([parent] * 200)).result(timeout=120)
