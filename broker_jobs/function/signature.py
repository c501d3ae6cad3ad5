"""Checks the arguments and the result of a function against its annotations, and converts them to JSON and back.

The annotations are read on first use, by argument_codec.py, so that modules with jobs may import each other.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from broker_jobs.errors import ArgumentsError
from broker_jobs.function.annotation import call_text
from broker_jobs.function.argument_codec import ArgumentCodec
from broker_jobs.function.depends import provided_parameters
from broker_jobs.function.pending import Pending


class Signature:
    """The parameters and the result of a function, without its provided (`Depends`) parameters.

    Args:
        fn: the function.
        name: the job's name, for error messages.
        loose: for a job of another service without a stub: anything that has a JSON form is accepted.
    """

    def __init__(self, fn: Callable[..., Any], name: str, *, loose: bool = False) -> None:
        self._fn = fn
        self._name = name
        self._loose = loose
        self._provided = frozenset(provided_parameters(fn))
        self._codec: ArgumentCodec | None = None
        self.call_text = call_text(fn, name, self._provided)
        parameters = inspect.signature(fn).parameters.values()
        variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
        self.named = [p.name for p in parameters if p.name not in self._provided and p.kind not in variadic]
        self.takes_more = any(p.kind is p.VAR_KEYWORD for p in parameters)

    @property
    def provided(self) -> frozenset[str]:
        """The parameters that the worker provides."""
        return self._provided

    @property
    def names_text(self) -> str:
        """The job with the names of its parameters: "welcome(user_id)"."""
        return f"{self._name}({', '.join([*self.named, *(['…'] if self.takes_more else [])])})"

    def required_parameters(self) -> list[str]:
        """The parameters without a default; no annotation is evaluated."""
        variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
        parameters = inspect.signature(self._fn).parameters.values()
        return [p.name for p in parameters if p.default is p.empty and p.kind not in variadic]

    def check(self) -> None:
        """Read the annotations now.

        Raises:
            DefinitionError: an annotation is not known at run time, or a parameter has no JSON form.
        """
        if self._codec is None:
            self._codec = ArgumentCodec(self._fn, self._name, self.call_text, self._provided, loose=self._loose)

    def bind(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
        """The arguments of a call as JSON values for an envelope, checked. Placeholders (`Pending`) stay as they are.

        Raises:
            ArgumentsError: they do not fit, or would arrive as other values.
            DefinitionError: as `check`.
        """
        codec = self._codec
        if codec is None:
            codec = self._ready()
        try:
            return codec.bind(args, kwargs)
        except ArgumentsError as error:
            text = str(error)
            if not text.endswith("cannot be enqueued"):
                text += f"{'' if text.endswith('?') else '.'} Nothing was enqueued."
            raise ArgumentsError(text) from None

    def argument(self, name: str, args: list[Any], kwargs: dict[str, Any]) -> Any:
        """One argument of a call that `bind` has checked, as JSON; its default if it is not given.

        Raises:
            KeyError: there is no argument with this name.
        """
        return self._ready().argument(name, args, kwargs)

    def json_name(self, name: str, field: str) -> str:
        """The name that a field of a parameter has in JSON: its alias, if it is a model's field with one."""
        return self._ready().json_name(name, field)

    def decode(self, body: bytes) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments in the body of an envelope.

        Raises:
            ArgumentsError: they do not fit the function, as after a change of its code.
            DefinitionError: as `check`.
        """
        return self._ready().decode(body)

    def decode_around(
        self, args: list[Any], kwargs: dict[str, Any], pending: Mapping[int | str, Pending]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments of an envelope whose result arguments are not filled in yet: placeholders are in their places.

        Raises:
            As `decode`.
        """
        return self._ready().decode_around(args, kwargs, pending)

    def encode_result(self, value: Any) -> str:
        """The JSON text of a result.

        Raises:
            ArgumentsError: it has no JSON form, or does not match the annotation.
        """
        return self._ready().encode_result(value)

    def decode_result(self, text: str) -> Any:
        """The result in a JSON text.

        Raises:
            ArgumentsError: it does not match the annotation, as after a change of the code.
        """
        return self._ready().decode_result(text)

    def _ready(self) -> ArgumentCodec:
        self.check()
        assert self._codec is not None
        return self._codec
