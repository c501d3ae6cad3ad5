"""Says why a value would not arrive as it is, and what to write instead. Pure."""

from __future__ import annotations

import types
from datetime import datetime, time
from typing import Any, Union, get_args, get_origin

from pydantic_core import ErrorDetails

from broker_jobs.function.annotation import type_text
from broker_jobs.function.comparison import NOTHING, Difference
from broker_jobs.function.explain import path_text, shown

_SCALARS = (str, int, float, bytes, dict, list, tuple, set)


def misread(name: str, error: ErrorDetails) -> str:
    """The sentence about a value whose JSON cannot be read back."""
    path = name + path_text(error["loc"])
    if error["type"] in ("literal_error", "enum"):
        return (
            f"{name} cannot be read back from its JSON, where {path} is {shown(error['input'])}; "
            "annotate it as an Enum whose values are text or numbers, or as a Literal of such values"
        )
    message = error["msg"].removeprefix("Value error, ").removeprefix("Input ")
    what = "is missing" if error["type"] == "missing" else f"is refused: {message[:1].lower()}{message[1:]}"
    return (
        f"{name} cannot be read back from its JSON, as there {path} {what}; send a value whose own class writes JSON "
        "that it reads (a field with exclude=True, an InitVar or a serializer of another form does not), or its parts"
    )


def changed(name: str, annotation: Any, found: Difference) -> str:
    """The sentence about a value that would arrive as another one."""
    where = f"{name}{found.path}"
    back, value = found.back, found.value
    if value is NOTHING or back is NOTHING:
        return _lost(where, found)
    text = f"{where} would arrive as {shown(back)}, not as {shown(value)}; "
    if type(back) is type(value):
        return text + _same_type(name, where, found)
    if isinstance(value, type(back)) and isinstance(value, _SCALARS):
        return f"{text}write {type(back).__name__}(…), or annotate it as {type(value).__name__}"
    if isinstance(back, float) and isinstance(value, int):
        return f"{text}no float holds it: annotate it as int"
    if not found.path and _is_union(annotation):
        return f"{text}{type_text(annotation)} read alike in JSON: annotate it as one type"
    return f"{text}annotate it as what it is"


def _lost(where: str, found: Difference) -> str:
    if found.value is NOTHING:
        return f"{where} would arrive with {shown(found.back)}, which it does not have here; annotate it as what it is"
    attribute = where.rpartition(".")[2]
    if found.owner is not None and attribute.startswith("_"):
        return f"{where} is a private attribute of {found.owner.__name__}, which is not sent; make it a field"
    return f"{where} would not arrive: it is no field that is sent; make it one, or leave it out"


def _same_type(name: str, where: str, found: Difference) -> str:
    value, owner = found.value, found.owner
    attribute = where.rpartition(".")[2]
    if isinstance(value, datetime) and value.tzinfo is not None:
        return f"JSON has offsets in whole minutes: pass {where}.astimezone(UTC)"
    if isinstance(value, datetime):
        return "without a time zone JSON cannot say which of two equal hours it is (fold): pass an aware datetime"
    if isinstance(value, time) and value.utcoffset() is not None:
        return "JSON has offsets in whole minutes: pass a time with such an offset"
    if isinstance(value, time):
        return "a time has an offset in JSON, and neither a zone nor a fold: pass the name of the zone beside it"
    if owner is not None and attribute.startswith("_"):
        return f"it is a private attribute of {owner.__name__}, which is not sent: make it a field"
    if owner is not None:
        return (
            f"{owner.__name__} changes it when it is read, or leaves it out: its validators must leave alone what they "
            "have made, and its serializers must write all of it"
        )
    return f"what reads {name} changes it: its validators must leave alone what they have made"


def _is_union(annotation: Any) -> bool:
    if get_origin(annotation) in (Union, types.UnionType):
        return True
    return hasattr(annotation, "__metadata__") and _is_union(get_args(annotation)[0])
