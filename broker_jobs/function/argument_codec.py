"""Converts the arguments and the result of one function to JSON and back, by its evaluated annotations.

Strict, as another program reads the message: `"42"` is no int. A value that would come back as another one is refused
before anything is published; to find out, it is decoded once. Values that are their own JSON (int, str, bool, None, and
lists and dicts of them) are not decoded, which keeps the hot path at one call into pydantic. The file is over 300
lines, as encoding and decoding share the adapters.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Container, Mapping
from enum import Enum
from typing import Annotated, Any, Final, Literal, NotRequired, cast

from pydantic import ConfigDict, TypeAdapter, ValidationError, ValidatorFunctionWrapHandler, WrapValidator
from pydantic.errors import PydanticUserError
from pydantic_core import ArgsKwargs, PydanticSerializationError, from_json, to_json, to_jsonable_python
from typing_extensions import TypedDict

from broker_jobs.errors import ArgumentsError, DefinitionError
from broker_jobs.function.annotation import STRICT, adapter_of, is_plain, parameter_adapter, read_hints
from broker_jobs.function.explain import explain, must_be, shown, type_only
from broker_jobs.function.pending import Pending, has_pending
from broker_jobs.function.provider_checks import refuse_annotated
from broker_jobs.function.secret import contains_secret, may_contain_stars, with_secrets

_MAX_SHAPES = 32
"""At most so many decoders, one per number of positional arguments; other numbers take the slow path."""


class _Default(Enum):
    DEFAULT = 0


_DEFAULT: Final = _Default.DEFAULT
"""Marks a default in validated arguments. Defaults are not sent: the worker's own default counts."""


class ArgumentCodec:
    """The pydantic adapters of one function."""

    def __init__(self, fn: Callable[..., Any], name: str, call: str, provided: frozenset[str], *, loose: bool) -> None:
        self._name = name
        self._call = call
        self._provided = provided
        self._loose = loose
        hints = read_hints(fn, name)
        refuse_annotated(name, fn, {each: hint for each, hint in hints.items() if each not in provided})
        signature = inspect.signature(fn)
        self._parameters = [p for p in signature.parameters.values() if p.name not in provided]
        self._hints = {p.name: hints.get(p.name, Any) for p in self._parameters}
        self._adapters = {n: parameter_adapter(n, hint, call) for n, hint in self._hints.items()}
        self._returns = hints.get("return", Any)
        self._result = _result_adapter(self._returns)
        self._validate = _arguments_adapter(self._parameters, self._hints).validator.validate_python
        self._validate_with_pending: Callable[[ArgsKwargs], Any] | None = None
        self._has_defaults = any(p.default is not p.empty for p in self._parameters)
        self._converts = not all(is_plain(hint) for hint in self._hints.values())
        self._positional = [p for p in self._parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
        self._rest = next((p for p in self._parameters if p.kind is p.VAR_POSITIONAL), None)
        self._more = next((p for p in self._parameters if p.kind is p.VAR_KEYWORD), None)
        self._decoders: dict[int, Callable[[bytes], dict[str, Any]]] = {}
        self._usual_count = sum(p.default is p.empty for p in self._positional)

    def bind(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
        self._refuse_provided(kwargs)
        validate = self._pending_validator() if has_pending(args, kwargs) else self._validate
        try:
            got_args, got_kwargs = validate(ArgsKwargs(args, kwargs))
        except ValidationError as error:
            details = error.errors(include_url=False, include_context=False)
            text = explain(
                self._call, self._parameters, self._hints, provided=self._provided, errors=details, args=args
            )
            raise ArgumentsError(text) from None
        sent = list(got_args)
        if self._has_defaults:
            while sent and sent[-1] is _DEFAULT:
                sent.pop()
            got_kwargs = {name: value for name, value in got_kwargs.items() if value is not _DEFAULT}
        if not self._converts:
            return sent, got_kwargs
        for index, value in enumerate(sent):
            sent[index] = self._convert(self._name_at(index), value)
        return sent, {name: self._convert(name, value) for name, value in got_kwargs.items()}

    def _refuse_provided(self, kwargs: Mapping[str, Any]) -> None:
        """Refuse provided parameters: `**more` would accept them, and they would replace the worker's values."""
        if self._more is not None and (name := next((name for name in kwargs if name in self._provided), None)):
            raise ArgumentsError(f"{name} is provided by the worker (Depends) and cannot be enqueued")

    def argument(self, name: str, args: list[Any], kwargs: dict[str, Any]) -> Any:
        for index, parameter in enumerate(self._positional[: len(args)]):
            if parameter.name == name:
                return args[index]
        if name in kwargs:
            return kwargs[name]
        for parameter in self._parameters:
            if parameter.name == name and parameter.default is not parameter.empty:
                return self._adapters[name].dump_python(parameter.default, mode="json", warnings="none")
        raise KeyError(name)

    def _pending_validator(self) -> Callable[[ArgsKwargs], Any]:
        """As `_validate`, but a placeholder fits every parameter."""
        if self._validate_with_pending is None:
            hints = {name: Annotated[hint, WrapValidator(_accept_pending)] for name, hint in self._hints.items()}
            self._validate_with_pending = _arguments_adapter(self._parameters, hints).validator.validate_python
        return self._validate_with_pending

    def _name_at(self, index: int) -> str:
        if index < len(self._positional):
            return self._positional[index].name
        assert self._rest is not None
        return self._rest.name

    def _convert(self, name: str, value: Any) -> Any:
        kind = type(value)
        if kind is int or kind is str or kind is bool or value is None or kind is Pending:
            return value
        if kind is float and math.isfinite(value):
            return value
        adapter = self._adapter(name)
        try:
            plain = adapter.dump_python(value, mode="json", warnings="error")
            text = to_json(plain, inf_nan_mode="null")
            if may_contain_stars(text):
                plain = with_secrets(plain, value)
                text = to_json(plain, inf_nan_mode="null")
            if self._loose:
                return plain
            back = adapter.validate_json(text, strict=True)
        except ValidationError:
            raise self._changed_error(name, value, "something else") from None
        except (ValueError, TypeError, RecursionError) as error:  # no JSON for its type, no UTF-8, it contains itself
            raise ArgumentsError(f"{self._call}: {name} cannot be sent as JSON: {_reason(error)}") from None
        if type(back) is not kind or not _same(back, value):
            raise self._changed_error(name, value, shown(back))
        return plain

    def _changed_error(self, name: str, value: Any, back: str) -> ArgumentsError:
        """The error for a value that would arrive as another one."""
        if to_jsonable_python(value, inf_nan_mode="strings") != to_jsonable_python(value, inf_nan_mode="null"):
            return ArgumentsError(f"{self._call}: {name} cannot be sent as JSON: it has no NaN and no infinity")
        return ArgumentsError(
            f"{self._call}: {name} would arrive as {back}, not as {shown(value)}; annotate it as what it is"
        )

    def _adapter(self, name: str) -> TypeAdapter[Any]:
        if name not in self._adapters:
            assert self._more is not None
            return self._adapters[self._more.name]
        return self._adapters[name]

    def decode(self, body: bytes) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if self._more is None:
            decoder = self._decoders.get(self._usual_count) or self._decoder(self._usual_count)
            try:
                found = decoder(body)
                return found["args"], found["kwargs"]
            except ValidationError:
                pass  # another number of positional arguments, or a mistake: the slow path finds out
        return self._decode_slowly(body)

    def decode_around(
        self, args: list[Any], kwargs: dict[str, Any], pending: Mapping[int | str, Pending]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return (
            tuple(
                pending[index] if index in pending else self._decode_one(self._name_at(index), value)
                for index, value in enumerate(args)
            ),
            {
                name: pending[name] if name in pending else self._decode_one(name, value)
                for name, value in kwargs.items()
            },
        )

    def _decoder(self, count: int) -> Callable[[bytes], dict[str, Any]]:
        """A decoder of whole bodies with `count` positional arguments, for functions without **more."""
        rest = [self._hints[self._rest.name]] * (count - len(self._positional)) if self._rest else []
        firsts = [self._hints[p.name] for p in self._positional[:count]]
        named = {
            p.name: (self._hints[p.name], p.default is p.empty)
            for p in self._parameters[min(count, len(self._positional)) :]
            if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
        }
        types = (*firsts, *rest)
        body = _typed_dict(
            "Body",
            {
                "args": tuple[types] if types else tuple[()],  # type: ignore[valid-type]
                "kwargs": _typed_dict(
                    "Kwargs",
                    {n: h for n, (h, _) in named.items()},
                    extra="forbid",
                    optional={n for n, (_, required) in named.items() if not required},
                ),
            },
        )
        decoder = cast("Callable[[bytes], dict[str, Any]]", TypeAdapter(body).validator.validate_json)
        if len(self._decoders) < _MAX_SHAPES:
            self._decoders[count] = decoder
        return decoder

    def _decode_slowly(self, body: bytes) -> tuple[tuple[Any, ...], dict[str, Any]]:
        loose = from_json(body)
        args, kwargs = tuple(loose.get("args", ())), dict(loose.get("kwargs", {}))
        self._check_shape(args, kwargs)
        if self._more is None and len(args) <= len(self._positional) + _MAX_SHAPES:
            self._usual_count = len(args)
        return (
            tuple(self._decode_one(self._name_at(index), value) for index, value in enumerate(args)),
            {name: self._decode_one(name, value) for name, value in kwargs.items()},
        )

    def _check_shape(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Check names and numbers of arguments, but not their types."""
        self._refuse_provided(kwargs)
        anything = _arguments_adapter(self._parameters, dict.fromkeys(self._hints, Any)).validator.validate_python
        try:
            anything(ArgsKwargs(args, kwargs))
        except ValidationError as error:
            details = error.errors(include_url=False, include_context=False)
            text = explain(
                self._call, self._parameters, self._hints, provided=self._provided, errors=details, args=args
            )
            raise ArgumentsError(text) from None

    def _decode_one(self, name: str, value: Any) -> Any:
        try:
            return self._adapter(name).validate_json(to_json(value), strict=True)
        except ValidationError as error:
            details = error.errors(include_url=False, include_context=False)
            for detail in details:
                detail["loc"] = (name, *detail["loc"])
            text = must_be(name, self._hints.get(name, Any), details, shown=type_only)  # the job's error
            raise ArgumentsError(f"{self._call}: {text}") from None

    def encode_result(self, value: Any) -> str:
        if value is None and (self._returns is Any or self._returns is type(None)):
            return "null"
        try:
            text = self._result.dump_json(value, warnings="none").decode()
            if may_contain_stars(text) and contains_secret(value):
                raise ArgumentsError(f"the result of {self._name} holds a secret, and results are shown: return a key")
            if not (type(value) is self._returns and is_plain(self._returns)) and self._returns is not Any:
                self._result.validate_json(text, strict=True)
        except (PydanticSerializationError, UnicodeDecodeError, RecursionError) as error:
            raise ArgumentsError(f"the result of {self._name} cannot be sent as JSON: {_reason(error)}") from None
        except ValidationError as error:
            raise ArgumentsError(self._wrong_result(error, type_only)) from None
        return text

    def decode_result(self, text: str) -> Any:
        try:
            return self._result.validate_json(text, strict=True)
        except ValidationError as error:
            raise ArgumentsError(self._wrong_result(error, shown)) from None

    def _wrong_result(self, error: ValidationError, show: Callable[[object], str]) -> str:
        details = error.errors(include_url=False, include_context=False)
        for detail in details:
            detail["loc"] = ("result", *detail["loc"])
        return must_be(f"the result of {self._name}", self._returns, details, shown=show)


def _accept_pending(value: Any, validate: ValidatorFunctionWrapHandler) -> Any:
    return value if type(value) is Pending else validate(value)


def _arguments_adapter(parameters: list[inspect.Parameter], hints: Mapping[str, Any]) -> TypeAdapter[Any]:
    """Validates (args, kwargs) as Python binds them, in one call. Defaults are marked, and not filled in."""

    def collect(*args: Any, **kwargs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return args, kwargs

    marked = [p.replace(default=_DEFAULT) if p.default is not p.empty else p for p in parameters]
    described: Any = collect
    described.__signature__ = inspect.Signature(marked)
    described.__annotations__ = dict(hints)
    return TypeAdapter(described, config=STRICT)


def _result_adapter(annotation: Any) -> TypeAdapter[Any]:
    try:
        return adapter_of(annotation)
    except (PydanticUserError, NameError):
        return TypeAdapter(Any, config=STRICT)  # the result is checked when there is one


def _typed_dict(
    name: str,
    fields: Mapping[str, Any],
    *,
    extra: Literal["ignore", "forbid"] = "ignore",
    optional: Container[str] = (),
) -> Any:
    make: Any = TypedDict
    made = make(name, {field: NotRequired[hint] if field in optional else hint for field, hint in fields.items()})
    made.__pydantic_config__ = ConfigDict(strict=True, val_json_bytes="base64", extra=extra)
    return made


def _reason(error: Exception) -> str:
    """The reason why a value has no JSON form, in one line."""
    lines = [line.strip() for line in str(error).splitlines()]
    return (lines[1] if lines[0].endswith("warnings:") and len(lines) > 1 else lines[0]).removeprefix(
        "Unable to serialize "
    )


def _same(back: object, value: object) -> bool:
    try:
        return bool(back == value)
    except Exception as error:
        raise DefinitionError(f"{type(value).__name__} cannot be compared: {error}") from error
