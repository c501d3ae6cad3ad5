"""Writes a call as a program would write it: `welcome.using(queue="mail").enqueue(42, name="Ann")`. Pure.

What is hidden stands as `***`, which no Python reads: who copies the call has to fill it in.
"""

from __future__ import annotations

import keyword
import math
from collections.abc import Iterator, Sequence
from typing import Any

from broker_jobs.dashboard.masking import MASKED, MOST_DIGITS, Given

LINE_CHARS = 200
LINE_TEXT_CHARS = 40
"""A string in the line form is cut after so many."""
LINE_ITEMS = 5
"""Of a list or dict the line form has so many items."""
WIDTH = 100
"""A longer call has each argument on a line of its own."""
MOST_DEPTH = 50


def line(job: str, args: Sequence[Given], kwargs: Sequence[Given], queue: str | None = None) -> str:
    """The call on one line of at most 200 characters; what is cut off is shown as …"""
    head, parts = _head(job, queue), _parts(args, kwargs, LINE_TEXT_CHARS, LINE_ITEMS)
    text = head + "("
    for index, part in enumerate(parts):
        text += (", " if index else "") + part
        if len(text) >= LINE_CHARS:
            break
    text += ")"
    return text if len(text) <= LINE_CHARS else text[: LINE_CHARS - 1] + "…"


def code(job: str, args: Sequence[Given], kwargs: Sequence[Given], queue: str | None = None) -> str:
    """The whole call; each argument on a line of its own where it would be long.

    Args:
        job: its name; one that is no Python name is written as a job of another program.
        args, kwargs: as they may be shown.
        queue: of this call, where it is not the job's own.
    """
    head, parts = _head(job, queue), list(_parts(args, kwargs))
    whole = f"{head}({', '.join(parts)})"
    if len(whole) <= WIDTH or not parts:
        return whole
    return "\n".join([f"{head}(", *(f"    {part}," for part in parts), ")"])


def literal(value: Any, text_chars: int | None = None, items: int | None = None, depth: int = 0) -> str:
    """A JSON value as Python writes it.

    Args:
        value: of JSON.
        text_chars: strings are cut after so many; None: they are not.
        items: lists and dicts are cut after so many.
        depth: how deep it lies in others.
    """
    if depth > MOST_DEPTH:
        return "…"
    match value:
        case str():
            return MASKED if value == MASKED else _quoted(value, text_chars)
        case bool() | None:
            return repr(value)
        case int():
            return repr(value) if abs(value) < 10**MOST_DIGITS else "…"
        case float():
            return repr(value) if math.isfinite(value) else f'float("{value}")'
        case dict():
            inner = [
                f"{_quoted(str(key), text_chars)}: {literal(value[key], text_chars, items, depth + 1)}"
                for key in list(value)[:items]
            ]
            return "{" + ", ".join([*inner, *(["…"] if len(inner) < len(value) else [])]) + "}"
        case list() | tuple():
            inner = [literal(each, text_chars, items, depth + 1) for each in value[:items]]
            return "[" + ", ".join([*inner, *(["…"] if len(inner) < len(value) else [])]) + "]"
        case _:
            return _quoted(str(value), text_chars)


def _head(job: str, queue: str | None) -> str:
    if not job:
        return "…"
    if not job.isidentifier() or keyword.iskeyword(job):
        return f"jobs.remote({_quoted(job)}{'' if queue is None else f', queue={_quoted(queue)}'}).enqueue"
    return job + ("" if queue is None else f".using(queue={_quoted(queue)})") + ".enqueue"


def _parts(
    args: Sequence[Given], kwargs: Sequence[Given], text_chars: int | None = None, items: int | None = None
) -> Iterator[str]:
    for given in args:
        yield literal(given.value, text_chars, items)
    for given in kwargs:
        value = literal(given.value, text_chars, items)
        is_name = given.name.isidentifier() and not keyword.iskeyword(given.name)
        yield f"{given.name}={value}" if is_name else f"**{{{_quoted(given.name)}: {value}}}"


_ESCAPES = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}


def _quoted(text: str, most: int | None = None) -> str:
    """A string in double quotes; what would not be seen (controls, half characters, marks of direction) is escaped."""
    cut = text if most is None or len(text) <= most else text[: most - 1]
    if cut.isprintable() and '"' not in cut and "\\" not in cut:  # nearly always, and there are hundreds on a page
        inner = cut
    else:
        inner = "".join(_ESCAPES.get(char) or (char if char.isprintable() else _escaped(char)) for char in cut)
    return f'"{inner}{"" if cut is text else "…"}"'


def _escaped(char: str) -> str:
    number = ord(char)
    if number < 0x100:
        return f"\\x{number:02x}"
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"
