"""ReceivingConnection takes from bytes what pika takes from them, however they are cut, and leaves the rest to pika."""

from __future__ import annotations

from types import SimpleNamespace

import pika
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pika import frame, spec

from broker_jobs.broker.interface import Delivery
from broker_jobs.broker.rabbitmq import receiving
from broker_jobs.broker.rabbitmq.deliveries import ChannelDeliveries
from broker_jobs.broker.rabbitmq.io_loop import IoLoop
from tests.support.streams import Seen, Taking, connected, plain_pika

short = st.text(max_size=20)
maybe = st.none() | short | st.sampled_from([b"gr\xfc\xdfe", b"\xff" * 255, b"\xc3"])
"""pika sends bytes as they are, and hands out as bytes what is not UTF-8."""
any_properties = st.builds(
    pika.BasicProperties,
    content_type=maybe,
    content_encoding=maybe,
    headers=st.none() | st.dictionaries(st.sampled_from(["x-delivery-count", "x-death", "other"]), st.integers(0, 9)),
    delivery_mode=st.sampled_from([None, 1, 2]),
    priority=st.none() | st.integers(0, 9),
    correlation_id=maybe,
    reply_to=maybe,
    expiration=st.none() | st.sampled_from(["1500", "0", "never"]),
    message_id=maybe,
    timestamp=st.none() | st.integers(0, 2**40),
    type=maybe,
    user_id=maybe,
    app_id=maybe,
    cluster_id=maybe,
)


@st.composite
def delivery_bytes(draw: st.DrawFn) -> bytes:
    number, tag = draw(st.sampled_from([1, 2])), draw(st.sampled_from(["a", "a", "b", "unknown"]))
    bodies = draw(st.lists(st.binary(min_size=1, max_size=300), max_size=3))
    method = spec.Basic.Deliver(tag, draw(st.integers(1, 2**60)), draw(st.booleans()), draw(short), draw(short))
    head = frame.Method(number, method).marshal()
    head += frame.Header(number, sum(map(len, bodies)), draw(any_properties)).marshal()
    return head + b"".join(frame.Body(number, body).marshal() for body in bodies)


def not_utf8(number: int) -> bytes:
    good = (
        frame.Method(number, spec.Basic.Deliver("a", 5, False, "jobs", "KEY")).marshal().replace(b"KEY", b"K\xff\xfe")
    )
    return (
        good + frame.Header(number, 2, pika.BasicProperties(type="job")).marshal() + frame.Body(number, b"xy").marshal()
    )


pieces = st.lists(
    delivery_bytes()
    | st.sampled_from(
        [
            frame.Heartbeat().marshal(),
            frame.Method(1, spec.Basic.Ack(3, True)).marshal(),
            frame.Method(2, spec.Basic.QosOk()).marshal(),
            not_utf8(1),
        ]
    ),
    max_size=12,
)


@given(pieces=pieces, size=st.integers(1, 700), waiting=st.sampled_from([0, 100, 65_536]))
def test_all_deliveries_are_those_that_pika_reads(pieces: list[bytes], size: int, waiting: int) -> None:
    by_pika: Seen = []
    seen: Seen = []
    data = b"".join(pieces)
    reference = plain_pika(by_pika)
    reference.fed(data, size)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(receiving, "MOST_WAITING_BYTES", waiting)
        connection = connected(seen, receives=True)
        connection.fed(data, size)
    assert seen == by_pika
    assert [type(field) for _, _, delivery in seen for field in delivery] == [
        type(field) for _, _, delivery in by_pika for field in delivery
    ]
    assert connection.frames_received == reference.frames_received
    assert connection.bytes_received == reference.bytes_received == len(data)


def plain(tag: int, body: bytes = b"body") -> bytes:
    head = frame.Method(1, spec.Basic.Deliver("a", tag, False, "jobs", "key")).marshal()
    head += frame.Header(1, len(body), pika.BasicProperties(type="job", message_id="m")).marshal()
    return head + frame.Body(1, body).marshal()


def test_a_plain_delivery_is_not_read_by_pika(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: Seen = []
    connection = connected(seen, receives=True)
    monkeypatch.setattr(connection, "_read_frame", lambda: pytest.fail("pika reads it"))
    connection.fed(plain(1) + plain(2), 50)
    assert [delivery.tag for _, _, delivery in seen] == [1, 2]


def test_a_channel_that_is_lost_leaves_its_deliveries_to_pika() -> None:
    seen: Seen = []
    connection = connected(seen, receives=True)
    connection.receive_no_more(connection._channels[1])
    assert set(connection._receivers) == {2}
    connection.fed(plain(1), 4096)
    assert [delivery.channel for _, _, delivery in seen] == [7]


def test_an_error_of_who_takes_a_delivery_loses_no_other() -> None:
    seen: Seen = []
    connection = connected([], receives=True)

    def take(one: tuple[int, str, Delivery]) -> None:
        if one[2].tag == 2:
            raise ValueError("no")
        seen.append(one)

    connection.receive(connection._channels[1], Taking(7, take))
    with pytest.raises(ValueError, match="no"):
        connection.fed(plain(1) + plain(2) + plain(3), 4096)
    connection.fed(plain(4), 4096)
    assert [delivery.tag for _, _, delivery in seen] == [1, 3, 4]


@pytest.mark.parametrize("missing", ["_frame_buffer", "frames_received", "_transport"])
def test_pika_reads_everything_where_its_inside_is_another_one(missing: str) -> None:
    seen: Seen = []
    connection = connected([], receives=False)
    kept = getattr(connection, missing)
    delattr(connection, missing)
    connection.receive(connection._channels[1], Taking(7, seen.append))
    setattr(connection, missing, kept)
    assert bool(connection._receivers) == (missing == "_transport")


def test_much_is_read_at_once_from_the_socket_of_a_channel_that_asks_for_it() -> None:
    connection = connected([], receives=False)
    transport = SimpleNamespace(_MAX_RECV_BYTES=4096)
    connection._transport = transport
    connection.receive(connection._channels[1], Taking(7, lambda _: None))
    assert transport._MAX_RECV_BYTES == receiving.RECEIVE_BYTES


def test_a_large_delivery_is_kept_by_pika_frame_by_frame() -> None:
    seen: Seen = []
    connection = connected(seen, receives=True)
    large = bytes(range(256)) * 2_000
    head = frame.Method(1, spec.Basic.Deliver("a", 1, False, "jobs", "key")).marshal()
    head += frame.Header(1, len(large), pika.BasicProperties(type="job")).marshal()
    bodies = b"".join(frame.Body(1, large[at : at + 131_064]).marshal() for at in range(0, len(large), 131_064))
    connection.fed(head + bodies + plain(2), 65_536)
    assert [delivery.body for _, _, delivery in seen] == [large, b"body"]


def test_what_pika_reads_of_a_channel_that_is_lost_is_not_handed_on() -> None:
    handed_on: list[list[Delivery]] = []
    deliveries = ChannelDeliveries(IoLoop("unused"), 7, handed_on.append, needs_acks=True)
    read_by_pika = deliveries.add_consumer("aa", "a")
    deliveries.forget()
    method = spec.Basic.Deliver("a", 1, False, "jobs", "key")
    read_by_pika(None, method, pika.BasicProperties(), b"body")
    deliveries.hand_on()
    assert handed_on == []
    assert not deliveries.unacknowledged()
