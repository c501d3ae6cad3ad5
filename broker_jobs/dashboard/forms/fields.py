"""Turns a function's parameters into inputs of a form, and what was typed back into a call: JSON arguments, or what is
wrong, beside the input it is wrong in. Pure.

What stands in an input untouched is the default, and does not travel: the worker's own default is what counts.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, time
from typing import Any, Literal

from broker_jobs.dashboard.forms.job_query import moment_of
from broker_jobs.dashboard.masking import is_too_deep
from broker_jobs.dashboard.views import Parameter

Control = Literal["line", "text", "secret", "integer", "number", "choice", "date", "moment", "time", "json"]

PREFIX = "arg-"
"""Before a parameter's name in the form, so that none can be taken for a field of ours."""
NULL_PREFIX = "null-"


@dataclass(frozen=True)
class Input:
    """One input: what it is, what stands in it, and what is wrong with that."""

    name: str
    control: Control
    type: str
    required: bool
    can_be_null: bool
    """Whether null must be asked for: where it is the default, an empty input is enough."""
    choices: list[tuple[str, str]]
    """Of a choice: JSON text, and what is shown."""
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
class Filled:
    """A form as it was sent: the call it makes, or the inputs with what is wrong in them."""

    inputs: list[Input]
    args: list[Any] = field(default_factory=list)
    kwargs: dict[str, Any] = field(default_factory=dict)

    @property
    def is_right(self) -> bool:
        """Whether nothing is wrong."""
        return not any(each.mistake for each in self.inputs)


def inputs_of(parameters: list[Parameter]) -> list[Input]:
    """The inputs of an empty form: defaults stand in them."""
    return [_input(parameter) for parameter in parameters]


def filled(parameters: list[Parameter], form: Mapping[str, str]) -> Filled:
    """A form as it was sent."""
    read = [_read(parameter, _input(parameter), form) for parameter in parameters]
    inputs = [each for each, _ in read]
    if any(each.mistake for each in inputs):
        return Filled(inputs)
    args, kwargs = _call(parameters, [value for _, value in read])
    return Filled(inputs, args, kwargs)


def blamed(inputs: list[Input], message: str) -> tuple[list[Input], str]:
    """What a refusal says, put beside the input it names first; what names none comes back as it is."""
    rest = message.rpartition("): ")[2] or message
    for each in inputs:
        if rest.startswith((f"{each.name} ", f"{each.name}:", f"{each.name}[", f"{each.name}.", f"{each.name!r}")):
            return [_with(other, mistake=rest) if other is each else other for other in inputs], ""
    return inputs, message


def _with(each: Input, **changes: Any) -> Input:
    return Input(**(each.__dict__ | changes))


# --- a parameter becomes an input ---


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
        value=_typed(control, default, required=parameter.required),
    )  # fmt: skip


def _is_required(parameter: Parameter) -> bool:
    return parameter.required and parameter.kind not in ("args", "kwargs")


def _resolved(schema: dict[str, Any], root: dict[str, Any], depth: int = 0) -> dict[str, Any]:
    """A schema with the reference at its top followed."""
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
    """A schema without its "or null", and whether there was one."""
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
    "date": "date", "date-time": "moment", "time": "time", "password": "secret",
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
        return "more positional arguments, as a JSON list"
    if parameter.kind == "kwargs":
        return "more named arguments, as a JSON object"
    hints = {
        "integer": "a whole number", "number": "a number", "moment": "UTC", "date": "", "time": "",
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


def _typed(control: Control, value: Any, *, required: bool) -> str:
    """A default as it stands in its input."""
    if required or (value is None and control not in ("json", "choice")):
        return ""
    if control == "choice":
        return json.dumps(value)
    if control == "json":
        return "" if value is None else json.dumps(value, indent=2, ensure_ascii=False)
    if control == "secret":
        return ""  # a secret is not even shown as a default
    if control == "moment":
        moment = moment_of(str(value))
        return str(value) if moment is None else moment.strftime("%Y-%m-%dT%H:%M:%S")
    return value if isinstance(value, str) else json.dumps(value)


# --- what was typed becomes a value ---


class _NoValue:
    """Left to the worker's default."""


_LEFT = _NoValue()


def _read(parameter: Parameter, empty: Input, form: Mapping[str, str]) -> tuple[Input, Any]:
    typed = form.get(empty.field, "").replace("\r\n", "\n")
    is_null = empty.can_be_null and form.get(NULL_PREFIX + empty.name) == "1"
    kept = _with(empty, value="" if empty.control == "secret" else typed, is_null=is_null)
    if not parameter.required and typed == empty.value and not is_null:
        return kept, _LEFT
    if is_null and (not typed or typed == empty.value):
        return kept, None
    if is_null:
        return _with(kept, mistake=f"{empty.name}: either a value or null, not both"), None
    if not typed.strip() and empty.control not in ("text", "secret"):
        if empty.required:
            return _with(kept, mistake=f"{empty.name} is needed"), None
        return kept, _LEFT
    if not typed and empty.required:
        return _with(kept, mistake=f"{empty.name} is needed"), None
    try:
        value = _value(empty, typed)
        _check_variadic(parameter, value)
    except ValueError as error:
        return _with(kept, mistake=f"{empty.name} {error}"), None
    return kept, value


def _value(of: Input, typed: str) -> Any:
    """The JSON value of what was typed. Raises ValueError with the rest of the sentence "user_id …"."""
    match of.control:
        case "integer":
            return _integer(typed)
        case "number":
            return _number(typed)
        case "choice":
            if typed not in {text for text, _ in of.choices}:
                raise ValueError("must be one of the choices")
            return json.loads(typed)
        case "json":
            return json_of(typed)
        case "date" | "time" | "moment":
            return _calendar(of.control, typed.strip())
        case "line":
            return typed.strip()
        case "text" | "secret":
            return typed


def _integer(typed: str) -> int:
    try:
        return int(typed.strip())
    except ValueError:
        raise ValueError(f"must be a whole number, not {typed[:40]!r}") from None


def _number(typed: str) -> float:
    try:
        number = float(typed.strip())
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"must be a number, not {typed[:40]!r}")
    return number


def _calendar(control: Control, typed: str) -> str:
    try:
        if control == "date":
            return date.fromisoformat(typed).isoformat()
        if control == "time":
            return time.fromisoformat(typed).isoformat()
    except ValueError:
        raise ValueError(f"must be a {control}, not {typed[:40]!r}") from None
    moment = moment_of(typed)
    if moment is None:
        raise ValueError(f"must be a time, not {typed[:40]!r}: write 2026-01-31T08:00")
    return moment.isoformat().replace("+00:00", "Z")


def json_of(typed: str) -> Any:
    """The value of a JSON text.

    Raises:
        ValueError: what is wrong, as the rest of a sentence that begins with the field's name.
    """
    try:
        value = json.loads(typed, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise ValueError(f"is no JSON: {error.msg.lower()} at {where} (texts stand in double quotes)") from None
    except RecursionError:
        raise ValueError("is nested too deeply") from None
    if is_too_deep(value):
        raise ValueError("is nested too deeply")
    return value


def _no_constant(name: str) -> Any:
    raise ValueError(f"is no JSON: there is no {name} in it")


def _check_variadic(parameter: Parameter, value: Any) -> None:
    if parameter.kind == "args" and not isinstance(value, list):
        raise ValueError("must be a JSON list")
    if parameter.kind == "kwargs" and not isinstance(value, dict):
        raise ValueError("must be a JSON object")


def _call(parameters: list[Parameter], values: list[Any]) -> tuple[list[Any], dict[str, Any]]:
    """The arguments of a call: by name where that can be, by position where it must be."""
    rest = next((v for p, v in zip(parameters, values, strict=True) if p.kind == "args" and v is not _LEFT), None)
    in_order = [i for i, p in enumerate(parameters) if p.kind == "positional" or (rest and p.kind == "either")]
    given = [i for i in in_order if values[i] is not _LEFT]
    last = in_order[-1] if rest else max(given, default=-1)
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    for index, (parameter, value) in enumerate(zip(parameters, values, strict=True)):
        if index in in_order:
            if index <= last:  # those before it cannot be left out: their declared defaults travel
                args.append(parameter.default if value is _LEFT else value)
        elif parameter.kind == "kwargs" and value is not _LEFT:
            kwargs |= value
        elif parameter.kind not in ("args", "kwargs") and value is not _LEFT:
            kwargs[parameter.name] = value
    return args + (rest or []), kwargs
