"""Lets values of pydantic's secret types travel as what they are: its JSON has `**********` for them. Pure.

They are hidden where they are shown (see dashboard/masking.py), not where they travel: a worker must have them.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from typing import Any

from pydantic import Secret, SecretBytes, SecretStr, TypeAdapter
from pydantic_core import to_jsonable_python

STARS = "**********"
"""What pydantic writes for any secret that is not empty."""
SECRETS = (SecretStr, SecretBytes, Secret)

_ANYTHING: TypeAdapter[Any] = TypeAdapter(Any)


def may_hide(text: bytes | str) -> bool:
    """Whether a JSON text may have stars for a secret: a look, as most have none."""
    return STARS.encode() in text if isinstance(text, bytes) else STARS in text


def revealed(plain: Any, value: Any) -> Any:
    """The JSON form of a value with its secrets in it.

    Args:
        plain: its JSON form as pydantic makes it, stars for secrets.
        value: the value itself.
    """
    return _revealed(plain, _ANYTHING.dump_python(value, mode="python", warnings="none"))


def holds_secret(value: Any) -> bool:
    """Whether a value is a secret, or has one in it."""
    return _holds(_ANYTHING.dump_python(value, mode="python", warnings="none"))


def _revealed(plain: Any, value: Any) -> Any:
    if isinstance(value, SECRETS):
        return to_jsonable_python(value.get_secret_value(), bytes_mode="base64")
    if isinstance(plain, dict) and isinstance(value, dict) and len(plain) == len(value):
        return {key: _revealed(inner, mine) for (key, inner), mine in zip(plain.items(), value.values(), strict=True)}
    if isinstance(plain, list) and isinstance(value, list | tuple | AbstractSet) and len(plain) == len(value):
        return [_revealed(inner, mine) for inner, mine in zip(plain, value, strict=True)]
    return plain


def _holds(value: Any) -> bool:
    match value:
        case dict():
            return any(_holds(inner) for inner in value.values())
        case list() | tuple() | set() | frozenset():
            return any(_holds(inner) for inner in value)
        case _:
            return isinstance(value, SECRETS)
