"""Every field that arrives has a bounded type: lengths of texts and lists, ranges of numbers and instants."""

from __future__ import annotations

import types
from collections.abc import Iterator
from datetime import datetime
from enum import Enum
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import pytest
from annotated_types import Ge, Gt, Le, Lt, MaxLen
from pydantic import AwareDatetime, BaseModel
from pydantic.fields import FieldInfo

from broker_jobs.messages.batch import BatchCommit, Chunk
from broker_jobs.messages.commands import Command, FunctionInfo, ParameterInfo
from broker_jobs.messages.control import Control
from broker_jobs.messages.envelope import Envelope
from broker_jobs.messages.events import Bundle, Tick
from broker_jobs.messages.published import PublishedEvent

COMMANDS: tuple[type[BaseModel], ...] = get_args(get_args(Command)[0])
RECEIVED: tuple[type[BaseModel], ...] = (Envelope, Bundle, Tick, Chunk, BatchCommit, PublishedEvent, *COMMANDS)
"""What the coordinator and the workers read from queues to which other programs may write."""
OPAQUE = {"args", "kwargs"}
"""JSON of the program's own: the arguments of a call. The size of the message bounds them."""
OPAQUE_OF: dict[type[BaseModel], set[str]] = {ParameterInfo: {"default", "json_schema"}}
"""JSON that a form shows; the size of the message bounds it."""


def models(start: type[BaseModel], found: set[type[BaseModel]]) -> set[type[BaseModel]]:
    """A model and all models inside it."""
    if start not in found:
        found.add(start)
        for field in start.model_fields.values():
            for inner in inside(field.annotation):
                models(inner, found)
    return found


def inside(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from inside(argument)


ALL = sorted(set().union(*(models(each, set()) for each in RECEIVED)), key=lambda model: model.__name__)


def bounds(metadata: list[Any]) -> set[str]:
    """Which ends are given: "max" of a length, "low" and "high" of a number."""
    given: set[str] = set()
    for each in metadata:
        if isinstance(each, FieldInfo):
            given |= bounds(each.metadata)
        if isinstance(each, MaxLen) or getattr(each, "max_length", None) is not None:
            given.add("max")
        pattern = getattr(each, "pattern", None)
        if isinstance(pattern, str) and pattern.endswith("}$"):
            given.add("max")
        if isinstance(each, Ge | Gt) or getattr(each, "ge", None) is not None or getattr(each, "gt", None) is not None:
            given.add("low")
        if isinstance(each, Le | Lt) or getattr(each, "le", None) is not None or getattr(each, "lt", None) is not None:
            given.add("high")
    return given


def unbounded(annotation: Any, metadata: list[Any]) -> Iterator[str]:
    """The parts of a type that have no bounds."""
    origin = get_origin(annotation)
    if origin is Annotated:
        yield from unbounded(get_args(annotation)[0], [*get_args(annotation)[1:], *metadata])
    elif origin in (Union, types.UnionType):
        for each in get_args(annotation):
            yield from unbounded(each, metadata)
    elif origin is Literal or annotation in (bool, type(None)):
        return
    elif origin is tuple and Ellipsis not in get_args(annotation):
        for each in get_args(annotation):
            yield from unbounded(each, [])
    elif origin in (list, tuple, dict) or annotation in (list, tuple, dict, str, bytes):
        if "max" not in bounds(metadata):
            yield str(annotation)
        for each in get_args(annotation):
            if each is not Ellipsis:
                yield from unbounded(each, [])
    elif annotation in (int, float, datetime, AwareDatetime):
        if bounds(metadata) < {"low", "high"}:
            yield str(annotation)
    elif isinstance(annotation, type) and issubclass(annotation, BaseModel | Enum):
        return
    else:
        yield str(annotation)


@pytest.mark.parametrize("model", ALL, ids=lambda model: model.__name__)
def test_no_field_has_a_type_without_bounds(model: type[BaseModel]) -> None:
    opaque = OPAQUE | OPAQUE_OF.get(model, set())
    wrong = {
        name: found
        for name, field in model.model_fields.items()
        if name not in opaque and (found := list(unbounded(field.annotation, field.metadata)))
    }
    assert wrong == {}


@pytest.mark.parametrize("model", ALL, ids=lambda model: model.__name__)
def test_a_field_that_is_not_known_is_refused(model: type[BaseModel]) -> None:
    assert model.model_config.get("extra") == "forbid"


def test_the_walk_reaches_what_is_inside() -> None:
    assert {FunctionInfo, ParameterInfo} <= set(ALL)
    assert Control not in ALL
    assert list(unbounded(list[str], [])) == ["list[str]", "<class 'str'>"]
    assert list(unbounded(int | None, [Ge(0)])) == ["<class 'int'>"]
