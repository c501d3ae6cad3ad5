"""Reads the properties and the headers of a message, whatever is in them: nothing here raises.

RabbitMQ checks little of what a client publishes. A short text may be of any bytes: pika hands it out as bytes then. A
header may be one that Python has no value for, as a timestamp in milliseconds, or be nested 20,000 deep: there pika
raises, which ends the connection, and with the next one the message is back. So pika reads no properties here. Of the
headers only two count, and a table is walked by the sizes of its values, without making them.
"""

from __future__ import annotations

from struct import Struct
from struct import error as struct_error

import pika

Properties = tuple[str, str, str | None, str | None, int, str, bool, float | None]
"""The last eight fields of a delivery, in their order."""

UNREADABLE: Properties = "", "", None, None, 0, "", False, None
"""Of a message whose properties end before they are all there."""

_FLAGS = Struct(">H").unpack_from  # which properties follow
_LENGTH = Struct(">I").unpack_from
_CONTENT_TYPE, _ENCODING, _HEADERS, _DELIVERY_MODE, _PRIORITY = 0x8000, 0x4000, 0x2000, 0x1000, 0x0800
_CORRELATION_ID, _REPLY_TO, _EXPIRATION, _MESSAGE_ID = 0x0400, 0x0200, 0x0100, 0x0080
_TIMESTAMP, _TYPE, _USER_ID = 0x0040, 0x0020, 0x0010

_SIZES = {
    ord(kind): size for size, kinds in enumerate(("V", "tbB", "Uus", "", "Iif", "D", "", "", "LldT")) for kind in kinds
}
"""Of the values of a table, by their type; those of the other types say their length."""
_WITH_LENGTH = b"SxAF"
_SIGNED, _UNSIGNED = b"bsUIlL", b"Bui"


class ReadProperties(pika.BasicProperties):
    """Properties that were read here, in the place of those that pika would have read."""

    def __init__(self, read: Properties) -> None:
        super().__init__(type=read[0], message_id=read[1], reply_to=read[2], correlation_id=read[3], user_id=read[5])
        self.read = read


def text(raw: bytes) -> str:
    r"""Short text as it was sent; a byte that is not UTF-8 becomes `\xfc`, which people can read and stores can hold.

    No name of ours has a backslash, so it is never taken for one.
    """
    return raw.decode("utf-8", "backslashreplace")


def as_text(value: str | bytes) -> str:
    """A short text that pika has read, or left as bytes."""
    return text(value) if isinstance(value, bytes) else value


def read_properties(buffer: bytes, at: int, end: int) -> Properties:
    """The properties that lie there.

    A flag may say that more flags follow, of properties that AMQP 0-9-1 does not have. RabbitMQ ignores it, and so must
    we: else a message could have one user for RabbitMQ, which checks the name, and another one here.
    """
    reply_to = correlation_id = expiration = None
    message_id = type_ = user_id = ""
    count, dead_lettered = 0, False
    try:
        (flags,) = _FLAGS(buffer, at)
        at += 2
        if flags & _CONTENT_TYPE:
            at += 1 + buffer[at]
        if flags & _ENCODING:
            at += 1 + buffer[at]
        if flags & _HEADERS:
            table = at + 4
            at = table + _LENGTH(buffer, at)[0]
            count, dead_lettered = _headers(buffer, table, min(at, end))
        if flags & _DELIVERY_MODE:
            at += 1
        if flags & _PRIORITY:
            at += 1
        if flags & _CORRELATION_ID:
            correlation_id, at = _text(buffer, at)
        if flags & _REPLY_TO:
            reply_to, at = _text(buffer, at)
        if flags & _EXPIRATION:
            milliseconds, at = _text(buffer, at)
            expiration = seconds(milliseconds)
        if flags & _MESSAGE_ID:
            message_id, at = _text(buffer, at)
        if flags & _TIMESTAMP:
            at += 8
        if flags & _TYPE:
            type_, at = _text(buffer, at)
        if flags & _USER_ID:
            user_id, at = _text(buffer, at)
    except (IndexError, struct_error):  # they go on where nothing is any more
        return UNREADABLE
    if at > end:
        return UNREADABLE
    return type_, message_id, reply_to, correlation_id, count, user_id, dead_lettered, expiration


def _text(buffer: bytes, at: int) -> tuple[str, int]:
    """The short text that lies there, and where it ends."""
    end = at + 1 + buffer[at]
    return buffer[at + 1 : end].decode("utf-8", "backslashreplace"), end  # as `text` does it


def _headers(buffer: bytes, at: int, end: int) -> tuple[int, bool]:
    """The delivery count in a table, and whether the broker has dead-lettered the message.

    A value that does not fit, or of an unknown type, ends the table: what was before it counts.
    """
    count, dead_lettered = 0, False
    while at < end:
        name = at + 1
        at = name + buffer[at]
        value = at + 1
        if value > end:
            break
        kind = buffer[at]
        size = _SIZES.get(kind)
        if size is None:
            if kind not in _WITH_LENGTH or value + 4 > end:
                break
            size = 4 + _LENGTH(buffer, value)[0]
        at = value + size
        if at > end:
            break
        header = buffer[name : value - 1]
        if header == b"x-delivery-count":
            count = _whole_number(kind, buffer[value:at])
        elif header == b"x-death":
            dead_lettered = True
    return count, dead_lettered


def _whole_number(kind: int, raw: bytes) -> int:
    """A value of a table; 0: it is none."""
    return int.from_bytes(raw, signed=kind in _SIGNED) if kind in _SIGNED or kind in _UNSIGNED else 0


def properties_of(properties: pika.BasicProperties) -> Properties:
    """The properties of a message that pika hands out."""
    if isinstance(properties, ReadProperties):
        return properties.read
    headers = properties.headers or {}
    count = headers.get("x-delivery-count")
    return (
        as_text(properties.type or ""),
        as_text(properties.message_id or ""),
        _maybe_text(properties.reply_to),
        _maybe_text(properties.correlation_id),
        int(count) if isinstance(count, int) else 0,  # pika has its own int type, which prints as 1L
        as_text(properties.user_id or ""),
        "x-death" in headers,
        seconds(_maybe_text(properties.expiration)),
    )


def _maybe_text(value: str | bytes | None) -> str | None:
    return None if value is None else as_text(value)


def seconds(expiration: str | None) -> float | None:
    """The milliseconds of a message's expiration, as RabbitMQ has checked them, in seconds."""
    return int(expiration) / 1_000 if expiration and expiration.isdecimal() else None
