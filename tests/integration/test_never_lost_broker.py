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
from tests.support.system import System
from tests.support.wait import eventually

pytestmark = pytest.mark.rabbitmq


class Load(threading.Thread):
    """Enqueues jobs until it is told to end; `confirmed` are those whose enqueue returned."""

    def __init__(self, system: System, seconds: float) -> None:
        super().__init__(name="load", daemon=True)
        self.confirmed: list[str] = []
        self.unknown: list[str] = []
        self.refused = 0
        self._system = system
        self._seconds = seconds
        self._stop_asked = threading.Event()

    def run(self) -> None:
        while not self._stop_asked.wait(0.005):
            try:
                self.confirmed.append(self._system.jobs.work.enqueue(self._seconds).id)
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
def test_closed_connections_under_load_lose_nothing_and_run_nothing_twice(system: System) -> None:
    system.here("coordinator")
    workers = [system.start("worker", concurrency=4, slot=str(n)) for n in range(2)]
    ids = system.enqueue(300, 0.05)
    load = Load(system, 0.02)
    load.start()
    eventually(lambda: {mark.pid for mark in system.marks("started")} >= {worker.pid for worker in workers}, 30)
    for _ in range(3):
        time.sleep(random.uniform(0.3, 0.8))
        assert system.vhost.close_connections() > 0
    time.sleep(0.5)
    ids += load.end()
    assert len(system.ended()) < len(ids), "not under load"
    system.runs_settled()
    with system.log_time_passes():
        system.succeeded(ids)
        system.succeeded(list(system.starts()))  # those too whose enqueue could not say
    assert set(system.starts().values()) == {1}
    assert any("may have run" in reason for row in system.rows(ids).values() for _, _, reason in row.history)
    system.nothing_broken()


@pytest.mark.slow
def test_a_killed_broker_under_load_loses_nothing_and_runs_nothing_twice(system: System, broker: Broker) -> None:
    system.here("coordinator")
    workers = [system.start("worker", concurrency=4, slot=str(n)) for n in range(2)]
    for worker in workers:
        worker.said("serves the queues")
    broker.wait_for_young_queues()
    ids = system.enqueue(200, 0.05)
    load = Load(system, 0.02)
    load.start()
    eventually(lambda: len(system.ended()) > random.randrange(20, 100), 30)
    broker.kill9()
    time.sleep(random.uniform(0.0, 1.0))
    broker.start()
    count = len(load.confirmed)
    eventually(lambda: len(load.confirmed) > count + 20, 60)
    ids += load.end()
    system.runs_settled()
    with system.log_time_passes():
        system.succeeded(ids)
        system.succeeded(list(system.starts()))  # those too whose enqueue could not say
    assert set(system.starts().values()) == {1}
    system.nothing_broken()


def test_a_producer_that_repeats_what_it_was_not_told_of_runs_it_once(
    vhost: Vhost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BROKER_JOBS_PUBLISH_TIMEOUT", "3")
    with TcpProxy(vhost.broker.amqp_port) as proxy:
        system = System(vhost, tmp_path, url=vhost.url_through(proxy.port))
        try:
            first = system.jobs.work.enqueue()
            proxy.swallow()
            with pytest.raises(EnqueueUnknown) as caught:
                system.jobs.work.enqueue()
            unknown = caught.value.receipt
            assert eventually(lambda: vhost.ready(names.work_queue("default")) == 2), "it is in the queue all the same"
            proxy.behave()
            again = [eventually(lambda: repeated(system, unknown.id), 30) for _ in range(3)]
            assert again == [unknown.id] * 3
            system.here("coordinator", "worker", concurrency=2, url=vhost.url)
            system.succeeded([first.id, unknown.id])
            with system.log_time_passes():
                eventually(lambda: system.store.reader.meta().log_time > 30)
            assert system.starts() == {first.id: 1, unknown.id: 1}
            system.nothing_broken()
        finally:
            system.close()


def test_a_repeat_whose_first_message_never_came_runs_once(system: System) -> None:
    system.here("coordinator", "worker", concurrency=2)
    lost = "0190a000-0000-7000-8000-000000000001"
    for _ in range(3):
        system.jobs.work.using(id=lost).enqueue()
    row = system.is_in(lost, State.SCHEDULED)
    assert row.reason_code == "repeat"
    with system.log_time_passes():
        system.succeeded([lost])
    assert system.starts() == {lost: 1}


def repeated(system: System, id: str) -> str:
    try:
        return system.jobs.work.using(id=id).enqueue().id
    except EnqueueError:
        return ""


def test_an_alarm_while_work_goes_on_stops_nothing_for_good(system: System, broker: Broker) -> None:
    system.here("coordinator", concurrency=4)
    system.start("worker", concurrency=4, slot="1").said("serves the queues")
    ids = system.enqueue(200, 0.02)
    stumbling = [system.jobs.stumble.enqueue(2).id for _ in range(20)]
    eventually(lambda: len(system.ended()) > 20, 30)
    broker.alarm(memory=True)
    log_drained(system)
    broker.alarm(memory=False)
    system.succeeded(ids + stumbling)
    assert {system.starts()[id] for id in ids} == {1}
    assert {system.starts()[id] for id in stumbling} == {3}
    system.nothing_broken()


def test_the_log_is_drained_while_releases_are_blocked(system: System, broker: Broker) -> None:
    """The deadlock of a coordinator that acknowledges only after its releases are confirmed."""
    ids = [system.jobs.work.using(id=f"own-{n}").enqueue().id for n in range(500)]
    broker.alarm(memory=True)
    system.here("coordinator")
    log_drained(system)
    eventually(lambda: len(system.rows(ids)) == len(ids), 20)
    assert system.starts() == {}
    broker.alarm(memory=False)
    system.here("worker", concurrency=4)
    with system.log_time_passes():
        system.succeeded(ids)
    assert set(system.starts().values()) == {1}
    system.nothing_broken()


def test_an_enqueue_under_an_alarm_ends_in_time_and_comes_through_when_it_is_over(
    system: System, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BROKER_JOBS_PUBLISH_TIMEOUT", "3")
    first = system.jobs.work.enqueue()
    broker.alarm(memory=True)
    for _ in range(2):  # the first one may be on its way before RabbitMQ says that it is blocked
        began = time.monotonic()
        with pytest.raises(EnqueueError):
            system.jobs.work.enqueue()
        assert time.monotonic() - began < 6
    broker.alarm(memory=False)
    second = eventually(lambda: enqueued(system), 30)
    system.here("coordinator", "worker", concurrency=2)
    system.succeeded([first.id, second])
    assert set(system.starts().values()) == {1}


def enqueued(system: System) -> str:
    try:
        return system.jobs.work.enqueue().id
    except EnqueueError:
        return ""


def log_drained(system: System) -> None:
    def drained() -> bool:
        queue = system.vhost.queue(names.LOG)
        assert queue["messages"] == 0, queue["messages"]
        return True

    eventually(drained, 20)
