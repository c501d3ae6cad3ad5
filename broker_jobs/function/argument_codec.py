"""Converts the arguments and the result of one function to JSON and back, by its evaluated annotations.

Strict, as another program reads the message: `"42"` is no int. A value that would come back as another one is refused
before anything is published (value_codec.py). The most frequent arguments, int and str, are their own JSON and are not
decoded, which keeps the hot path at one call into pydantic. Over 300 lines: how a call is written and how it is read
belong together.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Container, Mapping
from enum import Enum
from typing import Annotated, Any, Final, Literal, NotRequired, cast, get_args

from pydantic import ConfigDict, TypeAdapter, ValidationError, ValidatorFunctionWrapHandler, WrapValidator
from pydantic.errors import PydanticUserError
from pydantic_core import ArgsKwargs, from_json, to_json
from typing_extensions import TypedDict

from broker_jobs.errors import ArgumentsError
from broker_jobs.function.annotation import STRICT, parameter_adapter, read_hints
from broker_jobs.function.explain import explain, must_be, raised_text, shown, type_only
from broker_jobs.function.json_form import are_exact_scalars
from broker_jobs.function.pending import Pending, has_pending
from broker_jobs.function.provider_checks import refuse_annotated
from broker_jobs.function.value_codec import READING, ValueCodec

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
        self._codecs = {n: ValueCodec(hint, parameter_adapter(n, hint, call)) for n, hint in self._hints.items()}
        self._result = _result_codec(hints.get("return", Any))
        self._validate = _arguments_adapter(self._parameters, self._hints).validator.validate_python
        self._validate_with_pending: Callable[[ArgsKwargs], Any] | None = None
        self._has_defaults = any(p.default is not p.empty for p in self._parameters)
        self._is_plain = all(codec.is_plain for codec in self._codecs.values())
        self._positional = [p for p in self._parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
        self._rest = next((p for p in self._parameters if p.kind is p.VAR_POSITIONAL), None)
        self._more = next((p for p in self._parameters if p.kind is p.VAR_KEYWORD), None)
        self._never_named = {p.name for p in self._parameters if p.kind in (p.POSITIONAL_ONLY, p.VAR_POSITIONAL)}
        """A keyword with one of these names belongs to `**more`."""
        self._decoders: dict[int, Callable[..., dict[str, Any]]] = {}
        self._usual_count = sum(p.default is p.empty for p in self._positional)

    def bind(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
        if kwargs and self._more is not None:
            self._refuse_provided(kwargs)
        exact = self._is_plain and are_exact_scalars(args) and (not kwargs or are_exact_scalars(kwargs.values()))
        validate = self._pending_validator() if not exact and has_pending(args, kwargs) else self._validate
        try:
            got_args, got_kwargs = validate(ArgsKwargs(args, kwargs))
        except ValidationError as error:
            details = error.errors(include_url=False, include_context=False)
            text = explain(
                self._call, self._parameters, self._hints, provided=self._provided, errors=details, args=args
            )
            raise ArgumentsError(text) from None
        except Exception as error:  # a validator of the program may raise anything
            raise ArgumentsError(f"{self._call}: {self._raiser(args, kwargs)}{raised_text(error)}") from error
        sent = list(got_args)
        if self._has_defaults:
            while sent and sent[-1] is _DEFAULT:
                sent.pop()
            got_kwargs = {name: value for name, value in got_kwargs.items() if value is not _DEFAULT}
        if exact:
            return sent, got_kwargs
        for index, value in enumerate(sent):
            sent[index] = self._encode(self._name_at(index), args[index], value)
        return sent, {
            name: self._encode(self._of_keyword(name), kwargs[name], value) for name, value in got_kwargs.items()
        }

    def _refuse_provided(self, kwargs: Mapping[str, Any]) -> None:
        """Refuse provided parameters: `**more` would accept them, and they would replace the worker's values."""
        if (name := next((name for name in kwargs if name in self._provided), None)) is not None:
            raise ArgumentsError(f"{name} is provided by the worker (Depends) and cannot be enqueued")

    def argument(self, name: str, args: list[Any], kwargs: dict[str, Any]) -> Any:
        for index, parameter in enumerate(self._positional[: len(args)]):
            if parameter.name == name:
                return args[index]
        if name in kwargs:
            return kwargs[name]
        for parameter in self._parameters:
            if parameter.name == name and parameter.default is not parameter.empty:
                return self._codecs[name].plain(parameter.default)
        raise KeyError(name)

    def json_name(self, name: str, field: str) -> str:
        hint = self._hints.get(name)
        fields = [getattr(each, "__pydantic_fields__", {}).get(field) for each in (hint, *get_args(hint))]
        return next((found.serialization_alias or field for found in fields if found is not None), field)

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

    def _of_keyword(self, name: str) -> str:
        return self._more.name if self._more is not None and name in self._never_named else name

    def _encode(self, name: str, value: Any, validated: Any) -> Any:
        if type(value) is Pending:
            return value
        codec = self._codec(name)
        try:
            return codec.encode_loosely(value, name) if self._loose else codec.encode(value, validated, name)
        except ArgumentsError as error:
            raise ArgumentsError(f"{self._call}: {error}") from None

    def _raiser(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
        """The argument whose validator raises, as the beginning of a sentence."""
        names = [p.name for p in self._positional[: len(args)]]
        names += [self._rest.name] * (len(args) - len(names)) if self._rest is not None else []
        named = [(self._of_keyword(name), value) for name, value in kwargs.items()]
        for name, value in [*zip(names, args, strict=False), *named]:
            try:
                self._codec(name).validate(value)
            except ValidationError:
                continue
            except Exception:  # noqa: BLE001
                return f"{name} was refused: "
        return ""

    def _codec(self, name: str) -> ValueCodec:
        if name not in self._codecs:
            assert self._more is not None
            return self._codecs[self._more.name]
        return self._codecs[name]

    def decode(self, body: bytes) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if self._more is None:
            decoder = self._decoders.get(self._usual_count) or self._decoder(self._usual_count)
            try:
                found = decoder(body, **READING)
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

    def _decoder(self, count: int) -> Callable[..., dict[str, Any]]:
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
        decoder = _direct(body) if self._is_plain else _boxed(body)
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
            {name: self._decode_one(self._of_keyword(name), value) for name, value in kwargs.items()},
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
            return self._codec(name).decode(to_json(value))
        except ValidationError as error:
            details = error.errors(include_url=False, include_context=False)
            for detail in details:
                detail["loc"] = (name, *detail["loc"])
            text = must_be(name, self._hints.get(name, Any), details, shown=type_only)  # the job's error
            raise ArgumentsError(f"{self._call}: {text}") from None

    def encode_result(self, value: Any) -> str:
        codec = self._result
        try:
            validated = codec.validate(value)
            plain = codec.encode(value, validated, f"the result of {self._name}")
        except ValidationError as error:
            raise ArgumentsError(self._wrong_result(error, type_only)) from None
        except ArgumentsError:
            raise
        except Exception as error:  # a validator of the program may raise anything
            raise ArgumentsError(f"the result of {self._name} was refused: {raised_text(error)}") from error
        return to_json(plain).decode()

    def decode_result(self, text: str) -> Any:
        try:
            return self._result.decode(text)
        except ValidationError as error:
            raise ArgumentsError(self._wrong_result(error, shown)) from None

    def _wrong_result(self, error: ValidationError, show: Callable[[object], str]) -> str:
        details = error.errors(include_url=False, include_context=False)
        for detail in details:
            detail["loc"] = ("result", *detail["loc"])
        return must_be(f"the result of {self._name}", self._result.annotation, details, shown=show)


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


def _result_codec(annotation: Any) -> ValueCodec:
    try:
        return ValueCodec(annotation, refuses_secrets=True)
    except (PydanticUserError, NameError):
        return ValueCodec(Any, refuses_secrets=True)  # the result is checked when there is one


def _direct(body: Any) -> Callable[..., dict[str, Any]]:
    return cast("Callable[..., dict[str, Any]]", TypeAdapter(body).validator.validate_json)


def _boxed(body: Any) -> Callable[..., dict[str, Any]]:
    """Read a body in a tuple, as `adapter_of` does for one annotation.

    A type that occurs twice is built apart, with the configuration of the adapter alone: without it a NamedTuple's
    bytes would be read as text.
    """
    of: Any = tuple
    validate = TypeAdapter(of[body], config=STRICT).validator.validate_json
    return lambda text, **options: cast("dict[str, Any]", validate(b"[" + text + b"]", **options)[0])


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
