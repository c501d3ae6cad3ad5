"""Rules of the topology that a change must not break, for both brokers."""

import pytest

from broker_jobs.broker import names
from broker_jobs.broker.delay import LEVELS
from broker_jobs.broker.routing import Routes
from broker_jobs.broker.topology import NEVER_DROP, QueueSpec, fixed_topology, work_topology
from broker_jobs.messages.priority import PRIORITIES, Priority

WHOLE = (fixed_topology(), work_topology("mail", "a.b"))
QUEUES = [queue for topology in WHOLE for queue in topology.queues]
BINDINGS = [binding for topology in WHOLE for binding in topology.bindings]
EXCHANGES = [exchange for topology in WHOLE for exchange in topology.exchanges]


@pytest.mark.parametrize("queue", QUEUES, ids=lambda queue: str(queue.name))
def test_every_queue_is_a_quorum_queue_with_our_prefix_and_version(queue: QueueSpec) -> None:
    assert queue.arguments()["x-queue-type"] == "quorum"
    assert queue.name.startswith("jobs.v1.")


@pytest.mark.parametrize("name", [names.LOG, names.COMMAND, names.DUE, names.DEAD_LETTERS])
def test_queues_of_the_coordinator_never_drop(name: str) -> None:
    [queue] = [queue for queue in QUEUES if queue.name == name]
    arguments = queue.arguments()
    assert arguments["x-delivery-limit"] == NEVER_DROP
    assert not {"x-message-ttl", "x-max-length", "x-max-length-bytes", "x-overflow", "x-expires"} & set(arguments)


def test_the_log_and_the_commands_have_a_single_active_consumer() -> None:
    assert {queue.name for queue in QUEUES if queue.single_active} == {names.LOG, names.COMMAND}


def test_work_queues_dead_letter_into_the_log_at_the_delivery_limit() -> None:
    queues = work_topology("mail").queues
    assert tuple(queue.name for queue in queues) == names.work_queues("mail")
    for queue in queues:
        assert queue.arguments() | {"x-delivery-limit": 20} == {
            "x-queue-type": "quorum",
            "x-delivery-limit": 20,
            "x-dead-letter-exchange": names.RETURNED,
            "x-dead-letter-routing-key": queue.name,
            "x-dead-letter-strategy": "at-least-once",
            "x-overflow": "reject-publish",
        }


def test_every_delay_queue_dead_letters_into_due_at_least_once() -> None:
    levels = {queue.name: queue for queue in QUEUES if queue.ttl_seconds is not None}
    assert len(levels) == LEVELS
    for level in range(LEVELS):
        arguments = levels[names.delay_queue(level)].arguments()
        assert arguments["x-message-ttl"] == 1000 * 2**level
        assert arguments["x-dead-letter-exchange"] == names.EXPIRED
        assert arguments["x-dead-letter-strategy"] == "at-least-once"
        assert arguments["x-overflow"] == "reject-publish"  # without it the strategy is silently at-most-once


def test_what_the_broker_moves_goes_by_an_internal_exchange_to_a_queue_that_always_exists() -> None:
    internal = {exchange.name for exchange in EXCHANGES if exchange.internal}
    used = {queue.dead_letter_to for queue in QUEUES} | {exchange.alternate for exchange in EXCHANGES}
    assert used - {None} == internal
    bound = {binding.source: binding.target for binding in BINDINGS if binding.source in internal}
    assert bound == {
        names.EXPIRED: names.DUE, names.RETURNED: names.LOG, names.UNROUTABLE: names.DEAD_LETTERS
    }  # fmt: skip


def test_every_binding_names_declared_exchanges_and_queues() -> None:
    exchanges = {exchange.name for exchange in EXCHANGES}
    queues = {queue.name for queue in QUEUES}
    for binding in BINDINGS:
        assert binding.source in exchanges
        assert binding.target in (exchanges if binding.to_exchange else queues)


def test_an_alternate_exchange_is_a_declared_fanout() -> None:
    kinds = {exchange.name: exchange.kind for exchange in EXCHANGES}
    for exchange in EXCHANGES:
        if exchange.alternate is not None:
            assert kinds[exchange.alternate] == "fanout"


def test_no_exchange_matches_by_pattern_so_a_queue_name_cannot_catch_the_jobs_of_others() -> None:
    assert {exchange.kind for exchange in EXCHANGES} == {"direct", "fanout"}


def test_nothing_is_declared_twice() -> None:
    for parts in (QUEUES, EXCHANGES, BINDINGS):
        assert len(set(parts)) == len(parts)


def test_topologies_are_values() -> None:
    assert work_topology("mail") == work_topology("mail") != work_topology("bulk")


@pytest.mark.parametrize("name", ["mail", "a.b-c_9", "A" * 100])
def test_queue_names_that_are_accepted(name: str) -> None:
    assert names.is_queue_name(name)
    for priority in PRIORITIES:
        work_queue = names.work_queue(name, priority)
        assert names.queue_of(work_queue) == name
        assert work_queue == f"{names.WORK}.{names.work_key(name, priority)}"


@pytest.mark.parametrize("priority", ["high", "low"])
def test_no_queue_has_a_work_queue_of_another_one(priority: Priority) -> None:
    """A person may name a queue as a priority."""
    taken = {*names.work_queues("mail"), *names.work_queues(priority)}
    for name in (f"mail.{priority}", f"{priority}.mail", f"mail-{priority}", f"mail_{priority}"):
        assert not taken & {*names.work_queues(name)}
    assert not names.is_queue_name(f"mail:{priority}")


def test_a_job_reaches_the_work_queue_of_its_priority_and_a_queue_that_does_not_exist_none() -> None:
    routes = Routes()
    for topology in WHOLE:
        routes.declare(topology)
    for priority in PRIORITIES:
        key = names.work_key("mail", priority)
        assert routes.queues_for(names.WORK, key) == (names.work_queue("mail", priority),)
        assert set(routes.queues_for(names.SUBMIT, key)) == {names.work_queue("mail", priority), names.LOG}
        assert routes.queues_for(names.WORK, names.work_key("none", priority)) == (names.DEAD_LETTERS,)


@pytest.mark.parametrize("name", ["", "a" * 101, "a b", "#", "mail.*", "ü", "a/b", "mail\n"])
def test_queue_names_that_are_refused(name: str) -> None:
    assert not names.is_queue_name(name)
