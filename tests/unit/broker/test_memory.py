"""The broker in memory: what it does not share with RabbitMQ. The shared rules are in tests/conformance."""

import threading
import time
from collections.abc import Iterator
from itertools import count

import pytest
from kombu.transport.memory import Channel

from broker_jobs.broker import names
from broker_jobs.broker.interface import Consumer, Delivery, Message, PublishFailure, Unconfirmed
from broker_jobs.broker.memory import MemoryBroker
from broker_jobs.broker.topology import WORK_DELIVERY_LIMIT, QueueSpec, Topology, fixed_topology, work_topology
from broker_jobs.clock import ManualClock
from broker_jobs.errors import BrokerError
from tests.support.consume import consume
from tests.support.wait import eventually

MAIL = names.work_queue("mail")


class Collector:
    """Collects deliveries and the numbers of ready and lost channels."""

    def __init__(self) -> None:
        self.got: list[Delivery] = []
        self.lists: list[int] = []
        self.lost: list[int] = []
        self.ready: list[int] = []

    def collect(self, deliveries: list[Delivery]) -> None:
        self.lists.append(len(deliveries))
        self.got.extend(deliveries)

    def bodies(self) -> list[bytes]:
        return [delivery.body for delivery in self.got]

    def await_bodies(self, *bodies: bytes) -> list[Delivery]:
        eventually(lambda: self.bodies() == list(bodies), what=f"deliveries {bodies}")
        return self.got


@pytest.fixture
def broker() -> Iterator[MemoryBroker]:
    broker = MemoryBroker()
    broker.start()
    broker.apply(fixed_topology())
    broker.apply(work_topology("mail"))
    yield broker
    broker.stop()


def to_mail(*bodies: bytes) -> list[Message]:
    return [Message(names.WORK, "mail", body) for body in bodies]


def send(broker: MemoryBroker, *messages: Message) -> list[PublishFailure | None]:
    return broker.publish(messages).result(30)


def idle(broker: MemoryBroker) -> None:
    """Wait until all earlier calls have run."""
    broker.depth(MAIL)


def test_every_property_arrives_as_sent(broker: MemoryBroker) -> None:
    collector = Collector()
    broker.subscribe([MAIL], collector.collect, prefetch=10)
    body = bytes(range(256))
    assert send(broker, Message(names.WORK, "mail", body, "job", "id-1", "answers", "c-1")) == [None]
    (got,) = collector.await_bodies(body)
    assert got[2:12] == (MAIL, body, False, names.WORK, "mail", "job", "id-1", "answers", "c-1", 0)


def test_messages_are_in_kombus_memory_until_stop(broker: MemoryBroker) -> None:
    before = {queue: waiting.qsize() for queue, waiting in Channel.queues.items()}
    send(broker, *to_mail(b"1", b"2"))
    mine = [queue for queue in Channel.queues if queue.endswith(f"/{MAIL}") and Channel.queues[queue].qsize() == 2]
    assert len(mine) == 1
    assert before[mine[0]] == 0
    prefix = mine[0].partition("/")[0]
    broker.stop()
    assert not [queue for queue in Channel.queues if queue.startswith(prefix)]


def test_brokers_without_a_name_are_separate(broker: MemoryBroker) -> None:
    other = MemoryBroker("memory://")
    other.start()
    other.apply(fixed_topology())
    other.apply(work_topology("mail"))
    send(broker, *to_mail(b"mine"))
    assert other.depth(MAIL) == (0, 0)
    other.stop()


def test_brokers_of_one_name_share_a_server_until_the_last_one_stops() -> None:
    one, two = MemoryBroker("memory://shared-in-this-test"), MemoryBroker("memory://shared-in-this-test")
    one.start()
    one.apply(Topology(queues=(QueueSpec("q"),)))
    two.start()
    send(one, Message("", "q", b"1"))
    one.stop()
    assert two.depth("q") == (1, 0)
    two.stop()
    one.start()
    assert one.depth("q") == (0, 0)  # declared again, and empty: memory is volatile
    one.stop()


def test_another_scheme_is_refused() -> None:
    with pytest.raises(BrokerError, match="memory://"):
        MemoryBroker("amqp://localhost")


def test_start_and_stop_may_be_repeated_and_leave_no_thread() -> None:
    threads = set(threading.enumerate())
    broker = MemoryBroker()
    broker.stop()
    broker.start()
    broker.start()
    assert [broker.connected] == [True]
    broker.stop()
    broker.stop()
    assert [broker.connected] == [False]
    assert set(threading.enumerate()) <= threads


def test_publishing_before_start_and_after_stop_is_not_sent() -> None:
    broker = MemoryBroker()
    for _ in range(2):
        (failure,) = broker.publish(to_mail(b"1")).result(0)
        assert failure is not None
        assert failure.kind is Unconfirmed.NOT_SENT
        broker.start()
        broker.stop()


def test_other_calls_before_start_are_refused() -> None:
    broker = MemoryBroker()
    with pytest.raises(BrokerError, match="not started"):
        broker.apply(fixed_topology())
    with pytest.raises(BrokerError, match="not started"):
        broker.subscribe([MAIL], lambda _: None, prefetch=1)


def test_a_queue_with_other_arguments_is_refused(broker: MemoryBroker) -> None:
    with pytest.raises(BrokerError, match="exists with other arguments"):
        broker.apply(Topology(queues=(QueueSpec(MAIL),)))


def test_a_confirm_arrives_on_another_thread(broker: MemoryBroker) -> None:
    seen: list[str] = []
    broker.block()
    future = broker.publish(to_mail(b"1"))
    future.add_done_callback(lambda _: seen.append(threading.current_thread().name))
    broker.unblock()
    assert future.result(30) == [None]
    idle(broker)
    assert seen
    assert "memory-broker" in seen[0]


def test_an_unroutable_message_is_not_sent_and_others_are(broker: MemoryBroker) -> None:
    results = send(broker, *to_mail(b"1"), Message("", "nowhere", b"2"), Message("no-exchange", "", b"3"))
    assert results[0] is None
    for failure in results[1:]:
        assert failure is not None
        assert failure.kind is Unconfirmed.NOT_SENT
        assert "no queue accepts it" in failure.reason
    assert broker.depth(MAIL) == (1, 0)


def test_delay_queues_accept_messages_and_keep_none(broker: MemoryBroker) -> None:
    assert send(broker, Message(names.OFFER, names.delay_key(5), b"later")) == [None]
    assert broker.depth(names.delay_queue(5)) == (0, 0)
    assert broker.depth(names.LOG) == (1, 0)


def test_requeued_messages_are_redelivered_first_flagged_and_counted(broker: MemoryBroker) -> None:
    send(broker, *to_mail(b"1", b"2", b"3"))
    collector = Collector()
    subscription = broker.subscribe([MAIL], collector.collect, prefetch=1)
    (first,) = collector.await_bodies(b"1")
    subscription.requeue(first.channel, first.tag)
    got = collector.await_bodies(b"1", b"1")
    assert (got[1].redelivered, got[1].delivery_count) == (True, 1)
    subscription.ack(got[1].channel, got[1].tag)
    assert not collector.await_bodies(b"1", b"1", b"2")[2].redelivered


def test_deliveries_of_a_closed_consumer_are_redelivered_in_order_before_the_rest(broker: MemoryBroker) -> None:
    send(broker, *to_mail(b"1", b"2", b"3", b"4", b"5"))
    collector, next_one = Collector(), Collector()
    subscription = broker.subscribe([MAIL], collector.collect, prefetch=4)
    got = collector.await_bodies(b"1", b"2", b"3", b"4")
    subscription.ack(got[1].channel, got[1].tag)
    subscription.close()
    broker.subscribe([MAIL], next_one.collect, prefetch=10)
    again = next_one.await_bodies(b"1", b"3", b"4", b"5")
    assert [delivery.redelivered for delivery in again] == [True, True, True, False]


def test_after_the_delivery_limit_a_message_goes_to_the_log(broker: MemoryBroker) -> None:
    log = Collector()
    broker.subscribe([names.LOG], log.collect, prefetch=10)
    collector = Collector()
    subscription = broker.subscribe([MAIL], collector.collect, prefetch=1)
    send(broker, Message(names.WORK, "mail", b"poison", "job", "id-1"))
    for returned in count():
        delivery = eventually(lambda n=returned: collector.got[n] if len(collector.got) > n else None)  # type: ignore[misc]
        assert delivery is not None
        assert delivery.delivery_count == returned
        subscription.requeue(delivery.channel, delivery.tag)
        if returned == WORK_DELIVERY_LIMIT:
            break
    (dead,) = log.await_bodies(b"poison")
    assert (dead.type, dead.message_id, dead.exchange, dead.redelivered) == ("job", "id-1", names.RETURNED, False)
    assert broker.depth(MAIL) == (0, 1)


def test_acknowledging_up_to_a_tag_frees_as_many_deliveries(broker: MemoryBroker) -> None:
    send(broker, *to_mail(b"1", b"2", b"3", b"4", b"5", b"6"))
    collector = Collector()
    subscription = broker.subscribe([MAIL], collector.collect, prefetch=3)
    got = collector.await_bodies(b"1", b"2", b"3")
    subscription.ack(got[1].channel, got[1].tag, multiple=True)
    collector.await_bodies(b"1", b"2", b"3", b"4", b"5")
    assert broker.depth(MAIL) == (1, 1)


def test_prefetch_can_grow_and_shrink(broker: MemoryBroker) -> None:
    send(broker, *to_mail(b"1", b"2", b"3", b"4"))
    collector = Collector()
    subscription = broker.subscribe([MAIL], collector.collect, prefetch=1)
    collector.await_bodies(b"1")
    subscription.set_prefetch(3)
    got = collector.await_bodies(b"1", b"2", b"3")
    subscription.set_prefetch(1)
    subscription.ack(got[1].channel, got[1].tag, multiple=True)
    idle(broker)
    assert len(collector.got) == 3
    subscription.ack(got[2].channel, got[2].tag)
    collector.await_bodies(b"1", b"2", b"3", b"4")


def test_a_paused_queue_is_not_consumed_and_another_is(broker: MemoryBroker) -> None:
    broker.apply(work_topology("other"))
    collector = Collector()
    subscription = broker.subscribe([MAIL, names.work_queue("other")], collector.collect, prefetch=5)
    subscription.pause(MAIL, paused=True)
    send(broker, *to_mail(b"1"), Message(names.WORK, "other", b"2"))
    collector.await_bodies(b"2")
    assert broker.depth(MAIL) == (1, 0)
    subscription.pause(MAIL, paused=False)
    collector.await_bodies(b"2", b"1")


def test_consumers_take_turns(broker: MemoryBroker) -> None:
    one, two = Collector(), Collector()
    broker.subscribe([MAIL], one.collect, prefetch=50)
    broker.subscribe([MAIL], two.collect, prefetch=50)
    send(broker, *to_mail(*[b"%d" % n for n in range(20)]))
    eventually(lambda: len(one.got) + len(two.got) == 20)
    assert len(one.got) == len(two.got) == 10


def test_one_consumer_of_the_log_is_active_until_it_closes(broker: MemoryBroker) -> None:
    one, two = Collector(), Collector()
    active = broker.subscribe([names.LOG], one.collect, prefetch=2)
    broker.subscribe([names.LOG], two.collect, prefetch=2)
    send(broker, *[Message(names.REPORT, names.LOG_KEY, b"%d" % n) for n in range(4)])
    got = one.await_bodies(b"0", b"1")
    idle(broker)
    assert two.got == []
    active.cancel()
    two.await_bodies(b"2", b"3")
    active.ack(got[0].channel, got[0].tag)  # what is out can still be acknowledged
    active.close()
    idle(broker)
    assert broker.depth(names.LOG) == (1, 1)


def test_a_queue_is_consumed_once_it_is_declared(broker: MemoryBroker) -> None:
    collector = Collector()
    broker.subscribe([names.work_queue("late")], collector.collect, prefetch=5, on_ready=collector.ready.append)
    idle(broker)
    assert collector.ready == []
    broker.apply(work_topology("late"))
    assert len(collector.ready) == 1
    send(broker, Message(names.WORK, "late", b"1"))
    collector.await_bodies(b"1")


def test_a_lost_connection_returns_deliveries_and_they_arrive_on_a_new_channel(broker: MemoryBroker) -> None:
    collector = Collector()
    subscription = broker.subscribe(
        [MAIL], collector.collect, prefetch=5, on_lost=collector.lost.append, on_ready=collector.ready.append
    )
    send(broker, *to_mail(b"1", b"2"))
    old = list(collector.await_bodies(b"1", b"2"))
    broker.lose_connections()
    got = collector.await_bodies(b"1", b"2", b"1", b"2")
    assert collector.lost == collector.ready[:1] == [old[0].channel]
    assert collector.ready[1:] == [got[2].channel]
    assert got[2].channel != old[0].channel
    subscription.ack(old[0].channel, old[1].tag, multiple=True)  # of the lost channel: ignored
    subscription.close()
    idle(broker)
    assert broker.depth(MAIL) == (2, 0)


def test_a_private_queue_keeps_its_name_after_a_loss_but_not_its_messages(broker: MemoryBroker) -> None:
    collector = Collector()
    name, subscription = broker.subscribe_private(
        collector.collect, bind_to=names.CONTROL, on_ready=collector.ready.append
    )
    send(broker, Message("", name, b"answer"), Message(names.CONTROL, "", b"news"))
    collector.await_bodies(b"answer", b"news")
    broker.lose_connections()
    send(broker, Message("", name, b"again"), Message(names.CONTROL, "", b"more"))
    collector.await_bodies(b"answer", b"news", b"again", b"more")
    assert len(collector.ready) == 2
    subscription.close()
    idle(broker)
    assert broker.depth(name) is None
    (failure,) = send(broker, Message("", name, b"late"))
    assert failure is not None


def test_during_an_alarm_publishes_wait_and_deliveries_go_on(broker: MemoryBroker) -> None:
    send(broker, *to_mail(b"1", b"2"))
    collector = Collector()
    broker.block()
    assert broker.blocked
    waiting = broker.publish(to_mail(b"3"))
    subscription = broker.subscribe([MAIL], collector.collect, prefetch=1)
    (first,) = collector.await_bodies(b"1")
    subscription.ack(first.channel, first.tag)
    collector.await_bodies(b"1", b"2")
    assert not waiting.done()
    broker.unblock()
    assert waiting.result(30) == [None]
    assert not broker.blocked


def test_a_publish_that_waits_too_long_is_not_sent() -> None:
    clock = ManualClock()
    broker = MemoryBroker(clock=clock)
    broker.start()
    broker.apply(fixed_topology())
    for wait in (broker.block, broker.disconnect):
        wait()
        future = broker.publish([Message(names.REPORT, names.LOG_KEY, b"1")], timeout=30)
        clock.advance(29)
        with pytest.raises(TimeoutError):
            future.result(0.2)
        clock.advance(1)
        (failure,) = future.result(30)
        assert failure is not None
        assert failure.kind is Unconfirmed.NOT_SENT
        broker.unblock()
    broker.reconnect()
    assert broker.depth(names.LOG) == (0, 0)
    broker.stop()


def test_stop_ends_waiting_publishes(broker: MemoryBroker) -> None:
    broker.block()
    future = broker.publish(to_mail(b"1"), timeout=600)
    broker.stop()
    (failure,) = future.result(30)
    assert failure is not None
    assert failure.kind is Unconfirmed.NOT_SENT


def test_a_disconnected_broker_raises(broker: MemoryBroker) -> None:
    broker.disconnect()
    assert not broker.connected
    with pytest.raises(BrokerError, match="not connected"):
        broker.depth(MAIL)
    waiting = broker.publish(to_mail(b"1"))
    broker.reconnect()
    assert waiting.result(30) == [None]
    assert broker.connected


@pytest.mark.parametrize(
    ("kind", "delivered", "arrives"),
    [(Unconfirmed.NOT_SENT, False, 1), (Unconfirmed.UNKNOWN, False, 1), (Unconfirmed.UNKNOWN, True, 2)],
)
def test_a_confirm_can_be_made_to_fail(broker: MemoryBroker, kind: Unconfirmed, delivered: bool, arrives: int) -> None:
    broker.fail_next(kind, delivered=delivered)
    failure, fine = send(broker, *to_mail(b"1", b"2"))
    assert failure is not None
    assert failure.kind is kind
    assert fine is None
    assert broker.depth(MAIL) == (arrives, 0)


def test_a_failing_callback_stops_no_other(broker: MemoryBroker, caplog: pytest.LogCaptureFixture) -> None:
    def fail(_: list[Delivery]) -> None:
        raise RuntimeError("a mistake in a callback")

    broken = broker.subscribe([MAIL], fail, prefetch=5)
    send(broker, *to_mail(b"1"))
    broken.close()
    collector = Collector()
    broker.subscribe([MAIL], collector.collect, prefetch=5)
    collector.await_bodies(b"1")
    text = "a callback of the broker in memory raised an error"
    eventually(lambda: text in caplog.text, what="it is logged")  # by a thread of its own


def test_purge_deletes_ready_messages_and_not_delivered_ones(broker: MemoryBroker) -> None:
    collector = Collector()
    send(broker, *to_mail(b"1", b"2", b"3"))
    subscription = broker.subscribe([MAIL], collector.collect, prefetch=1)
    collector.await_bodies(b"1")
    assert broker.purge(MAIL) == 2
    subscription.close()
    idle(broker)
    assert broker.depth(MAIL) == (1, 0)
    with pytest.raises(BrokerError, match="there is no queue 'nowhere'"):
        broker.purge("nowhere")
    assert broker.depth("nowhere") is None


def test_twenty_thousand_messages_go_through_in_order_in_seconds(broker: MemoryBroker) -> None:
    collector = Collector()

    def take(consumer: Consumer, deliveries: list[Delivery]) -> None:
        collector.collect(deliveries)
        consumer.ack(deliveries[-1].channel, deliveries[-1].tag, multiple=True)

    consume(broker, [MAIL], take, prefetch=1000)
    started = time.monotonic()
    futures = [broker.publish(to_mail(b"%d" % n)) for n in range(20_000)]
    eventually(lambda: len(collector.got) == 20_000, timeout=60)
    assert all(future.result(30) == [None] for future in futures)
    assert collector.bodies() == [b"%d" % n for n in range(20_000)]
    assert max(collector.lists) > 1
    assert time.monotonic() - started < 30


def test_many_threads_publish_and_nothing_is_lost(broker: MemoryBroker) -> None:
    collector = Collector()
    broker.subscribe([MAIL], collector.collect, prefetch=5000)

    def publish(name: int) -> None:
        for n in range(200):
            assert send(broker, *to_mail(b"%d/%d" % (name, n))) == [None]

    threads = [threading.Thread(target=publish, args=(name,)) for name in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    eventually(lambda: len(collector.got) == 1600)
    assert len(set(collector.bodies())) == 1600
    for name in range(8):
        mine = [body for body in collector.bodies() if body.startswith(b"%d/" % name)]
        assert mine == [b"%d/%d" % (name, n) for n in range(200)]
