"""Hides what must not be shown: values by the name they have, arguments whose type is secret. The rule's one place.

A name is hidden when one of the masked names is a word of it, in whatever way its words are written: `token` hides
token, auth_token, authToken, AUTH-TOKEN and tokens, not tokenizer. A masked name of eight letters or more also hides
inside a word: `password` hides dbpassword. Names are of parameters, and of keys at any depth of a value.
What a job writes into an error's message, its traceback or its log lines has no name, and is shown as it is.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

MASKED = "***"
"""Stands where a value was."""
GLUED_FROM = 8
"""Letters from which a masked name is looked for inside words too."""
MOST_DEPTH = 100
"""A value nested deeper is hidden: nobody reads it, and looking through it must end."""
WORD = re.compile(r"(?<![\w$-])(?:[\w$-]|\\u[0-9a-fA-F]{4})++")
"""What may be a name in a text that is no JSON."""
KEY = re.compile(WORD.pattern + r"""(?=\\*["'`]?\s*+[:=])""")
"""What is a name before a value there."""
ESCAPED = re.compile(r"\\u([0-9a-fA-F]{4})")
BOM = "\ufeff"
"""As some programs begin a text."""
NO_JSON = object()
MOST_DIGITS = 1_000
"""A longer whole number is shown as text: Python itself refuses to write it."""


class Named(NamedTuple):
    """Parameters of a function, as far as masking must know them."""

    positional: Sequence[str] = ()
    """Names of those that take positional arguments, in order."""
    rest: str = ""
    """Name of the one that takes those left over."""
    secret: Collection[str] = ()
    """Names of those whose type is secret."""


class Given(NamedTuple):
    """An argument as it may be shown."""

    name: str
    """Empty where only its position is known."""
    value: Any
    masked: bool


class Masking:
    """Which names are hidden.

    Args:
        names: the masked names (see the setting `mask`); in capitals or not, their words joined in any way.
        types: whether arguments of secret types are hidden too.
    """

    def __init__(self, names: Sequence[str], *, types: bool = True) -> None:
        self._types = types
        self._names = frozenset("".join(_words(name)) for name in names) - {""}
        self._glued = tuple(name for name in self._names if len(name) >= GLUED_FROM)
        self._most_words = max((len(_words(name)) for name in names), default=0) + 1
        self._known = lru_cache(maxsize=4_096)(self._hides)

    def hides(self, name: str) -> bool:
        """Whether what has this name is hidden."""
        return self._known(name)

    def arguments(self, args: Sequence[Any], kwargs: dict[str, Any], named: Named) -> tuple[list[Given], list[Given]]:
        """The positional and the named arguments of a call, as they may be shown."""
        names = [*named.positional[: len(args)], *[named.rest] * (len(args) - len(named.positional))]
        given = [self._given(name, value, named) for name, value in zip(names, args, strict=True)]
        return given, [self._given(name, value, named) for name, value in kwargs.items()]

    def value(self, value: Any) -> Any:
        """A JSON value with everything hidden in it that has a hidden name."""
        return self._inside(value, 0)

    def text(self, text: str, before: Callable[[Any], Any] | None = None) -> str:
        """A text; where it is JSON, what has hidden names in it is hidden, also in JSON inside its strings.

        Args:
            text: any; one that is no JSON comes back as it is.
            before: changes each JSON object, also inside strings, before it is looked through.
        """
        shown = self._inside_text(text, 0, before)
        return text if shown is None else shown

    def message(self, text: str, before: Callable[[Any], Any] | None = None) -> str:
        """The text of a message: as `text` where it is JSON. Of any other it ends at the first name that is hidden.

        Nobody can tell where the value of that name ends, and what follows may be arguments without names.
        """
        try:
            is_json = _parsed(text) is not NO_JSON
        except RecursionError:
            return MASKED
        return self.text(text, before) if is_json else self._cut(text, WORD)

    def _cut(self, text: str, names: re.Pattern[str]) -> str:
        """A text that is no JSON up to the first hidden name in it, or to the arguments of a call."""
        for found in names.finditer(text) if self._names else ():
            name = ESCAPED.sub(lambda each: chr(int(each[1], 16)), found[0])
            if name in ("args", "kwargs") or self.hides(name):
                return f"{text[: found.end()]} {MASKED}"
        return text

    def _given(self, name: str, value: Any, named: Named) -> Given:
        if name and ((self._types and name in named.secret) or self.hides(name)):
            return Given(name, MASKED, masked=True)
        shown = self.value(value)
        return Given(name, shown, masked=False)

    def _inside(self, value: Any, depth: int, before: Callable[[Any], Any] | None = None) -> Any:
        if depth > MOST_DEPTH:
            return MASKED
        match value:
            case dict():
                known = value if before is None else before(value)
                return {
                    key: MASKED if self.hides(str(key)) else self._inside(inner, depth + 1, before)
                    for key, inner in known.items()
                }
            case list():
                return [self._inside(inner, depth + 1, before) for inner in value]
            case str():
                shown = self._inside_text(value, depth + 1, before)
                return value if shown is None else shown
            case int() if not -(10**MOST_DIGITS) < value < 10**MOST_DIGITS:
                return f"a whole number of {value.bit_length()} bits"
            case _:
                return value

    def _inside_text(self, text: str, depth: int, before: Callable[[Any], Any] | None) -> str | None:
        """A text that is JSON with names in it, with what must be hidden; None: nothing must, or it is none."""
        if text.removeprefix(BOM).lstrip()[:1] not in ("{", "[", '"'):
            return None
        try:
            value = _parsed(text)
        except RecursionError:
            return MASKED
        if value is NO_JSON:  # a mapping that another language wrote, or JSON that was cut off
            cut = self._cut(text, KEY)
            return None if cut == text else cut
        shown = self._inside(value, depth, before)
        return None if shown == value else json.dumps(shown, ensure_ascii=False)

    def _hides(self, name: str) -> bool:
        words = _words(name)
        for start in range(len(words)):
            for end in range(start + 1, min(len(words), start + self._most_words) + 1):
                joined = "".join(words[start:end])
                if joined in self._names or (joined.endswith("s") and joined[:-1] in self._names):
                    return True
        return any(hidden in "".join(words) for hidden in self._glued)


def is_too_deep(value: Any) -> bool:
    """Whether a JSON value is nested deeper than is looked through."""
    level = [value]
    for _ in range(MOST_DEPTH + 1):
        inside = [each.values() if isinstance(each, dict) else each for each in level if isinstance(each, dict | list)]
        if not inside:
            return False
        level = [inner for each in inside for inner in each]
    return bool(level)


def _parsed(text: str) -> Any:
    """The value of a JSON text, or NO_JSON. One that has a key twice is none: all but the last would be overlooked."""
    try:
        return json.loads(text.removeprefix(BOM), parse_int=_whole, object_pairs_hook=_once)
    except ValueError:
        return NO_JSON


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands there twice")
    return found


def read_json(text: str) -> Any:
    """The value of a JSON text, as it may be looked through.

    Raises:
        ValueError: it is no JSON.
        RecursionError: it is nested too deeply to be looked through.
    """
    return json.loads(text, parse_int=_whole)


def _words(name: str) -> list[str]:
    """The words of a name: api_key, apiKey, API-KEY and "api key" are api and key; digits stand apart."""
    words: list[list[str]] = [[]]
    for index, char in enumerate(name):
        before, after = name[index - 1 : index], name[index + 1 : index + 2]
        starts = char.isupper() and (not before.isupper() or after.islower())
        if not char.isalnum() or starts or char.isdigit() != before.isdigit():
            words.append([])
        if char.isalnum():
            words[-1].append(char.lower())
    return ["".join(word) for word in words if word]


def _whole(digits: str) -> int | str:
    return int(digits) if len(digits) <= MOST_DIGITS else digits
