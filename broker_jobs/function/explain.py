"""Turns pydantic's errors about a call into one sentence: what is wrong, and what the function accepts. Pure."""

from __future__ import annotations

import inspect
import re
import types
from collections.abc import Callable, Container, Mapping, Sequence
from typing import Any, Union, get_origin

from pydantic_core import ErrorDetails

from broker_jobs.errors import nearest
from broker_jobs.function.annotation import type_text, with_article
from broker_jobs.function.json_form import HALF_CHARACTER
from broker_jobs.function.pending import Pending

_MAX_REPR_CHARS = 80
_NOUNS = {
    "int_type": "an int",
    "string_type": "a str",
    "bool_type": "a bool",
    "float_type": "a float",
    "bytes_type": "bytes",
    "list_type": "a list",
    "tuple_type": "a tuple",
    "set_type": "a set",
    "dict_type": "a dict",
    "none_required": "None",
}
_MEMBER = re.compile(r"[\w-]*\[.*\]|nullable|constrained-\w+", re.DOTALL)
_OTHER_TYPES = frozenset({"none_required", "enum", "missing", "extra_forbidden", "no_such_attribute"})


def shown(value: object) -> str:
    """A value with its type, as "'x' (str)"; long values are cut."""
    if value is None:
        return "None"
    try:
        text = repr(value)
    except Exception:  # noqa: BLE001  # an int with more digits than Python writes, or a class with a broken __repr__
        return with_article(type(value).__name__)
    if len(text) > _MAX_REPR_CHARS:
        text = text[: _MAX_REPR_CHARS - 1] + "…"
    return f"{text} ({type(value).__name__})"


def type_only(value: object) -> str:
    """The type of a value, as "a str": for texts that other people read, as the value may be a secret."""
    return "None" if value is None else with_article(type(value).__name__)


def raised_text(error: Exception) -> str:
    """What a validator raised that is no refusal, and what to write."""
    return f"its validator raised {type(error).__name__}: {error}; to refuse a value raise ValueError"


def explain(
    call: str,
    parameters: Sequence[inspect.Parameter],
    hints: Mapping[str, Any],
    *,
    provided: Container[str],
    errors: Sequence[ErrorDetails],
    args: Sequence[object],
) -> str:
    """The sentence about what is wrong with a call."""
    accepted = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    for error in errors:
        if error["type"] == "unexpected_keyword_argument":
            name = str(error["loc"][0])
            if name in provided:
                return f"{name} is provided by the worker (Depends) and cannot be enqueued"
            return f"{call} takes no {name!r}{nearest(name, accepted)}"
    first = errors[0]
    match first["type"]:
        case "missing_argument" | "missing_positional_only_argument" | "missing_keyword_only_argument":
            return f"{call}: {_name(first['loc'][0], parameters)} is missing"
        case "unexpected_positional_argument":
            return f"{call} takes {_count(parameters)}, not {len(args)}"
        case "multiple_argument_values":
            return f"{call}: {first['loc'][0]} is given twice"
        case _:
            pass
    name = _name(first["loc"][0], parameters)
    return f"{call}: {must_be(name, hints.get(_parameter(first['loc'][0], parameters), Any), errors, args)}"


def must_be(
    name: str,
    annotation: Any,
    errors: Sequence[ErrorDetails],
    args: Sequence[object] = (),
    *,
    shown: Callable[[object], str] = shown,
) -> str:
    """ "user_id must be an int, not 'x' (str)"; inside a model or a list with the path to the value."""
    first = errors[0]
    if get_origin(annotation) in (Union, types.UnionType):
        refused = [error for error in errors if _is_of_right_type(error)]
        if len(refused) == 1:  # a value of one of its types, which a constraint refuses
            return must_be(name, Any, [{**refused[0], "loc": refused[0]["loc"][:1]}], args, shown=shown)
        value = args[first["loc"][0]] if isinstance(first["loc"][0], int) and args else first["input"]
        return f"{name} must be {type_text(annotation)}, not {shown(value)}"
    if type(first["input"]) is Pending:
        return f"{name} contains {first['input']!r}; only a whole argument can be one, for a list write results_of([…])"
    path = name + path_text(first["loc"][1:])
    match first["type"]:
        case "missing":
            return f"{path} is missing"
        case "string_unicode":
            return f"{path} cannot be sent as JSON: {HALF_CHARACTER}"
        case "extra_forbidden":
            return f"{path} is unknown"
        case noun if noun in _NOUNS:
            return f"{path} must be {_NOUNS[noun]}, not {shown(first['input'])}"
        case "dataclass_exact_type" | "model_type" | "dataclass_type" | "is_instance_of" if len(first["loc"]) == 1:
            return f"{path} must be {with_article(type_text(annotation))}, not {shown(first['input'])}"
        case _:
            message = first["msg"].removeprefix("Input ").removeprefix("Value error, ").replace("should be", "must be")
            message = message[:1].lower() + message[1:]
            return f"{path} {'' if message.startswith('must') else 'is wrong: '}{message}, not {shown(first['input'])}"


def path_text(location: Sequence[int | str]) -> str:
    """Where a value is inside another one: ".rows[3].at". What pydantic calls the member of a union is left out."""
    shown_parts = [part for part in location if isinstance(part, int) or _MEMBER.fullmatch(part) is None]
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in shown_parts)


def _is_of_right_type(error: ErrorDetails) -> bool:
    """Whether pydantic refuses a value for what it is, and not for its type."""
    return not error["type"].endswith(("_type", "_error", "instance_of")) and error["type"] not in _OTHER_TYPES


def _parameter(where: int | str, parameters: Sequence[inspect.Parameter]) -> str:
    if isinstance(where, int):
        for index, parameter in enumerate(parameters):
            if index == where or parameter.kind is parameter.VAR_POSITIONAL:
                return parameter.name
        return "arguments"
    names = {p.name for p in parameters}
    if where in names:
        return where
    return next((p.name for p in parameters if p.kind is p.VAR_KEYWORD), where)


def _name(where: int | str, parameters: Sequence[inspect.Parameter]) -> str:
    """The name of the parameter at a location; for *names with the index."""
    if isinstance(where, str):
        return where
    for index, parameter in enumerate(parameters):
        if parameter.kind is parameter.VAR_POSITIONAL:
            return f"{parameter.name}[{where - index}]"
        if index == where:
            return parameter.name
    return f"argument {where + 1}"


def _count(parameters: Sequence[inspect.Parameter]) -> str:
    number = sum(p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in parameters)
    return f"{number or 'no'} positional argument{'' if number == 1 else 's'}"
