"""A message is delivered whatever its properties are: as text, and with the headers that count, however it is cut."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import pika
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pika import exceptions, frame, spec

from broker_jobs.broker.interface import Delivery
from broker_jobs.broker.rabbitmq import receiving
from broker_jobs.broker.rabbitmq.properties import UNREADABLE, properties_of, read_properties
from tests.support.streams import Seen, connected, frames_of

LATIN = "grüße".encode("latin-1")
SHOWN = r"gr\xfc\xdfe"
TEXTS = {"reply_to", "correlation_id", "message_id", "type", "user_id"}
UNUSED = {"content_type", "content_encoding", "app_id", "cluster_id"}


def table(*pairs: tuple[bytes, bytes]) -> bytes:
    """The property list that has these headers alone."""
    pieces = b"".join(bytes([len(name)]) + name + value for name, value in pairs)
    return struct.pack(">HI", 0x2000, len(pieces)) + pieces


def encoded(**properties: Any) -> bytes:
    """A property list as a foreign client sends it: pika leaves bytes as they are."""
    return b"".join(pika.BasicProperties(**properties).encode())


def nested(depth: int, kind: bytes = b"A") -> bytes:
    """A list of a list of a list, or tables; of 100 KB at 20,000."""
    value = b"t\x01"
    for _ in range(depth):
        value = value if kind == b"A" else b"\x00" + value
        value = kind + struct.pack(">I", len(value)) + value
    return value


VALUES = {
    "a timestamp in milliseconds": b"T" + struct.pack(">Q", 1_764_285_000_000),
    "the last timestamp": b"T" + bytes([255] * 8),
    "lists, 20,000 deep": nested(20_000),
    "tables, 20,000 deep": nested(18_000, b"F"),
    "no number": b"d" + struct.pack(">d", float("nan")),
    "without end": b"f" + struct.pack(">f", float("inf")),
    "a decimal": b"D\xff\x7f\xff\xff\xff",
    "text that is not UTF-8": b"S\x00\x00\x00\x02\xff\xfe",
    "bytes": b"x\x00\x00\x00\x02\xff\xfe",
    "120 KB": b"S" + struct.pack(">I", 120_000) + b"\xfc" * 120_000,
    "nothing": b"V",
    "an empty list": b"A\x00\x00\x00\x00",
    "an empty table": b"F\x00\x00\x00\x00",
    "a list that ends within a value": b"A\x00\x00\x00\x02I\x00",
    **{f"the type {kind}": kind.encode() + bytes(size) for size, kinds in
       {1: "tbB", 2: "Uus", 4: "Ii", 8: "LldT"}.items() for kind in kinds},
}  # fmt: skip


@pytest.mark.parametrize("what", VALUES)
@pytest.mark.parametrize("name", [b"h", LATIN, b"", b"x" * 255])
def test_a_header_of_any_value_hides_no_other(what: str, name: bytes) -> None:
    raw = table(
        (b"x-delivery-count", b"l" + struct.pack(">q", 3)), (name, VALUES[what]), (b"x-death", b"A\x00\x00\x00\x00")
    )
    assert read_properties(raw, 0, len(raw)) == ("", "", None, None, 3, "", True, None)


@pytest.mark.parametrize(
    "value", [b"B\x05", b"b\x05", b"u\x00\x05", b"s\x00\x05", b"I\x00\x00\x00\x05", b"i\x00\x00\x00\x05"]
)
def test_the_delivery_count_is_any_whole_number(value: bytes) -> None:
    raw = table((b"x-delivery-count", value))
    assert read_properties(raw, 0, len(raw))[4] == 5


@pytest.mark.parametrize(
    "value", [b"S\x00\x00\x00\x01\x35", b"t\x01", b"V", b"A\x00\x00\x00\x00", b"T" + bytes([255] * 8)]
)
def test_a_delivery_count_that_is_no_number_is_none(value: bytes) -> None:
    raw = table((b"x-delivery-count", value))
    assert read_properties(raw, 0, len(raw))[4] == 0


@pytest.mark.parametrize("value", [b"?", b"S\xff\xff\xff\xff", b"S\x00", b"", b"l\x00"])
def test_a_table_ends_where_it_cannot_be_walked_and_what_follows_it_is_read(value: bytes) -> None:
    flags, rest = struct.pack(">H", 0x2020), b"\x03job"
    pairs = table((b"x-delivery-count", b"B\x03"), (b"h", value))[2:]
    raw = flags + pairs + rest
    assert read_properties(raw, 0, len(raw)) == ("job", "", None, None, 3, "", False, None)


@pytest.mark.parametrize("name", sorted(TEXTS | UNUSED | {"expiration"}))
@pytest.mark.parametrize("value", [LATIN, b"", b"\x00", b"\xff" * 255])
def test_every_text_is_text(name: str, value: bytes) -> None:
    known: dict[str, Any] = {"type": "job", "user_id": "me", "message_id": "m", "reply_to": "r", "correlation_id": "c"}
    raw = encoded(**(known | {name: value}), headers={"x-death": []}, timestamp=2**64 - 1)
    by_pika = pika.BasicProperties()
    by_pika.decode(raw)
    for read in (read_properties(raw, 0, len(raw)), properties_of(by_pika)):
        want = {**known, name: value.decode("utf-8", "backslashreplace")}
        texts = (want["type"], want["message_id"], want["reply_to"], want["correlation_id"])
        assert read == (*texts, 0, want["user_id"], True, None)


def test_text_that_is_not_utf8_can_be_read_and_two_of_it_differ() -> None:
    raw = encoded(type=LATIN)
    assert read_properties(raw, 0, len(raw))[0] == SHOWN
    assert read_properties(raw.replace(b"\xfc", b"\xe4"), 0, len(raw))[0] != SHOWN


def test_a_message_has_the_user_whom_rabbitmq_has_checked_whatever_its_flags_say() -> None:
    """RabbitMQ ignores the flag for more flags. pika obeys it: here it would find another user, in the type."""
    type_ = b"\x00\x01t\x05admin"
    raw = encoded(type=type_, user_id="me")
    flagged = struct.pack(">H", struct.unpack_from(">H", raw)[0] | 3) + raw[2:]
    by_pika = pika.BasicProperties()
    by_pika.decode(flagged)
    assert by_pika.user_id == "admin"
    read = read_properties(flagged, 0, len(flagged))
    assert read == read_properties(raw, 0, len(raw))
    assert read[5] == "me"


@given(raw=st.binary(max_size=200) | st.binary(max_size=80).map(lambda rest: b"\x20\x20\x00\x00\x00\x40" + rest))
@example(raw=b"\xff\xff" * 40)
def test_properties_that_are_none_raise_nothing(raw: bytes) -> None:
    for end in range(len(raw) + 1):
        read = read_properties(raw, 0, end)
        assert all(isinstance(each, str) for each in (read[0], read[1], read[5]))
        assert end >= 2 or read == UNREADABLE


property_lists = st.one_of(
    st.sampled_from([table((b"h", value)) for value in VALUES.values()]),
    st.sampled_from(sorted(TEXTS | UNUSED)).map(lambda name: encoded(**{name: LATIN})),
    st.binary(min_size=2, max_size=60),
    st.just(encoded(type="job", message_id="m")),
)
latin = st.sampled_from([b"jobs", LATIN, b"", b"\xff" * 255])


@st.composite
def hostile(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """A delivery, and its body."""
    bodies = draw(st.lists(st.binary(min_size=1, max_size=50), max_size=3))
    number, consumer = draw(st.sampled_from([1, 2])), draw(st.sampled_from("ab"))
    data = frames_of(number, consumer, 5, draw(property_lists), bodies, exchange=draw(latin), key=draw(latin))
    return data, b"".join(bodies)


@given(deliveries=st.lists(hostile(), max_size=6), size=st.integers(1, 400), waiting=st.sampled_from([0, 100, 65_536]))
def test_every_message_is_delivered_with_the_same_text_by_either_way(
    deliveries: list[tuple[bytes, bytes]], size: int, waiting: int
) -> None:
    data = b"".join(each for each, _ in deliveries)
    size = max(size, len(data) // 2_000)
    seen: list[Seen] = [[], [], []]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(receiving, "MOST_WAITING_BYTES", waiting)
        connected(seen[0], receives=True).fed(data, size)
        connected(seen[1], receives=False).fed(data, size + 1)
        connected(seen[2], receives=True).fed(data, len(data) or 1)
    assert seen[0] == seen[1] == seen[2]
    assert [delivery.body for _, _, delivery in seen[0]] == [body for _, body in deliveries]
    for _, _, one in seen[0]:
        assert {type(each) for each in (one.exchange, one.key, one.type, one.message_id, one.user_id)} == {str}
        assert {type(each) for each in (one.reply_to, one.correlation_id)} <= {str, type(None)}


@pytest.mark.parametrize("what", VALUES)
@pytest.mark.parametrize("receives", [True, False])
@pytest.mark.parametrize("bodies", [[], [b"body"], [b"bo", b"dy"]])
def test_a_delivery_is_read_wherever_it_is_cut(what: str, receives: bool, bodies: list[bytes]) -> None:
    data = frames_of(1, "a", 5, table((b"h", VALUES[what])), bodies, exchange=LATIN, key=LATIN)
    places = range(1, len(data)) if len(data) < 300 else [1, 7, 8, 40, 70, 1_000, len(data) - 20, len(data) - 1]
    for cut in places:
        seen: Seen = []
        connection = connected(seen, receives=receives)
        connection.fed(data[:cut], cut)
        connection.fed(data[cut:], len(data))
        want = Delivery(7, 5, "aa", b"".join(bodies), False, SHOWN, SHOWN, *UNREADABLE)
        assert seen == [(1, "a", want)]
        assert connection.bytes_received == len(data)
        assert connection.frames_received == 2 + len(bodies)


def latin_method(method: pika.amqp_object.Method) -> bytes:
    return frame.Method(1, method).marshal().replace(b"KEY", b"K\xff\xfe")


@pytest.mark.parametrize(
    ("method", "read"),
    [
        (spec.Channel.Close(404, "no KEY", 60, 40), lambda method: method.reply_text),
        (spec.Connection.Close(320, "no KEY", 0, 0), lambda method: method.reply_text),
        (spec.Connection.Blocked("no KEY"), lambda method: method.reason),
        (spec.Basic.Return(312, "no KEY", "KEY", "KEY"), lambda method: method.reply_text),
    ],
)
@pytest.mark.parametrize("receives", [True, False])
def test_what_the_broker_says_is_text(
    method: pika.amqp_object.Method, read: Callable[[object], str], receives: bool
) -> None:
    connection = connected([], receives=receives)
    connection._frame_buffer = latin_method(method)
    _, found = connection._read_frame()
    assert read(found.method) == r"no K\xff\xfe"


def test_bytes_that_pika_means_stay_bytes() -> None:
    connection = connected([], receives=False)
    connection._frame_buffer = frame.Method(0, spec.Connection.Start(0, 9, {}, "PLAIN", "en_US")).marshal()
    _, found = connection._read_frame()
    assert found.method.mechanisms == b"PLAIN"


def test_a_message_that_comes_back_is_read_too() -> None:
    connection = connected([], receives=False)
    returned: list[tuple[str, str, bytes]] = []
    connection._channels[1].add_on_return_callback(
        lambda _, method, properties, body: returned.append((method.routing_key, properties.message_id, body))
    )
    header = struct.pack(">HHQ", 60, 0, 2) + encoded(message_id="m")
    data = latin_method(spec.Basic.Return(312, "NO_ROUTE", "KEY", "KEY"))
    data += struct.pack(">BHI", 2, 1, len(header)) + header + b"\xce" + frame.Body(1, b"ab").marshal()
    connection.fed(data, 3)
    assert returned == [(r"K\xff\xfe", "m", b"ab")]


def test_a_header_frame_that_is_not_sound_is_an_error_of_the_stream() -> None:
    data = frames_of(1, "a", 5, table((b"h", b"V")), [], exchange=b"", key=b"")[:-1] + b"\x00"
    with pytest.raises(exceptions.InvalidFrameError):
        connected([], receives=True).fed(data, len(data))
