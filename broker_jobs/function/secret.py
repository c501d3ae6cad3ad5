"""Finds pydantic's secret types, for which it writes `**********` into JSON. Pure.

A worker needs the values, so json_form.py writes them. They are masked where they are shown, in dashboard/masking.py.
"""

from __future__ import annotations

from typing import Any

from pydantic import Secret, SecretBytes, SecretStr, TypeAdapter

STARS = "**********"
"""Pydantic writes this for each secret that is not empty."""
SECRETS = (SecretStr, SecretBytes, Secret)

_ANYTHING: TypeAdapter[Any] = TypeAdapter(Any)


def may_contain_stars(text: bytes | str) -> bool:
    """Whether a JSON text may contain a masked secret: a cheap test, as most texts contain none."""
    return STARS.encode() in text if isinstance(text, bytes) else STARS in text


def contains_secret(value: Any) -> bool:
    """Whether a value is a secret or contains one."""
    return _contains(_ANYTHING.dump_python(value, mode="python", warnings="none"))


def _contains(value: Any) -> bool:
    match value:
        case dict():
            return any(_contains(inner) for inner in value.values())
        case list() | tuple() | set() | frozenset():
            return any(_contains(inner) for inner in value)
        case _:
            return isinstance(value, SECRETS)
