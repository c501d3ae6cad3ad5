"""What both brokers must do, RabbitMQ and the one in memory."""

import threading
import time
from collections.abc import Iterator

import pytest

from broker_jobs.broker import names
from broker_jobs.broker.interface import Broker, Delivery, Message, Unconfirmed
from broker_jobs.broker.topology import WORK_DELIVERY_LIMIT, fixed_topology, work_topology
from broker_jobs.errors import BrokerError
from tests.conformance.backends import Backend, Inbox, MemoryBackend, RabbitBackend, confirmed, numbered, publish
from tests.support.wait import eventually

MAIL = names.work_queue("mail")
BULK = names.work_queue("bulk")


@pytest.fixture(params=[pytest.param("rabbitmq", marks=pytest.mark.rabbitmq), "memory"])
def backend(request: pytest.FixtureRequest) -> Iterator[Backend]:
    chosen: Backend
    chosen = RabbitBackend(request.getfixturevalue("vhost")) if request.param == "rabbitmq" else MemoryBackend()
    yield chosen
    chosen.close()


# --- publishing and routing ---


def test_messages_of_one_call_arrive_in_their_order_and_whole(backend: Backend) -> None:
    broker, inbox = backend.broker(), Inbox()
    message = Message(names.SUBMIT, "mail", '{"ü":1}'.encode(), "envelope", "id-1", "reply.here", "question-1")
    confirmed(broker, message, *numbered(names.SUBMIT, "mail", 200))
    inbox.subscribe(broker, MAIL, prefetch=500)
    first, *others = inbox.wait(201)
    assert first[2:12] == (
        MAIL, message.body, False, names.SUBMIT, "mail", "envelope", "id-1", "reply.here", "question-1", 0
    )  # fmt: skip
    assert [delivery.body for delivery in others] == [b"%d" % n for n in range(200)]


def test_a_submitted_message_reaches_its_work_queue_and_the_log(backend: Backend) -> None:
    broker = backend.broker()
    confirmed(broker, *numbered(names.SUBMIT, "mail", 3))
    assert broker.depth(MAIL) == (3, 0)
    assert broker.depth(names.LOG) == (3, 0)
    assert broker.depth(BULK) == (0, 0)


def test_a_release_reaches_its_work_queue_alone(backend: Backend) -> None:
    broker = backend.broker()
    confirmed(broker, *numbered(names.WORK, "mail", 3))
    assert broker.depth(MAIL) == (3, 0)
    assert broker.depth(names.LOG) == (0, 0)


@pytest.mark.parametrize("entrance", [names.SUBMIT, names.WORK])
def test_a_message_for_a_queue_that_does_not_exist_is_dead_lettered(backend: Backend, entrance: str) -> None:
    broker, inbox = backend.broker(), Inbox()
    confirmed(broker, Message(entrance, "nobody", b"x"))
    inbox.subscribe(broker, names.DEAD_LETTERS)
    [dead_letters] = inbox.wait(1)
    assert (dead_letters.body, dead_letters.exchange, dead_letters.key) == (b"x", entrance, "nobody")


def test_reports_and_commands_reach_their_queues(backend: Backend) -> None:
    broker = backend.broker()
    confirmed(
        broker, Message(names.REPORT, names.LOG_KEY, b"event"), Message(names.REPORT, names.COMMAND_KEY, b"delete")
    )
    assert broker.depth(names.LOG) == (1, 0)
    assert broker.depth(names.COMMAND) == (1, 0)


def test_the_log_sees_a_new_delayed_message_and_not_its_later_hops(backend: Backend) -> None:
    broker, inbox = backend.broker(), Inbox()
    confirmed(
        broker,
        Message(names.OFFER, names.delay_key(20), b"new"),
        Message(names.DELAY, names.delay_key(20), b"again"),
    )
    inbox.subscribe(broker, names.LOG)
    inbox.wait(1)
    confirmed(broker, Message(names.REPORT, names.LOG_KEY, b"last"))
    inbox.wait(2)
    assert inbox.bodies() == [b"new", b"last"]


def test_an_unroutable_message_is_not_sent_and_its_neighbours_are(backend: Backend) -> None:
    broker = backend.broker()
    results = publish(
        broker,
        Message("", MAIL, b"a", message_id="a"),
        Message("", "nobody", b"b", message_id="b"),
        Message(names.REPORT, "no such key", b"c", message_id="c"),
        Message("", MAIL, b"d", message_id="d"),
        Message("", "nobody", b"b", message_id="b"),
    )
    assert [result and result.kind for result in results] == [
        None, Unconfirmed.NOT_SENT, Unconfirmed.NOT_SENT, None, Unconfirmed.NOT_SENT
    ]  # fmt: skip
    assert broker.depth(MAIL) == (2, 0)


def test_a_message_for_an_exchange_that_does_not_exist_fails_and_later_ones_are_sent(backend: Backend) -> None:
    broker = backend.broker()
    [result] = publish(broker, Message("no.such.exchange", "k", b"x"))
    assert result is not None
    assert "no.such.exchange" in result.reason
    confirmed(broker, Message("", MAIL, b"after"))


def test_nothing_published_is_an_empty_list(backend: Backend) -> None:
    assert backend.broker().publish([]).result(1) == []


def test_a_publish_before_start_or_after_stop_is_not_sent(backend: Backend) -> None:
    broker = backend.broker()
    broker.stop()
    broker.stop()
    [result] = publish(broker, Message("", MAIL, b"x"))
    assert result is not None
    assert result.kind is Unconfirmed.NOT_SENT


def test_stop_waits_for_publishes(backend: Backend) -> None:
    broker, other = backend.broker(), backend.broker()
    future = broker.publish(numbered(names.WORK, "mail", 2_000))
    broker.stop(timeout=10)
    assert future.result(0) == [None] * 2_000
    assert other.depth(MAIL) == (2_000, 0)


def test_many_threads_may_publish_at_once(backend: Backend) -> None:
    broker, inbox = backend.broker(), Inbox()

    def work(first: int) -> None:
        for n in range(first, first + 100, 10):
            confirmed(broker, *numbered(names.WORK, "mail", 10, n))

    threads = [threading.Thread(target=work, args=(first,)) for first in range(0, 400, 100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    inbox.subscribe(broker, MAIL, prefetch=500)
    inbox.wait(400)
    assert sorted(int(body) for body in inbox.bodies()) == list(range(400))


# --- consuming and acknowledging ---


def test_no_more_than_the_prefetch_is_unacknowledged_for_each_queue(backend: Backend) -> None:
    broker, inbox = backend.broker(), Inbox()
    confirmed(broker, *numbered(names.WORK, "mail", 10), *numbered(names.WORK, "bulk", 10))
    consumer = inbox.subscribe(broker, MAIL, BULK, prefetch=3)
    inbox.wait(6)
    assert broker.depth(MAIL) == (7, 1)
    assert broker.depth(BULK) == (7, 1)
    first = next(delivery for delivery in inbox.deliveries if delivery.queue == MAIL)
    consumer.ack(first.channel, first.tag)
    inbox.wait(7)
    assert broker.depth(MAIL) == (6, 1)
    assert len(inbox.deliveries) == 7


def test_the_prefetch_of_a_consumer_can_be_raised_and_lowered(backend: Backend) -> None:
    broker, inbox = backend.broker(), Inbox()
    confirmed(broker, *numbered(names.WORK, "mail", 100))
    consumer = inbox.subscribe(broker, MAIL, prefetch=4)
    inbox.wait(4)
    consumer.set_prefetch(10)
    out = inbox.wait(10)
    eventually(lambda: _ready(broker, MAIL) == 90, what="90 ready, 10 out")
    consumer.set_prefetch(2)
    acked = 0

    def two_out() -> bool:
        nonlocal acked
        if len(inbox.deliveries) - acked > 2:
            for delivery in inbox.deliveries[acked:]:
                consumer.ack(delivery.channel, delivery.tag)
                acked += 1
        return len(inbox.deliveries) - acked == 2 and _ready(broker, MAIL) == 100 - len(inbox.deliveries)

    eventually(two_out, what="2 out, once what was out before is acknowledged")
    assert out[-1].body == b"9"
    assert sorted(int(body) for body in inbox.bodies()) == list(range(len(inbox.deliveries)))


def test_each_queue_may_have_a_prefetch_of_its_own(backend: Backend) -> None:
    broker, inbox = backend.broker(), Inbox()
    confirmed(broker, *numbered(names.WORK, "mail", 10), *numbered(names.WORK, "bulk", 10))
    consumer = broker.subscribe(
        [MAIL, BULK], inbox.on_deliveries, prefetch={MAIL: 4, BULK: 1}, on_ready=inbox.ready.append
    )
    inbox.wait(5)
    eventually(lambda: (_ready(broker, MAIL), _ready(broker, BULK)) == (6, 9))
    consumer.set_prefetch({BULK: 3})
    inbox.wait(7)
    eventually(lambda: (_ready(broker, MAIL), _ready(broker, BULK)) == (6, 7))


def test_what_came_before_a_pause_does_not_count_after_it(backend: Backend) -> None:
    broker, inbox = backend.broker(), Inbox()
    confirmed(broker, *numbered(names.WORK, "mail", 10))
    consumer = inbox.subscribe(broker, MAIL, prefetch=3)
    first = inbox.wait(3)
    consumer.pause(MAIL, paused=True)
    consumer.set_prefetch({MAIL: 1})
    consumer.pause(MAIL, paused=False)
    inbox.wait(4)
    for delivery in first:
        consumer.ack(delivery.channel, delivery.tag)
    eventually(lambda: _ready(broker, MAIL) == 6)
    consumer.ack(inbox.deliveries[3].channel, inbox.deliveries[3].tag)
    inbox.wait(5)
    eventually(lambda: _ready(broker, MAIL) == 5)


def test_a_consumer_is_given_another_queue_while_it_consumes(backend: Backend) -> None:
    broker, inbox = backend.broker(), Inbox()
    confirmed(broker, *numbered(names.WORK, "mail", 1), *numbered(names.WORK, "bulk", 3))
    consumer = inbox.subscribe(broker, MAIL, prefetch=2)
    inbox.wait(1)
    consumer.set_prefetch({BULK: 2})
    consumer.pause(BULK, paused=False)
    inbox.wait(3)
    assert sorted(delivery.queue for delivery in inbox.deliveries) == [BULK, BULK, MAIL]


def test_one_ack_may_acknowledge_all_deliveries_up_to_it(backend: Backend) -> None:
    broker, inbox = backend.broker(), Inbox()
    confirmed(broker, *numbered(names.WORK, "mail", 10))
    consumer = inbox.subscribe(broker, MAIL)
    eighth = inbox.wait(10)[7]
    consumer.ack(eighth.channel, eighth.tag, multiple=True)
    consumer.close()
    again = Inbox()
    again.subscribe(broker, MAIL)
    again.wait(2)
    assert again.bodies() == [b"8", b"9"]


def test_unacknowledged_deliveries_of_a_closed_consumer_are_redelivered_first(backend: Backend) -> None:
    broker, inbox, other = backend.broker(), Inbox(), Inbox()
    confirmed(broker, *numbered(names.WORK, "mail", 10))
    consumer = inbox.subscribe(broker, MAIL, prefetch=3)
    inbox.wait(3)
    consumer.close()
    eventually(lambda: _ready(broker, MAIL) == 10, what="all ready again")
    other.subscribe(broker, MAIL)
    came = other.wait(10)
    assert [delivery.body for delivery in came] == [b"%d" % n for n in range(10)]
    assert [delivery.redelivered for delivery in came] == [True] * 3 + [False] * 7
    assert [delivery.delivery_count for delivery in came] == [1] * 3 + [0] * 7
    assert inbox.lost == []


def test_a_requeued_delivery_is_redelivered_before_the_others(backend: Backend) -> None:
    broker, inbox = backend.broker(), Inbox()
    confirmed(broker, *numbered(names.WORK, "mail", 3))
    consumer = inbox.subscribe(broker, MAIL, prefetch=1)
    [first] = inbox.wait(1)
    consumer.requeue(first.channel, first.tag)
    again = inbox.wait(2)[1]
    assert (again.body, again.redelivered, again.delivery_count) == (b"0", True, 1)


def test_an_ack_for_a_lost_channel_does_nothing(backend: Backend) -> None:
    broker, inbox, other = backend.broker(), Inbox(), Inbox()
    confirmed(broker, *numbered(names.WORK, "mail", 2))
    old = inbox.subscribe(broker, MAIL)
    stale = inbox.wait(2)[1]
    old.close()
    old.ack(stale.channel, stale.tag, multiple=True)
    new = other.subscribe(broker, MAIL)
    other.wait(2)
    new.ack(stale.channel, stale.tag, multiple=True)
    new.requeue(stale.channel, stale.tag)
    new.close()
    eventually(lambda: _ready(broker, MAIL) == 2, what="both ready again")
    assert inbox.ready != other.ready, "channel numbers are used once"


def test_a_cancelled_consumer_receives_no_more_and_can_still_acknowledge(backend: Backend) -> None:
    broker, inbox = backend.broker(), Inbox()
    confirmed(broker, *numbered(names.WORK, "mail", 5))
    consumer = inbox.subscribe(broker, MAIL, prefetch=2)
    out = inbox.wait(2)
    consumer.cancel()
    for delivery in out:
        consumer.ack(delivery.channel, delivery.tag)
    other = Inbox()
    other.subscribe(broker, MAIL)
    came = other.wait(3)
    assert [(delivery.body, delivery.redelivered) for delivery in came] == [(b"2", False), (b"3", False), (b"4", False)]
    consumer.close()
    assert len(inbox.deliveries) == 2
    assert _ready(broker, MAIL) == 0


def test_a_paused_queue_is_not_consumed_and_the_others_are(backend: Backend) -> None:
    broker, inbox = backend.broker(), Inbox()
    consumer = inbox.subscribe(broker, MAIL, BULK)
    eventually(lambda: broker.depth(BULK) == (0, 1), what="both consumed")
    consumer.pause(MAIL, paused=True)
    eventually(lambda: broker.depth(MAIL) == (0, 0), what="no consumer")
    confirmed(broker, Message(names.WORK, "mail", b"m"), Message(names.WORK, "bulk", b"b"))
    inbox.wait(1)
    assert inbox.bodies() == [b"b"]
    consumer.pause(MAIL, paused=False)
    inbox.wait(2)
    assert inbox.bodies() == [b"b", b"m"]


def test_a_queue_is_consumed_once_it_is_declared_and_the_others_at_once(backend: Backend) -> None:
    broker, inbox = backend.broker(), Inbox()
    inbox.subscribe(broker, MAIL, names.work_queue("later"))
    confirmed(broker, Message(names.WORK, "mail", b"m"))
    inbox.wait(1)
    broker.apply(work_topology("later"))
    confirmed(broker, Message(names.WORK, "later", b"l"))
    inbox.wait(2)
    assert inbox.bodies() == [b"m", b"l"]


def test_a_work_message_goes_to_the_log_at_the_delivery_limit(backend: Backend) -> None:
    broker, inbox, log = backend.broker(), Inbox(), Inbox()
    confirmed(broker, Message(names.WORK, "mail", b"poison", "envelope", "id-1"))
    consumer = inbox.subscribe(broker, MAIL)
    for n in range(WORK_DELIVERY_LIMIT + 1):
        delivery = inbox.wait(n + 1)[n]
        assert delivery.delivery_count == n
        consumer.requeue(delivery.channel, delivery.tag)
    log.subscribe(broker, names.LOG)
    [dead] = log.wait(1)
    assert (dead.body, dead.type, dead.message_id) == (b"poison", "envelope", "id-1")
    assert (dead.exchange, dead.dead_lettered) == (names.RETURNED, True)
    assert _ready(broker, MAIL) == 0
    assert len(inbox.deliveries) == WORK_DELIVERY_LIMIT + 1


def test_the_log_has_one_active_consumer_and_the_next_receives_all_that_is_unacknowledged_in_order(
    backend: Backend,
) -> None:
    one, two, first, second = backend.broker(), backend.broker(), Inbox(), Inbox()
    active = first.subscribe(one, names.LOG, prefetch=5)
    second.subscribe(two, names.LOG, prefetch=100)
    confirmed(one, *numbered(names.REPORT, names.LOG_KEY, 20))
    first.wait(5)
    assert second.deliveries == []
    active.close()
    second.wait(20)
    assert [(int(delivery.body), delivery.redelivered) for delivery in second.deliveries] == [
        (n, n < 5) for n in range(20)
    ]


def test_an_error_in_a_callback_does_not_end_the_consumer(backend: Backend) -> None:
    broker, inbox = backend.broker(), Inbox()

    def fail(deliveries: list[Delivery]) -> None:
        inbox.on_deliveries(deliveries)
        raise RuntimeError("an error of the callback")

    broker.subscribe([MAIL], fail, prefetch=10)
    confirmed(broker, Message(names.WORK, "mail", b"1"))
    inbox.wait(1)
    confirmed(broker, Message(names.WORK, "mail", b"2"))
    inbox.wait(2)


# --- who said what ---


def test_every_delivery_names_the_user_that_published_it_also_after_it_was_dead_lettered(backend: Backend) -> None:
    broker, inbox, log = backend.broker(), Inbox(), Inbox()
    confirmed(broker, Message(names.SUBMIT, "mail", b"job"))
    consumer = inbox.subscribe(broker, MAIL)
    [delivery] = inbox.wait(1)
    assert (delivery.user_id, delivery.dead_lettered) == (backend.user, False)
    for n in range(WORK_DELIVERY_LIMIT + 1):
        delivery = inbox.wait(n + 1)[n]
        consumer.requeue(delivery.channel, delivery.tag)
    log.subscribe(broker, names.LOG)
    assert {(each.exchange, each.user_id, each.dead_lettered) for each in log.wait(2)} == {
        (names.SUBMIT, backend.user, False), (names.RETURNED, backend.user, True)
    }  # fmt: skip


@pytest.mark.parametrize("exchange", [names.EXPIRED, names.RETURNED, names.UNROUTABLE])
def test_nobody_publishes_to_an_exchange_to_which_the_broker_moves_messages(backend: Backend, exchange: str) -> None:
    broker = backend.broker()
    [result] = publish(broker, Message(exchange, "mail", b"forged"))
    assert result is not None
    assert result.kind is Unconfirmed.NOT_SENT
    assert exchange in result.reason
    confirmed(broker, Message(names.SUBMIT, "mail", b"next"))


def test_a_message_with_an_expiration_is_dropped_when_it_is_over_and_tells_it(backend: Backend) -> None:
    broker, inbox = backend.broker(), Inbox()
    confirmed(broker, Message(names.OPERATE, names.COMMAND_KEY, b"old", expiration=0.2))
    confirmed(broker, Message(names.OPERATE, names.COMMAND_KEY, b"kept"))
    time.sleep(0.3)  # the time that it lives, and no event tells its end
    confirmed(broker, Message(names.OPERATE, names.COMMAND_KEY, b"lives", expiration=60.0))
    inbox.subscribe(broker, names.COMMAND)
    assert [(each.body, each.expiration) for each in inbox.wait(2)] == [(b"kept", None), (b"lives", 60.0)]


# --- private queues ---


def test_control_messages_reach_every_private_queue_bound_to_it(backend: Backend) -> None:
    one, two, first, second = backend.broker(), backend.broker(), Inbox(), Inbox()
    one.subscribe_private(first.on_deliveries, bind_to=names.CONTROL, on_ready=first.ready.append)
    two.subscribe_private(second.on_deliveries, bind_to=names.CONTROL, on_ready=second.ready.append)
    eventually(lambda: first.ready and second.ready, what="both ready")
    confirmed(one, Message(names.CONTROL, "", b"fences"))
    first.wait(1)
    second.wait(1)
    assert first.bodies() == second.bodies() == [b"fences"]


def test_a_reply_reaches_the_private_queue_named_in_reply_to(backend: Backend) -> None:
    client, answerer, answers, questions = backend.broker(), backend.broker(), Inbox(), Inbox()
    reply_to, consumer = client.subscribe_private(answers.on_deliveries, on_ready=answers.ready.append)
    eventually(lambda: answers.ready, what="ready")
    confirmed(client, Message(names.REPORT, names.COMMAND_KEY, b"?", reply_to=reply_to, correlation_id="q-1"))
    questions.subscribe(answerer, names.COMMAND)
    [question] = questions.wait(1)
    assert question.reply_to == reply_to
    confirmed(answerer, Message("", reply_to, b"!", correlation_id=question.correlation_id))
    [answer] = answers.wait(1)
    assert (answer.queue, answer.body, answer.correlation_id) == (reply_to, b"!", "q-1")
    consumer.close()

    def asker_is_gone() -> bool:
        [result] = publish(answerer, Message("", reply_to, b"late"))
        return result is not None and result.kind is Unconfirmed.NOT_SENT

    eventually(asker_is_gone, what="the private queue is gone, and the answerer is told")


# --- the rest ---


def test_apply_may_be_repeated(backend: Backend) -> None:
    broker = backend.broker()
    confirmed(broker, *numbered(names.SUBMIT, "mail", 1))
    broker.apply(fixed_topology())
    backend.broker().apply(work_topology("mail", "another"))
    assert broker.depth(MAIL) == (1, 0)
    assert broker.depth(names.work_queue("another")) == (0, 0)


def test_the_depth_of_a_queue_that_does_not_exist_is_none(backend: Backend) -> None:
    assert backend.broker().depth("no.such.queue") is None


def test_the_depth_counts_ready_messages_and_consumers(backend: Backend) -> None:
    broker, inbox = backend.broker(), Inbox()
    confirmed(broker, *numbered(names.WORK, "mail", 5))
    inbox.subscribe(broker, MAIL, prefetch=2)
    inbox.wait(2)
    assert broker.depth(MAIL) == (3, 1)


def test_purge_deletes_and_counts_ready_messages(backend: Backend) -> None:
    broker, inbox = backend.broker(), Inbox()
    confirmed(broker, *numbered(names.WORK, "mail", 5))
    consumer = inbox.subscribe(broker, MAIL, prefetch=2)
    inbox.wait(2)
    assert broker.purge(MAIL) == 3
    consumer.close()
    eventually(lambda: _ready(broker, MAIL) == 2, what="what was out is back")


def test_purging_a_queue_that_does_not_exist_raises(backend: Backend) -> None:
    with pytest.raises(BrokerError, match=r"no\.such\.queue"):
        backend.broker().purge("no.such.queue")


def test_start_may_be_repeated(backend: Backend) -> None:
    broker = backend.broker()
    broker.start()
    assert broker.connected
    assert not broker.blocked
    broker.stop()
    assert not broker.connected


def _ready(broker: Broker, queue: str) -> int:
    depth = broker.depth(queue)
    return -1 if depth is None else int(depth[0])
