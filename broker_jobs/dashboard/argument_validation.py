"""Checks the arguments of a call against the parameters that its program declared. The only user of jsonschema."""

from __future__ import annotations

import json
import re
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError, ValidationError
from referencing import Registry
from referencing.exceptions import Unresolvable

from broker_jobs.dashboard.masking import MAX_DEPTH, is_too_deep
from broker_jobs.dashboard.views import FunctionView, Parameter
from broker_jobs.errors import ArgumentsError, nearest

MAX_MESSAGE_CHARS = 200
_NO_REMOTE_SCHEMAS: Registry[Any] = Registry()
"""Schemas are never fetched: an argument whose schema refers to another address is not checked."""


def check_json(args: list[Any], kwargs: dict[str, Any]) -> None:
    """Refuse arguments that JSON cannot represent.

    Raises:
        ArgumentsError: an unpaired surrogate, NaN or infinity, or nested too deeply.
    """
    try:
        json.dumps([args, kwargs], ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError) as error:
        what = "a text has an unpaired surrogate" if isinstance(error, UnicodeEncodeError) else str(error)
        raise ArgumentsError(f"the arguments cannot be sent as JSON: {what}") from None
    if any(is_too_deep(each) for each in (*args, *kwargs.values())):  # a coordinator could not parse the command
        raise ArgumentsError(f"the arguments cannot be sent as JSON: one is nested deeper than {MAX_DEPTH} levels")


def argument_of(function: FunctionView, name: str, args: list[Any], kwargs: dict[str, Any]) -> Any:
    """One argument of a call that `check_arguments` has passed, as JSON; its default if it is not given.

    Raises:
        ArgumentsError: its default is not known here.
    """
    if name in kwargs:
        return kwargs[name]
    positional = [each.name for each in function.parameters if each.kind in ("positional", "either")]
    if name in positional[: len(args)]:
        return args[positional.index(name)]
    parameter = next((each for each in function.parameters if each.name == name), None)
    if parameter is None or parameter.default_left_out:
        raise ArgumentsError(f"{name}: a unique key or limit of {function.name} needs it, and no default is known here")
    return parameter.default


def check_arguments(function: FunctionView, args: list[Any], kwargs: dict[str, Any]) -> None:
    """Refuse a call that does not match the function's parameters.

    Raises:
        ArgumentsError: too many or too few arguments, an unknown name, or a value of the wrong type.
    """
    title = function.name
    positional = [each for each in function.parameters if each.kind in ("positional", "either")]
    by_name = {each.name: each for each in function.parameters if each.kind in ("either", "keyword")}
    rest = next((each for each in function.parameters if each.kind == "args"), None)
    more = next((each for each in function.parameters if each.kind == "kwargs"), None)
    if len(args) > len(positional) and rest is None:
        raise ArgumentsError(f"{title} takes {len(positional)} positional arguments, not {len(args)}")
    given: set[str] = set()
    for index, value in enumerate(args):
        parameter = positional[index] if index < len(positional) else rest
        assert parameter is not None
        given.add(parameter.name)
        _check(title, parameter.name, parameter, value)
    for name, value in kwargs.items():
        parameter = by_name.get(name) or more
        if parameter is None:
            raise ArgumentsError(f"{title} has no parameter {name!r}{nearest(name, by_name)}")
        if name in given and name in by_name:
            raise ArgumentsError(f"{title}: {name} is given twice")
        given.add(name)
        _check(title, name, parameter, value)
    missing = [each.name for each in function.parameters if each.required and each.name not in given]
    if missing:
        raise ArgumentsError(f"{title}: {' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing")


def _check(title: str, name: str, parameter: Parameter, value: Any) -> None:
    if not parameter.json_schema:
        return
    try:
        validator = Draft202012Validator(parameter.json_schema, registry=_NO_REMOTE_SCHEMAS)
        errors = sorted(validator.iter_errors(value), key=lambda error: len(error.path))
    except (SchemaError, Unresolvable, RecursionError, ValueError, TypeError, re.error):
        return  # the schema of a foreign program may be invalid; the worker checks the argument
    if errors:
        raise ArgumentsError(f"{title}: {name}{_path(errors[0])} must {_requirement(errors[0], parameter)}")


def _path(error: ValidationError) -> str:
    return "".join(f"[{part!r}]" for part in error.path)


def _requirement(error: ValidationError, parameter: Parameter) -> str:
    """What the schema requires. The value is not repeated: it may be a secret."""
    if not error.path and parameter.type:
        return f"be {parameter.type}"
    match error.validator:
        case "type":
            return f"be of type {error.validator_value}"
        case "required":
            wanted: Any = error.validator_value
            present: Any = error.instance
            return f"have {' and '.join(each for each in wanted if each not in present)}"
        case _:
            text = f"have {error.validator} {error.validator_value!r}"
            return text if len(text) <= MAX_MESSAGE_CHARS else text[: MAX_MESSAGE_CHARS - 1] + "…"
