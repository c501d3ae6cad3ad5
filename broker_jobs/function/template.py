"""Makes a key of a job's arguments: "user:{user_id}", "page:{site.host}". Pure.

Braces as in `str.format`, but names only: an argument, or one field of it. A str stands as it is, everything else as
its JSON, so that a producer in another language makes the same key.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from string import Formatter
from typing import Any, NamedTuple

from pydantic_core import to_json

from broker_jobs.errors import OptionError
from broker_jobs.messages.envelope import MAX_KEY_CHARS


class Placeholder(NamedTuple):
    """Where an argument stands in a template: its parameter, and the field of it if one is wanted."""

    name: str
    field: str = ""


class Unrenderable(Exception):  # becomes an ArgumentsError, which names the job and the option
    """No key can be made of these arguments; the text is the reason."""


class Template(NamedTuple):
    """A key with places for arguments."""

    parts: tuple[tuple[str, Placeholder | None], ...]
    """Text, and the place behind it."""

    @property
    def places(self) -> list[Placeholder]:
        """The places, in their order."""
        return [place for _, place in self.parts if place is not None]

    def render(self, argument: Callable[[str], Any]) -> str:
        """The key of one call.

        Args:
            argument: gives the JSON value of a parameter.

        Raises:
            Unrenderable: a field that is not there, or a key that is empty or too long.
        """
        key = "".join(text + ("" if place is None else _text(place, argument)) for text, place in self.parts)
        if not key:
            raise Unrenderable("the key is empty")
        if len(key) > MAX_KEY_CHARS:
            raise Unrenderable(
                f"the key has {len(key):_} characters, the limit is {MAX_KEY_CHARS}: {key[:40]!r}…; "
                "make it of an id, or of a hash of what is long"
            )
        if (wrong := unkeepable(key)) is not None:
            raise Unrenderable(f"the key {wrong}: {key!r}")
        return key


def unkeepable(text: str) -> str | None:
    """What in a text no key may have, as the store cannot hold it; None: nothing."""
    if "\0" in text:
        return "contains a null character"
    try:
        text.encode()
    except UnicodeEncodeError:
        return "contains half a character (a lone surrogate)"
    return None


@lru_cache(maxsize=1_024)
def template_of(text: str) -> Template:
    """The template in a text.

    Raises:
        OptionError: its braces do not fit, or hold something else than a parameter or one field of it.
    """
    try:
        pieces = list(Formatter().parse(text))
    except ValueError as error:
        raise OptionError(f"{text!r} is no key: {error} (a brace that is meant is written twice)") from None
    parts: list[tuple[str, Placeholder | None]] = []
    for literal, field, format_spec, conversion in pieces:
        parts.append((literal, None if field is None else _place(text, field, plain=not (format_spec or conversion))))
    return Template(tuple(parts))


def _place(text: str, field: str, *, plain: bool) -> Placeholder:
    name, *fields = field.split(".")
    if not plain or len(fields) > 1 or not all(part.isidentifier() for part in (name, *fields)):
        raise OptionError(
            f"{text!r} is no key: in braces stands a parameter or one field of it, as {{user_id}} or {{user.id}}"
        )
    return Placeholder(name, *fields)


def _text(place: Placeholder, argument: Callable[[str], Any]) -> str:
    value = argument(place.name)
    if place.field:
        if not isinstance(value, dict) or place.field not in value:
            raise Unrenderable(f"{place.name} has no {place.field!r}")
        value = value[place.field]
    return value if isinstance(value, str) else to_json(value).decode()
