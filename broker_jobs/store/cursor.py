"""Turns the place where a page ended into opaque text and back: the next page begins behind it.

Pages go by key, not by number, so that jobs that come and go meanwhile neither repeat nor hide one. Text that comes
back is anybody's, so all of it is checked; it also names its search, as in another one it would mean another place.
"""

from __future__ import annotations

import hashlib
import math
from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import Any, NamedTuple

from pydantic import TypeAdapter, ValidationError
from pydantic_core import to_json

from broker_jobs.errors import UsageError

MOST_CHARS = 2_000
BAD = "this cursor cannot be used: take the one of the page before, with the same search, or begin without one"


class CursorPosition(NamedTuple):
    """The last thing a page showed or looked at: its sort key and id."""

    key: float | str
    id: str


_CURSOR: TypeAdapter[tuple[str, float | str, str]] = TypeAdapter(tuple[str, float | str, str])


def fingerprint(*search: object) -> str:
    """A short name for a search, so that a cursor of another one is noticed."""
    return hashlib.blake2s(repr(search).encode("utf-8", "surrogatepass"), digest_size=6).hexdigest()


def cursor_of(search: str, place: CursorPosition | None) -> str | None:
    """The text for a place in a search; None: there is no more."""
    if place is None:
        return None
    return urlsafe_b64encode(to_json([search, place.key, place.id])).decode().rstrip("=")


def place_of(search: str, cursor: str | None, *, kind: type[float] | type[str] = float) -> CursorPosition | None:
    """The place a cursor names; None: the beginning.

    Raises:
        UsageError: it is no cursor, or one of another search.
    """
    if not cursor:
        return None
    try:
        if len(cursor) > MOST_CHARS:
            raise UsageError(BAD)
        text = urlsafe_b64decode(cursor.encode("ascii") + b"=" * (-len(cursor) % 4))
        of, key, id = _CURSOR.validate_json(text, strict=True)
    except (ValueError, ValidationError):
        raise UsageError(BAD) from None
    if of != search or not _is_place(key, id, kind):
        raise UsageError(BAD)
    return CursorPosition(key, id)


def _is_place(key: float | str, id: str, kind: type[float] | type[str]) -> bool:
    if kind is float:
        right = isinstance(key, float | int) and math.isfinite(key)
    else:
        right = isinstance(key, str) and "\x00" not in key
    return right and "\x00" not in id


def behind(place: CursorPosition | None) -> tuple[str, dict[str, Any]]:
    """(the condition that finds what is behind a place by its `at` and id, its values)."""
    return ("", {}) if place is None else (" WHERE (at, id) < (:key, :id)", {"key": place.key, "id": place.id})
