"""Writes the real values of pydantic's secret types into JSON, where pydantic writes `**********`. Pure.

A worker needs the values. They are masked where they are shown, in dashboard/masking.py.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from typing import Any

from pydantic import Secret, SecretBytes, SecretStr, TypeAdapter
from pydantic_core import to_jsonable_python

STARS = "**********"
"""Pydantic writes this for each secret that is not empty."""
SECRETS = (SecretStr, SecretBytes, Secret)

_ANYTHING: TypeAdapter[Any] = TypeAdapter(Any)


def may_contain_stars(text: bytes | str) -> bool:
    """Whether a JSON text may contain a masked secret: a cheap test, as most texts contain none."""
    return STARS.encode() in text if isinstance(text, bytes) else STARS in text


def with_secrets(plain: Any, value: Any) -> Any:
    """The JSON form of a value with its secrets.

    Args:
        plain: its JSON form as pydantic makes it, with masked secrets.
        value: the value itself.
    """
    return _with_secrets(plain, _ANYTHING.dump_python(value, mode="python", warnings="none"))


def contains_secret(value: Any) -> bool:
    """Whether a value is a secret or contains one."""
    return _contains(_ANYTHING.dump_python(value, mode="python", warnings="none"))


def _with_secrets(plain: Any, value: Any) -> Any:
    if isinstance(value, SECRETS):
        return to_jsonable_python(value.get_secret_value(), bytes_mode="base64")
    if isinstance(plain, dict) and isinstance(value, dict) and len(plain) == len(value):
        return {
            key: _with_secrets(inner, mine) for (key, inner), mine in zip(plain.items(), value.values(), strict=True)
        }
    if isinstance(plain, list) and isinstance(value, list | tuple | AbstractSet) and len(plain) == len(value):
        return [_with_secrets(inner, mine) for inner, mine in zip(plain, value, strict=True)]
    return plain


def _contains(value: Any) -> bool:
    match value:
        case dict():
            return any(_contains(inner) for inner in value.values())
        case list() | tuple() | set() | frozenset():
            return any(_contains(inner) for inner in value)
        case _:
            return isinstance(value, SECRETS)
