"""Describes the functions of a program as JSON, for forms in programs without their code: names, types, defaults.

Pure: it evaluates nothing but annotations. Provided parameters (`Depends`) are left out, as a caller does not give
them. Defaults that may be secrets are left out too.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, get_args, get_origin

from pydantic import Secret, SecretBytes, SecretStr, TypeAdapter
from pydantic.errors import PydanticUserError
from pydantic_core import PydanticSerializationError, to_json

from broker_jobs.errors import DefinitionError
from broker_jobs.function.annotation import adapter_of, read_hints, type_text
from broker_jobs.function.keys import declared_limits, declared_unique
from broker_jobs.function.registry import Function
from broker_jobs.function.value_codec import ValueCodec
from broker_jobs.messages.commands import MAX_DOC_CHARS, MAX_TYPE_CHARS, FunctionInfo, ParameterInfo, ParameterKind

SCHEMA_BYTES = 16 * 1024
"""A larger schema is left out. The form then accepts any JSON, and the coordinator and the worker check it."""
DEFAULT_BYTES = 4 * 1024
CHUNK_BYTES = 128 * 1024
"""The most bytes of descriptions in one message."""
KINDS: dict[Any, ParameterKind] = {
    inspect.Parameter.POSITIONAL_ONLY: "positional",
    inspect.Parameter.POSITIONAL_OR_KEYWORD: "either",
    inspect.Parameter.KEYWORD_ONLY: "keyword",
    inspect.Parameter.VAR_POSITIONAL: "args",
    inspect.Parameter.VAR_KEYWORD: "kwargs",
}


def describe(function: Function, masked: Collection[str] = ()) -> FunctionInfo:
    """The description of a function.

    Args:
        function: if its annotations cannot be read, it is described without them.
        masked: defaults of parameters with one of these words in their names are left out.
    """
    try:
        hints = read_hints(function.fn, function.name)
    except (DefinitionError, TypeError):
        hints = {}
    parameters = [
        _parameter(parameter, hints.get(parameter.name, Any), masked)
        for parameter in inspect.signature(function.fn).parameters.values()
        if parameter.name not in function.provided
    ]
    return FunctionInfo(
        name=function.name,
        queue=function.options.queue,
        doc=_first_paragraph(function.fn),
        parameters=parameters,
        priority=function.options.priority,
        policy=function.options.policy,
        tags=function.options.tags,
        unique=declared_unique(function.options.unique),
        limits=declared_limits(function.options.limits),
    )


def chunks(functions: Sequence[FunctionInfo]) -> Iterator[list[FunctionInfo]]:
    """The descriptions, in chunks that fit in a message. At least one chunk, as "no functions" must be sent too."""
    chunk: list[FunctionInfo] = []
    size = 0
    for function in functions:
        bytes_more = len(function.model_dump_json())
        if chunk and size + bytes_more > CHUNK_BYTES:
            yield chunk
            chunk, size = [], 0
        chunk.append(function)
        size += bytes_more
    yield chunk


def _parameter(parameter: inspect.Parameter, hint: Any, masked: Collection[str]) -> ParameterInfo:
    variadic = parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    secret = _is_secret(hint) or _has_write_only_schema(hint)
    annotated = parameter.annotation is not parameter.empty
    default = None if secret or _may_be_secret(parameter.name, masked) else _default(parameter, hint)
    return ParameterInfo(
        name=parameter.name,
        kind=KINDS[parameter.kind],
        required=parameter.default is parameter.empty and not variadic,
        default=default,
        type=type_text(parameter.annotation)[:MAX_TYPE_CHARS] if annotated else "",
        json_schema=_schema(hint),
        secret=secret,
        default_left_out=default is None and parameter.default is not None and parameter.default is not parameter.empty,
    )


def _default(parameter: inspect.Parameter, hint: Any) -> Any:
    """The default as JSON; None also if it has no JSON form."""
    if parameter.default is parameter.empty or parameter.default is None:
        return None
    try:
        plain = ValueCodec(hint).plain(parameter.default)
        small = len(to_json(plain)) <= DEFAULT_BYTES
    except (PydanticUserError, PydanticSerializationError, NameError, TypeError, ValueError, RecursionError):
        return None
    return plain if small else None


def _schema(hint: Any) -> dict[str, Any]:
    """The JSON Schema of a type; empty, which allows anything, if it has none or a too large one."""
    try:
        schema = _adapter(hint).json_schema()
        small = len(to_json(schema)) <= SCHEMA_BYTES
    except (PydanticUserError, NameError, TypeError, ValueError, RecursionError):
        return {}
    return schema if small else {}


def _adapter(hint: Any) -> TypeAdapter[Any]:
    """The adapter whose schema is shown: a tuple around the type would be shown too."""
    made = adapter_of(hint)
    return TypeAdapter(hint) if made.boxed else made.adapter


def _is_secret(hint: Any) -> bool:
    """Whether a type is a secret type or contains one: SecretStr | None, list[SecretStr]."""
    if get_origin(hint) is Secret or (isinstance(hint, type) and issubclass(hint, SecretStr | SecretBytes | Secret)):
        return True
    return any(_is_secret(inner) for inner in get_args(hint))


def _has_write_only_schema(hint: Any) -> bool:
    """Whether the schema of a type contains secrets: a model with a SecretStr, a Secret[date]."""
    try:
        return b'"writeOnly":true' in to_json(_adapter(hint).json_schema())
    except (PydanticUserError, NameError, TypeError, ValueError, RecursionError):
        return False


def _may_be_secret(name: str, masked: Collection[str]) -> bool:
    letters = _letters(name)
    return any(_letters(word) in letters for word in masked)


def _letters(name: str) -> str:
    return "".join(char for char in name.lower() if char.isalnum())


def _first_paragraph(fn: Callable[..., Any]) -> str:
    doc = inspect.cleandoc(fn.__doc__ or "").split("\n\n")[0]
    return " ".join(doc.split())[:MAX_DOC_CHARS].encode("utf-8", "replace").decode()
