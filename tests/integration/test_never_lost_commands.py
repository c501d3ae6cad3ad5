"""What people ask for reaches jobs in time, and each is run as often as that says: on the whole system."""

import time
from collections.abc import Callable
from datetime import timedelta

import pytest

from broker_jobs.broker import names
from broker_jobs.errors import JobDeleted, UsageError
from broker_jobs.store.row import Publication
from tests.support.system import System
from tests.support.wait import eventually

pytestmark = pytest.mark.rabbitmq


def gone_from_the_queue(system: System, queue: str = "default") -> None:
    eventually(lambda: system.vhost.queue(names.work_queue(queue))["messages"] == 0)


def test_a_job_deleted_before_it_starts_does_not_run(system: System) -> None:
    system.here("coordinator")
    ids = system.enqueue(5)
    victims = [system.jobs.program.receipt(id) for id in ids[1:4]]
    early = [system.jobs.work.enqueue() for _ in range(5)]
    assert all(receipt.delete() for receipt in [*victims, *early])  # `early` perhaps before the log is read
    system.here("worker", concurrency=2)
    gone_from_the_queue(system)
    system.succeeded([ids[0], ids[4]])
    deleted = [receipt.id for receipt in [*victims, *early]]
    assert system.states(deleted) == {"deleted": len(deleted)}
    eventually(lambda: {row.publication for row in system.rows(deleted).values()} == {Publication.NONE})
    assert system.starts() == {ids[0]: 1, ids[4]: 1}
    system.nothing_broken()


def test_a_running_job_that_is_deleted_is_told_and_its_outcome_decides(system: System) -> None:
    system.here("coordinator", "worker", concurrency=4)
    stopped, finished = system.hold("stopped"), system.jobs.finish.enqueue(120.0)
    eventually(lambda: system.states([stopped.id, finished.id]) == {"processing": 2})
    with pytest.raises(UsageError, match="it is running: delete it first"):
        stopped.requeue()
    with pytest.raises(UsageError, match="it is running: delete it first"):
        stopped.reschedule(timedelta(seconds=1))
    assert stopped.delete()
    assert finished.delete()
    with pytest.raises(JobDeleted):
        stopped.result(timeout=120)
    system.succeeded([finished.id])
    assert system.starts() == {stopped.id: 1, finished.id: 1}
    system.nothing_broken()


def test_an_enqueued_job_that_is_requeued_or_rescheduled_runs_once(system: System) -> None:
    system.here("coordinator")
    requeued, now, later = (system.jobs.work.enqueue() for _ in range(3))
    with pytest.raises(UsageError, match="already on its way"):
        requeued.requeue()
    now.reschedule(timedelta(0))
    later.reschedule(timedelta(seconds=2))
    due_at = system.row(later.id).due_at
    assert due_at is not None
    system.here("worker", concurrency=2)
    system.succeeded([requeued.id, now.id, later.id])
    gone_from_the_queue(system)
    assert system.starts() == {requeued.id: 1, now.id: 1, later.id: 1}
    assert next(mark.at for mark in system.marks("started") if mark.id == later.id) >= due_at
    system.nothing_broken()


def test_a_requeue_runs_an_ended_job_once_more_however_often_the_message_comes(system: System) -> None:
    system.here("coordinator", "worker", concurrency=2)
    receipt = system.jobs.work.enqueue()
    system.succeeded([receipt.id])
    command = eventually(lambda: requeue_raw(system, receipt.id))
    eventually(lambda: system.starts()[receipt.id] == 2)
    system.succeeded([receipt.id])
    command()
    eventually(lambda: system.vhost.queue(names.COMMAND)["messages"] <= 1)  # the coordinator's mark stays
    after = system.jobs.work.enqueue()
    system.succeeded([receipt.id, after.id])
    assert system.starts()[receipt.id] == 2
    assert system.row(receipt.id).epoch == 2


def requeue_raw(system: System, id: str) -> Callable[[], None]:
    body = f'{{"kind":"requeue","id":"a-command","at":{time.time()},"job_id":"{id}"}}'.encode()

    def send() -> None:
        system.vhost.publish_raw(names.REQUEST, names.COMMAND_KEY, body)

    send()
    return send


@pytest.mark.usefixtures("takes_more_than_it_runs")
def test_a_paused_queue_runs_nothing_until_it_is_resumed(system: System) -> None:
    system.here("coordinator")
    system.here("worker", concurrency=1)
    running = system.hold("running")
    eventually(lambda: system.starts()[running.id] == 1)
    prefetched = system.enqueue(10)
    eventually(lambda: system.vhost.queue(names.work_queue("default"))["messages_unacknowledged"] > 1)
    system.jobs.program.queues.pause("default")
    eventually(
        lambda: (
            any("returned: pause" in row.reason or row.returns for row in system.rows(prefetched).values())
            or any(
                "returned: pause" in reason for row in system.rows(prefetched).values() for _, _, reason in row.history
            )
        )
    )
    late = system.here("worker", concurrency=1)
    worker = late.program.worker
    assert worker is not None
    eventually(lambda: worker._revocations.paused == {"default"})
    more = system.enqueue(10)
    system.go("running")
    system.succeeded([running.id])
    time.sleep(1)  # that nothing runs can only be waited for
    assert system.starts() == {running.id: 1}
    assert all(row.attempt == 1 and row.crashes == 0 for row in system.rows(prefetched).values())
    system.jobs.program.queues.resume("default")
    system.succeeded(prefetched + more)
    assert set(system.starts().values()) == {1}
    system.nothing_broken()


def test_the_first_job_of_a_queue_nobody_declared_waits_for_its_worker(system: System) -> None:
    system.here("coordinator")
    ids = [system.jobs.work.using(queue="brand.new").enqueue().id for _ in range(5)]
    ids.append(system.jobs.work.using(queue="brand.new").schedule(timedelta(seconds=0.5)).id)
    eventually(lambda: system.vhost.ready(names.work_queue("brand.new")) == 6)
    assert system.store.reader.dead_letters.oldest() == []
    assert system.states(ids) == {"enqueued": 6}
    system.here("worker", concurrency=2, queues=("brand.new",))
    system.succeeded(ids)
    assert set(system.starts().values()) == {1}
    system.nothing_broken()


@pytest.mark.slow
def test_jobs_of_a_purged_queue_come_back_by_proof_and_run_once(system: System) -> None:
    coordinator = system.here("coordinator")
    ids = system.enqueue(20)
    eventually(lambda: system.states(ids) == {"enqueued": 20})
    system.broker.purge(names.work_queue("default"))
    with system.log_time_passes(40):
        eventually(lambda: {row.epoch for row in system.rows(ids).values()} == {2}, 40)
    assert system.vhost.ready(names.work_queue("default")) == 20
    system.here("worker", concurrency=2)
    system.succeeded(ids)
    assert set(system.starts().values()) == {1}
    assert coordinator.fatal == []
    system.nothing_broken()


def test_a_long_queue_is_not_lost(system: System) -> None:
    system.here("coordinator")
    ids = system.enqueue(20)
    eventually(lambda: system.states(ids) == {"enqueued": 20})
    with system.log_time_passes(100):
        eventually(lambda: system.store.reader.meta().log_time > 400, 40)
        time.sleep(6)  # the coordinator looks at depths every five seconds
    assert {row.epoch for row in system.rows(ids).values()} == {1}
    system.here("worker", concurrency=2)
    system.succeeded(ids)
    assert set(system.starts().values()) == {1}
