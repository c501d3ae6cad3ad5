"""What is special about the exchange in memory; what it shares with RabbitMQ is in tests/conformance."""

import threading
import time
from collections.abc import Iterator
from itertools import count

import pytest
from kombu.transport.memory import Channel

from broker_jobs.broker import names
from broker_jobs.broker.interface import Delivery, Message, PublishFailure, Unconfirmed
from broker_jobs.broker.memory import MemoryBroker
from broker_jobs.broker.topology import WORK_DELIVERY_LIMIT, QueueSpec, Topology, fixed_topology, work_topology
from broker_jobs.clock import ManualClock
from broker_jobs.errors import BrokerError
from tests.support.wait import eventually

MAIL = names.work_queue("mail")


class Taker:
    """Collects deliveries, and what is told of channels."""

    def __init__(self) -> None:
        self.got: list[Delivery] = []
        self.lists: list[int] = []
        self.lost: list[int] = []
        self.ready: list[int] = []

    def take(self, deliveries: list[Delivery]) -> None:
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
    return broker.publish(messages).result(5)


def settled(broker: MemoryBroker) -> None:
    """Everything asked of the exchange before has been done."""
    broker.depth(MAIL)


def test_every_property_arrives_as_it_was_sent(broker: MemoryBroker) -> None:
    taker = Taker()
    broker.subscribe([MAIL], taker.take, prefetch=10)
    body = bytes(range(256))
    assert send(broker, Message(names.WORK, "mail", body, "job", "id-1", "answers", "c-1")) == [None]
    (got,) = taker.await_bodies(body)
    assert got[2:] == (MAIL, body, False, names.WORK, "mail", "job", "id-1", "answers", "c-1", 0)


def test_messages_wait_in_kombus_memory_and_are_gone_from_it_after_stop(broker: MemoryBroker) -> None:
    before = {queue: waiting.qsize() for queue, waiting in Channel.queues.items()}
    send(broker, *to_mail(b"1", b"2"))
    mine = [queue for queue in Channel.queues if queue.endswith(f"/{MAIL}") and Channel.queues[queue].qsize() == 2]
    assert len(mine) == 1
    assert before[mine[0]] == 0
    prefix = mine[0].partition("/")[0]
    broker.stop()
    assert not [queue for queue in Channel.queues if queue.startswith(prefix)]


def test_two_exchanges_without_a_name_do_not_meet(broker: MemoryBroker) -> None:
    other = MemoryBroker("memory://")
    other.start()
    other.apply(fixed_topology())
    other.apply(work_topology("mail"))
    send(broker, *to_mail(b"mine"))
    assert other.depth(MAIL) == (0, 0)
    other.stop()


def test_exchanges_of_one_name_share_a_broker_until_the_last_one_stops() -> None:
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


def test_start_and_stop_tolerate_twice_and_never_and_leave_no_thread() -> None:
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


def test_other_questions_before_start_are_refused() -> None:
    broker = MemoryBroker()
    with pytest.raises(BrokerError, match="not started"):
        broker.apply(fixed_topology())
    with pytest.raises(BrokerError, match="not started"):
        broker.subscribe([MAIL], lambda _: None, prefetch=1)


def test_a_queue_of_another_shape_is_explained(broker: MemoryBroker) -> None:
    with pytest.raises(BrokerError, match="exists with other arguments"):
        broker.apply(Topology(queues=(QueueSpec(MAIL),)))


def test_a_confirm_comes_on_another_thread(broker: MemoryBroker) -> None:
    seen: list[str] = []
    broker.block()
    future = broker.publish(to_mail(b"1"))
    future.add_done_callback(lambda _: seen.append(threading.current_thread().name))
    broker.unblock()
    assert future.result(5) == [None]
    settled(broker)
    assert seen
    assert "memory-broker" in seen[0]


def test_an_unroutable_message_is_not_sent_and_the_others_are(broker: MemoryBroker) -> None:
    results = send(broker, *to_mail(b"1"), Message("", "nowhere", b"2"), Message("no-exchange", "", b"3"))
    assert results[0] is None
    for failure in results[1:]:
        assert failure is not None
        assert failure.kind is Unconfirmed.NOT_SENT
        assert "no queue accepts it" in failure.reason
    assert broker.depth(MAIL) == (1, 0)


def test_the_delay_queues_takes_messages_and_keeps_none(broker: MemoryBroker) -> None:
    assert send(broker, Message(names.DELAY, names.delay_key(5, new=True), b"later")) == [None]
    assert broker.depth(names.delay_queue(5)) == (0, 0)
    assert broker.depth(names.LOG) == (1, 0)


def test_requeued_messages_come_back_first_flagged_and_counted(broker: MemoryBroker) -> None:
    send(broker, *to_mail(b"1", b"2", b"3"))
    taker = Taker()
    subscription = broker.subscribe([MAIL], taker.take, prefetch=1)
    (first,) = taker.await_bodies(b"1")
    subscription.requeue(first.channel, first.tag)
    got = taker.await_bodies(b"1", b"1")
    assert (got[1].redelivered, got[1].delivery_count) == (True, 1)
    subscription.ack(got[1].channel, got[1].tag)
    assert not taker.await_bodies(b"1", b"1", b"2")[2].redelivered


def test_what_a_closed_subscription_had_out_comes_back_in_order_before_the_rest(broker: MemoryBroker) -> None:
    send(broker, *to_mail(b"1", b"2", b"3", b"4", b"5"))
    taker, next_one = Taker(), Taker()
    subscription = broker.subscribe([MAIL], taker.take, prefetch=4)
    got = taker.await_bodies(b"1", b"2", b"3", b"4")
    subscription.ack(got[1].channel, got[1].tag)
    subscription.close()
    broker.subscribe([MAIL], next_one.take, prefetch=10)
    again = next_one.await_bodies(b"1", b"3", b"4", b"5")
    assert [delivery.redelivered for delivery in again] == [True, True, True, False]


def test_after_the_delivery_limit_a_message_goes_to_the_log(broker: MemoryBroker) -> None:
    log = Taker()
    broker.subscribe([names.LOG], log.take, prefetch=10)
    taker = Taker()
    subscription = broker.subscribe([MAIL], taker.take, prefetch=1)
    send(broker, Message(names.WORK, "mail", b"poison", "job", "id-1"))
    for returned in count():
        delivery = eventually(lambda n=returned: taker.got[n] if len(taker.got) > n else None)  # type: ignore[misc]
        assert delivery is not None
        assert delivery.delivery_count == returned
        subscription.requeue(delivery.channel, delivery.tag)
        if returned == WORK_DELIVERY_LIMIT:
            break
    (dead,) = log.await_bodies(b"poison")
    assert (dead.type, dead.message_id, dead.key, dead.redelivered) == ("job", "id-1", names.LOG, False)
    assert broker.depth(MAIL) == (0, 1)


def test_acknowledging_up_to_a_tag_makes_room_for_as_many(broker: MemoryBroker) -> None:
    send(broker, *to_mail(b"1", b"2", b"3", b"4", b"5", b"6"))
    taker = Taker()
    subscription = broker.subscribe([MAIL], taker.take, prefetch=3)
    got = taker.await_bodies(b"1", b"2", b"3")
    subscription.ack(got[1].channel, got[1].tag, multiple=True)
    taker.await_bodies(b"1", b"2", b"3", b"4", b"5")
    assert broker.depth(MAIL) == (1, 1)


def test_prefetch_can_grow_and_shrink(broker: MemoryBroker) -> None:
    send(broker, *to_mail(b"1", b"2", b"3", b"4"))
    taker = Taker()
    subscription = broker.subscribe([MAIL], taker.take, prefetch=1)
    taker.await_bodies(b"1")
    subscription.set_prefetch(3)
    got = taker.await_bodies(b"1", b"2", b"3")
    subscription.set_prefetch(1)
    subscription.ack(got[1].channel, got[1].tag, multiple=True)
    settled(broker)
    assert len(taker.got) == 3
    subscription.ack(got[2].channel, got[2].tag)
    taker.await_bodies(b"1", b"2", b"3", b"4")


def test_a_paused_queue_stays_where_it_is_and_another_goes_on(broker: MemoryBroker) -> None:
    broker.apply(work_topology("other"))
    taker = Taker()
    subscription = broker.subscribe([MAIL, names.work_queue("other")], taker.take, prefetch=5)
    subscription.pause(MAIL, paused=True)
    send(broker, *to_mail(b"1"), Message(names.WORK, "other", b"2"))
    taker.await_bodies(b"2")
    assert broker.depth(MAIL) == (1, 0)
    subscription.pause(MAIL, paused=False)
    taker.await_bodies(b"2", b"1")


def test_consumers_take_turns(broker: MemoryBroker) -> None:
    one, two = Taker(), Taker()
    broker.subscribe([MAIL], one.take, prefetch=50)
    broker.subscribe([MAIL], two.take, prefetch=50)
    send(broker, *to_mail(*[b"%d" % n for n in range(20)]))
    eventually(lambda: len(one.got) + len(two.got) == 20)
    assert len(one.got) == len(two.got) == 10


def test_of_several_consumers_of_the_log_one_is_active_until_it_goes(broker: MemoryBroker) -> None:
    one, two = Taker(), Taker()
    active = broker.subscribe([names.LOG], one.take, prefetch=2)
    broker.subscribe([names.LOG], two.take, prefetch=2)
    send(broker, *[Message(names.REPORT, names.LOG_KEY, b"%d" % n) for n in range(4)])
    got = one.await_bodies(b"0", b"1")
    settled(broker)
    assert two.got == []
    active.cancel()
    two.await_bodies(b"2", b"3")
    active.ack(got[0].channel, got[0].tag)  # what is out can still be acknowledged
    active.close()
    settled(broker)
    assert broker.depth(names.LOG) == (1, 1)


def test_a_queue_that_does_not_exist_is_waited_for(broker: MemoryBroker) -> None:
    taker = Taker()
    broker.subscribe([names.work_queue("late")], taker.take, prefetch=5, on_ready=taker.ready.append)
    settled(broker)
    assert taker.ready == []
    broker.apply(work_topology("late"))
    assert len(taker.ready) == 1
    send(broker, Message(names.WORK, "late", b"1"))
    taker.await_bodies(b"1")


def test_a_lost_connection_gives_back_what_was_out_on_a_new_channel(broker: MemoryBroker) -> None:
    taker = Taker()
    subscription = broker.subscribe(
        [MAIL], taker.take, prefetch=5, on_lost=taker.lost.append, on_ready=taker.ready.append
    )
    send(broker, *to_mail(b"1", b"2"))
    old = list(taker.await_bodies(b"1", b"2"))
    broker.lose_connections()
    got = taker.await_bodies(b"1", b"2", b"1", b"2")
    assert taker.lost == taker.ready[:1] == [old[0].channel]
    assert taker.ready[1:] == [got[2].channel]
    assert got[2].channel != old[0].channel
    subscription.ack(old[0].channel, old[1].tag, multiple=True)  # of the lost channel: ignored
    subscription.close()
    settled(broker)
    assert broker.depth(MAIL) == (2, 0)


def test_a_private_queue_keeps_its_name_over_a_loss_but_not_its_messages(broker: MemoryBroker) -> None:
    taker = Taker()
    name, subscription = broker.subscribe_private(taker.take, bind_to=names.CONTROL, on_ready=taker.ready.append)
    send(broker, Message("", name, b"answer"), Message(names.CONTROL, "", b"news"))
    taker.await_bodies(b"answer", b"news")
    broker.lose_connections()
    send(broker, Message("", name, b"again"), Message(names.CONTROL, "", b"more"))
    taker.await_bodies(b"answer", b"news", b"again", b"more")
    assert len(taker.ready) == 2
    subscription.close()
    settled(broker)
    assert broker.depth(name) is None
    (failure,) = send(broker, Message("", name, b"late"))
    assert failure is not None


def test_under_an_alarm_publishes_wait_and_deliveries_go_on(broker: MemoryBroker) -> None:
    send(broker, *to_mail(b"1", b"2"))
    taker = Taker()
    broker.block()
    assert broker.blocked
    waiting = broker.publish(to_mail(b"3"))
    subscription = broker.subscribe([MAIL], taker.take, prefetch=1)
    (first,) = taker.await_bodies(b"1")
    subscription.ack(first.channel, first.tag)
    taker.await_bodies(b"1", b"2")
    assert not waiting.done()
    broker.unblock()
    assert waiting.result(5) == [None]
    assert not broker.blocked


def test_a_publish_that_waits_too_long_was_not_sent() -> None:
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
        (failure,) = future.result(5)
        assert failure is not None
        assert failure.kind is Unconfirmed.NOT_SENT
        broker.unblock()
    broker.reconnect()
    assert broker.depth(names.LOG) == (0, 0)
    broker.stop()


def test_stop_ends_publishes_that_wait(broker: MemoryBroker) -> None:
    broker.block()
    future = broker.publish(to_mail(b"1"), timeout=600)
    broker.stop()
    (failure,) = future.result(5)
    assert failure is not None
    assert failure.kind is Unconfirmed.NOT_SENT


def test_a_disconnected_exchange_says_so(broker: MemoryBroker) -> None:
    broker.disconnect()
    assert not broker.connected
    with pytest.raises(BrokerError, match="not connected"):
        broker.depth(MAIL)
    waiting = broker.publish(to_mail(b"1"))
    broker.reconnect()
    assert waiting.result(5) == [None]
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


def test_a_failing_callback_stops_nobody(broker: MemoryBroker, caplog: pytest.LogCaptureFixture) -> None:
    def fail(_: list[Delivery]) -> None:
        raise RuntimeError("a mistake in a callback")

    broken = broker.subscribe([MAIL], fail, prefetch=5)
    send(broker, *to_mail(b"1"))
    broken.close()
    taker = Taker()
    broker.subscribe([MAIL], taker.take, prefetch=5)
    taker.await_bodies(b"1")
    assert "a callback of the broker in memory raised an error" in caplog.text


def test_purge_drops_what_is_ready_and_not_what_is_out(broker: MemoryBroker) -> None:
    taker = Taker()
    send(broker, *to_mail(b"1", b"2", b"3"))
    subscription = broker.subscribe([MAIL], taker.take, prefetch=1)
    taker.await_bodies(b"1")
    assert broker.purge(MAIL) == 2
    subscription.close()
    settled(broker)
    assert broker.depth(MAIL) == (1, 0)
    with pytest.raises(BrokerError, match="there is no queue 'nowhere'"):
        broker.purge("nowhere")
    assert broker.depth("nowhere") is None


def test_twenty_thousand_messages_go_through_in_order_in_seconds(broker: MemoryBroker) -> None:
    taker = Taker()

    def take(deliveries: list[Delivery]) -> None:
        taker.take(deliveries)
        subscription.ack(deliveries[-1].channel, deliveries[-1].tag, multiple=True)

    subscription = broker.subscribe([MAIL], take, prefetch=1000)
    started = time.monotonic()
    futures = [broker.publish(to_mail(b"%d" % n)) for n in range(20_000)]
    eventually(lambda: len(taker.got) == 20_000, timeout=60)
    assert all(future.result(5) == [None] for future in futures)
    assert taker.bodies() == [b"%d" % n for n in range(20_000)]
    assert max(taker.lists) > 1
    assert time.monotonic() - started < 30


def test_many_threads_publish_and_nothing_is_lost(broker: MemoryBroker) -> None:
    taker = Taker()
    broker.subscribe([MAIL], taker.take, prefetch=5000)

    def publish(name: int) -> None:
        for n in range(200):
            assert send(broker, *to_mail(b"%d/%d" % (name, n))) == [None]

    threads = [threading.Thread(target=publish, args=(name,)) for name in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    eventually(lambda: len(taker.got) == 1600)
    assert len(set(taker.bodies())) == 1600
    for name in range(8):
        mine = [body for body in taker.bodies() if body.startswith(b"%d/" % name)]
        assert mine == [b"%d/%d" % (name, n) for n in range(200)]
