"""Breaks a sound message: its structure, its values, its bytes."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from copy import deepcopy
from typing import Any

from tests.fuzz.values import IDS, any_json


def deep(depth: int) -> Any:
    """A list in a list in a list."""
    nested: Any = []
    for _ in range(depth):
        nested = [nested]
    return nested


VALUES: list[Any] = [
    None, True, False, 0, -1, 1, 2, 2**31, 2**53, 2**53 + 1, 2**63, -(2**63), 10**30, 0.1, -0.0, 1e308, 5e-324,
    float("nan"), float("inf"), float("-inf"), "", " ", "\x00", "a\x00b", "\ud800", "x\udfff", "\ufeff", "\u202e",
    "x" * 101, "x" * 513, "😀" * 3_000, "NaN", "1", "true", "[]", "2026-01-01T00:00:00Z", "0001-01-01T00:00:00+14:00",
    "9999-12-31T23:59:59.999999-14:00", "2026-01-01T00:00:00", "batch:f1", "line:rate:k1", "__proto__", [], {}, [[]],
    [None], {"": None}, {"kind": "delete"}, "x" * 20_000, list(range(1_000)), deep(200),
]  # fmt: skip
HOSTILE: list[Callable[[random.Random], Any]] = [
    lambda chance: deepcopy(chance.choice(VALUES)),
    lambda chance: deepcopy(chance.choice(VALUES)),
    lambda chance: deepcopy(chance.choice(VALUES)),
    lambda chance: chance.choice(IDS),
    any_json,
]
SPLINTERS = [*b"{ } [ ] , : \\ \x00 \xff \xed\xa0\x80 1e999 NaN \\ud800".split(), b'"']
"""What is put between bytes."""


def mutated(body: Any, chance: random.Random) -> Any:
    """The message with one to three of its parts changed."""
    for _ in range(chance.choice([1, 1, 1, 2, 3])):
        places = _places(body)
        if not places:
            return chance.choice(HOSTILE)(chance)
        holder, key = chance.choice(places)
        _change(holder, key, chance, places)
    return body


def _places(body: Any) -> list[tuple[Any, Any]]:
    """(object or list, key) of everything inside."""
    found: list[tuple[Any, Any]] = []
    waiting = [body]
    while waiting and len(found) < 300:
        one = waiting.pop()
        pairs = list(one.items() if isinstance(one, dict) else enumerate(one) if isinstance(one, list) else ())
        found += [(one, key) for key, _ in pairs]
        waiting += [value for _, value in pairs if isinstance(value, dict | list)]
    return found


def _change(holder: Any, key: Any, chance: random.Random, places: list[tuple[Any, Any]]) -> None:
    how = chance.randrange(10)
    if how == 0:
        del holder[key]
    elif how == 1 and isinstance(holder, dict):
        holder[chance.choice(["", "x", "kind", "v", "batch", "after", "\x00", "k" * 2_000])] = any_json(chance)
    elif how == 2:
        other, its = chance.choice(places)
        if its in other if isinstance(other, dict) else its < len(other):
            holder[key] = json.loads(json.dumps(other[its]))
    elif how == 3 and isinstance(holder[key], list):
        holder[key] = holder[key] * (400 if chance.random() < 0.01 else chance.choice([2, 2, 3, 10]))
    elif how == 4 and isinstance(holder[key], str):
        holder[key] = _changed_text(holder[key], chance)
    elif how == 5 and isinstance(holder[key], int | float):
        holder[key] = holder[key] + chance.choice([-1, 1, 0.5, 2**53, -(2**53)])
    else:
        holder[key] = chance.choice(HOSTILE)(chance)


def _changed_text(text: str, chance: random.Random) -> str:
    """A text may be JSON itself: it is broken as bytes are, or as a message."""
    if text.startswith("{") and chance.random() < 0.7:
        try:
            return json.dumps(mutated(json.loads(text), chance))
        except (ValueError, RecursionError):
            return text
    at = chance.randrange(len(text) + 1)
    return text[:at] + chance.choice(["\x00", "\ud800", "😀", '"', "\\", " ", "\n", "\u202e"]) + text[at:]


def broken(body: bytes, chance: random.Random) -> bytes:
    """The bytes with a few of them changed."""
    changed = bytearray(body)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(changed) + 1)
        match chance.randrange(6):
            case 0:
                changed[at : at + chance.randrange(8)] = b""
            case 1:
                changed[at:at] = chance.choice(SPLINTERS)
            case 2 if changed:
                changed[at - 1] ^= 1 << chance.randrange(8)
            case 3:
                del changed[at:]
            case 4:
                changed[at:at] = changed[max(0, at - 30) : at]
            case _:
                changed[:0] = chance.choice([b"\xef\xbb\xbf", b" ", b"\xff\xfe", b"null", b"[" * 5_000])
    return bytes(changed)
