"""What RabbitBroker does when the broker restarts, blocks, freezes, or the network does worse."""

import logging
import threading
import time
from collections.abc import Iterator

import pytest

from broker_jobs.broker import names
from broker_jobs.broker.interface import Consumer, Delivery, Message, PublishFailure, Unconfirmed
from broker_jobs.broker.rabbitmq import RabbitBroker
from broker_jobs.broker.topology import fixed_topology, work_topology
from tests.conformance.backends import Inbox, applied, confirmed, numbered, publish
from tests.support.consume import consume
from tests.support.proxy import TcpProxy
from tests.support.rabbitmq import Vhost
from tests.support.wait import eventually, while_it_moves

pytestmark = pytest.mark.rabbitmq

MAIL = names.work_queue("mail")


@pytest.fixture
def client(vhost: Vhost) -> Iterator[RabbitBroker]:
    made = RabbitBroker(vhost.url, name="outages")
    applied(made)
    yield made
    made.stop()


@pytest.fixture
def proxy(vhost: Vhost) -> Iterator[TcpProxy]:
    with TcpProxy(vhost.broker.amqp_port) as between:
        yield between


@pytest.fixture
def far(vhost: Vhost, proxy: TcpProxy) -> Iterator[RabbitBroker]:
    """A client that reaches RabbitMQ through the proxy."""
    made = RabbitBroker(vhost.url_through(proxy.port), name="far")
    applied(made)
    yield made
    proxy.behave()
    made.stop()


def kinds(results: list[PublishFailure | None]) -> set[Unconfirmed | None]:
    return {None if result is None else result.kind for result in results}


@pytest.mark.slow
@pytest.mark.parametrize("way", ["restart", "kill9"])
def test_every_confirmed_message_outlives_the_broker_and_publishing_goes_on(
    vhost: Vhost, client: RabbitBroker, way: str
) -> None:
    time.sleep(3)  # RabbitMQ 3.10 may lose a quorum queue that is younger than this when it is killed
    confirmed_ids: set[bytes] = set()
    stopped = threading.Event()

    def work() -> None:
        first = 0
        while not stopped.is_set():
            messages = numbered(names.WORK, "mail", 50, first)
            results = publish(client, *messages, timeout=30)
            confirmed_ids.update(m.body for m, result in zip(messages, results, strict=True) if result is None)
            first += 50

    thread = threading.Thread(target=work)
    thread.start()
    try:
        eventually(lambda: len(confirmed_ids) > 500, what="some are confirmed")
        if way == "restart":
            vhost.broker.restart()
        else:
            vhost.broker.kill9()
            vhost.broker.start()
        before = len(confirmed_ids)
        eventually(lambda: len(confirmed_ids) > before + 500, what="publishing goes on", timeout=30)
    finally:
        stopped.set()
        thread.join()
    inbox = Inbox()
    inbox.subscribe(client, MAIL, prefetch=65_535)
    eventually(lambda: confirmed_ids <= set(inbox.bodies()), what="all that was confirmed is there")


@pytest.mark.slow
def test_a_subscription_comes_back_after_a_restart_and_says_so_once(
    vhost: Vhost, client: RabbitBroker, caplog: pytest.LogCaptureFixture
) -> None:
    inbox, private = Inbox(), Inbox()
    with caplog.at_level(logging.INFO):
        subscription = inbox.subscribe(client, MAIL)
        name, _ = client.subscribe_private(private.on_deliveries, bind_to=names.CONTROL, on_ready=private.ready.append)
        eventually(lambda: private.ready, what="the private queue is there")
        confirmed(client, *numbered(names.WORK, "mail", 2))
        old = inbox.wait(2)[1]
        vhost.broker.restart()
        eventually(lambda: len(inbox.ready) == 2 and len(private.ready) == 2, what="both are back")
        eventually(lambda: client.connected, what="so is the connection to publish")
    assert client.reconnects == 2
    assert inbox.lost == inbox.ready[:1]
    came = inbox.wait(4)[2:]
    assert [(delivery.body, delivery.redelivered) for delivery in came] == [(b"0", True), (b"1", True)]
    assert {delivery.channel for delivery in came} == {inbox.ready[1]}
    subscription.ack(old.channel, old.tag, multiple=True)  # of a channel that is gone: must do nothing
    confirmed(client, Message("", name, b"same name"), Message(names.CONTROL, "", b"bound again"))
    eventually(lambda: private.bodies() == [b"same name", b"bound again"], what="the private queue works")
    assert len(inbox.deliveries) == 4
    lines = [record.getMessage() for record in caplog.records]
    assert sum("lost the connection" in line for line in lines) == 2, lines
    assert sum("reconnected to" in line for line in lines) == 2, lines
    assert not any("guest:guest" in line for line in lines)


@pytest.mark.slow
def test_what_waits_while_the_broker_is_down_is_sent_when_it_is_back(vhost: Vhost, client: RabbitBroker) -> None:
    vhost.broker.stop()
    eventually(lambda: not client.connected, what="the loss is seen")
    future = client.publish(numbered(names.WORK, "mail", 10), timeout=60)
    vhost.broker.start()
    assert future.result(60) == [None] * 10


@pytest.mark.slow
def test_what_waits_until_its_deadline_is_not_sent_and_does_not_arrive_later(
    vhost: Vhost, client: RabbitBroker
) -> None:
    vhost.broker.stop()
    eventually(lambda: not client.connected, what="the loss is seen")
    [result] = publish(client, Message(names.WORK, "mail", b"late"), timeout=0.3)
    assert result is not None
    assert result.kind is Unconfirmed.NOT_SENT
    assert result.reason.startswith("RabbitMQ at amqp://guest:***@127.0.0.1:")
    assert result.reason.endswith("did not answer in 0.3 s")
    vhost.broker.start()
    confirmed(client, Message(names.WORK, "mail", b"next"))
    assert vhost.drain(MAIL) == [b"next"]


def test_under_an_alarm_nothing_is_sent_once_the_broker_has_said_so(vhost: Vhost, client: RabbitBroker) -> None:
    inbox = Inbox()
    confirmed(client, *numbered(names.WORK, "bulk", 10))
    vhost.broker.alarm(memory=True)
    first = client.publish([Message(names.WORK, "mail", b"first")], timeout=1)
    eventually(lambda: client.blocked, what="blocked")
    results = publish(client, *numbered(names.WORK, "mail", 3), timeout=0.3)
    assert {result and (result.kind, result.reason) for result in results} == {
        (Unconfirmed.NOT_SENT, "RabbitMQ blocks publishing: memory or disk alarm")
    }
    assert kinds(first.result(5)) == {Unconfirmed.UNKNOWN}, "it was written before the broker said that it blocks"
    # The other connection goes on: taking, acknowledging, asking.
    subscription = inbox.subscribe(client, names.work_queue("bulk"), prefetch=1)
    for n in range(10):
        delivery = inbox.wait(n + 1)[n]
        subscription.ack(delivery.channel, delivery.tag)
    assert client.depth(MAIL) == (0, 0)
    waits = client.publish([Message(names.WORK, "mail", b"waits")], timeout=30)
    vhost.broker.alarm(memory=False)
    assert waits.result(30) == [None]
    assert not client.blocked
    assert vhost.drain(MAIL) == [b"first", b"waits"]


def test_stop_is_quick_though_the_broker_is_blocked(vhost: Vhost) -> None:
    client = RabbitBroker(vhost.url)
    applied(client)
    vhost.broker.alarm(memory=True)
    future = client.publish(numbered(names.WORK, "mail", 3), timeout=60)
    eventually(lambda: client.blocked, what="blocked")
    waits = client.publish(numbered(names.WORK, "mail", 3), timeout=60)
    started = time.monotonic()
    client.stop(timeout=0.2)
    assert time.monotonic() - started < 8
    assert kinds(future.result(0)) == {Unconfirmed.UNKNOWN}
    assert kinds(waits.result(0)) == {Unconfirmed.NOT_SENT}


def test_what_was_written_is_unknown_at_once_when_the_connection_breaks(far: RabbitBroker, proxy: TcpProxy) -> None:
    confirmed(far, *numbered(names.WORK, "mail", 1))
    proxy.cut_after(100_000)
    results = publish(far, *[Message(names.WORK, "mail", b"x" * 1_000, message_id=str(n)) for n in range(1_000)])
    # Those written when the line was cut are unknown; the others waited for the next connection.
    assert kinds(results) <= {None, Unconfirmed.UNKNOWN}
    unknown = [result for result in results if result is not None]
    assert unknown
    assert all("channel was lost" in result.reason for result in unknown)
    confirmed(far, *numbered(names.WORK, "mail", 1))


def test_a_broker_that_goes_silent_is_unknown_for_what_was_written_and_not_sent_for_the_rest(
    far: RabbitBroker, proxy: TcpProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("broker_jobs.broker.rabbitmq.publisher.WINDOW_MESSAGES", 20)
    proxy.half_open()
    results = publish(far, *numbered(names.WORK, "mail", 30), timeout=0.5)
    assert [result and result.kind for result in results] == [Unconfirmed.UNKNOWN] * 20 + [Unconfirmed.NOT_SENT] * 10


@pytest.mark.slow
def test_a_silent_connection_is_given_up_after_its_heartbeats(vhost: Vhost, proxy: TcpProxy) -> None:
    client = RabbitBroker(vhost.url_through(proxy.port), heartbeat=1)
    applied(client)
    inbox = Inbox()
    inbox.subscribe(client, MAIL)
    proxy.half_open()
    eventually(lambda: inbox.lost == inbox.ready[:1], what="the loss is seen")
    proxy.behave()
    eventually(lambda: len(inbox.ready) == 2 and client.connected, what="back")
    confirmed(client, Message(names.WORK, "mail", b"x"))
    client.stop()


def test_of_several_hosts_one_that_answers_is_enough(vhost: Vhost, proxy: TcpProxy) -> None:
    proxy.refuse()
    for _ in range(4):  # the order is random
        client = RabbitBroker(f"{vhost.url_through(proxy.port)}, {vhost.url}")
        client.start(60)
        assert client.connected
        client.stop()


def test_a_deleted_queue_is_a_loss_and_is_taken_again_when_it_is_back(vhost: Vhost, client: RabbitBroker) -> None:
    inbox = Inbox()
    subscription = inbox.subscribe(client, MAIL, names.work_queue("bulk"))
    confirmed(client, Message(names.WORK, "bulk", b"unsettled"))
    old = inbox.wait(1)[0]
    with vhost.channel() as channel:
        channel.queue_delete(MAIL)
    eventually(lambda: inbox.lost == inbox.ready[:1], what="the loss is seen")
    again = inbox.wait(2)[1]  # the channel is new: what was unacknowledged on the old one comes again
    assert (again.body, again.redelivered) == (b"unsettled", True)
    subscription.ack(old.channel, old.tag)
    subscription.ack(again.channel, again.tag)
    client.apply(work_topology("mail"))
    confirmed(client, Message(names.WORK, "mail", b"back"))
    assert inbox.wait(3)[2].body == b"back"


def test_what_was_declared_is_declared_again_on_a_broker_that_has_lost_it(vhost: Vhost, client: RabbitBroker) -> None:
    with vhost.channel() as channel:
        channel.queue_delete(names.DUE)
        channel.queue_delete(MAIL)
        channel.exchange_delete(names.SUBMIT)
    vhost.close_connections()
    eventually(lambda: client.reconnects == 2, what="both connections were lost and made again")
    confirmed(client, Message(names.SUBMIT, "mail", b"x"))
    assert vhost.drain(MAIL) == [b"x"]
    assert client.depth(names.DUE) == (0, 0)


@pytest.mark.slow
def test_an_errand_is_done_again_after_an_outage(vhost: Vhost, client: RabbitBroker) -> None:
    vhost.broker.stop()
    depths: list[tuple[int, int] | None] = []
    thread = threading.Thread(target=lambda: depths.append(client.depth(MAIL, timeout=60)))
    thread.start()
    vhost.broker.start()
    thread.join()
    assert depths == [(0, 0)]


@pytest.mark.slow
def test_a_step_of_the_delay_queues_rings_in_due(vhost: Vhost, client: RabbitBroker) -> None:
    inbox = Inbox()
    inbox.subscribe(client, names.DUE)
    started = time.monotonic()
    confirmed(client, Message(names.OFFER, names.delay_key(1), b"notice", "envelope", "id-1"))
    [notice] = inbox.wait(1)
    assert time.monotonic() - started >= 1.9
    assert (notice.body, notice.type, notice.message_id) == (b"notice", "envelope", "id-1")
    assert (notice.exchange, notice.dead_lettered) == (names.EXPIRED, True)


def test_the_whole_topology_is_accepted_with_the_limit_that_never_drops(vhost: Vhost, client: RabbitBroker) -> None:
    # Accepted on each version the suite runs on; that it means what it says shows in a record given back many times.
    confirmed(client, Message(names.REPORT, names.LOG_KEY, b"record"))
    inbox = Inbox()
    subscription = inbox.subscribe(client, names.LOG)
    for n in range(30):  # RabbitMQ 4's own limit would be 20
        delivery = inbox.wait(n + 1)[n]
        assert delivery.delivery_count == n
        subscription.requeue(delivery.channel, delivery.tag)
    inbox.wait(31)
    assert len(fixed_topology().queues) <= len(vhost.queues()) + 1


@pytest.mark.parametrize("change", ["lower", "pause", "cancel"])
def test_taking_less_returns_nothing_to_the_queue_though_acknowledgements_are_flowing(
    vhost: Vhost, client: RabbitBroker, change: str
) -> None:
    """What they let through is under way inside the node for as long as its disk takes."""
    confirmed(client, *numbered(names.WORK, "mail", 1_000))
    first, second = Inbox(), Inbox()

    def take(consumer: Consumer, deliveries: list[Delivery]) -> None:
        first.on_deliveries(deliveries)
        for delivery in deliveries:
            consumer.ack(delivery.channel, delivery.tag)

    subscription = consume(client, [MAIL], take, prefetch=20)
    eventually(lambda: len(first.deliveries) > 100)
    vhost.broker.slow_disk(0.2)
    match change:
        case "lower":
            subscription.set_prefetch(1)
        case "pause":
            subscription.pause(MAIL, paused=True)
        case _:
            subscription.cancel()
            eventually(lambda: not subscription.consuming, what="nothing comes any more")
    second.subscribe(client, MAIL, prefetch=1_000)
    while_it_moves(lambda: len(first.deliveries) + len(second.deliveries), lambda seen: seen >= 1_000, what="all")
    assert not any(delivery.redelivered for delivery in first.deliveries + second.deliveries)
