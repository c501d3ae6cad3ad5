"""Arguments are checked strictly before anything is published, and arrive as they were."""

import dataclasses
import datetime as dt
import enum
import json
import uuid
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from broker_jobs import Depends
from broker_jobs.errors import ArgumentsError, DefinitionError
from broker_jobs.function.signature import Signature
from broker_jobs.messages.codec import encode
from broker_jobs.messages.envelope import Envelope


class Order(BaseModel):
    id: int
    total: float = 0


class BigOrder(Order):
    extra: int = 1


class Token(BaseModel):
    secret: bytes


@dataclasses.dataclass
class Row:
    name: str


class Colour(enum.Enum):
    RED = "red"


class Frozen(BaseModel, frozen=True):
    id: int


def welcome(user_id: int) -> str:
    return str(user_id)


def letter(user_id: int, *, loud: bool = False) -> str:
    return f"{user_id}{loud}"


def resize(image: bytes, width: int, /, *, crop: bool = False) -> bytes:
    return image[:width] if crop else image


def odd(when: int, job: int, self: int, *names: str, **more: float) -> None:
    del when, job, self, names, more


def ship(order: Order, rows: list[Row], at: dt.datetime | None = None) -> Order:
    del rows, at
    return order


def notify(user_id: int, mailer: Any = Depends(lambda: 1)) -> None:
    del user_id, mailer


def everything(  # noqa: PLR0917
    a: dict[int, str], b: set[Frozen], c: tuple[int, str], d: Decimal, e: dt.date, f: uuid.UUID, g: Colour, h: Token
) -> None:
    del a, b, c, d, e, f, g, h


def unannotated(x, y=3):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201, RUF100
    return x, y


def body_of(args: list[Any], kwargs: dict[str, Any]) -> bytes:
    return encode(
        Envelope(id="0190", job="x", args=args, kwargs=kwargs, created_at=dt.datetime.now(dt.UTC), trace={"args": "[]"})
    )


def carried(fn: Any, *args: Any, **kwargs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    signature = Signature(fn, fn.__name__)
    bound = signature.bind(args, kwargs)
    json.dumps(bound, allow_nan=False)
    return signature.decode(body_of(*bound))


def refused(fn: Any, *args: Any, **kwargs: Any) -> str:
    with pytest.raises(ArgumentsError) as caught:
        Signature(fn, fn.__name__).bind(args, kwargs)
    return str(caught.value)


@pytest.mark.parametrize(
    ("fn", "args", "kwargs"),
    [
        (welcome, (42,), {}),
        (welcome, (), {"user_id": 42}),
        (letter, (42,), {"loud": True}),
        (resize, (b"\xff\x00", 3), {"crop": True}),
        (odd, (1, 2, 3, "a", "b"), {"x": 1.5}),
        (odd, (), {"when": 1, "job": 2, "self": 3}),
        (ship, (Order(id=1, total=1.5), [Row("a")]), {}),
        (ship, (Order(id=1), []), {"at": dt.datetime(2027, 1, 1, tzinfo=dt.UTC)}),
        (unannotated, ({"a": [1, "x", None]},), {"y": "z"}),
        (
            everything,
            (
                {1: "a"}, {Frozen(id=1)}, (1, "b"), Decimal("1.10"), dt.date(2027, 1, 1), uuid.UUID(int=7), Colour.RED,
                Token(secret=b"plain"),
            ),
            {},
        ),
    ],
)  # fmt: skip
def test_arguments_arrive_as_they_were(fn: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    assert carried(fn, *args, **kwargs) == (args, kwargs)


@given(st.integers(), st.booleans())
def test_any_int_arrives(user_id: int, loud: bool) -> None:
    assert carried(letter, user_id, loud=loud) == ((user_id,), {"loud": loud})


@given(st.binary(), st.integers(-5, 5))
def test_any_bytes_arrive(image: bytes, width: int) -> None:
    assert carried(resize, image, width) == ((image, width), {})


@given(st.lists(st.text()), st.dictionaries(st.from_regex(r"[a-z]{5,9}", fullmatch=True), st.floats(allow_nan=False)))
def test_any_text_arrives_or_is_refused(names: list[str], more: dict[str, float]) -> None:
    try:
        assert carried(odd, 1, 2, 3, *names, **more) == ((1, 2, 3, *names), more)
    except ArgumentsError:
        assert any(value in (float("inf"), float("-inf")) for value in more.values())


def test_a_default_of_the_sender_does_not_travel() -> None:
    assert Signature(letter, "letter").bind((42,), {}) == ([42], {})


def test_wrong_type_is_named() -> None:
    assert refused(welcome, "x") == (
        "welcome(user_id: int): user_id must be an int, not 'x' (str). Nothing was enqueued."
    )


def test_missing_argument_is_named() -> None:
    assert refused(welcome) == "welcome(user_id: int): user_id is missing. Nothing was enqueued."


def test_unknown_keyword_names_the_nearest() -> None:
    assert refused(welcome, user=1) == (
        "welcome(user_id: int) takes no 'user'; did you mean 'user_id'? Nothing was enqueued."
    )


def test_too_many_are_counted() -> None:
    assert refused(welcome, 1, 2) == "welcome(user_id: int) takes 1 positional argument, not 2. Nothing was enqueued."


def test_given_twice_is_named() -> None:
    assert refused(welcome, 1, user_id=1) == "welcome(user_id: int): user_id is given twice. Nothing was enqueued."


def test_what_the_worker_makes_cannot_be_enqueued() -> None:
    assert refused(notify, 42, mailer=object()) == "mailer is provided by the worker (Depends) and cannot be enqueued"


@pytest.mark.parametrize("value", ["42", True, 4.0, None, Decimal(4)])
def test_nothing_is_turned_into_an_int(value: object) -> None:
    assert "user_id must be an int" in refused(welcome, value)


def test_a_path_says_where_inside_it_is_wrong() -> None:
    assert "rows[1] must be" in refused(ship, Order(id=1), [Row("a"), {"name": "a"}])


def test_one_of_many_is_numbered() -> None:
    assert "names[1] must be a str, not 5 (int)" in refused(odd, 1, 2, 3, "a", 5)


@pytest.mark.parametrize(
    ("fn", "args", "reason"),
    [
        (ship, (BigOrder(id=1), []), "order would arrive as Order(id=1, total=0.0) (Order), not as BigOrder("),
        (
            ship,
            (Order(id=1, total=float("nan")), []),
            "order cannot be sent as JSON: JSON has no NaN and no infinity; pass None or text",
        ),
        (unannotated, ((1, 2),), "x would arrive as [1, 2] (list), not as (1, 2) (tuple); annotate it as what it is"),
        (unannotated, (object(),), "x cannot be sent as JSON: unknown type: <class 'object'>"),
        (unannotated, (float("inf"),), "x cannot be sent as JSON: JSON has no NaN and no infinity; pass None or text"),
        (unannotated, (Order(id=1),), "x would arrive as {'id': 1, 'total': 0.0} (dict)"),
    ],
)
def test_what_would_not_come_back_is_refused_before_it_is_published(
    fn: Any, args: tuple[Any, ...], reason: str
) -> None:
    assert reason in refused(fn, *args)


def test_what_contains_itself_is_refused() -> None:
    knot: list[Any] = []
    knot.append(knot)
    assert "x cannot be sent as JSON: Circular reference" in refused(unannotated, knot)


def test_bytes_of_a_model_without_base64_are_refused() -> None:
    def keep(token: Token) -> None: ...

    assert "token cannot be sent as JSON" in refused(keep, Token(secret=b"\xff"))


@pytest.mark.parametrize(
    ("args", "kwargs", "reason"),
    [
        (["x"], {}, "welcome(user_id: int): user_id must be an int, not a str"),
        ([], {}, "welcome(user_id: int): user_id is missing"),
        ([1, 2], {}, "welcome(user_id: int) takes 1 positional argument, not 2"),
        ([1], {"old": 2}, "welcome(user_id: int) takes no 'old'"),
        ([1], {"user_id": 2}, "welcome(user_id: int): user_id is given twice"),
    ],
)
def test_a_message_that_does_not_fit_is_refused(args: list[Any], kwargs: dict[str, Any], reason: str) -> None:
    with pytest.raises(ArgumentsError) as caught:
        Signature(welcome, "welcome").decode(body_of(args, kwargs))
    assert str(caught.value) == reason


@pytest.mark.parametrize("value", ["4711", ["4711"], {"password": "4711"}])
def test_what_a_worker_says_of_a_message_that_does_not_fit_repeats_no_value_as_it_may_be_a_secret(value: Any) -> None:
    with pytest.raises(ArgumentsError, match="user_id must be an int, not a") as caught:
        Signature(welcome, "welcome").decode(body_of([value], {}))
    assert "4711" not in str(caught.value)


def test_one_signature_reads_calls_of_every_shape() -> None:
    signature = Signature(letter, "letter")
    for _ in range(2):
        assert signature.decode(body_of([1], {})) == ((1,), {})
        assert signature.decode(body_of([], {"user_id": 1, "loud": True})) == ((), {"user_id": 1, "loud": True})


def test_a_message_may_not_bring_what_the_worker_makes() -> None:
    with pytest.raises(ArgumentsError, match="provided by the worker"):
        Signature(notify, "notify").decode(body_of([1], {"mailer": 2}))


@pytest.mark.parametrize(
    ("fn", "value"),
    [(welcome, "é"), (resize, b"\xff"), (ship, Order(id=3)), (notify, None), (unannotated, [1, {"a": None}])],
)
def test_a_result_comes_back_as_annotated(fn: Any, value: object) -> None:
    signature = Signature(fn, fn.__name__)
    assert signature.decode_result(signature.encode_result(value)) == value


def test_a_result_of_another_type_is_refused_with_a_reason() -> None:
    with pytest.raises(ArgumentsError, match=r"^the result of welcome must be a str, not an int$"):
        Signature(welcome, "welcome").encode_result(5)
    with pytest.raises(ArgumentsError, match="the result of welcome must be a str, not None"):
        Signature(welcome, "welcome").encode_result(None)


def test_a_result_without_json_is_refused_with_a_reason() -> None:
    with pytest.raises(ArgumentsError, match="the result of unannotated cannot be sent as JSON: unknown type"):
        Signature(unannotated, "unannotated").encode_result(object())


def test_a_result_of_an_older_deploy_is_refused_with_a_reason() -> None:
    with pytest.raises(ArgumentsError, match="the result of welcome must be a str, not 5"):
        Signature(welcome, "welcome").decode_result("5")


def test_annotations_are_read_on_first_use() -> None:
    namespace: dict[str, Any] = {"__name__": "shop"}
    exec("from __future__ import annotations\ndef welcome(user: User) -> None: ...", namespace)
    signature = Signature(namespace["welcome"], "welcome")
    assert signature.call_text == "welcome(user: User)"
    namespace["User"] = Order
    assert signature.bind((Order(id=1),), {}) == ([{"id": 1, "total": 0.0}], {})


def test_a_name_only_for_type_checkers_is_explained() -> None:
    namespace: dict[str, Any] = {"__name__": "shop"}
    exec("from __future__ import annotations\ndef welcome(user: User) -> None: ...", namespace)
    with pytest.raises(DefinitionError) as caught:
        Signature(namespace["welcome"], "welcome").check()
    assert str(caught.value) == (
        "welcome: 'User' is imported only for type checkers; import it outside \"if TYPE_CHECKING\""
    )


def test_a_local_name_is_explained() -> None:
    namespace: dict[str, Any] = {"__name__": "shop"}
    exec(
        "from __future__ import annotations\n"
        "def make():\n    class User: pass\n    def welcome(user: User) -> None: ...\n    return welcome",
        namespace,
    )
    with pytest.raises(DefinitionError, match="'User' is not known in its module; define it outside any function"):
        Signature(namespace["make"](), "welcome").check()


def test_call_text_reads_as_the_def() -> None:
    assert Signature(resize, "resize").call_text == "resize(image: bytes, width: int, /, *, crop: bool = False)"
    assert Signature(notify, "notify").call_text == "notify(user_id: int)"


def test_a_job_of_another_service_takes_what_has_json() -> None:
    def anything(*args: Any, **kwargs: Any) -> Any: ...

    loose = Signature(anything, "billing.charge", loose=True)
    assert loose.bind((dt.date(2027, 1, 1),), {"pair": (1, 2)}) == (["2027-01-01"], {"pair": [1, 2]})
    with pytest.raises(ArgumentsError, match="cannot be sent"):
        loose.bind((object(),), {})
