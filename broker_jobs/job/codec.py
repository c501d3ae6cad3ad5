"""Turns an envelope into bytes and back; the one place that knows it is JSON.

A body that cannot be read is an `Undecodable` with its reason: the reader parks it, never drops it.
"""

from __future__ import annotations

import json

from pydantic import ValidationError

from broker_jobs.job.envelope import WIRE_VERSION, Envelope


class Undecodable(Exception):  # a fact about a body, handled by parking it
    """The body is no envelope this version understands; the text is the reason shown beside the parked message."""


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
        raise Undecodable(_reason(body, error)) from None
    if envelope.v != WIRE_VERSION:
        raise Undecodable(_newer(envelope.v))
    return envelope


def _newer(version: object) -> str:
    return f"envelope of version {version}; this program reads version {WIRE_VERSION}: upgrade it, then replay"


def _reason(body: bytes | str, error: ValidationError) -> str:
    try:
        loose = json.loads(body)
    except (ValueError, RecursionError):
        return "not UTF-8 JSON"
    if not isinstance(loose, dict):
        return f"JSON of type {type(loose).__name__}, not an object"
    if isinstance(version := loose.get("v", WIRE_VERSION), int) and version > WIRE_VERSION:
        return _newer(version)
    first = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(str(part) for part in first["loc"]) or "envelope"
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    return f"{where}: {first['msg']}{more}"
