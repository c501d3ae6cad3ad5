"""Knows what JSON holds and every reader of messages can read, and finishes the JSON form that pydantic makes. Pure."""

from __future__ import annotations

import dataclasses
import math
import re
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from typing import Any, Final

from pydantic import BaseModel, RootModel
from pydantic_core import from_json, to_json, to_jsonable_python

from broker_jobs.function.secret import SECRETS

MAX_DIGITS: Final = 4_300
"""Digits of an integer: no reader takes more (Python's own limit, and that of pydantic's parser)."""
MAX_DEPTH: Final = 190
"""Levels of lists and objects in one value. A reader takes 200 for a whole message, and an envelope has some itself."""
MAX_INT: Final = 10**MAX_DIGITS
_SPARE = 11
"""Levels around a value with which a reader refuses one that is deeper than MAX_DEPTH."""
_SCALARS = frozenset({str, int, float, bool, type(None)})
_UNEXPECTED = re.compile(r"Expected `(.+?)`.*input_type=(\w+)", re.DOTALL)
"""What pydantic says of a value that is not of the type that its annotation has."""
_STR_ONLY = frozenset({str})

INT_TOO_LONG = f"an integer has more than {MAX_DIGITS:_} digits, which no worker reads; pass it as text, as with hex()"
TOO_DEEP = f"it is nested deeper than {MAX_DEPTH} levels, which no worker reads; pass it as text, as with json.dumps()"
HALF_CHARACTER = (
    "a text contains half a character (a lone surrogate), which UTF-8 cannot hold; "
    'pass it as bytes: text.encode("utf-8", "surrogatepass")'
)
NO_NAN = "JSON has no NaN and no infinity; pass None or text"


def is_exact(value: object) -> bool:
    """Whether a value is its own JSON: it has exactly the types that JSON has, all of which can be read."""
    kind = type(value)
    if kind is list or kind is dict:
        try:
            return _has_json_types(value, MAX_DEPTH) and (unreadable(to_json(value)) is None)
        except ValueError:  # half a character
            return False
    return math.isfinite(value) if kind is float else are_exact_scalars((value,))  # type: ignore[arg-type]


def are_exact_scalars(values: Iterable[Any]) -> bool:
    """Whether each of these is an int, str, bool or None that is its own JSON, and can be read."""
    for value in values:
        kind = type(value)
        if kind is int:
            if not -MAX_INT < value < MAX_INT:
                return False
        elif kind is str:
            if not (value.isascii() or has_whole_characters(value)):
                return False
        elif kind is not bool and value is not None:
            return False
    return True


def _has_json_types(value: Any, depth: int) -> bool:
    """Whether it consists of JSON's types alone, without NaN and infinity; the types of a level are read at once."""
    if type(value) is dict:
        if not set(map(type, value)) <= _STR_ONLY:
            return False
        value = value.values()
    kinds = set(map(type, value))
    if float in kinds and not all(math.isfinite(part) for part in value if type(part) is float):
        return False
    kinds -= _SCALARS
    if not kinds:
        return depth > 0
    if depth <= 0 or not kinds <= {list, dict}:
        return False
    return all(_has_json_types(part, depth - 1) for part in value if type(part) is list or type(part) is dict)


def has_whole_characters(text: str) -> bool:
    """Whether UTF-8 can hold a text: it has no lone surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def has_nan(value: Any) -> bool:
    """Whether a value contains NaN or infinity."""
    match value:
        case float():
            return not math.isfinite(value)
        case str() | bytes() | int() | None:
            return False
        case dict():
            return has_nan([*value.keys(), *value.values()])
        case list() | tuple() | set() | frozenset() | deque():
            return any(has_nan(part) for part in value)
        case BaseModel():
            return has_nan({**value.__dict__, **(value.__pydantic_extra__ or {})})
        case _ if dataclasses.is_dataclass(value):
            return has_nan([getattr(value, field.name, None) for field in dataclasses.fields(value)])
        case _:
            return False


def unreadable(text: bytes) -> str | None:
    """Why a reader of messages cannot read a JSON text, as a sentence that says what to write; None if it can."""
    long = len(text) > MAX_DIGITS
    if not long and (len(text) <= MAX_DEPTH or text.count(b"[") + text.count(b"{") <= MAX_DEPTH):
        return None
    try:
        from_json(b"[" * _SPARE + text + b"]" * _SPARE)
    except ValueError as error:
        return INT_TOO_LONG if "number" in str(error) else TOO_DEEP
    return None


def reason(error: Exception) -> str:
    """Why a value has no JSON form, in one line that says what to write where that is known."""
    text = str(error)
    if isinstance(error, UnicodeEncodeError) or "surrogates not allowed" in text:
        return HALF_CHARACTER
    if isinstance(error, RecursionError):
        return TOO_DEEP
    lines = [line.strip() for line in text.splitlines()] or [type(error).__name__]
    first = lines[1] if lines[0].endswith("warnings:") and len(lines) > 1 else lines[0]
    if "invalid utf-8" in first:
        return (
            "bytes that are no UTF-8 text need base64; in a model write "
            'model_config = ConfigDict(ser_json_bytes="base64", val_json_bytes="base64")'
        )
    if "depth exceeded" in first:
        return TOO_DEEP
    if (unexpected := _UNEXPECTED.search(text)) is not None:
        return f"a part of it is {unexpected[2]}, where its annotation says {unexpected[1]}; pass what is annotated"
    if is_unexpected(error):
        return "a part of it has none of the types of its annotation; pass what is annotated"
    return first.removeprefix("Unable to serialize ")


def is_unexpected(error: Exception) -> bool:
    """Whether pydantic says that a value is not of the type that its annotation has."""
    return "PydanticSerializationUnexpectedValue" in str(error)


def contains_set(schema: object) -> bool:
    """Whether a core schema of pydantic contains a set."""
    stack, seen = [schema], set()
    while stack:
        part = stack.pop()
        if id(part) in seen:
            continue
        if isinstance(part, Mapping):
            seen.add(id(part))
            if part.get("type") in ("set", "frozenset"):
                return True
            stack.extend(part.values())
        elif isinstance(part, list | tuple):
            seen.add(id(part))
            stack.extend(part)
    return False


def finished(plain: Any, value: Any, *, by_alias: bool = True) -> Any:
    """A JSON form with secrets, for which pydantic writes stars, and with the members of sets in sorted order.

    Python's order of a set of texts differs between processes, and unique keys are made of the JSON form.

    Args:
        plain: the JSON form as pydantic makes it.
        value: the value itself.
        by_alias: fields are named by their aliases.
    """
    if isinstance(value, SECRETS):
        return to_jsonable_python(value.get_secret_value(), bytes_mode="base64", by_alias=by_alias, round_trip=True)
    if isinstance(plain, list):
        if isinstance(value, AbstractSet) and len(plain) == len(value):
            return _sorted([finished(part, mine, by_alias=by_alias) for part, mine in zip(plain, value, strict=True)])
        if isinstance(value, list | tuple | deque) and len(plain) == len(value):
            return [finished(part, mine, by_alias=by_alias) for part, mine in zip(plain, value, strict=True)]
        if isinstance(value, RootModel):
            return finished(plain, value.root, by_alias=by_alias)
    if isinstance(plain, dict):
        if isinstance(value, dict) and len(plain) == len(value):
            pairs = zip(plain.items(), value.values(), strict=True)
            return {key: finished(part, mine, by_alias=by_alias) for (key, part), mine in pairs}
        if isinstance(value, RootModel):
            return finished(plain, value.root, by_alias=by_alias)
        parts = dict(_parts(value, by_alias=by_alias))
        return {
            key: finished(part, parts[key], by_alias=by_alias) if key in parts else part for key, part in plain.items()
        }
    if isinstance(value, RootModel):
        return finished(plain, value.root, by_alias=by_alias)
    return plain


def _parts(value: Any, *, by_alias: bool) -> Iterator[tuple[str, Any]]:
    """The fields of a model or dataclass by the names that they have in JSON."""
    fields = getattr(type(value), "__pydantic_fields__", None)
    if isinstance(value, BaseModel) or (fields is not None and dataclasses.is_dataclass(value)):
        for name, field in (fields or {}).items():
            yield (field.serialization_alias or name) if by_alias else name, getattr(value, name, None)
        yield from (getattr(value, "__pydantic_extra__", None) or {}).items()
    elif dataclasses.is_dataclass(value):
        for each in dataclasses.fields(value):
            yield each.name, getattr(value, each.name, None)


def _sorted(items: list[Any]) -> list[Any]:
    try:
        return sorted(items)
    except TypeError:  # of several types, or objects
        return sorted(items, key=to_json)
