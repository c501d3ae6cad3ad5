"""Turns an envelope into bytes and back; the one place that knows it is JSON.

A body that cannot be read is an `Undecodable` with its reason: the reader parks it, never drops it.
"""

from __future__ import annotations

import json
from typing import NamedTuple

from pydantic import ValidationError

from broker_jobs.messages.envelope import WIRE_VERSION, Envelope

MANY_ERRORS = 50
MAX_PART_CHARS = 100
"""Of one step of the way to a wrong field, which may be a key as long as the message."""
NEWER = frozenset({"extra_forbidden", "union_tag_invalid", "literal_error", "enum"})
"""Errors of what a newer version may have added: a field, a kind of record, a word."""


class Undecodable(Exception):  # a fact about a body, handled by parking it
    """The body is no envelope this version understands; the text is the reason shown beside the dead letter.

    `newer`: it is what a newer version may have written.
    """

    def __init__(self, reason: str, *, newer: bool = False) -> None:
        super().__init__(reason)
        self.newer = newer


class Misfit(NamedTuple):
    """The first of what is wrong with a body."""

    where: str
    what: str
    kind: str


def misfit(error: ValidationError) -> Misfit:
    """The first error alone: a list of them all costs seconds where a body of 3 MB has a wrong field in each place."""
    options = {"include_url": False, "include_input": False, "include_context": False}
    if error.error_count() > MANY_ERRORS:
        first = json.JSONDecoder().raw_decode(error.json(**options), 1)[0]
    else:
        first = error.errors(**options)[0]
    where = ".".join(str(part)[:MAX_PART_CHARS] for part in first["loc"])
    return Misfit(where, first["msg"].removeprefix("Value error, "), first["type"])


def encode(envelope: Envelope) -> bytes:
    """The body of the message that carries the envelope (UTF-8 JSON, absent fields left out)."""
    return envelope.__pydantic_serializer__.to_json(envelope, exclude_none=True)


def decode(body: bytes | str) -> Envelope:
    """The envelope in a body.

    Raises:
        Undecodable: not UTF-8 JSON, a newer major version, or fields that do not fit.
    """
    try:
        envelope = Envelope.model_validate_json(body)
    except ValidationError as error:
        raise _undecodable(body, error) from None
    if envelope.v != WIRE_VERSION:
        raise Undecodable(_newer(envelope.v), newer=envelope.v > WIRE_VERSION)
    return envelope


def _newer(version: object) -> str:
    return f"envelope of version {version}; this program reads version {WIRE_VERSION}: upgrade it, then replay"


def _undecodable(body: bytes | str, error: ValidationError) -> Undecodable:
    try:
        loose = json.loads(body)
    except (ValueError, RecursionError):
        return Undecodable("not UTF-8 JSON")
    if not isinstance(loose, dict):
        return Undecodable(f"JSON of type {type(loose).__name__}, not an object")
    if isinstance(version := loose.get("v", WIRE_VERSION), int) and version > WIRE_VERSION:
        return Undecodable(_newer(version), newer=True)
    first = misfit(error)
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    return Undecodable(f"{first.where or 'envelope'}: {first.what}{more}", newer=first.kind in NEWER)
