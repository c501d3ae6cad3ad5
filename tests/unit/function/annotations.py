"""Draws annotations with values for them: what a parameter of a job may be declared as. Some values cannot be sent."""

# ruff: noqa: DTZ001, DTZ901  # instants without a zone are among the values

from __future__ import annotations

import collections
import dataclasses
import datetime as dt
import ipaddress
import pathlib
import uuid
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Annotated, Any, Literal, NamedTuple, Optional, Union
from zoneinfo import ZoneInfo

import annotated_types
from hypothesis import strategies as st
from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    Json,
    PlainSerializer,
    SecretBytes,
    SecretStr,
    StringConstraints,
    create_model,
)
from typing_extensions import TypedDict

from tests.unit.function.annotation_types import (
    Aliased,
    Base64,
    Bigger,
    Boxed,
    Camel,
    Cents,
    Checked,
    Colour,
    Computed,
    Excluded,
    Init,
    Kept,
    Key,
    Level,
    Login,
    Movie,
    Nested,
    Open,
    Pair,
    Plain,
    Private,
    Rights,
    Row,
    Swapped,
    Text,
    Tree,
    Utf8,
    Word,
    Wrapped,
)


class Case(NamedTuple):
    """An annotation, and values that a program would give for it."""

    annotation: Any
    values: st.SearchStrategy[Any]
    hashable: bool = False


ANY_TEXT = st.text(st.characters(exclude_categories=()))
TEXT = st.one_of(
    st.text(max_size=8),
    ANY_TEXT,
    st.sampled_from(
        [
            "",
            "\0",
            "1",
            "1.10",
            "null",
            "true",
            "P1D",
            "2026-10-25",
            "2026-10-25T02:30:00+01:00",
            "10:00",
            "abcd",
            "/x",
            "1.2.3.4",
            "::1",
            str(uuid.UUID(int=7)),
            "NaN",
            "**********",
            "😀",
            "\ud800",
            "red",
        ]
    ),
)
INTS = st.one_of(
    st.integers(-3, 3),
    st.integers(),
    st.sampled_from([2**53 + 1, 2**63, -(2**64)]),
    st.sampled_from([400, 4299, 4300]).map(lambda digits: 10**digits),
)
ZONES = [ZoneInfo("Europe/Berlin"), ZoneInfo("America/St_Johns"), ZoneInfo("Australia/Lord_Howe")]
CHANGES = [
    dt.datetime(2026, 3, 29, 1),
    dt.datetime(2026, 10, 25, 2),
    dt.datetime(2026, 3, 8, 2),
    dt.datetime(2026, 11, 1, 1),
    dt.datetime(2026, 4, 5, 1, 30),
    dt.datetime(2026, 10, 4, 1, 30),
]


@st.composite
def hours_that_change(draw: st.DrawFn) -> dt.datetime:
    """A minute of an hour that comes twice, or never, in one of three zones."""
    wall = draw(st.sampled_from(CHANGES)) + dt.timedelta(minutes=draw(st.integers(0, 119)))
    return wall.replace(tzinfo=draw(st.sampled_from(ZONES)), fold=draw(st.sampled_from([0, 1])))


OFFSETS = st.timedeltas(dt.timedelta(hours=-23), dt.timedelta(hours=23)).map(dt.timezone)
DATETIMES = st.one_of(
    hours_that_change(),
    st.datetimes(timezones=st.sampled_from([dt.UTC, *ZONES])),
    st.datetimes(),
    st.datetimes(timezones=OFFSETS),
    st.sampled_from(
        [dt.datetime.min, dt.datetime.max.replace(tzinfo=dt.UTC), dt.datetime(2026, 10, 25, 2, 30, fold=1)]
    ),
)
FLOATS = st.one_of(st.floats(), INTS.filter(lambda value: abs(value) < 10**300))
TIMES = st.one_of(st.times(), st.times(timezones=OFFSETS), st.times(timezones=st.sampled_from(ZONES)))
ADDRESSES = [
    ipaddress.IPv4Address("1.2.3.4"),
    ipaddress.IPv6Address("fe80::1%eth0"),
    ipaddress.IPv4Network("10.0.0.0/8"),
]

LEAVES: list[Case] = [
    Case(int, INTS, hashable=True),
    Case(int, st.sampled_from([Level.LOW, True]), hashable=True),
    Case(str, TEXT, hashable=True),
    Case(str, st.sampled_from([Word.RED, Text("x")]), hashable=True),
    Case(bool, st.booleans(), hashable=True),
    Case(None, st.none(), hashable=True),
    Case(float, FLOATS, hashable=True),
    Case(complex, st.complex_numbers(), hashable=True),
    Case(bytes, st.binary(max_size=6), hashable=True),
    Case(
        Decimal,
        st.one_of(
            st.decimals().filter(lambda value: not value.is_snan()),
            st.sampled_from(["1.10", "-0", "1E+30", "1E-400"]).map(Decimal),
        ),
        hashable=True,
    ),
    Case(Fraction, st.fractions(), hashable=True),
    Case(dt.datetime, DATETIMES, hashable=True),
    Case(dt.date, st.one_of(st.dates(), DATETIMES), hashable=True),
    Case(dt.time, TIMES, hashable=True),
    Case(
        dt.timedelta, st.one_of(st.timedeltas(), st.sampled_from([dt.timedelta.min, dt.timedelta.max])), hashable=True
    ),
    Case(uuid.UUID, st.uuids(), hashable=True),
    Case(pathlib.Path, TEXT.map(pathlib.Path), hashable=True),
    Case(ipaddress.IPv4Address, st.just(ADDRESSES[0]), hashable=True),
    Case(ipaddress.IPv6Address, st.one_of(st.just(ADDRESSES[1]), st.ip_addresses(v=6)), hashable=True),
    Case(ipaddress.IPv4Network, st.just(ADDRESSES[2]), hashable=True),
    Case(Colour, st.sampled_from(Colour), hashable=True),
    Case(Level, st.sampled_from(Level), hashable=True),
    Case(Word, st.sampled_from(Word), hashable=True),
    Case(Rights, st.sampled_from([Rights.READ, Rights.READ | Rights.WRITE, Rights(0)]), hashable=True),
    Case(Literal["a", 1, None], st.sampled_from(["a", 1, None, True]), hashable=True),
    Case(Literal[Colour.RED, b"x"], st.sampled_from([Colour.RED, b"x", "red", "x"]), hashable=True),
    Case(Annotated[int, Field(gt=0)], INTS, hashable=True),
    Case(Annotated[str, annotated_types.MaxLen(3)], TEXT, hashable=True),
    Case(Annotated[str, StringConstraints(to_lower=True, strip_whitespace=True)], TEXT, hashable=True),
    Case(Annotated[str, AfterValidator(lambda text: text + "!")], TEXT, hashable=True),
    Case(Annotated[int, BeforeValidator(lambda value: int(value) + 1)], st.sampled_from([1, "1"]), hashable=True),
    Case(Annotated[int, PlainSerializer(lambda value: f"<{value}>")], INTS, hashable=True),
    Case(Annotated[int, PlainSerializer(str), BeforeValidator(int)], st.integers(), hashable=True),
    Case(Json[list[int]], st.sampled_from(["[1, 2]", "[]", "x"])),
    Case(SecretStr, TEXT.map(SecretStr), hashable=True),
    Case(SecretBytes, st.binary(max_size=5).map(SecretBytes), hashable=True),
    Case(Plain, st.builds(Plain, id=st.integers(), total=FLOATS, note=st.none() | ANY_TEXT)),
    Case(Plain, st.builds(Bigger, id=st.integers())),
    Case(Aliased, st.builds(Aliased, orderId=st.integers(), nameIn=TEXT, tag=TEXT)),
    Case(Swapped, st.builds(Swapped, a=st.integers(), b=st.integers())),
    Case(
        Camel, st.builds(Camel, order_id=st.integers(), unit_price=st.decimals(allow_nan=False, allow_infinity=False))
    ),
    Case(Computed, st.builds(Computed, a=st.integers())),
    Case(Private, st.builds(Private, a=st.integers()) | st.builds(Private, a=st.integers()).map(Private.marked)),
    Case(Cents, st.builds(Cents, cents=st.integers(-2, 2))),
    Case(Excluded, st.builds(Excluded, a=st.integers(), hidden=st.integers(0, 1))),
    Case(Open, st.builds(Open, a=st.integers(), b=TEXT | st.integers() | st.tuples(st.integers()))),
    Case(Base64, st.builds(Base64, data=st.binary(max_size=5)), hashable=True),
    Case(Utf8, st.builds(Utf8, data=st.binary(max_size=5)), hashable=True),
    Case(Login, st.builds(Login, name=TEXT, password=TEXT)),
    Case(Wrapped, st.lists(st.integers(), max_size=3).map(Wrapped)),
    Case(
        Tree,
        st.recursive(
            st.builds(Tree, value=st.integers()),
            lambda inner: st.builds(Tree, value=st.integers(), children=st.lists(inner, max_size=2)),
            max_leaves=4,
        ),
    ),
    Case(Row, st.builds(Row, name=TEXT, data=st.binary(max_size=5))),
    Case(Key, st.builds(Key, id=st.integers(), at=st.none() | DATETIMES), hashable=True),
    Case(Kept, st.builds(Kept, a=st.integers(), b=st.lists(st.integers(), max_size=2), d=st.integers(0, 1))),
    Case(Init, st.builds(Init, a=st.integers(), b=st.integers(0, 1))),
    Case(Checked, st.builds(Checked, anA=st.integers(), b=st.sets(TEXT, max_size=3))),
    Case(
        Movie, st.fixed_dictionaries({"title": TEXT}, optional={"year": st.integers(), "poster": st.binary(max_size=5)})
    ),
    Case(Pair, st.builds(Pair, left=st.integers(), right=TEXT), hashable=True),
    Case(
        Nested, st.recursive(st.none() | st.integers() | TEXT, lambda inner: st.lists(inner, max_size=3), max_leaves=5)
    ),
]
JSON = st.recursive(
    st.none() | st.booleans() | INTS | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
UNDECLARED = st.one_of(
    JSON,
    st.tuples(st.integers()),
    st.dictionaries(st.integers(), st.none(), max_size=2),
    st.sampled_from(
        [Word.RED, Level.LOW, Text("x"), dt.date(2026, 1, 1), Plain(id=1), Pair(1), object(), {1}, b"x", print]
    ),
)
LEAVES.append(Case(Any, UNDECLARED))


def _of(container: Any, *parts: Any) -> Any:
    """A generic type with its parameters, which are known at run time only."""
    return container[parts if len(parts) > 1 else parts[0]]


def _containers(case: Case) -> list[Case]:
    """The annotations that contain one."""
    inner, values = case.annotation, case.values
    lists, texts = st.lists(values, max_size=3), st.dictionaries(TEXT, values, max_size=3)
    model: Any = create_model("Made", part=(inner, ...))
    row: Any = dataclasses.make_dataclass("MadeRow", [("part", inner)])
    make_dict: Any = TypedDict
    box = _of(Boxed, inner)
    made = [
        Case(_of(list, inner), lists),
        Case(_of(list, inner), lists.map(tuple)),
        Case(_of(tuple, inner, ...), lists.map(tuple)),
        Case(_of(tuple, inner, int), st.tuples(values, st.integers())),
        Case(_of(dict, str, inner), texts),
        Case(_of(dict, str, inner), texts.map(collections.OrderedDict)),
        Case(_of(collections.OrderedDict, str, inner), texts.map(collections.OrderedDict)),
        Case(_of(collections.deque, inner), lists.map(collections.deque)),
        Case(_of(Optional, inner), st.none() | values, case.hashable),
        Case(box, values.map(lambda value: box.model_construct(value=value))),
        Case(
            _of(collections.defaultdict, str, _of(list, inner)),
            st.dictionaries(TEXT, lists, max_size=2).map(lambda found: collections.defaultdict(list, found)),
        ),
        Case(model, values.map(lambda value: model.model_construct(part=value))),
        Case(row, values.map(row)),
        Case(make_dict("MadeDict", {"part": inner}), st.builds(lambda part: {"part": part}, values)),
    ]
    if case.hashable:
        made += [
            Case(_of(set, inner), st.sets(values, max_size=3)),
            Case(_of(frozenset, inner), st.frozensets(values, max_size=3), hashable=True),
            Case(_of(dict, inner, int), st.dictionaries(values, st.integers(), max_size=3)),
        ]
    return made


def _union(cases: list[Case]) -> Case:
    return Case(
        _of(Union, *(case.annotation for case in cases)),
        st.one_of(*(case.values for case in cases)),
        all(case.hashable for case in cases),
    )


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """An annotation of up to three levels, with values for it."""
    case: Case = draw(st.sampled_from(LEAVES))
    for _ in range(draw(st.integers(0, 2))):
        if draw(st.booleans()):
            case = draw(st.sampled_from(_containers(case)))
        else:
            others = draw(st.lists(st.sampled_from(LEAVES), min_size=1, max_size=2))
            case = _union(draw(st.permutations([case, *others])))
    return case


def function_of(annotation: Any) -> Callable[..., Any]:
    """A function with one parameter, which it returns."""

    def echo(x: Any) -> Any:
        return x

    echo.__annotations__ = {"x": annotation, "return": annotation}
    return echo
