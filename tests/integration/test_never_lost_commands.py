"""What people ask for reaches jobs in time, and each is run as often as that says: on the whole system."""

import time
from collections.abc import Callable
from datetime import timedelta

import pytest

from broker_jobs.broker import names
from broker_jobs.errors import JobDeleted, UsageError
from broker_jobs.store.row import Publication
from tests.support.system import House
from tests.support.wait import eventually

pytestmark = pytest.mark.rabbitmq


def gone_from_the_queue(house: House, queue: str = "default") -> None:
    eventually(lambda: house.vhost.queue(names.work_queue(queue))["messages"] == 0)


def test_a_job_deleted_before_it_starts_does_not_run(house: House) -> None:
    house.here("coordinator")
    ids = house.enqueue(5)
    victims = [house.jobs.program.receipt(id) for id in ids[1:4]]
    early = [house.jobs.work.enqueue() for _ in range(5)]
    assert all(receipt.delete() for receipt in [*victims, *early])  # `early` perhaps before the log is read
    house.here("worker", concurrency=2)
    gone_from_the_queue(house)
    house.succeeded([ids[0], ids[4]])
    deleted = [receipt.id for receipt in [*victims, *early]]
    assert house.states(deleted) == {"deleted": len(deleted)}
    eventually(lambda: {row.publication for row in house.rows(deleted).values()} == {Publication.NONE})
    assert house.starts() == {ids[0]: 1, ids[4]: 1}
    house.nothing_broken()


def test_a_running_job_that_is_deleted_is_told_and_its_outcome_decides(house: House) -> None:
    house.here("coordinator", "worker", concurrency=4)
    stopped, finished = house.hold("stopped"), house.jobs.work.enqueue(2.0)
    eventually(lambda: house.states([stopped.id, finished.id]) == {"processing": 2})
    with pytest.raises(UsageError, match="it is running: delete it first"):
        stopped.requeue()
    with pytest.raises(UsageError, match="it is running: delete it first"):
        stopped.reschedule(timedelta(seconds=1))
    assert stopped.delete()
    assert finished.delete()
    with pytest.raises(JobDeleted):
        stopped.result(timeout=20)
    house.succeeded([finished.id])
    assert house.starts() == {stopped.id: 1, finished.id: 1}
    house.nothing_broken()


def test_an_enqueued_job_that_is_requeued_or_rescheduled_runs_once(house: House) -> None:
    house.here("coordinator")
    requeued, now, later = (house.jobs.work.enqueue() for _ in range(3))
    with pytest.raises(UsageError, match="already on its way"):
        requeued.requeue()
    now.reschedule(timedelta(0))
    later.reschedule(timedelta(seconds=2))
    due_at = house.row(later.id).due_at
    assert due_at is not None
    house.here("worker", concurrency=2)
    house.succeeded([requeued.id, now.id, later.id])
    gone_from_the_queue(house)
    assert house.starts() == {requeued.id: 1, now.id: 1, later.id: 1}
    assert next(mark.at for mark in house.marks("started") if mark.id == later.id) >= due_at
    house.nothing_broken()


def test_a_requeue_runs_an_ended_job_once_more_however_often_the_message_comes(house: House) -> None:
    house.here("coordinator", "worker", concurrency=2)
    receipt = house.jobs.work.enqueue()
    house.succeeded([receipt.id])
    command = eventually(lambda: requeue_raw(house, receipt.id))
    eventually(lambda: house.starts()[receipt.id] == 2)
    house.succeeded([receipt.id])
    command()
    eventually(lambda: house.vhost.queue(names.COMMAND)["messages"] <= 1)  # the coordinator's mark stays
    after = house.jobs.work.enqueue()
    house.succeeded([receipt.id, after.id])
    assert house.starts()[receipt.id] == 2
    assert house.row(receipt.id).epoch == 2


def requeue_raw(house: House, id: str) -> Callable[[], None]:
    body = f'{{"kind":"requeue","id":"a-command","at":{time.time()},"job_id":"{id}"}}'.encode()

    def send() -> None:
        house.vhost.publish_raw(names.REPORT, names.COMMAND_KEY, body)

    send()
    return send


def test_a_paused_queue_runs_nothing_until_it_is_resumed(house: House) -> None:
    house.here("coordinator")
    house.here("worker", concurrency=1)
    running = house.hold("running")
    eventually(lambda: house.starts()[running.id] == 1)
    prefetched = house.enqueue(10)
    eventually(lambda: house.vhost.queue(names.work_queue("default"))["messages_unacknowledged"] > 1)
    house.jobs.program.queues.pause("default")
    eventually(
        lambda: (
            any("returned: pause" in row.reason or row.returns for row in house.rows(prefetched).values())
            or any(
                "returned: pause" in reason for row in house.rows(prefetched).values() for _, _, reason in row.history
            )
        )
    )
    late = house.here("worker", concurrency=1)
    worker = late.program.worker
    assert worker is not None
    eventually(lambda: worker._revocations.paused == {"default"})
    more = house.enqueue(10)
    house.go("running")
    house.succeeded([running.id])
    time.sleep(1)  # that nothing runs can only be waited for
    assert house.starts() == {running.id: 1}
    assert all(row.attempt == 1 and row.crashes == 0 for row in house.rows(prefetched).values())
    house.jobs.program.queues.resume("default")
    house.succeeded(prefetched + more)
    assert set(house.starts().values()) == {1}
    house.nothing_broken()


def test_the_first_job_of_a_queue_nobody_declared_waits_for_its_worker(house: House) -> None:
    house.here("coordinator")
    ids = [house.jobs.work.using(queue="brand.new").enqueue().id for _ in range(5)]
    ids.append(house.jobs.work.using(queue="brand.new").schedule(timedelta(seconds=0.5)).id)
    eventually(lambda: house.vhost.ready(names.work_queue("brand.new")) == 6)
    assert house.store.reader.dead_letters() == []
    assert house.states(ids) == {"enqueued": 6}
    house.here("worker", concurrency=2, queues=("brand.new",))
    house.succeeded(ids)
    assert set(house.starts().values()) == {1}
    house.nothing_broken()


@pytest.mark.slow
def test_jobs_of_a_purged_queue_come_back_by_proof_and_run_once(house: House) -> None:
    coordinator = house.here("coordinator")
    ids = house.enqueue(20)
    eventually(lambda: house.states(ids) == {"enqueued": 20})
    house.broker.purge(names.work_queue("default"))
    with house.log_time_passes(40):
        eventually(lambda: {row.epoch for row in house.rows(ids).values()} == {2}, 40)
    assert house.vhost.ready(names.work_queue("default")) == 20
    house.here("worker", concurrency=2)
    house.succeeded(ids)
    assert set(house.starts().values()) == {1}
    assert coordinator.fatal == []
    house.nothing_broken()


def test_a_long_queue_is_not_lost(house: House) -> None:
    house.here("coordinator")
    ids = house.enqueue(20)
    eventually(lambda: house.states(ids) == {"enqueued": 20})
    with house.log_time_passes(100):
        eventually(lambda: house.store.reader.meta().log_time > 400, 40)
        time.sleep(6)  # the coordinator looks at depths every five seconds
    assert {row.epoch for row in house.rows(ids).values()} == {1}
    house.here("worker", concurrency=2)
    house.succeeded(ids)
    assert set(house.starts().values()) == {1}
