"""Turns a job's arguments into a form and the submitted form back into arguments, with hidden values kept. Pure.

Hidden values never leave the server, not even for a person who may change them. Where the submitted form still holds
the mask, the job keeps its value.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from broker_jobs.dashboard.forms.typed_values import parse_json, require_object
from broker_jobs.dashboard.masking import MASKED
from broker_jobs.dashboard.views import Argument

ARGUMENT_PREFIX = "value-"
FURTHER = "further"
"""Name of the field for further named arguments, a JSON object."""


@dataclass(frozen=True)
class ArgumentInput:
    """The input of one argument."""

    field: str
    name: str
    shown: Any
    raw: Any
    is_named: bool
    text: str
    mistake: str = ""

    @property
    def hides(self) -> bool:
        """Whether part of its value is hidden."""
        return bool(self.shown != self.raw)

    @property
    def rows(self) -> int:
        """Height of the input in lines."""
        return min(max(self.text.count("\n") + 1, 1), 20)


@dataclass(frozen=True)
class ArgumentForm:
    """The submitted form: arguments, or inputs with mistakes."""

    inputs: list[ArgumentInput]
    further: str
    further_mistake: str
    args: list[Any]
    kwargs: dict[str, Any]

    @property
    def is_valid(self) -> bool:
        """Whether no input has a mistake."""
        return not self.further_mistake and not any(each.mistake for each in self.inputs)


def argument_inputs(arguments: list[Argument], args: list[Any], kwargs: dict[str, Any]) -> list[ArgumentInput]:
    """The inputs of a job's arguments.

    Args:
        arguments: masked, positional ones first.
        args, kwargs: unmasked.
    """
    raw = [*args, *kwargs.values()]
    names = [*(None for _ in args), *kwargs]
    if len(raw) != len(arguments):
        return []
    return [
        ArgumentInput(f"{ARGUMENT_PREFIX}{index}", name or shown.name or f"argument {index + 1}", shown.value, value,
            name is not None, _text(shown.value))
        for index, (name, shown, value) in enumerate(zip(names, arguments, raw, strict=True))
    ]  # fmt: skip


def read_arguments(inputs: list[ArgumentInput], form: Mapping[str, str]) -> ArgumentForm:
    """The submitted form. An emptied named argument is omitted; a positional one cannot be."""
    kept: list[ArgumentInput] = []
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    for each in inputs:
        text = form.get(each.field, each.text).replace("\r\n", "\n")
        read = replace(each, text=text)
        if not text.strip() and each.is_named:
            kept.append(read)
            continue
        try:
            value = restore_hidden(parse_json(text), each.shown, each.raw)
        except ValueError as error:
            kept.append(replace(read, mistake=f"{each.name} {error}"))
            continue
        kept.append(read)
        if each.is_named:
            kwargs[each.name] = value
        else:
            args.append(value)
    text = form.get(FURTHER, "")
    mistake = ""
    if text.strip():
        try:
            further = require_object(parse_json(text))
            duplicates = sorted(further.keys() & kwargs.keys())
            if duplicates:
                raise ValueError(f"contains {duplicates[0]!r}, which has its own input above")
            kwargs |= further
        except ValueError as error:
            mistake = f"the further arguments: this {error}"
    return ArgumentForm(kept, text, mistake, args, kwargs)


def restore_hidden(typed: Any, shown: Any, raw: Any) -> Any:
    """The typed value, with the hidden values restored where the mask is unchanged.

    Raises:
        ValueError: a mask where nothing was hidden, which would become the value itself.
    """
    if json.dumps(typed) == json.dumps(shown):  # not ==: 1 == True
        return raw
    if isinstance(typed, dict):
        shown, raw = (shown, raw) if isinstance(shown, dict) and isinstance(raw, dict) else ({}, {})
        return {key: restore_hidden(each, shown.get(key), raw.get(key)) for key, each in typed.items()}
    if isinstance(typed, list):
        shown, raw = (shown, raw) if isinstance(shown, list) and isinstance(raw, list) else ([], [])
        pairs = [*zip(shown, raw, strict=False)][: len(typed)]
        pairs += [(None, None)] * (len(typed) - len(pairs))
        return [restore_hidden(each, *pair) for each, pair in zip(typed, pairs, strict=True)]
    if typed == MASKED or (isinstance(typed, str) and MASKED in typed and shown != raw):
        raise ValueError(f"contains {MASKED} where nothing is hidden: write the value")
    return typed


def _text(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)
