"""Turns a function's parameters into form inputs, and the submitted form into the arguments of a call. Pure.

An unchanged input holds the default and is not sent: the worker applies its own default.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from broker_jobs.dashboard.forms.typed_values import (
    parse_calendar,
    parse_datetime,
    parse_integer,
    parse_json,
    parse_number,
)
from broker_jobs.dashboard.views import Parameter

Control = Literal["line", "text", "secret", "integer", "number", "choice", "date", "datetime", "time", "json"]

PREFIX = "arg-"
"""Prefix of a parameter's name in the form, so that no parameter collides with the form's own fields."""
NULL_PREFIX = "null-"


@dataclass(frozen=True)
class Input:
    """One input: its control, its value, and the mistake in the value."""

    name: str
    control: Control
    type: str
    required: bool
    can_be_null: bool
    """Whether a check box for null is needed. Where null is the default, an empty input is enough."""
    choices: list[tuple[str, str]]
    """Options of a choice: JSON text and label."""
    value: str = ""
    is_null: bool = False
    hint: str = ""
    doc: str = ""
    mistake: str = ""

    @property
    def field(self) -> str:
        """Its name in the form."""
        return PREFIX + self.name


@dataclass(frozen=True)
class SubmittedCall:
    """A submitted form: the arguments of the call, or inputs with mistakes."""

    inputs: list[Input]
    args: list[Any] = field(default_factory=list)
    kwargs: dict[str, Any] = field(default_factory=dict)

    @property
    def is_valid(self) -> bool:
        """Whether no input has a mistake."""
        return not any(each.mistake for each in self.inputs)


def inputs_of(parameters: list[Parameter]) -> list[Input]:
    """The inputs of a new form, with the defaults as values."""
    return [_input(parameter) for parameter in parameters]


def read_call(parameters: list[Parameter], form: Mapping[str, str]) -> SubmittedCall:
    """The submitted form."""
    read = [_read(parameter, _input(parameter), form) for parameter in parameters]
    inputs = [each for each, _ in read]
    if any(each.mistake for each in inputs):
        return SubmittedCall(inputs)
    args, kwargs = _call(parameters, [value for _, value in read])
    return SubmittedCall(inputs, args, kwargs)


def attach_error(inputs: list[Input], message: str) -> tuple[list[Input], str]:
    """An error message attached to the input that it names first; a message that names none is returned."""
    rest = message.rpartition("): ")[2] or message
    for each in inputs:
        if rest.startswith((f"{each.name} ", f"{each.name}:", f"{each.name}[", f"{each.name}.", f"{each.name!r}")):
            return [_changed(other, mistake=rest) if other is each else other for other in inputs], ""
    return inputs, message


def _changed(each: Input, **changes: Any) -> Input:
    return Input(**(each.__dict__ | changes))


# --- from parameter to input ---


def _input(parameter: Parameter) -> Input:
    schema, nullable = _without_null(_resolved(parameter.json_schema, parameter.json_schema))
    control = _control(parameter, schema)
    default = "" if parameter.required else parameter.default
    choices = []
    if control == "choice":
        choices = [(json.dumps(each), each if isinstance(each, str) else json.dumps(each)) for each in _enum(schema)]
    return Input(
        name=parameter.name, control=control, type=parameter.type, required=_is_required(parameter), choices=choices,
        can_be_null=nullable and (parameter.required or parameter.default is not None),
        hint=_hint(parameter, schema, control), doc=str(schema.get("description", "")),
        value=_default_text(control, default, required=parameter.required),
    )  # fmt: skip


def _is_required(parameter: Parameter) -> bool:
    return parameter.required and parameter.kind not in ("args", "kwargs")


def _resolved(schema: dict[str, Any], root: dict[str, Any], depth: int = 0) -> dict[str, Any]:
    """A schema with the reference at its top level resolved."""
    ref = schema.get("$ref")
    if isinstance(ref, str) and ref.startswith("#/$defs/") and depth < 10:
        found = root.get("$defs", {}).get(ref.removeprefix("#/$defs/"))
        if isinstance(found, dict):
            return _resolved(found, root, depth + 1)
    only = schema.get("allOf")
    if isinstance(only, list) and len(only) == 1 and isinstance(only[0], dict):
        return _resolved(only[0], root, depth + 1)
    either = schema.get("anyOf")
    if isinstance(either, list):
        return schema | {"anyOf": [_resolved(each, root, depth + 1) for each in either if isinstance(each, dict)]}
    return schema


def _without_null(schema: dict[str, Any]) -> tuple[dict[str, Any], bool]:
    """A schema without its null alternative, and whether it had one."""
    either = schema.get("anyOf")
    if not isinstance(either, list):
        return schema, schema.get("type") == "null"
    rest = [each for each in either if each.get("type") != "null"]
    nullable = len(rest) < len(either)
    return (rest[0] if len(rest) == 1 else {"anyOf": rest}), nullable


def _enum(schema: dict[str, Any]) -> list[Any]:
    if schema.get("type") == "boolean":
        return [True, False]
    if "const" in schema:
        return [schema["const"]]
    found = schema.get("enum")
    return list(found) if isinstance(found, list) else []


_FORMATS: dict[str, Control] = {
    "date": "date", "date-time": "datetime", "time": "time", "password": "secret",
}  # fmt: skip
_TYPES: dict[str, Control] = {"integer": "integer", "number": "number", "string": "text"}


def _control(parameter: Parameter, schema: dict[str, Any]) -> Control:
    if parameter.kind in ("args", "kwargs"):
        return "json"
    if parameter.secret:
        return "secret"
    if _enum(schema):
        return "choice"
    kind = schema.get("type")
    if kind == "string" and "format" in schema:
        return _FORMATS.get(str(schema["format"]), "line")
    return _TYPES.get(kind, "json") if isinstance(kind, str) else "json"


def _hint(parameter: Parameter, schema: dict[str, Any], control: Control) -> str:
    if parameter.kind == "args":
        return "further positional arguments, as a JSON array"
    if parameter.kind == "kwargs":
        return "further named arguments, as a JSON object"
    hints = {
        "integer": "an integer", "number": "a number", "datetime": "UTC", "date": "", "time": "",
        "json": "as JSON", "secret": "not shown again", "text": "", "line": _FORMAT_HINTS.get(schema.get("format"), ""),
        "choice": "",
    }  # fmt: skip
    found = [hints[control]] if hints[control] else []
    for key, text in _BOUNDS.items():
        if isinstance(schema.get(key), int | float):
            found.append(f"{text} {schema[key]:g}")
    return ", ".join(found)


_FORMAT_HINTS: dict[Any, str] = {
    "duration": "as ISO 8601: PT90S, PT5M, P1DT2H",
    "uuid": "a UUID",
    "binary": "as base64",
    "base64url": "as base64",
    "base64": "as base64",
}
_BOUNDS = {
    "minimum": "at least", "exclusiveMinimum": "more than", "maximum": "at most", "exclusiveMaximum": "less than",
}  # fmt: skip


def _default_text(control: Control, value: Any, *, required: bool) -> str:
    """The text of a default in its input."""
    if required or (value is None and control not in ("json", "choice")):
        return ""
    if control == "choice":
        return json.dumps(value)
    if control == "json":
        return "" if value is None else json.dumps(value, indent=2, ensure_ascii=False)
    if control == "secret":
        return ""  # a secret default is not shown either
    if control == "datetime":
        at = parse_datetime(str(value))
        return str(value) if at is None else at.strftime("%Y-%m-%dT%H:%M:%S")
    return value if isinstance(value, str) else json.dumps(value)


# --- from typed text to value ---


class _Default:
    """The worker applies its default."""


_DEFAULT = _Default()


def _read(parameter: Parameter, empty: Input, form: Mapping[str, str]) -> tuple[Input, Any]:
    typed = form.get(empty.field, "").replace("\r\n", "\n")
    is_null = empty.can_be_null and form.get(NULL_PREFIX + empty.name) == "1"
    kept = _changed(empty, value="" if empty.control == "secret" else typed, is_null=is_null)
    if not parameter.required and typed == empty.value and not is_null:
        return kept, _DEFAULT
    if is_null and (not typed or typed == empty.value):
        return kept, None
    if is_null:
        return _changed(kept, mistake=f"{empty.name}: enter a value or tick null, not both"), None
    if not typed.strip() and empty.control not in ("text", "secret"):
        if empty.required:
            return _changed(kept, mistake=f"{empty.name} is required"), None
        return kept, _DEFAULT
    if not typed and empty.required:
        return _changed(kept, mistake=f"{empty.name} is required"), None
    try:
        value = _value(empty, typed)
        _check_variadic(parameter, value)
    except ValueError as error:
        return _changed(kept, mistake=f"{empty.name} {error}"), None
    return kept, value


def _value(of: Input, typed: str) -> Any:
    """The JSON value of typed text. Raises ValueError."""
    match of.control:
        case "integer":
            return parse_integer(typed)
        case "number":
            return parse_number(typed)
        case "choice":
            if typed not in {text for text, _ in of.choices}:
                raise ValueError("must be one of the choices")
            return json.loads(typed)
        case "json":
            return parse_json(typed)
        case "date" | "time" | "datetime":
            return parse_calendar(of.control, typed.strip())
        case "line":
            return typed.strip()
        case "text" | "secret":
            return typed


def _check_variadic(parameter: Parameter, value: Any) -> None:
    if parameter.kind == "args" and not isinstance(value, list):
        raise ValueError("must be a JSON array")
    if parameter.kind == "kwargs" and not isinstance(value, dict):
        raise ValueError("must be a JSON object")


def _call(parameters: list[Parameter], values: list[Any]) -> tuple[list[Any], dict[str, Any]]:
    """The arguments of a call: by name where possible, otherwise by position."""
    rest = next((v for p, v in zip(parameters, values, strict=True) if p.kind == "args" and v is not _DEFAULT), None)
    in_order = [i for i, p in enumerate(parameters) if p.kind == "positional" or (rest and p.kind == "either")]
    given = [i for i in in_order if values[i] is not _DEFAULT]
    last = in_order[-1] if rest else max(given, default=-1)
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    for index, (parameter, value) in enumerate(zip(parameters, values, strict=True)):
        if index in in_order:
            if index <= last:  # arguments before it cannot be omitted, so their declared defaults are sent
                args.append(parameter.default if value is _DEFAULT else value)
        elif parameter.kind == "kwargs" and value is not _DEFAULT:
            kwargs |= value
        elif parameter.kind not in ("args", "kwargs") and value is not _DEFAULT:
            kwargs[parameter.name] = value
    return args + (rest or []), kwargs
