"""Masks secret values: by the name of a parameter or key, and by the type of a parameter. The only place for this rule.

A name is hidden when one of its words is a masked name, in any spelling: `token` hides token, auth_token, authToken,
AUTH-TOKEN and tokens, but not tokenizer. A masked name of eight letters or more also matches inside a word: `password`
hides dbpassword. The rule applies to parameters, and to keys at any depth of a value.
Text in an error message, a traceback or a log line has no name, and is shown unchanged.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

MASKED = "***"
"""Replaces a hidden value."""
INSIDE_WORDS_FROM = 8
"""Letters from which a masked name also matches inside words."""
MAX_DEPTH = 100
"""A value nested deeper is hidden, so that masking always ends."""
WORD = re.compile(r"(?<![\w$-])(?:[\w$-]|\\u[0-9a-fA-F]{4})++")
"""A possible name in a text that is no JSON."""
KEY = re.compile(WORD.pattern + r"""(?=\\*["'`]?\s*+[:=])""")
"""A name in front of a value in such a text."""
ESCAPED = re.compile(r"\\u([0-9a-fA-F]{4})")
BOM = "\ufeff"
"""Some programs write it at the start of a text."""
NO_JSON = object()
MAX_DIGITS = 1_000
"""A longer integer is shown as text: Python refuses to convert it."""


class ParameterNames(NamedTuple):
    """The parameters of a function, as masking needs them."""

    positional: Sequence[str] = ()
    """Parameters that take positional arguments, in order."""
    rest: str = ""
    """The `*args` parameter."""
    secret: Collection[str] = ()
    """Parameters of a secret type."""


class MaskedArgument(NamedTuple):
    """An argument with hidden values masked."""

    name: str
    """Empty where only the position is known."""
    value: Any
    masked: bool


class Masking:
    """Decides which names are hidden, and masks their values.

    Args:
        names: the masked names (setting `mask`), in any spelling.
        types: also hide arguments of secret types.
    """

    def __init__(self, names: Sequence[str], *, types: bool = True) -> None:
        self._types = types
        self._names = frozenset("".join(_words(name)) for name in names) - {""}
        self._long_names = tuple(name for name in self._names if len(name) >= INSIDE_WORDS_FROM)
        self._max_words = max((len(_words(name)) for name in names), default=0) + 1
        self._cached_hides = lru_cache(maxsize=4_096)(self._hides)

    def hides(self, name: str) -> bool:
        """Whether a value of this name is hidden."""
        return self._cached_hides(name)

    def arguments(
        self, args: Sequence[Any], kwargs: dict[str, Any], parameters: ParameterNames
    ) -> tuple[list[MaskedArgument], list[MaskedArgument]]:
        """The positional and the named arguments of a call, hidden values masked."""
        names = [*parameters.positional[: len(args)], *[parameters.rest] * (len(args) - len(parameters.positional))]
        positional = [self._argument(name, value, parameters) for name, value in zip(names, args, strict=True)]
        return positional, [self._argument(name, value, parameters) for name, value in kwargs.items()]

    def value(self, value: Any) -> Any:
        """A JSON value with the values of hidden names masked."""
        return self._mask_value(value, 0)

    def text(self, text: str, before: Callable[[Any], Any] | None = None) -> str:
        """A text; if it is JSON, values of hidden names are masked, also in JSON inside its strings.

        Args:
            text: any text; text that is no JSON is returned unchanged.
            before: changes each JSON object, also inside strings, before it is masked.
        """
        masked = self._mask_text(text, 0, before)
        return text if masked is None else masked

    def message(self, text: str, before: Callable[[Any], Any] | None = None) -> str:
        """The text of a message: JSON as in `text`; any other text is cut at the first hidden name.

        The end of that name's value is not known, and unnamed arguments may follow it.
        """
        try:
            is_json = _parsed(text) is not NO_JSON
        except RecursionError:
            return MASKED
        return self.text(text, before) if is_json else self._cut(text, WORD)

    def _cut(self, text: str, names: re.Pattern[str]) -> str:
        """A text that is no JSON, up to the first hidden name or the arguments of a call."""
        for found in names.finditer(text) if self._names else ():
            name = ESCAPED.sub(lambda each: chr(int(each[1], 16)), found[0])
            if name in ("args", "kwargs") or self.hides(name):
                return f"{text[: found.end()]} {MASKED}"
        return text

    def _argument(self, name: str, value: Any, parameters: ParameterNames) -> MaskedArgument:
        if name and ((self._types and name in parameters.secret) or self.hides(name)):
            return MaskedArgument(name, MASKED, masked=True)
        return MaskedArgument(name, self.value(value), masked=False)

    def _mask_value(self, value: Any, depth: int, before: Callable[[Any], Any] | None = None) -> Any:
        if depth > MAX_DEPTH:
            return MASKED
        match value:
            case dict():
                known = value if before is None else before(value)
                return {
                    key: MASKED if self.hides(str(key)) else self._mask_value(inner, depth + 1, before)
                    for key, inner in known.items()
                }
            case list():
                return [self._mask_value(inner, depth + 1, before) for inner in value]
            case str():
                masked = self._mask_text(value, depth + 1, before)
                return value if masked is None else masked
            case int() if not -(10**MAX_DIGITS) < value < 10**MAX_DIGITS:
                return f"an integer of {value.bit_length()} bits"
            case _:
                return value

    def _mask_text(self, text: str, depth: int, before: Callable[[Any], Any] | None) -> str | None:
        """A JSON text with hidden values masked; None: nothing is hidden, or the text is no JSON."""
        if text.removeprefix(BOM).lstrip()[:1] not in ("{", "[", '"'):
            return None
        try:
            value = _parsed(text)
        except RecursionError:
            return MASKED
        if value is NO_JSON:  # a mapping in another language's syntax, or truncated JSON
            cut = self._cut(text, KEY)
            return None if cut == text else cut
        masked = self._mask_value(value, depth, before)
        return None if masked == value else json.dumps(masked, ensure_ascii=False)

    def _hides(self, name: str) -> bool:
        words = _words(name)
        for start in range(len(words)):
            for end in range(start + 1, min(len(words), start + self._max_words) + 1):
                joined = "".join(words[start:end])
                if joined in self._names or (joined.endswith("s") and joined[:-1] in self._names):
                    return True
        return any(hidden in "".join(words) for hidden in self._long_names)


def is_too_deep(value: Any) -> bool:
    """Whether a JSON value is nested deeper than masking looks."""
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        inside = [each.values() if isinstance(each, dict) else each for each in level if isinstance(each, dict | list)]
        if not inside:
            return False
        level = [inner for each in inside for inner in each]
    return bool(level)


def _parsed(text: str) -> Any:
    """The value of a JSON text, or NO_JSON. Duplicate keys make it NO_JSON: only the last value would be masked."""
    try:
        return json.loads(text.removeprefix(BOM), parse_int=_parse_int, object_pairs_hook=_unique_keys)
    except ValueError:
        return NO_JSON


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("duplicate key")
    return found


def read_json(text: str) -> Any:
    """The value of a JSON text, with very long integers as text.

    Raises:
        ValueError: the text is no JSON.
        RecursionError: it is nested too deeply.
    """
    return json.loads(text, parse_int=_parse_int)


def _words(name: str) -> list[str]:
    """The words of a name: api_key, apiKey, API-KEY and "api key" give api and key; digits are separate words."""
    words: list[list[str]] = [[]]
    for index, char in enumerate(name):
        before, after = name[index - 1 : index], name[index + 1 : index + 2]
        starts = char.isupper() and (not before.isupper() or after.islower())
        if not char.isalnum() or starts or char.isdigit() != before.isdigit():
            words.append([])
        if char.isalnum():
            words[-1].append(char.lower())
    return ["".join(word) for word in words if word]


def _parse_int(digits: str) -> int | str:
    return int(digits) if len(digits) <= MAX_DIGITS else digits
