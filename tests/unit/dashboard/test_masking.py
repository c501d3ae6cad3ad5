"""What must not be shown is in no view: by the names of arguments and of keys at any depth, and by secret types."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker_jobs.clock import ManualClock
from broker_jobs.dashboard.masking import MASKED, MAX_DEPTH, Masking, ParameterNames
from broker_jobs.dashboard.queries import Queries
from broker_jobs.dashboard.views import JobsQuery
from broker_jobs.messages import codec
from broker_jobs.messages.envelope import Envelope
from broker_jobs.messages.state import State
from broker_jobs.settings import MASK
from broker_jobs.store import Row, ScheduleRow, Store

SECRET = "4711-geheim"
MASKING = Masking(MASK)
KEEP = {"succeeded": 1.0, "failed": 1.0, "deleted": 1.0}


@pytest.mark.parametrize(
    "name",
    [
        "password", "PASSWORD", "userPassword", "db_password", "dbpassword", "password2", "passwd", "token", "tokens",
        "auth-token", "accessToken", "api_key", "apiKey", "APIKEY", "x-api-key", "my apikey", "secret", "AWSSecretKey",
        "credentials", "private_key", "PrivateKey", "Authorization", "card", "card_number", "creditCard", "cvv",
    ],
)  # fmt: skip
def test_names_of_secrets_are_hidden_however_they_are_written(name: str) -> None:
    assert MASKING.hides(name)


@pytest.mark.parametrize("name", ["", "user", "discard", "tokenizer", "cardinal", "key", "api", "author", "secretary"])
def test_other_names_are_shown(name: str) -> None:
    assert not MASKING.hides(name)


def test_the_names_are_the_settings() -> None:
    assert Masking(("пароль",)).hides("Пароль")
    assert not Masking(()).hides("password")
    assert not Masking(("", "_")).hides("anything")


def test_arguments_are_hidden_by_their_parameters_names_also_positional_ones() -> None:
    named = ParameterNames(positional=("user", "password"), rest="tokens")
    args, kwargs = MASKING.arguments(["ann", SECRET, SECRET, SECRET], {"card": SECRET, "n": 1}, named)
    assert [each.value for each in args] == ["ann", MASKED, MASKED, MASKED]
    assert [(each.name, each.value, each.masked) for each in kwargs] == [("card", MASKED, True), ("n", 1, False)]


def test_arguments_are_hidden_by_their_secret_types() -> None:
    args, kwargs = MASKING.arguments([SECRET], {"b": SECRET}, ParameterNames(positional=("a",), secret={"a", "b"}))
    assert [each.value for each in (*args, *kwargs)] == [MASKED, MASKED]


def test_json_in_strings_is_looked_through_and_other_text_left_alone() -> None:
    inner = json.dumps({"envelope": json.dumps({"kwargs": {"token": SECRET}}), "n": 1})
    assert SECRET not in MASKING.text(inner)
    for text in ("", "no JSON", "{not JSON", '{"n": 1.50}', "[1,  2]"):
        assert MASKING.text(text) == text


def test_a_mark_of_byte_order_before_json_is_no_way_around() -> None:
    assert SECRET not in MASKING.text("\ufeff" + json.dumps({"password": SECRET}))


def test_what_is_nested_too_deeply_is_hidden() -> None:
    deep: Any = {"password": SECRET}
    for _ in range(MAX_DEPTH + 5):
        deep = [deep]
    assert SECRET not in json.dumps(MASKING.value(deep))
    assert SECRET not in MASKING.text("[" * 50_000 + f'{{"password": "{SECRET}"}}' + "]" * 50_000)


def test_numbers_of_any_length_are_no_way_around() -> None:
    assert SECRET not in MASKING.text(f'{{"n": {"9" * 9_000}, "password": "{SECRET}"}}')


names = st.sampled_from(["password", "api_key", "userToken", "credit-card", "AUTHORIZATION"])
plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@st.composite
def hiding(draw: st.DrawFn) -> Any:
    """A JSON value with the secret somewhere under a hidden name, or a JSON text of such a value."""
    value: Any = draw(st.just(SECRET) | st.just([SECRET]) | st.just({"x": SECRET}))
    value = {**draw(st.dictionaries(st.text(max_size=4), plain, max_size=2)), draw(names): value}
    for _ in range(draw(st.integers(0, 3))):
        match draw(st.integers(0, 2)):
            case 0:
                value = [draw(plain), value]
            case 1:
                value = {draw(st.text(max_size=4)): value}
            case _:
                value = json.dumps(value)
    return value


@pytest.fixture(scope="module")
def store() -> Iterator[Store]:
    opened = Store("sqlite://")
    opened.open()
    yield opened
    opened.close()


@settings(max_examples=25, deadline=None)
@given(args=st.lists(hiding(), max_size=2), value=hiding(), name=names, result=hiding())
def test_a_masked_value_is_in_no_view(store: Store, args: list[Any], value: Any, name: str, result: Any) -> None:
    at = datetime(2026, 1, 1, tzinfo=UTC)
    envelope = Envelope(
        id="j", job="pay", args=args, kwargs={"order": value, name: SECRET}, created_at=at, batch="b", recurring="night"
    )
    body = codec.encode(envelope).decode()
    row = Row(
        "j", job="pay", state=State.FAILED, envelope=body, result=json.dumps(result), created_at=at.timestamp(),
        changed_at=at.timestamp(), ended_at=at.timestamp(), batch="b", recurring="night",
        history=[(at.timestamp(), "failed", "boom")],
    )  # fmt: skip
    dead_letters = json.dumps(
        {"kind": "bundle", "events": [{"kind": "failed", "envelope": body}], "call": body}
    ).encode()
    with store.transaction() as tx:
        tx.jobs.save([row])
        tx.schedules.save(ScheduleRow("night", "0 0 * * *", call=body))
        tx.dead_letters.drop("p")
        tx.dead_letters.add("p", at=1.0, origin="log", reason="unreadable", body=dead_letters)
    queries = Queries(store.reader, MASKING, ManualClock(), KEEP)
    shown = [
        queries.jobs.page(JobsQuery()), queries.jobs.get("j"), *queries.schedules.all(), queries.schedules.get("night"),
        queries.system.dead_letters(), queries.system.dead_letter("p"), queries.system.audit(), queries.overview.get(),
        *queries.system.queues(), queries.batches.get("b"),
    ]  # fmt: skip
    for view in shown:
        assert SECRET not in (view.model_dump_json() if view is not None else "")
    assert queries.jobs.page(JobsQuery(text=SECRET)).jobs == []
    assert queries.jobs.raw_arguments("j") == (args, {"order": value, name: SECRET})


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ('{"a":1,"password":"s"', '{"a":1,"password ***'),
        ('{"a":1,"args":["s"],}', '{"a":1,"args ***'),
        ('{"a":{"token":"s"},"a":1}', '{"a":{"token ***'),
        ("user=ann&token=s", "user=ann&token ***"),
        ("the tokenizer of ann", "the tokenizer of ann"),
        ("plain words", "plain words"),
        ('{"a":1}', '{"a":1}'),
    ],
)
def test_of_a_message_that_is_no_json_nothing_is_shown_from_the_first_hidden_name_on(text: str, shown: str) -> None:
    assert MASKING.message(text) == shown


def test_a_mapping_of_another_language_inside_a_text_is_masked_and_prose_is_not() -> None:
    assert MASKING.value({"body": "{'password': 's'}"}) == {"body": "{'password ***"}
    assert MASKING.value(["[draft] your password is too old"]) == ["[draft] your password is too old"]


def test_a_long_text_is_looked_through_once() -> None:
    long = "{" + "a" * 2_000_000
    assert MASKING.message(long) == long
    assert MASKING.text(long) == long
