"""Converts values of one annotation to JSON and back: the one codec of arguments, defaults and results.

Before a value is sent it is decoded, and compared with what it was. What would arrive as another value is refused, with
a sentence that says what to write.
"""

from __future__ import annotations

import math
from typing import Any, Final

from pydantic import ValidationError
from pydantic_core import to_json

from broker_jobs.errors import ArgumentsError
from broker_jobs.function.annotation import Adapter, adapter_of, is_plain
from broker_jobs.function.comparison import difference
from broker_jobs.function.json_form import (
    HALF_CHARACTER,
    NO_NAN,
    contains_set,
    finished,
    has_nan,
    has_whole_characters,
    is_exact,
    is_unexpected,
    reason,
    unreadable,
)
from broker_jobs.function.refusal import changed, misread
from broker_jobs.function.secret import contains_secret, may_contain_stars

READING: Final[dict[str, Any]] = {"strict": True, "by_alias": True, "by_name": True}
"""How a producer that tries it and a worker read JSON: `"42"` is no int, and a field has its alias or its name."""


class _NotAsAnnotated(ArgumentsError):
    """A part of a value has another type than its annotation, before a validator has changed it."""


class ValueCodec:
    """The codec of one annotation.

    Args:
        annotation: evaluated.
        adapter: its adapter, if it is made already.
        refuses_secrets: for results, which are shown.

    Raises:
        PydanticUserError, NameError: the type has no schema.
    """

    def __init__(self, annotation: Any, adapter: Adapter | None = None, *, refuses_secrets: bool = False) -> None:
        self.annotation = annotation
        self.is_plain = is_plain(annotation)
        self._adapter, self._boxed = adapter or adapter_of(annotation)
        self._refuses_secrets = refuses_secrets
        self._is_any = annotation is Any or annotation is object
        self._is_float = annotation is float
        self._has_sets = not self.is_plain and (self._is_any or contains_set(self._adapter.core_schema))

    def validate(self, value: Any) -> Any:
        """A value as a function with this annotation gets it. Raises ValidationError."""
        if self._boxed:
            return self._adapter.validate_python((value,), strict=True)[0]
        return self._adapter.validate_python(value, strict=True)

    def decode(self, text: bytes | str) -> Any:
        """The value in a JSON text. Raises ValidationError."""
        if not self._boxed:
            return self._adapter.validate_json(text, **READING)
        boxed = f"[{text}]" if isinstance(text, str) else b"[" + text + b"]"
        return self._adapter.validate_json(boxed, **READING)[0]

    def plain(self, value: Any) -> Any:
        """The JSON form of a value, whether or not it would arrive: of a default, which is not sent.

        Raises:
            ValueError, TypeError, RecursionError: it has none.
        """
        return self._write(value, by_alias=True, warnings="none")[0]

    def _write(self, value: Any, *, by_alias: bool, warnings: str = "error", name: str = "") -> tuple[Any, bytes]:
        """The JSON form of a value, and its text. Sets are sorted, and secrets are written as they are."""
        options: Any = {"mode": "json", "by_alias": by_alias, "round_trip": True, "warnings": warnings}
        if self._boxed:
            plain = self._adapter.dump_python((value,), **options)[0]
        else:
            plain = self._adapter.dump_python(value, **options)
        text = to_json(plain, inf_nan_mode="null")
        has_stars = may_contain_stars(text)
        if has_stars and self._refuses_secrets and contains_secret(value):
            raise ArgumentsError(f"{name} holds a secret, and results are shown: return a key")
        if has_stars or self._has_sets:
            plain = finished(plain, value, by_alias=by_alias)
            text = to_json(plain, inf_nan_mode="null")
        return plain, text

    def encode_loosely(self, value: Any, name: str) -> Any:
        """The JSON form of a value for a program that reads it by annotations that are not known here.

        Raises:
            ArgumentsError: it has none.
        """
        try:
            plain, text = self._write(value, by_alias=True)
        except Exception as error:  # noqa: BLE001  # serializers raise anything
            raise ArgumentsError(f"{name} cannot be sent as JSON: {reason(error)}") from None
        if (wrong := NO_NAN if has_nan(value) else unreadable(text)) is not None:
            raise ArgumentsError(f"{name} cannot be sent as JSON: {wrong}")
        return plain

    def encode(self, value: Any, validated: Any, name: str) -> Any:
        """The JSON form of a value that arrives as it is.

        It is made of the value as it was given, so that a validator changes it once: when the worker decodes it. If
        that would not arrive, it is made of what the validators here made of it.

        Args:
            value: as it was given.
            validated: as `validate` returned it.
            name: of the parameter, for the error.

        Raises:
            ArgumentsError: it has no JSON form, or would arrive as another value. The text does not name the job.
        """
        if self._is_float and type(value) is float and math.isfinite(value):
            return value
        if (self.is_plain or self._is_any) and is_exact(value):
            return validated if self.is_plain else self._adapter.dump_python(value, mode="json")
        refusals: list[ArgumentsError] = []
        sources = (value,) if validated is value else (value, validated)
        for source, by_alias in ((source, by_alias) for by_alias in (True, False) for source in sources):
            try:
                return self._tried(source, value, validated, name, by_alias=by_alias)
            except ArgumentsError as error:
                refusals.append(error)
        raise next((each for each in refusals if not isinstance(each, _NotAsAnnotated)), refusals[0])

    def _tried(self, source: Any, value: Any, validated: Any, name: str, *, by_alias: bool) -> Any:
        try:
            plain, text = self._write(source, by_alias=by_alias, name=name)
            if (wrong := unreadable(text)) is not None:
                raise ArgumentsError(f"{name} cannot be sent as JSON: {wrong}")
            back = self.decode(text)
        except ValidationError as error:
            raise ArgumentsError(self._misread(name, value, error)) from None
        except ArgumentsError:
            raise
        except Exception as error:  # noqa: BLE001  # no JSON for its type, it contains itself; serializers raise anything
            kind = _NotAsAnnotated if is_unexpected(error) else ArgumentsError
            raise kind(f"{name} cannot be sent as JSON: {reason(error)}") from None
        if (found := difference(back, value)) is None:
            return plain
        if validated is not value and difference(back, validated) is None:
            undeclared = difference(back, value, declared=True)
            if undeclared is None:
                return plain
            found = undeclared
        if has_nan(value):
            raise ArgumentsError(f"{name} cannot be sent as JSON: {NO_NAN}")
        if isinstance(found.value, str) and not has_whole_characters(found.value):
            raise ArgumentsError(f"{name} cannot be sent as JSON: {HALF_CHARACTER}")
        raise ArgumentsError(changed(name, self.annotation, found))

    def _misread(self, name: str, value: Any, error: ValidationError) -> str:
        if has_nan(value):
            return f"{name} cannot be sent as JSON: {NO_NAN}"
        first = error.errors(include_url=False, include_context=False)[0]
        if self._boxed:
            first["loc"] = first["loc"][1:]
        return misread(name, first)
