"""Compares a decoded value with the one that was encoded, by types and values, part by part. Pure.

`==` is no test: `1 == True == 1.0`, `Decimal("1.0") == Decimal("1.00")`, and instants of two zones are never equal in
the hour that comes twice. Models and dataclasses are compared field by field, with their private attributes.
"""

from __future__ import annotations

import dataclasses
import math
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Collection, Iterable, Mapping
from collections.abc import Set as AbstractSet
from datetime import datetime, time
from decimal import Decimal
from enum import Enum
from functools import cached_property, lru_cache
from typing import Any, NamedTuple, TypeAlias

from pydantic import BaseModel, RootModel

from broker_jobs.errors import DefinitionError
from broker_jobs.function.secret import SECRETS


class _Nothing(Enum):
    NOTHING = "nothing"

    def __repr__(self) -> str:
        return self.value


NOTHING = _Nothing.NOTHING
"""Stands for a part that one of the two values lacks."""


class Difference(NamedTuple):
    """The first place where two values differ."""

    back: object
    """The part that was decoded."""
    value: object
    """The part that was encoded."""
    path: str = ""
    """Where it is: ".rows[3].at"."""
    owner: type | None = None
    """The class of the model or dataclass whose attribute it is."""

    def inside(self, step: str, owner: type | None = None) -> Difference:
        """The same difference, seen from outside the value that contains it."""
        return Difference(self.back, self.value, step + self.path, self.owner or owner)


_Rule: TypeAlias = Callable[[Any, Any, bool], Difference | None]


def difference(back: object, value: object, *, declared: bool = False) -> Difference | None:
    """The first difference of two values; None if they are the same.

    Args:
        back: what was decoded.
        value: what was encoded.
        declared: allow what a validator of the annotation makes of a value. Not allowed is what no one asked for: a
            subclass that becomes its base (a `StrEnum` a `str`), and an int that a float cannot hold.

    Raises:
        DefinitionError: a part cannot be compared.
    """
    try:
        return _difference(back, value, declared)
    except RecursionError:
        raise DefinitionError(f"{type(value).__name__} cannot be compared: a part of it contains itself") from None


def _difference(back: Any, value: Any, declared: bool) -> Difference | None:
    if back is value:
        return None
    kind = type(value)
    if type(back) is not kind:
        if type(back) is float and kind is int and back == value:
            return None  # where a float is annotated an int may be given, as type checkers have it
        return None if declared and not _becomes_less(back, value) else Difference(back, value)
    return _rule(kind)(back, value, declared)  # type: ignore[arg-type]


def _becomes_less(back: Any, value: Any) -> bool:
    return isinstance(value, type(back)) or (type(back) is float and type(value) is int)


@lru_cache(maxsize=1_024)
def _rule(kind: type) -> _Rule:
    if kind in _RULES:
        return _RULES[kind]
    if issubclass(kind, BaseModel):
        return _model
    if dataclasses.is_dataclass(kind):
        return _dataclass
    if issubclass(kind, SECRETS):
        return lambda back, value, declared: (
            _difference(back.get_secret_value(), value.get_secret_value(), declared) and Difference(back, value)
        )
    for base, rule in _RULES.items():
        if issubclass(kind, base):
            return rule
    return _attributes if kind.__eq__ is object.__eq__ else _equal


def _equal(back: Any, value: Any, declared: bool) -> Difference | None:
    try:
        same = declared or bool(back == value)
    except Exception as error:
        raise DefinitionError(f"{type(value).__name__} cannot be compared: {error}") from error
    return None if same else Difference(back, value)


def _float(back: float, value: float, declared: bool) -> Difference | None:
    same = back == value and math.copysign(1, back) == math.copysign(1, value)
    return None if same or declared or (math.isnan(back) and math.isnan(value)) else Difference(back, value)


def _complex(back: complex, value: complex, declared: bool) -> Difference | None:
    return None if declared or repr(back) == repr(value) else Difference(back, value)


def _decimal(back: Decimal, value: Decimal, declared: bool) -> Difference | None:
    return None if declared or back.as_tuple() == value.as_tuple() else Difference(back, value)


def _moment(back: datetime | time, value: datetime | time, declared: bool) -> Difference | None:
    """Datetimes by their clock and offset: that is one instant, in the hours that come twice or never too."""
    if declared:
        return None
    same = back.replace(tzinfo=None, fold=0) == value.replace(tzinfo=None, fold=0)
    same = same and (back.tzinfo is None) is (value.tzinfo is None) and back.utcoffset() == value.utcoffset()
    same = same and (value.tzinfo is not None or back.fold == value.fold)
    return None if same else Difference(back, value)


def _sequence(back: Any, value: Any, declared: bool) -> Difference | None:
    if len(back) != len(value) or getattr(back, "maxlen", None) != getattr(value, "maxlen", None):
        return None if declared else Difference(back, value)
    for index, (part, mine) in enumerate(zip(back, value, strict=True)):
        if part is not mine and (found := _difference(part, mine, declared)) is not None:
            return found.inside(f"[{index}]")
    return None


def _mapping(back: dict[Any, Any], value: dict[Any, Any], declared: bool) -> Difference | None:
    pairs = _pairs(back, value)
    if isinstance(pairs, Difference):
        if len(back) < len(value) and all(key in value for key in back):
            dropped = next(key for key in value if key not in back)
            return Difference(NOTHING, value[dropped]).inside(f"[{dropped!r}]")
        return _lesser_member(back, value) if declared else pairs
    if isinstance(value, OrderedDict) and [part for part, _ in pairs] != list(back):
        return None if declared else Difference(back, value)
    if isinstance(value, defaultdict) and back.default_factory is not value.default_factory:  # type: ignore[attr-defined]
        return None if declared else Difference(back, value)
    for key, mine in pairs:
        if (found := _difference(back[key], value[mine], declared)) is not None:
            return found.inside(f"[{mine!r}]")
    return None


def _set(back: AbstractSet[Any], value: AbstractSet[Any], declared: bool) -> Difference | None:
    if declared:
        return _lesser_member(back, value)
    return Difference(back, value) if isinstance(_pairs(back, value), Difference) else None


def _lesser_member(back: Collection[Any], value: Collection[Any]) -> Difference | None:
    """A member that is equal and has become less: a `StrEnum` a `str`."""
    found = {part: part for part in back}
    for mine in value:
        part = found.get(mine, NOTHING)
        if part is not NOTHING and (less := _difference(part, mine, True)) is not None:
            return less
    return None


def _pairs(back: Collection[Any], value: Collection[Any]) -> list[tuple[Any, Any]] | Difference:
    """The members of two sets, or the keys of two dicts, in pairs: by their hash, and one by one where no hash helps.

    The hashes of one instant in two zones differ in the hour that comes twice.
    """
    left = {part: part for part in back}
    pairs: list[tuple[Any, Any]] = []
    for mine in value:
        part = left.get(mine, NOTHING)
        if part is NOTHING or _difference(part, mine, False) is not None:
            part = next((each for each in left.values() if _difference(each, mine, False) is None), NOTHING)
        if part is NOTHING:
            return Difference(next(iter(left.values()), NOTHING), mine)
        pairs.append((left.pop(part), mine))
    return Difference(next(iter(left)), NOTHING) if left else pairs


def _model(back: BaseModel, value: BaseModel, declared: bool) -> Difference | None:
    kind = type(value)
    mine, other = value.__dict__, back.__dict__
    for name in kind.__pydantic_fields__:
        part, own = other.get(name, NOTHING), mine.get(name, NOTHING)
        if part is not own and (found := _difference(part, own, declared)) is not None:
            return found.inside("" if isinstance(value, RootModel) else f".{name}", kind)
    for part_of, own_of in (
        (back.__pydantic_extra__, value.__pydantic_extra__),
        (back.__pydantic_private__, value.__pydantic_private__),
    ):
        if (part_of or own_of) and (found := _named(part_of or {}, own_of or {}, declared)) is not None:
            return found.inside("", kind)
    return None


def _dataclass(back: Any, value: Any, declared: bool) -> Difference | None:
    kind = type(value)
    for field in dataclasses.fields(kind):
        part, own = getattr(back, field.name, NOTHING), getattr(value, field.name, NOTHING)
        if part is not own and (found := _difference(part, own, declared)) is not None:
            return found.inside(f".{field.name}", kind)
    names = {field.name for field in dataclasses.fields(kind)}
    found = _named(_others(back, names), _others(value, names), declared)
    return None if found is None else found.inside("", kind)


def _others(value: object, names: AbstractSet[str]) -> dict[str, Any]:
    """The attributes of a dataclass that are no fields; cached properties are made again when they are asked for."""
    kind = type(value)
    return {
        name: part
        for name, part in getattr(value, "__dict__", {}).items()
        if name not in names and not isinstance(getattr(kind, name, None), cached_property)
    }


def _attributes(back: Any, value: Any, declared: bool) -> Difference | None:
    """Objects of a class without `==`, such as the lock in a private attribute of a model: by their attributes."""
    slots = {name for kind in type(value).__mro__ for name in _slots(kind)}
    mine = {name: getattr(value, name, NOTHING) for name in slots} | getattr(value, "__dict__", {})
    other = {name: getattr(back, name, NOTHING) for name in slots} | getattr(back, "__dict__", {})
    return _named(other, mine, declared)


def _slots(kind: type) -> Iterable[str]:
    slots = kind.__dict__.get("__slots__", ())
    return [name for name in ((slots,) if isinstance(slots, str) else slots) if name not in ("__dict__", "__weakref__")]


def _named(back: Mapping[str, Any], value: Mapping[str, Any], declared: bool) -> Difference | None:
    for name in {**value, **back}:
        part, own = back.get(name, NOTHING), value.get(name, NOTHING)
        if part is not own and (found := _difference(part, own, declared)) is not None:
            return found.inside(f".{name}")
    return None


_RULES: dict[type, _Rule] = {
    float: _float,
    complex: _complex,
    Decimal: _decimal,
    datetime: _moment,
    time: _moment,
    list: _sequence,
    tuple: _sequence,
    deque: _sequence,
    dict: _mapping,
    set: _set,
    frozenset: _set,
    int: _equal,
    str: _equal,
    bytes: _equal,
    bool: _equal,
}
