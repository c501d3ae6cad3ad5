"""The shipped RabbitMQ: each role's user can do the role's work, end to end, and nothing more."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

import pika
import pytest
from pika.adapters.blocking_connection import BlockingChannel
from pika.exceptions import AMQPConnectionError, ChannelClosedByBroker, NackError, UnroutableError

from broker_jobs import BrokerJobs, GiveUp, State, current_job
from broker_jobs.broker import names
from broker_jobs.broker.factory import broker_for
from broker_jobs.broker.interface import MAX_MESSAGE_BYTES
from broker_jobs.broker.topology import fixed_topology, work_topology
from broker_jobs.errors import EnqueueError
from broker_jobs.processes.program import Program
from broker_jobs.settings import Settings
from tests.support.process import ServerFailedError
from tests.support.shipped import SHIPPED, VHOST, ShippedBroker, definitions, passwords
from tests.support.wait import eventually

pytestmark = [pytest.mark.rabbitmq, pytest.mark.slow]

ROLES = ("admin", "coordinator", "producer", "worker", "worker-producer", "beat", "dashboard", "monitoring")


# --- the files ---


def test_the_shipped_definitions_are_what_the_program_prints() -> None:
    assert definitions({}) == (SHIPPED / "definitions.json").read_text(), (
        "python deploy/rabbitmq/definitions.py > deploy/rabbitmq/definitions.json"
    )


def test_no_password_is_printed_and_each_hash_has_a_salt_of_its_own() -> None:
    given = passwords()
    assert len(given) == len(set(given.values())) == len(ROLES)
    printed = [definitions(given) for _ in range(2)]
    assert not [password for password in given.values() if password in printed[0]]
    hashes = [[user["password_hash"] for user in json.loads(text)["users"]] for text in printed]
    assert not set(hashes[0]) & set(hashes[1])


# --- the node ---


def test_the_node_starts_with_the_shipped_configuration(shipped: ShippedBroker) -> None:
    shipped_queues = json.loads((SHIPPED / "definitions.json").read_text())["queues"]
    wanted = {queue["name"] for queue in shipped_queues} | {names.work_queue("mail")}
    assert {queue["name"] for queue in shipped.http("GET", f"/queues/{VHOST}")} >= wanted
    assert shipped.eval("application:get_env(rabbit, dead_letter_worker_consumer_prefetch).") == "{ok, 1000}"
    assert shipped.http("GET", "/cluster-name") == {"name": "jobs"}
    users = json.loads(shipped.ctl("list_users", "--formatter", "json"))
    assert {user["user"] for user in users} == set(ROLES), "and no guest"


def test_the_largest_job_is_taken_and_a_message_over_the_bound_is_refused(shipped: ShippedBroker, parts: Parts) -> None:
    """The limits of what travels assume this bound; an envelope may grow to twice its size as text within an event."""
    assert shipped.eval("application:get_env(rabbit, max_message_size).") == f"{{ok, {MAX_MESSAGE_BYTES}}}"
    jobs = parts.producer("producer")
    largest = next(limit.le for limit in Settings.model_fields["max_body"].metadata if hasattr(limit, "le"))
    assert 2 * largest <= MAX_MESSAGE_BYTES
    jobs.configure({"max_body": largest})
    jobs.remote("greet").enqueue("x" * (largest - 10_000))
    with ExitStack() as stack:
        channel = opened(stack, shipped, "producer")
        channel.confirm_delivery()
        with pytest.raises(ChannelClosedByBroker, match="larger than configured max size"):
            channel.basic_publish(names.SUBMIT, "default", b"x" * (MAX_MESSAGE_BYTES + 1))


def test_without_passwords_nobody_can_log_in(shipped: ShippedBroker) -> None:
    """The definitions as they are shipped; afterwards the passwords come back."""
    try:
        shipped.import_users(json.loads((SHIPPED / "definitions.json").read_text())["users"])
        for role in ROLES:
            for address in (shipped.address(role), shipped.url(VHOST, role, "")):
                with pytest.raises(AMQPConnectionError):
                    pika.BlockingConnection(pika.URLParameters(address))
    finally:
        shipped.import_users(json.loads(definitions(shipped.passwords))["users"])
    pika.BlockingConnection(pika.URLParameters(shipped.address("producer"))).close()


# --- every role at work ---


class Parts:
    """Parts of the system, each with its role's user, on the queues that the definitions have made."""

    def __init__(self, node: ShippedBroker, folder: Path) -> None:
        self._node = node
        self._store = f"sqlite:///{folder / 'store.db'}"
        self._ends = ExitStack()

    def producer(self, role: str) -> BrokerJobs:
        jobs = BrokerJobs(self._node.address(role))
        jobs.configure({"declare": False})
        self._ends.callback(jobs.stop)
        return jobs

    def start(self, role: str, part: str, jobs: BrokerJobs | None = None) -> Program:
        settings = Settings(
            url=self._node.address(role), store=self._store, declare=False, queues=("default", "mail"),
            worker_heartbeat=0.2, require_user_id=True, service="roles",
        )  # fmt: skip
        exchange = broker_for(settings, part)
        program = Program(
            None if jobs is None else jobs.registry,
            settings,
            exchange,
            () if jobs is None else jobs.recurring.declared("roles"),
            subscriptions=() if jobs is None else jobs.subscriptions.declared(),
            roles=[part],
        )
        self._ends.callback(exchange.stop)
        self._ends.callback(program.stop, 0)
        program.start()
        return program

    def close(self) -> None:
        self._ends.close()


@pytest.fixture
def parts(shipped: ShippedBroker, tmp_path: Path) -> Iterator[Parts]:
    parts = Parts(shipped, tmp_path)
    yield parts
    parts.close()
    shipped.empty()


class Shop:
    """The jobs of these tests, registered with a program of a role's."""

    def __init__(self, jobs: BrokerJobs) -> None:
        self.done: list[str] = []
        done = self.done

        @jobs.job(name="greet", retries=2, backoff=[0.1])
        def greet(name: str) -> str:
            done.append(name)
            if name == "stumble" and current_job().attempt == 1:
                raise ValueError("once")
            if name == "never":
                raise GiveUp("no")
            return f"hello {name}"

        @jobs.job(name="two")
        def two() -> str:
            return jobs.remote("greet").enqueue("from a job").id

        jobs.subscribe("registered")(greet)
        jobs.recurring("tick", "*/1 * * * * *", greet.bind("recurring"))
        self.greet, self.two = greet, two


def denied(node: ShippedBroker) -> list[str]:
    """What the node has refused until now."""
    return [line for line in node.whole_log().splitlines() if "access_refused" in line or "ACCESS_REFUSED" in line]


def test_every_role_does_its_work_with_its_own_rights(shipped: ShippedBroker, parts: Parts) -> None:
    before = denied(shipped)
    code = parts.producer("worker")
    shop = Shop(code)
    coordinator = parts.start("coordinator", "coordinator")
    parts.start("worker", "worker", code)
    parts.start("beat", "beat", code)
    jobs = parts.producer("producer")
    greet = jobs.remote("greet")

    assert greet.enqueue("now").result(timeout=120) == "hello now"
    assert greet.using(queue="mail").enqueue("mail").result(timeout=120) == "hello mail"
    assert greet.schedule(timedelta(seconds=0.2), "soon").result(timeout=120) == "hello soon"
    assert (
        greet.schedule(timedelta(seconds=2.5), "over the delay queues").result(timeout=120)
        == "hello over the delay queues"
    )
    assert greet.using(backoff=[0.1]).enqueue("stumble").result(timeout=120) == "hello stumble"
    first = greet.schedule(timedelta(hours=1), "first")
    second = greet.after(first).enqueue("second")
    first.requeue()
    assert second.result(timeout=120) == "hello second"
    later = greet.schedule(timedelta(hours=1), "later")
    later.reschedule(timedelta(hours=2))
    assert later.delete()
    assert later.state() is State.DELETED
    with jobs.batch("roles") as batch:
        for number in range(3):
            batch.enqueue(greet, f"batch {number}")
    assert batch.wait(timeout=20) is State.SUCCEEDED
    eventually(lambda: "recurring" in shop.done, 20, "a recurring job has run")
    jobs.publish("registered", "published")
    eventually(lambda: "published" in shop.done, 20, "a subscription's job has run")
    board = parts.producer("dashboard")
    board.queues.pause("mail")
    waiting = greet.using(queue="mail").enqueue("paused")
    board.queues.resume("mail")
    assert waiting.result(timeout=120) == "hello paused"

    # Nobody can read it: the worker parks it, the coordinator takes it in.
    with ExitStack() as stack:
        opened(stack, shipped, "admin").basic_publish("", names.work_queue("default"), b"not an envelope")
        eventually(lambda: coordinator.store and coordinator.store.reader.dead_letters.oldest(limit=1), 20, "dead")

    # The command line and the dashboard act as the dashboard's user.
    board.recurring.pause("tick")
    board.recurring.trigger("tick")
    board.limits.set("smtp", 2)

    # A queue that nobody has declared: kept, and said what to do.
    lost = greet.using(queue="nobody").enqueue("lost")
    eventually(lambda: lost.state() is State.FAILED or "topology apply" in why(coordinator), 20, "unroutable, said so")
    assert coordinator.health().ok
    assert coordinator.store is not None
    users = {(row.kind, row.user_id) for row in coordinator.store.reader.audit.newest()}
    assert {("requeue", "producer"), ("recurring pause", "dashboard"), ("recurring declare", "beat")} <= users
    assert denied(shipped)[len(before) :] == []


def why(coordinator: Program) -> str:
    """Why messages are dead letters."""
    assert coordinator.store is not None
    return " ".join(row.reason for row in coordinator.store.reader.dead_letters.oldest(limit=10))


def test_jobs_that_enqueue_jobs_take_the_user_that_may(shipped: ShippedBroker, parts: Parts) -> None:
    code = parts.producer("worker-producer")
    shop = Shop(code)
    parts.start("coordinator", "coordinator")
    worker = parts.start("worker-producer", "worker", code)
    jobs = parts.producer("producer")
    inner = jobs.remote("two").enqueue().result(timeout=120)
    assert jobs.receipt(str(inner)).result(timeout=120) == "hello from a job"
    assert "from a job" in shop.done
    worker.stop(5)

    only = parts.producer("worker")
    Shop(only)
    parts.start("worker", "worker", only)
    refused = jobs.remote("two").using(retries=0).enqueue()
    eventually(lambda: refused.state() is State.FAILED, 20, "its job is refused what it enqueues")


def test_the_admin_declares_a_queue_and_looks_at_all(shipped: ShippedBroker) -> None:
    settings = Settings(url=shipped.address("admin"))
    exchange = broker_for(settings, "admin")
    exchange.start()
    try:
        exchange.apply(fixed_topology(), 60)
        exchange.apply(work_topology("reports"), 60)
        assert exchange.depth(names.work_queue("reports")) == (0, 0)
        assert exchange.purge(names.work_queue("reports")) == 0
    finally:
        exchange.stop()


def test_monitoring_sees_queues_and_prometheus_needs_no_user(shipped: ShippedBroker) -> None:
    queue = shipped.http("GET", f"/queues/{VHOST}/{names.work_queue('default')}")
    assert queue["name"] == names.work_queue("default")
    with pytest.raises(ServerFailedError, match=r"401|403"):
        shipped.http("DELETE", f"/queues/{VHOST}/{names.work_queue('default')}")
    metrics = shipped.scrape()
    assert "rabbitmq_queue_messages_ready" in metrics
    assert "rabbitmq_queue_consumers" in metrics


# --- and nothing more ---

Action = Callable[[BlockingChannel], Any]


def publish(exchange: str, key: str = "x") -> Action:
    def action(channel: BlockingChannel) -> None:
        channel.confirm_delivery()
        channel.basic_publish(exchange, key, b"{}")

    return action


def consume(queue: str) -> Action:
    return lambda channel: channel.basic_consume(queue, lambda *_: None)


def purge(queue: str) -> Action:
    return lambda channel: channel.queue_purge(queue)


def delete(queue: str) -> Action:
    return lambda channel: channel.queue_delete(queue)


def declare(queue: str) -> Action:
    return lambda channel: channel.queue_declare(queue, durable=True, arguments={"x-queue-type": "quorum"})


def listen(exchange: str) -> Action:
    """Bind a queue of one's own to it."""

    def action(channel: BlockingChannel) -> None:
        channel.queue_declare("jobs.v1.reply.spy", exclusive=True)
        channel.queue_bind("jobs.v1.reply.spy", exchange)

    return action


DEFAULT_QUEUES = names.work_queues("default")

PRODUCES = {names.SUBMIT, names.OFFER, names.REQUEST}
WORKS = {names.REPORT, names.DECLARE, names.DEAD}
PUBLISHES = {
    "producer": PRODUCES,
    "dashboard": {names.REQUEST, names.OPERATE},
    "worker": WORKS,
    "worker-producer": PRODUCES | WORKS,
    "beat": {names.DECLARE, names.FIRE},
    "coordinator": {names.WORK, names.DELAY, names.TICK, names.CONTROL, ""},
    "monitoring": set[str](),
}
READS = {
    "producer": set[str](),
    "dashboard": set[str](),
    "worker": {*DEFAULT_QUEUES},
    "worker-producer": {*DEFAULT_QUEUES},
    "beat": set[str](),
    "coordinator": {names.LOG, names.COMMAND, names.DUE, names.DEAD_LETTERS},
    "monitoring": set[str](),
}
LISTENERS = {"worker", "worker-producer", "beat", "coordinator"}
EXCHANGES = (*(exchange.name for exchange in fixed_topology().exchanges), "")
INTERNAL = {exchange.name for exchange in fixed_topology().exchanges if exchange.internal}
QUEUES = (names.LOG, names.COMMAND, names.DUE, names.DEAD_LETTERS, *DEFAULT_QUEUES, names.delay_queue(3))


def opened(stack: ExitStack, node: ShippedBroker, role: str) -> BlockingChannel:
    connection = pika.BlockingConnection(pika.URLParameters(node.address(role)))
    stack.enter_context(connection)  # closed at the end, if it is still open
    return connection.channel()


def may(node: ShippedBroker, role: str, action: Action) -> bool:
    """Whether the node lets a role's user do it; any answer but "access refused" is a yes."""
    with ExitStack() as stack:
        channel = opened(stack, node, role)
        try:
            action(channel)
        except ChannelClosedByBroker as closed:
            if closed.reply_code != 403:
                raise
            return False
        except (NackError, UnroutableError):
            return True
        return True


@pytest.mark.parametrize("role", sorted(PUBLISHES))
def test_a_role_writes_to_its_exchanges_and_to_no_other(shipped: ShippedBroker, parts: Parts, role: str) -> None:
    assert {exchange for exchange in EXCHANGES if may(shipped, role, publish(exchange))} == PUBLISHES[role]


def test_every_exchange_but_the_internal_ones_is_a_roles(shipped: ShippedBroker) -> None:
    assert set().union(*PUBLISHES.values()) == set(EXCHANGES) - INTERNAL
    for exchange in INTERNAL:
        assert not may(shipped, "admin", publish(exchange)), exchange


def test_nobody_speaks_in_the_name_of_another(shipped: ShippedBroker) -> None:
    with ExitStack() as stack:
        channel = opened(stack, shipped, "producer")
        channel.confirm_delivery()
        with pytest.raises(ChannelClosedByBroker, match="authenticated user was 'producer'"):
            channel.basic_publish(
                names.REQUEST, names.COMMAND_KEY, b"{}", pika.BasicProperties(user_id="coordinator", delivery_mode=2)
            )


FORGED = {
    "an outcome": ("producer", names.OFFER, names.LOG_KEY, "events", {
        "v": 1, "worker": {"id": "w"}, "sent_at": 1.0,
        "events": [{"kind": "succeeded", "id": "later", "epoch": 1, "started_at": 1.0, "ended_at": 1.0}]}),
    "a tick": ("producer", names.OFFER, names.LOG_KEY, "tick", {
        "coordinator": "c", "store": "s", "serial": 10**9, "sent_at": 1.0}),
    "the acceptance of a store": ("producer", names.REQUEST, names.COMMAND_KEY, "command", {
        "kind": "store accept", "id": "x", "at": 1.0}),
    "the deletion of all jobs": ("worker", names.REPORT, names.COMMAND_KEY, "command", {
        "kind": "bulk delete", "id": "x", "at": 1.0, "filter": {}}),
    "a pause": ("beat", names.FIRE, names.COMMAND_KEY, "command", {
        "kind": "queue pause", "id": "x", "at": 1.0, "queue": "default", "paused": True}),
    "a declaration": ("dashboard", names.OPERATE, names.COMMAND_KEY, "command", {
        "kind": "recurring declare", "id": "x", "at": 1.0, "service": "roles", "schedules": []}),
    "a job": ("beat", names.FIRE, names.COMMAND_KEY, "job", {
        "id": "j", "job": "greet", "created_at": "2026-03-01T00:00:00Z"}),
}  # fmt: skip


def test_what_a_role_may_not_say_is_a_dead_letter_with_its_user_and_changes_nothing(
    shipped: ShippedBroker, parts: Parts
) -> None:
    jobs = parts.producer("producer")
    coordinator = parts.start("coordinator", "coordinator")
    assert coordinator.store is not None
    jobs.remote("greet").using(id="later").schedule(timedelta(hours=1))
    with ExitStack() as stack:
        for role, exchange, key, kind, body in FORGED.values():
            opened(stack, shipped, role).basic_publish(
                exchange, key, json.dumps(body).encode(), pika.BasicProperties(type=kind, user_id=role, delivery_mode=2)
            )
        opened(stack, shipped, "producer").basic_publish(  # who sent it is not said
            names.OFFER, names.LOG_KEY, b'{"id": "anonymous", "job": "greet", "created_at": "2026-03-01T00:00:00Z"}',
            pika.BasicProperties(type="job", delivery_mode=2),
        )  # fmt: skip
    reader = coordinator.store.reader
    eventually(lambda: reader.dead_letters.count() == len(FORGED) + 1, 20, "dead letters")
    dead = reader.dead_letters.oldest(limit=100)
    reasons = [row.reason for row in dead if row.user_id]
    assert all("believed" in reason for reason in reasons), reasons
    assert sorted(row.user_id for row in dead) == sorted(["", *(role for role, *_ in FORGED.values())])
    later = eventually(lambda: reader.jobs.get("later"))
    assert later is not None
    assert later.state is State.SCHEDULED
    assert (reader.jobs.get("anonymous"), reader.jobs.get("j"), reader.audit.newest()) == (None, None, [])
    assert coordinator.health().ok


@pytest.mark.parametrize("role", sorted(PUBLISHES))
def test_a_role_reads_its_queues_and_no_other(shipped: ShippedBroker, role: str) -> None:
    assert {queue for queue in QUEUES if may(shipped, role, consume(queue))} == READS[role]
    assert {queue for queue in QUEUES if may(shipped, role, purge(queue))} == READS[role]


@pytest.mark.parametrize("role", sorted(set(PUBLISHES) - {"monitoring"}))
def test_a_role_overhears_control_at_most(shipped: ShippedBroker, role: str) -> None:
    # The exchange of dead letters has the name of its queue, so the coordinator, who reads that, may listen to it too.
    heard = {exchange for exchange in EXCHANGES if exchange and may(shipped, role, listen(exchange))}
    assert heard - (READS[role] & {names.DEAD_LETTERS}) == ({names.CONTROL} if role in LISTENERS else set())


@pytest.mark.parametrize("role", sorted(PUBLISHES))
def test_no_role_but_the_admin_declares_or_deletes(shipped: ShippedBroker, role: str) -> None:
    for queue in (*QUEUES, "jobs.v1.work.other", "anything"):
        assert not may(shipped, role, delete(queue)), queue
        assert not may(shipped, role, declare(queue)), queue


def test_nobody_reads_the_answers_of_another(shipped: ShippedBroker) -> None:
    with ExitStack() as stack:
        opened(stack, shipped, "producer").queue_declare("jobs.v1.reply.mine", exclusive=True)
        for role in ("producer", "worker", "dashboard"):
            with pytest.raises(ChannelClosedByBroker) as refused:
                opened(stack, shipped, role).basic_get("jobs.v1.reply.mine")
            assert refused.value.reply_code == 405


def test_who_may_not_enqueue_is_told_why(parts: Parts) -> None:
    jobs = parts.producer("beat")
    with pytest.raises(EnqueueError, match="ACCESS_REFUSED"):
        jobs.remote("greet").enqueue("no")
