"""Evaluates the annotations of a function, and writes them as text for error messages.

Separate from the signature, as this part can fail for reasons of the user's code: names that are imported only for type
checkers, types without a JSON form.
"""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable
from typing import Any, NamedTuple, Union, cast, get_args, get_origin

from pydantic import BaseModel, ConfigDict, TypeAdapter
from pydantic.errors import PydanticSchemaGenerationError, PydanticUndefinedAnnotation, PydanticUserError
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from broker_jobs.errors import DefinitionError

STRICT = ConfigDict(strict=True, ser_json_bytes="base64", val_json_bytes="base64")
_SCALARS = frozenset({int, str, bool, type(None)})


def read_hints(fn: Callable[..., Any], name: str) -> dict[str, Any]:
    """The evaluated annotations of a function, by parameter and "return".

    Raises:
        DefinitionError: a name in an annotation is unknown at run time, or one gives a parameter a default or a name.
    """
    try:
        hints = typing.get_type_hints(fn, include_extras=True)
    except NameError as error:
        missing = error.name or str(error)
        if "<locals>" in getattr(fn, "__qualname__", ""):
            raise DefinitionError(
                f"{name}: {missing!r} is not known in its module; define it outside any function, "
                'and import it outside "if TYPE_CHECKING"'
            ) from None
        raise DefinitionError(
            f'{name}: {missing!r} is imported only for type checkers; import it outside "if TYPE_CHECKING"'
        ) from None
    for parameter, hint in hints.items():
        for note in getattr(hint, "__metadata__", ()):
            if isinstance(note, FieldInfo) and (wrong := _of_fields_alone(note)):
                raise DefinitionError(
                    f"{name}: Field({wrong}=…) of {parameter} is for fields of models. {_INSTEAD[wrong]}"
                )
    return hints


_INSTEAD = {
    "default": "Write the default in the signature: size: int = 7",
    "default_factory": "Write None as the default in the signature, and make the value in the function",
    "validate_default": "Leave it out: a default is what the signature says",
    "alias": "Arguments have the names of the parameters",
}


def _of_fields_alone(field: FieldInfo) -> str:
    """What of a Field means something for a field of a model and nothing for a parameter; empty: nothing."""
    if field.default_factory is not None:
        return "default_factory"
    if field.default is not PydanticUndefined and field.default is not Ellipsis:
        return "default"
    if field.validate_default:
        return "validate_default"
    return "alias" if field.alias or field.validation_alias or field.serialization_alias else ""


class Adapter(NamedTuple):
    """A strict adapter of pydantic."""

    adapter: TypeAdapter[Any]
    boxed: bool
    """It takes and gives a tuple with the value."""


def adapter_of(annotation: Any) -> Adapter:
    """A strict adapter. A model keeps its own configuration.

    A dataclass or TypedDict takes the configuration of what contains it, as in the body of a message. So it is put into
    a tuple here: otherwise its bytes would be written in one way and read in another.

    Raises:
        PydanticUserError: the type has no schema.
    """
    try:
        return Adapter(TypeAdapter(annotation, config=STRICT), boxed=False)
    except PydanticUserError as error:
        if error.code != "type-adapter-config-unused":
            raise
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            return Adapter(TypeAdapter(annotation), boxed=False)
        return Adapter(TypeAdapter(cast("Any", tuple)[annotation], config=STRICT), boxed=True)


def parameter_adapter(parameter: str, annotation: Any, call: str) -> Adapter:
    """The adapter of a parameter.

    Raises:
        DefinitionError: values of this type have no JSON form.
    """
    try:
        adapter = adapter_of(annotation)
    except PydanticSchemaGenerationError:
        raise _cannot_travel(annotation, call) from None
    except PydanticUndefinedAnnotation:
        raise
    except PydanticUserError as error:
        raise DefinitionError(f"{call}: {parameter}: {error.message}") from None
    if adapter.adapter.core_schema.get("type") in {"callable", "generator", "is-subclass", "is-instance"}:
        raise _cannot_travel(annotation, call)
    return adapter


def check_annotations_early(fn: Callable[..., Any], name: str, skip: typing.Container[str]) -> None:
    """Refuse parameters without a JSON form where the function is written.

    Annotations that are written as text are checked on first use, so that modules with jobs may import each other.

    Raises:
        DefinitionError: a parameter has no JSON form.
    """
    for parameter in inspect.signature(fn).parameters.values():
        annotation = parameter.annotation
        if parameter.name in skip or isinstance(annotation, str) or annotation is parameter.empty:
            continue
        if is_plain(annotation):
            continue
        try:
            parameter_adapter(parameter.name, annotation, call_text(fn, name, skip))
        except NameError:
            continue
        except PydanticUserError as error:
            if error.code != "class-not-fully-defined":  # a name in quotes, inside: its class may come below
                raise


def is_plain(annotation: Any) -> bool:
    """Whether each valid value is its own JSON, so that it needs no conversion and no test."""
    if annotation is None or (isinstance(annotation, type) and annotation in _SCALARS):
        return True
    origin, args = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType, list):
        return bool(args) and all(is_plain(arg) for arg in args)
    if origin is dict:
        return args[0] is str and is_plain(args[1])
    return False


def call_text(fn: Callable[..., Any], name: str, skip: typing.Container[str] = ()) -> str:
    """The function with its parameters: "welcome(user_id: int)". `skip` names the provided ones, which are left out."""
    parts: list[str] = []
    last: inspect.Parameter | None = None
    for parameter in inspect.signature(fn).parameters.values():
        if parameter.name in skip:
            continue
        if last is not None and last.kind is parameter.POSITIONAL_ONLY and parameter.kind is not last.kind:
            parts.append("/")
        if parameter.kind is parameter.KEYWORD_ONLY and (last is None or last.kind < parameter.VAR_POSITIONAL):
            parts.append("*")
        parts.append(_parameter_text(parameter))
        last = parameter
    if last is not None and last.kind is last.POSITIONAL_ONLY:
        parts.append("/")
    return f"{name}({', '.join(parts)})"


def type_text(annotation: Any) -> str:
    """An annotation as it is written: int, list[Row], Order | None."""
    if annotation is None or annotation is type(None):
        return "None"
    if isinstance(annotation, str):
        return annotation
    if isinstance(annotation, type) and not get_args(annotation):
        return annotation.__name__
    if hasattr(annotation, "__metadata__"):
        return type_text(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return " | ".join(type_text(arg) for arg in get_args(annotation))
    if isinstance(origin := get_origin(annotation), type) and (args := get_args(annotation)):
        return f"{origin.__name__}[{', '.join('…' if arg is ... else type_text(arg) for arg in args)}]"
    return str(annotation).replace("typing.", "")


def with_article(noun: str) -> str:
    """ "an int", "a Connection"."""
    return f"{'an' if noun[:1].lower() in 'aeiou' else 'a'} {noun}"


def _parameter_text(parameter: inspect.Parameter) -> str:
    stars = 1 if parameter.kind is parameter.VAR_POSITIONAL else 2 if parameter.kind is parameter.VAR_KEYWORD else 0
    text = "*" * stars + parameter.name
    annotated = parameter.annotation is not parameter.empty
    if annotated:
        text += f": {type_text(parameter.annotation)}"
    if parameter.default is not parameter.empty:
        text += f" = {parameter.default!r}" if annotated else f"={parameter.default!r}"
    return text


def _cannot_travel(annotation: Any, call: str) -> DefinitionError:
    return DefinitionError(
        f"{call}: {with_article(type_text(annotation))} cannot be sent as JSON; pass its key, or make it Depends(…)"
    )
