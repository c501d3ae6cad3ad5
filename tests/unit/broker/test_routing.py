"""Which queues a message reaches."""

import pytest

from broker_jobs.broker import names
from broker_jobs.broker.routing import Routes
from broker_jobs.broker.topology import BindingSpec, ExchangeSpec, QueueSpec, Topology, fixed_topology, work_topology
from broker_jobs.errors import BrokerError


def ours() -> Routes:
    routes = Routes()
    routes.declare(fixed_topology())
    routes.declare(work_topology("mail", "default"))
    return routes


def test_a_submitted_job_reaches_its_work_queue_and_the_log() -> None:
    assert set(ours().queues_for(names.SUBMIT, "mail")) == {names.work_queue("mail"), names.LOG}


def test_a_submitted_job_of_an_unknown_queue_reaches_dead_lettered_and_the_log() -> None:
    assert set(ours().queues_for(names.SUBMIT, "nowhere")) == {names.DEAD_LETTERS, names.LOG}


def test_a_released_job_reaches_its_work_queue_alone() -> None:
    assert ours().queues_for(names.WORK, "mail") == (names.work_queue("mail"),)


def test_a_producers_delayed_job_reaches_its_step_and_the_log() -> None:
    assert set(ours().queues_for(names.OFFER, names.delay_key(3))) == {names.delay_queue(3), names.LOG}
    assert ours().queues_for(names.DELAY, names.delay_key(3)) == (names.delay_queue(3),)


def test_a_key_nobody_bound_is_unroutable() -> None:
    assert ours().queues_for(names.REPORT, "nothing") == ()
    assert ours().queues_for("", "nothing") == ()


def test_two_ways_to_a_queue_give_one_copy_and_a_circle_ends() -> None:
    routes = Routes()
    routes.declare(
        Topology(
            exchanges=(ExchangeSpec("a", "fanout"), ExchangeSpec("b", "fanout")),
            queues=(QueueSpec("q"),),
            bindings=(
                BindingSpec("a", "q"),
                BindingSpec("a", "b", to_exchange=True),
                BindingSpec("b", "q"),
                BindingSpec("b", "a", to_exchange=True),
            ),
        )
    )
    assert routes.queues_for("a", "") == ("q",)


def test_a_queue_declared_later_is_found_although_its_key_was_asked_before() -> None:
    routes = ours()
    assert routes.queues_for(names.WORK, "late") == (names.DEAD_LETTERS,)
    routes.declare(work_topology("late"))
    assert routes.queues_for(names.WORK, "late") == (names.work_queue("late"),)


def test_a_deleted_queue_receives_nothing() -> None:
    routes = ours()
    routes.delete(names.work_queue("mail"))
    assert routes.queues_for(names.WORK, "mail") == (names.DEAD_LETTERS,)
    assert routes.queues_for("", names.work_queue("mail")) == ()


def test_other_arguments_are_refused_and_nothing_is_declared() -> None:
    routes = ours()
    with pytest.raises(BrokerError, match=r"'jobs\.v1\.log' exists with other arguments"):
        routes.declare(Topology(queues=(QueueSpec("new"), QueueSpec(names.LOG))))
    assert routes.queues_for("", "new") == ()


def test_a_binding_from_or_to_nothing_is_refused() -> None:
    with pytest.raises(BrokerError, match="no exchange 'x'"):
        ours().declare(Topology(bindings=(BindingSpec("x", names.LOG),)))
    with pytest.raises(BrokerError, match="cannot bind 'q' to"):
        ours().declare(Topology(bindings=(BindingSpec(names.WORK, "q"),)))
