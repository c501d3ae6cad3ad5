"""What is sent arrives as the same value, or is refused with a sentence that says what to write."""

from __future__ import annotations

import collections
import datetime as dt
import itertools
import json
import pathlib
import uuid
from decimal import Decimal
from ipaddress import IPv4Address
from typing import Annotated, Any, Literal, NamedTuple, Optional

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, Json, PrivateAttr, SecretStr
from typing_extensions import TypeAliasType, TypedDict

from broker_jobs import BrokerJobs
from broker_jobs.errors import ArgumentsError, DefinitionError
from broker_jobs.function.comparison import difference
from broker_jobs.function.keys import Unique, unique_key
from broker_jobs.function.signature import Signature
from broker_jobs.function.value_codec import ValueCodec
from broker_jobs.messages.codec import decode, encode
from broker_jobs.messages.envelope import Envelope
from broker_jobs.testing import Tester
from tests.unit.function.annotation_types import (
    Aliased,
    Base64,
    Cents,
    Checked,
    Colour,
    Excluded,
    Init,
    Level,
    Login,
    Pair,
    Plain,
    Private,
    Row,
    Swapped,
    Text,
    Utf8,
    Word,
)
from tests.unit.function.annotations import CHANGES, ZONES, cases, function_of

U = str(uuid.UUID(int=7))
NAIVE = dt.datetime.fromisoformat("2026-10-25T02:00").replace(fold=1)


def arrived(annotation: Any, value: Any) -> Any:
    """What a worker with a registry of its own makes of a value, after the coordinator has decoded and encoded it."""
    args, kwargs = Signature(function_of(annotation), "echo").bind((value,), {})
    body = encode(Envelope(id="0190", job="echo", args=args, kwargs=kwargs, created_at=dt.datetime.now(dt.UTC)))
    return Signature(function_of(annotation), "echo").decode(encode(decode(body)))[0][0]


def refused(annotation: Any, value: Any) -> str:
    with pytest.raises((ArgumentsError, DefinitionError)) as caught:
        arrived(annotation, value)
    return str(caught.value)


def kind_of(value: object) -> str:
    """The id of a parameter: some values are too long to be written."""
    return type(value).__name__


def nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


@settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_a_value_of_any_annotation_arrives_the_same_or_is_refused_by_name(data: st.DataObject) -> None:
    case = data.draw(cases())
    value = data.draw(case.values)
    refusal, back = "", None
    try:
        back = arrived(case.annotation, value)
    except (ArgumentsError, DefinitionError) as error:
        refusal = str(error)
    if refusal:
        assert "echo(x" in refusal
        return
    if difference(back, value) is not None:  # a validator of the annotation has changed it, once
        assert difference(back, ValueCodec(case.annotation).validate(value)) is None


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_a_result_of_any_annotation_comes_back_or_is_refused_by_name(data: st.DataObject) -> None:
    case = data.draw(cases())
    value = data.draw(case.values)
    signature = Signature(function_of(case.annotation), "echo")
    refusal, text = "", ""
    try:
        text = signature.encode_result(value)
    except (ArgumentsError, DefinitionError) as error:
        refusal = str(error)
    if refusal:
        assert "the result of echo" in refusal
        return
    back = signature.decode_result(text)
    if difference(back, value) is not None:
        assert difference(back, ValueCodec(case.annotation).validate(value)) is None


def test_every_minute_of_the_hours_that_come_twice_or_never_arrives_as_the_same_instant() -> None:
    minutes = [
        (wall + dt.timedelta(minutes=minute)).replace(tzinfo=zone, fold=fold)
        for zone, wall, minute, fold in itertools.product(ZONES, CHANGES, range(120), (0, 1))
    ]
    back = arrived(list[dt.datetime], minutes)
    assert [each.isoformat() for each in back] == [each.isoformat() for each in minutes]
    assert [each.timestamp() for each in back] == [each.timestamp() for each in minutes]


@pytest.mark.parametrize("plane", range(17))
def test_every_plane_of_unicode_arrives(plane: int) -> None:
    text = "".join(chr(code) for code in range(plane << 16, (plane + 1) << 16) if not 0xD800 <= code < 0xE000)
    assert arrived(str, text) == text
    assert arrived(Any, {text: [text]}) == {text: [text]}


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (Aliased, Aliased(orderId=1, nameIn="a", tag="t")),
        (Swapped, Swapped(b=1, a=2)),
        (Checked, Checked(anA=1, b={"x", "y"})),
        (list[Base64], [Base64(data=b"\xff\x00")]),
        (Row, Row("a", b"abcd")),
        (Row | None, Row("a", b"\xff")),
        (Login, Login(name="**********", password=SecretStr("**********"))),
        (str | Decimal, "1.10"),
        (Decimal | int, 1),
        (float | int, 3),
        (bool | int, 1),
        (set[dt.datetime], {dt.datetime(2026, 10, 25, 2, 30, tzinfo=ZONES[0]), dt.datetime(2026, 1, 1, tzinfo=dt.UTC)}),
        (int, 10**4299),
        (int, -(10**4299)),
        (float, 5e-324),
        (float, -0.0),
        (Any, nested(190)),
        (dt.timedelta, dt.timedelta.max),
        (Decimal, Decimal("1E-400")),
        (collections.defaultdict[str, list[int]], collections.defaultdict(list, a=[1])),
        (Private, Private(a=1)),
    ],
    ids=kind_of,
)
def test_what_looks_hard_arrives(annotation: Any, value: Any) -> None:
    assert difference(arrived(annotation, value), value) is None


@pytest.mark.parametrize(
    ("annotation", "value", "sentence"),
    [
        (
            uuid.UUID | str,
            U,
            "'00000000-0000-0000-0000-000000000007' (str); UUID | str read alike in JSON",
        ),
        (str | uuid.UUID, U, "read alike in JSON: annotate it as one type"),
        (bytes | str, "abcd", "read alike in JSON: annotate it as one type"),
        (dt.date | str | None, "2026-10-25", "read alike in JSON: annotate it as one type"),
        (pathlib.Path | str, "/x", "read alike in JSON: annotate it as one type"),
        (list[IPv4Address | str], ["a", "1.2.3.4"], "x[1] would arrive as IPv4Address('1.2.3.4')"),
        (str, Word.RED, "write str(…), or annotate it as Word"),
        (str, Text("x"), "write str(…), or annotate it as Text"),
        (int, Level.LOW, "write int(…), or annotate it as Level"),
        (list[int], [1, Level.LOW], "x[1] would arrive as 1 (int), not as <Level.LOW: 1> (Level); write int(…)"),
        (set[int], {Level.LOW, 3}, "write int(…), or annotate it as Level"),
        (dict[str, int], {Word.RED: 1}, "write str(…), or annotate it as Word"),
        (dict[str, int], collections.OrderedDict(a=1), "write dict(…), or annotate it as OrderedDict"),
        (Any, Pair(1), "x would arrive as [1, 'x'] (list), not as Pair(left=1, right='x') (Pair); annotate it"),
        (Any, {1: None}, "annotate it as what it is"),
        (Any, Colour.RED, "annotate it as what it is"),
        (float, 2**53 + 1, "no float holds it: annotate it as int"),
        (int, 10**4300, "an integer has more than 4_300 digits, which no worker reads; pass it as text"),
        (list[int], [10**4300], "an integer has more than 4_300 digits, which no worker reads; pass it as text"),
        (Any, {"a": [-(10**4300)]}, "an integer has more than 4_300 digits, which no worker reads; pass it as text"),
        (Any, nested(191), "it is nested deeper than 190 levels, which no worker reads; pass it as text"),
        (Any, nested(2_000), "it is nested deeper than 190 levels, which no worker reads; pass it as text"),
        (str, "a\ud800", "half a character (a lone surrogate), which UTF-8 cannot hold; pass it as bytes"),
        (list[str], ["\udfff"], "half a character (a lone surrogate), which UTF-8 cannot hold; pass it as bytes"),
        (Any, {"\ud800": 1}, "half a character (a lone surrogate), which UTF-8 cannot hold; pass it as bytes"),
        (Plain, Plain(id=1, note="\ud800"), "half a character (a lone surrogate), which UTF-8 cannot hold"),
        (float, float("nan"), "JSON has no NaN and no infinity; pass None or text"),
        (Any, [float("inf")], "JSON has no NaN and no infinity; pass None or text"),
        (Plain, Plain(id=1, total=float("-inf")), "JSON has no NaN and no infinity; pass None or text"),
        (Utf8, Utf8(data=b"\xff"), 'model_config = ConfigDict(ser_json_bytes="base64", val_json_bytes="base64")'),
        (dt.datetime, dt.datetime(1800, 1, 1, tzinfo=ZONES[0]), "whole minutes: pass x.astimezone(UTC)"),
        (dt.datetime, NAIVE, "pass an aware datetime"),
        (dt.time, dt.time(1, tzinfo=ZONES[0]), "pass the name of the zone beside it"),
        (Private, Private(a=1).marked(), "x._seen would arrive as 0 (int), not as 1 (int); it is a private attribute"),
        (Excluded, Excluded(a=1, hidden=1), "x.hidden would arrive as 0 (int), not as 1 (int); Excluded changes it"),
        (Init, Init(1, 1), "x.c would arrive as 1 (int), not as 2 (int); Init changes it when it is read"),
        (Colour, Colour.PAIR, "annotate it as an Enum whose values are text or numbers"),
        (Literal[Colour.RED], Colour.RED, "annotate it as an Enum whose values are text or numbers"),
        (Cents, Cents(cents=1), "its validators must leave alone what they have made"),
        (Annotated[int, BeforeValidator(lambda value: value["a"])], 1, "x was refused: its validator raised TypeError"),
    ],
    ids=kind_of,
)
def test_what_would_not_arrive_is_refused_with_what_to_write(annotation: Any, value: Any, sentence: str) -> None:
    text = refused(annotation, value)
    assert sentence in text
    assert text.startswith("echo(x: ")
    assert text.endswith(" Nothing was enqueued.")


@pytest.mark.parametrize(
    ("annotation", "value", "got"),
    [
        (Annotated[str, AfterValidator(lambda text: text + "!")], "a", "a!"),
        (list[Annotated[int, AfterValidator(lambda value: value * 100)]], [1], [100]),
        (Annotated[str, AfterValidator(str.lower)], "A", "a"),
        (Annotated[int, BeforeValidator(int)], "7", 7),
        (Json[list[int]], "[1, 2]", [1, 2]),
    ],
    ids=kind_of,
)
def test_a_validator_changes_a_value_once(annotation: Any, value: Any, got: Any) -> None:
    assert arrived(annotation, value) == got


def test_a_set_has_one_json_form_so_that_keys_made_of_it_are_equal_in_all_processes() -> None:
    words = {"b", "a", "c"}
    assert Signature(function_of(set[str]), "echo").bind((words,), {}) == ([["a", "b", "c"]], {})
    assert Signature(function_of(frozenset[int]), "echo").bind((frozenset({10, 9, 1}),), {}) == ([[1, 9, 10]], {})
    checked = Signature(function_of(list[Checked]), "echo").bind(([Checked(anA=1, b=words)],), {})
    assert json.loads(json.dumps(checked[0])) == [[{"anA": 1, "b": ["a", "b", "c"]}]]


def test_what_a_caller_changes_later_is_not_sent() -> None:
    mine: dict[str, Any] = {"a": [1]}
    (sent,), _ = Signature(function_of(Any), "echo").bind((mine,), {})
    mine["a"].append(2)
    assert sent == {"a": [1]}


@pytest.mark.parametrize(
    ("annotation", "value", "sentence"),
    [
        (list[int], (1, 2), "the result of echo must be a list, not a tuple"),
        (Any, (1, 2), "the result of echo would arrive as [1, 2] (list), not as (1, 2) (tuple)"),
        (uuid.UUID | str, U, "the result of echo would arrive as UUID("),
        (int, 10**4300, "the result of echo cannot be sent as JSON: an integer has more than 4_300 digits"),
        (
            Login,
            Login(name="a", password=SecretStr("b")),
            "the result of echo holds a secret, and results are shown",
        ),
    ],
    ids=kind_of,
)
def test_a_result_that_would_not_arrive_is_refused(annotation: Any, value: Any, sentence: str) -> None:
    with pytest.raises(ArgumentsError) as caught:
        Signature(function_of(annotation), "echo").encode_result(value)
    assert sentence in str(caught.value)


def test_a_key_names_a_field_as_python_does_and_finds_its_alias() -> None:
    def ship(order: Aliased | None) -> None:
        del order

    signature = Signature(ship, "ship")
    bound = signature.bind((Aliased(orderId=7),), {})
    assert bound == ([{"orderId": 7, "nameOut": "", "tag": ""}], {})
    key = unique_key(Unique("order:{order.order_id}"), signature, *bound)
    assert key is not None
    assert key.key == "order:7"


def test_a_private_attribute_that_contains_itself_is_refused() -> None:
    class Knot:
        def __init__(self) -> None:
            self.end = Knot.__new__(Knot)
            self.end.end = self

    class Tied(BaseModel):
        _knot: Knot = PrivateAttr(default_factory=Knot)

    with pytest.raises(DefinitionError, match="Tied cannot be compared: a part of it contains itself"):
        arrived(Tied, Tied())


class Address(TypedDict):
    city: str


def test_a_key_that_a_typed_dict_does_not_declare_is_refused() -> None:
    assert "x['zip'] would not arrive" in refused(Address, {"city": "Bonn", "zip": "53111"})
    assert "x[0]['zip'] would not arrive" in refused(list[Address], [{"city": "Bonn", "zip": "53111"}])


def test_a_keyword_may_have_the_name_of_a_parameter_that_has_none() -> None:
    def only(x: int, /, **more: str) -> None: ...

    def rest(*x: int, **more: dt.date) -> None: ...

    for function, args, kwargs in ((only, (1,), {"x": "text"}), (rest, (1, 2), {"x": dt.date(2026, 1, 1)})):
        sent = Signature(function, "call").bind(args, kwargs)
        body = encode(Envelope(id="0190", job="call", args=sent[0], kwargs=sent[1], created_at=dt.datetime.now(dt.UTC)))
        assert Signature(function, "call").decode(body) == (args, kwargs)


@pytest.mark.parametrize(
    ("field", "sentence"),
    [
        (Field(default=5), "Field(default=…) of x is for fields of models. Write the default in the signature"),
        (
            Field(default_factory=list),
            "Field(default_factory=…) of x is for fields of models. Write None as the default",
        ),
        (
            Field(alias="other"),
            "Field(alias=…) of x is for fields of models. Arguments have the names of the parameters",
        ),
        (Field(validate_default=True), "Field(validate_default=…) of x is for fields of models. Leave it out"),
    ],
)
def test_a_field_that_means_nothing_for_a_parameter_is_refused(field: Any, sentence: str) -> None:
    assert sentence in refused(Annotated[Any, field], 1)


def test_a_field_that_bounds_a_parameter_is_kept() -> None:
    assert arrived(Annotated[int, Field(le=100, description="of a page")], 7) == 7
    assert "x must be" in refused(Annotated[int, Field(le=100)], 101)


class Part(NamedTuple):
    data: bytes


Tree = TypeAliasType("Tree", "dict[str, Tree] | bytes")


def test_bytes_arrive_in_a_type_that_occurs_twice_or_contains_itself() -> None:
    def two(old: Part, new: Part | None = None, *, more: Part | list[Part], tree: Tree) -> None: ...

    args, kwargs = (Part(b"hello"), Part(b"\xff")), {"more": [Part(b"\x00")], "tree": {"a": b"hello"}}
    sent = Signature(two, "two").bind(args, kwargs)
    body = encode(Envelope(id="0190", job="two", args=sent[0], kwargs=sent[1], created_at=dt.datetime.now(dt.UTC)))
    assert Signature(two, "two").decode(body) == (args, kwargs)


def test_a_class_in_quotes_may_come_below() -> None:
    jobs = BrokerJobs("memory://")

    @jobs.job
    def many(orders: list[Below], more: Optional[Below] = None) -> int:  # noqa: UP045  # a name in quotes has no |
        return len(orders) + (more is not None)

    with Tester(jobs) as tester:
        receipt = many.enqueue([Below(number=1)], Below(number=2))
        tester.run()
        assert receipt.result(timeout=1) == 2


class Below(BaseModel):
    number: int
