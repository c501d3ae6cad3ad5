"""What becomes of jobs when RabbitMQ dies, closes connections, raises an alarm, or its word is lost on the way."""

import random
import threading
import time
from pathlib import Path

import pytest

from broker_jobs.broker import names
from broker_jobs.errors import EnqueueError
from broker_jobs.messages.state import State
from broker_jobs.producer.errors import EnqueueUnknown
from tests.support.proxy import TcpProxy
from tests.support.rabbitmq import Broker, Vhost
from tests.support.system import House
from tests.support.wait import eventually

pytestmark = pytest.mark.rabbitmq


class Load(threading.Thread):
    """Enqueues jobs until it is told to end; `confirmed` are those whose enqueue returned."""

    def __init__(self, house: House, seconds: float) -> None:
        super().__init__(name="load", daemon=True)
        self.confirmed: list[str] = []
        self.unknown: list[str] = []
        self.refused = 0
        self._house = house
        self._seconds = seconds
        self._stop_asked = threading.Event()

    def run(self) -> None:
        while not self._stop_asked.wait(0.005):
            try:
                self.confirmed.append(self._house.jobs.work.enqueue(self._seconds).id)
            except EnqueueUnknown as error:
                self.unknown.append(error.receipt.id)
            except EnqueueError:
                self.refused += 1

    def end(self) -> list[str]:
        """Stop; the ids that were confirmed."""
        self._stop_asked.set()
        self.join(60)
        assert not self.is_alive()
        return self.confirmed


@pytest.mark.slow
def test_closed_connections_under_load_lose_nothing_and_run_nothing_twice(house: House) -> None:
    house.here("coordinator")
    workers = [house.start("worker", concurrency=4, slot=str(n)) for n in range(2)]
    ids = house.enqueue(300, 0.05)
    load = Load(house, 0.02)
    load.start()
    eventually(lambda: {mark.pid for mark in house.marks("started")} >= {worker.pid for worker in workers}, 30)
    for _ in range(3):
        time.sleep(random.uniform(0.3, 0.8))
        assert house.vhost.close_connections() > 0
    time.sleep(0.5)
    ids += load.end()
    assert len(house.ended()) < len(ids), "not under load"
    house.runs_settled()
    with house.log_time_passes():
        house.succeeded(ids)
        house.succeeded(list(house.starts()))  # those too whose enqueue could not say
    assert set(house.starts().values()) == {1}
    assert any("returned" in reason for row in house.rows(ids).values() for _, _, reason in row.history)
    house.nothing_broken()


@pytest.mark.slow
def test_a_killed_broker_under_load_loses_nothing_and_runs_nothing_twice(house: House, broker: Broker) -> None:
    house.here("coordinator")
    workers = [house.start("worker", concurrency=4, slot=str(n)) for n in range(2)]
    for worker in workers:
        worker.said("takes jobs of")
    broker.settle()
    ids = house.enqueue(200, 0.05)
    load = Load(house, 0.02)
    load.start()
    eventually(lambda: len(house.ended()) > random.randrange(20, 100), 30)
    broker.kill9()
    time.sleep(random.uniform(0.0, 1.0))
    broker.start()
    count = len(load.confirmed)
    eventually(lambda: len(load.confirmed) > count + 20, 60)
    ids += load.end()
    house.runs_settled()
    with house.log_time_passes():
        house.succeeded(ids)
        house.succeeded(list(house.starts()))  # those too whose enqueue could not say
    assert set(house.starts().values()) == {1}
    house.nothing_broken()


def test_a_producer_that_repeats_what_it_was_not_told_of_runs_it_once(
    vhost: Vhost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BROKER_JOBS_PUBLISH_TIMEOUT", "3")
    with TcpProxy(vhost.broker.amqp_port) as proxy:
        house = House(vhost, tmp_path, url=vhost.url_through(proxy.port))
        try:
            first = house.jobs.work.enqueue()
            proxy.swallow()
            with pytest.raises(EnqueueUnknown) as caught:
                house.jobs.work.enqueue()
            unknown = caught.value.receipt
            assert eventually(lambda: vhost.ready(names.work_queue("default")) == 2), "it is in the queue all the same"
            proxy.behave()
            again = [eventually(lambda: repeated(house, unknown.id), 30) for _ in range(3)]
            assert again == [unknown.id] * 3
            house.here("coordinator", "worker", concurrency=2, url=vhost.url)
            house.succeeded([first.id, unknown.id])
            with house.log_time_passes():
                eventually(lambda: house.store.reader.meta().log_time > 30)
            assert house.starts() == {first.id: 1, unknown.id: 1}
            house.nothing_broken()
        finally:
            house.close()


def test_a_repeat_whose_first_message_never_came_runs_once(house: House) -> None:
    house.here("coordinator", "worker", concurrency=2)
    lost = "0190a000-0000-7000-8000-000000000001"
    for _ in range(3):
        house.jobs.work.using(id=lost).enqueue()
    row = house.is_in(lost, State.SCHEDULED)
    assert row.reason_code == "repeat"
    with house.log_time_passes():
        house.succeeded([lost])
    assert house.starts() == {lost: 1}


def repeated(house: House, id: str) -> str:
    try:
        return house.jobs.work.using(id=id).enqueue().id
    except EnqueueError:
        return ""


def test_an_alarm_while_work_goes_on_stops_nothing_for_good(house: House, broker: Broker) -> None:
    house.here("coordinator", concurrency=4)
    house.start("worker", concurrency=4, slot="1").said("takes jobs of")
    ids = house.enqueue(200, 0.02)
    stumbling = [house.jobs.stumble.enqueue(2).id for _ in range(20)]
    eventually(lambda: len(house.ended()) > 20, 30)
    broker.alarm(memory=True)
    log_drained(house)
    broker.alarm(memory=False)
    house.succeeded(ids + stumbling)
    assert {house.starts()[id] for id in ids} == {1}
    assert {house.starts()[id] for id in stumbling} == {3}
    house.nothing_broken()


def test_the_log_is_drained_while_releases_are_blocked(house: House, broker: Broker) -> None:
    """The deadlock of a coordinator that acknowledges only after its releases are confirmed."""
    ids = [house.jobs.work.using(id=f"own-{n}").enqueue().id for n in range(500)]
    broker.alarm(memory=True)
    house.here("coordinator")
    log_drained(house)
    eventually(lambda: len(house.rows(ids)) == len(ids), 20)
    assert house.starts() == {}
    broker.alarm(memory=False)
    house.here("worker", concurrency=4)
    with house.log_time_passes():
        house.succeeded(ids)
    assert set(house.starts().values()) == {1}
    house.nothing_broken()


def test_an_enqueue_under_an_alarm_ends_in_time_and_comes_through_when_it_is_over(
    house: House, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BROKER_JOBS_PUBLISH_TIMEOUT", "3")
    first = house.jobs.work.enqueue()
    broker.alarm(memory=True)
    for _ in range(2):  # the first one may be on its way before RabbitMQ says that it is blocked
        began = time.monotonic()
        with pytest.raises(EnqueueError):
            house.jobs.work.enqueue()
        assert time.monotonic() - began < 6
    broker.alarm(memory=False)
    second = eventually(lambda: enqueued(house), 30)
    house.here("coordinator", "worker", concurrency=2)
    house.succeeded([first.id, second])
    assert set(house.starts().values()) == {1}


def enqueued(house: House) -> str:
    try:
        return house.jobs.work.enqueue().id
    except EnqueueError:
        return ""


def log_drained(house: House) -> None:
    def drained() -> bool:
        queue = house.vhost.queue(names.LOG)
        assert queue["messages"] == 0, queue["messages"]
        return True

    eventually(drained, 20)
