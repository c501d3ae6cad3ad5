"""Turns a job's arguments into a form, and the form back into arguments, where parts must not be shown. Pure.

What is hidden never leaves the server, not even to whoever may change it: where the form comes back with the mark that
stood for it, untouched, the job keeps the value it has.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from broker_jobs.dashboard.forms.fields import json_of
from broker_jobs.dashboard.masking import MASKED
from broker_jobs.dashboard.views import Argument

PREFIX = "value-"
MORE = "more"
"""Field of further named arguments, a JSON object."""


@dataclass(frozen=True)
class ArgumentBox:
    """One argument in the form."""

    field: str
    name: str
    shown: Any
    raw: Any
    is_named: bool
    text: str
    mistake: str = ""

    @property
    def hides(self) -> bool:
        """Whether something in it is not shown."""
        return bool(self.shown != self.raw)

    @property
    def rows(self) -> int:
        """Lines its input has."""
        return min(max(self.text.count("\n") + 1, 1), 20)


@dataclass(frozen=True)
class ArgumentForm:
    """The form as it was sent: arguments, or boxes with what is wrong in them."""

    boxes: list[ArgumentBox]
    more: str
    more_mistake: str
    args: list[Any]
    kwargs: dict[str, Any]

    @property
    def is_right(self) -> bool:
        """Whether nothing is wrong."""
        return not self.more_mistake and not any(box.mistake for box in self.boxes)


def boxes_of(arguments: list[Argument], args: list[Any], kwargs: dict[str, Any]) -> list[ArgumentBox]:
    """The form of a job's arguments.

    Args:
        arguments: as they are shown: those by position, then those by name.
        args, kwargs: as they are.
    """
    raw = [*args, *kwargs.values()]
    names = [*(None for _ in args), *kwargs]
    if len(raw) != len(arguments):
        return []
    return [
        ArgumentBox(f"{PREFIX}{index}", name or shown.name or f"argument {index + 1}", shown.value, value,
            name is not None, _text(shown.value))
        for index, (name, shown, value) in enumerate(zip(names, arguments, raw, strict=True))
    ]  # fmt: skip


def edited(boxes: list[ArgumentBox], form: Mapping[str, str]) -> ArgumentForm:
    """What the form says. An emptied named argument is left out; one by position cannot be."""
    kept: list[ArgumentBox] = []
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    for box in boxes:
        text = form.get(box.field, box.text).replace("\r\n", "\n")
        read = replace(box, text=text)
        if not text.strip() and box.is_named:
            kept.append(read)
            continue
        try:
            value = restored(json_of(text), box.shown, box.raw)
        except ValueError as error:
            kept.append(replace(read, mistake=f"{box.name} {error}"))
            continue
        kept.append(read)
        if box.is_named:
            kwargs[box.name] = value
        else:
            args.append(value)
    more = form.get(MORE, "")
    mistake = ""
    if more.strip():
        try:
            further = object_of(json_of(more))
            twice = sorted(further.keys() & kwargs.keys())
            if twice:
                raise ValueError(f"names {twice[0]!r}, which has its own input above")
            kwargs |= further
        except ValueError as error:
            mistake = f"what is added {error}"
    return ArgumentForm(kept, more, mistake, args, kwargs)


def object_of(value: Any) -> dict[str, Any]:
    """A value that is to be a JSON object."""
    if not isinstance(value, dict):
        raise ValueError("must be a JSON object: {…}")  # noqa: TRY004 - of what was typed
    return value


def restored(typed: Any, shown: Any, raw: Any) -> Any:
    """What was typed, with what is hidden put back where its mark was left as it stood.

    Raises:
        ValueError: a mark stands where nothing was hidden: it would become the value itself.
    """
    if json.dumps(typed) == json.dumps(shown):  # not ==, by which 1 is True
        return raw
    if isinstance(typed, dict):
        shown, raw = (shown, raw) if isinstance(shown, dict) and isinstance(raw, dict) else ({}, {})
        return {key: restored(each, shown.get(key), raw.get(key)) for key, each in typed.items()}
    if isinstance(typed, list):
        shown, raw = (shown, raw) if isinstance(shown, list) and isinstance(raw, list) else ([], [])
        pairs = [*zip(shown, raw, strict=False)][: len(typed)]
        pairs += [(None, None)] * (len(typed) - len(pairs))
        return [restored(each, *pair) for each, pair in zip(typed, pairs, strict=True)]
    if typed == MASKED or (isinstance(typed, str) and MASKED in typed and shown != raw):
        raise ValueError(f"has {MASKED} where nothing hidden stood: write what is meant")
    return typed


def _text(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)
