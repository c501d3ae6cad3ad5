"""Encodes and decodes envelopes. No other file knows that they are JSON.

A body that cannot be decoded raises `Undecodable` with the reason: the caller dead-letters it and never drops it.
"""

from __future__ import annotations

import json
from typing import NamedTuple

from pydantic import ValidationError

from broker_jobs.messages.envelope import WIRE_VERSION, Envelope

MANY_ERRORS = 50
"""With more errors than this, pydantic's list of all of them takes too long."""
MAX_LOCATION_CHARS = 100
"""Length of one part of the path to a wrong field: it may be a key as long as the message."""
NEWER_ERRORS = frozenset({"extra_forbidden", "union_tag_invalid", "literal_error", "enum"})
"""pydantic's errors for what a newer version may have added: a field, a kind of record, a value."""


class Undecodable(Exception):  # describes a body; the caller dead-letters it
    """The body is not an envelope of this version. The text is the reason shown beside the dead letter.

    `newer`: a newer version may have written it.
    """

    def __init__(self, reason: str, *, newer: bool = False) -> None:
        super().__init__(reason)
        self.newer = newer


class FirstError(NamedTuple):
    """The first validation error of a body."""

    location: str
    message: str
    kind: str


def first_error(error: ValidationError) -> FirstError:
    """Return the first error only: a list of all takes seconds for a body of 3 MB with an error in every field."""
    options = {"include_url": False, "include_input": False, "include_context": False}
    if error.error_count() > MANY_ERRORS:
        first = json.JSONDecoder().raw_decode(error.json(**options), 1)[0]
    else:
        first = error.errors(**options)[0]
    location = ".".join(str(part)[:MAX_LOCATION_CHARS] for part in first["loc"])
    return FirstError(location, first["msg"].removeprefix("Value error, "), first["type"])


def encode(envelope: Envelope) -> bytes:
    """Return the message body of an envelope: UTF-8 JSON without absent fields."""
    return envelope.__pydantic_serializer__.to_json(envelope, exclude_none=True)


def decode(body: bytes | str) -> Envelope:
    """Return the envelope in a message body.

    Raises:
        Undecodable: it is not UTF-8 JSON, has another major version, or has a wrong field.
    """
    try:
        envelope = Envelope.model_validate_json(body)
    except ValidationError as error:
        raise _undecodable(body, error) from None
    if envelope.v != WIRE_VERSION:
        raise Undecodable(_newer_version(envelope.v), newer=envelope.v > WIRE_VERSION)
    return envelope


def _newer_version(version: object) -> str:
    return f"message of version {version}; this program reads version {WIRE_VERSION}: upgrade it, then replay"


def _undecodable(body: bytes | str, error: ValidationError) -> Undecodable:
    try:
        loose = json.loads(body)
    except (ValueError, RecursionError):
        return Undecodable("not UTF-8 JSON")
    if not isinstance(loose, dict):
        return Undecodable(f"JSON of type {type(loose).__name__}, not an object")
    if isinstance(version := loose.get("v", WIRE_VERSION), int) and version > WIRE_VERSION:
        return Undecodable(_newer_version(version), newer=True)
    first = first_error(error)
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    return Undecodable(f"{first.location or 'envelope'}: {first.message}{more}", newer=first.kind in NEWER_ERRORS)
