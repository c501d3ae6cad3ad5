"""Writes a call as Python code: `welcome.using(queue="mail").enqueue(42, name="Ann")`. Pure.

A hidden value is written as `***`. That is no valid Python, so that a copied call fails until you fill it in.
"""

from __future__ import annotations

import keyword
import math
from collections.abc import Iterator, Sequence
from typing import Any

from broker_jobs.dashboard.masking import MASKED, MAX_DIGITS, MaskedArgument

LINE_CHARS = 200
LINE_TEXT_CHARS = 40
"""A longer string is cut in the one-line form."""
LINE_ITEMS = 5
"""Items of a list or dict in the one-line form."""
WIDTH = 100
"""A longer call gets one line per argument."""
MAX_DEPTH = 50


def line(
    job: str,
    args: Sequence[MaskedArgument],
    kwargs: Sequence[MaskedArgument],
    queue: str | None = None,
    priority: str | None = None,
) -> str:
    """The call on one line of at most 200 characters; … stands for what is cut off."""
    head, parts = _head(job, queue, priority), _parts(args, kwargs, LINE_TEXT_CHARS, LINE_ITEMS)
    text = head + "("
    for index, part in enumerate(parts):
        text += (", " if index else "") + part
        if len(text) >= LINE_CHARS:
            break
    text += ")"
    return text if len(text) <= LINE_CHARS else text[: LINE_CHARS - 1] + "…"


def code(
    job: str,
    args: Sequence[MaskedArgument],
    kwargs: Sequence[MaskedArgument],
    queue: str | None = None,
    priority: str | None = None,
) -> str:
    """The whole call; one line per argument where it would be long.

    Args:
        job: its name; one that is no Python identifier is written as a remote job.
        args, kwargs: with hidden values masked.
        queue: of this call; None: the job's own.
        priority: as the queue.
    """
    head, parts = _head(job, queue, priority), list(_parts(args, kwargs))
    whole = f"{head}({', '.join(parts)})"
    if len(whole) <= WIDTH or not parts:
        return whole
    return "\n".join([f"{head}(", *(f"    {part}," for part in parts), ")"])


def literal(value: Any, text_chars: int | None = None, items: int | None = None, depth: int = 0) -> str:
    """A JSON value as Python writes it.

    Args:
        value: a JSON value.
        text_chars: longer strings are cut; None: none is.
        items: longer lists and dicts are cut; None: none is.
        depth: its nesting depth.
    """
    if depth > MAX_DEPTH:
        return "…"
    match value:
        case str():
            return MASKED if value == MASKED else _quoted(value, text_chars)
        case bool() | None:
            return repr(value)
        case int():
            return repr(value) if abs(value) < 10**MAX_DIGITS else "…"
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


def _head(job: str, queue: str | None, priority: str | None) -> str:
    if not job:
        return "…"
    given = {"queue": queue, "priority": priority}
    options = [f"{name}={_quoted(value)}" for name, value in given.items() if value is not None]
    if not job.isidentifier() or keyword.iskeyword(job):
        return f"jobs.remote({', '.join([_quoted(job), *options])}).enqueue"
    return job + (f".using({', '.join(options)})" if options else "") + ".enqueue"


def _parts(
    args: Sequence[MaskedArgument],
    kwargs: Sequence[MaskedArgument],
    text_chars: int | None = None,
    items: int | None = None,
) -> Iterator[str]:
    for argument in args:
        yield literal(argument.value, text_chars, items)
    for argument in kwargs:
        value = literal(argument.value, text_chars, items)
        is_name = argument.name.isidentifier() and not keyword.iskeyword(argument.name)
        yield f"{argument.name}={value}" if is_name else f"**{{{_quoted(argument.name)}: {value}}}"


_ESCAPES = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}


def _quoted(text: str, most: int | None = None) -> str:
    """A string in double quotes; invisible characters (control, surrogate, text direction) are escaped."""
    cut = text if most is None or len(text) <= most else text[: most - 1]
    if cut.isprintable() and '"' not in cut and "\\" not in cut:  # the common case: a page has hundreds of strings
        inner = cut
    else:
        inner = "".join(_ESCAPES.get(char) or (char if char.isprintable() else _escaped(char)) for char in cut)
    return f'"{inner}{"" if cut is text else "…"}"'


def _escaped(char: str) -> str:
    number = ord(char)
    if number < 0x100:
        return f"\\x{number:02x}"
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"
