"""Running a job from a form: the inputs a signature becomes, what was typed becoming a call, and what is wrong."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker_jobs.dashboard.forms.form import RunTime
from broker_jobs.dashboard.forms.parameter_form import attach_error, inputs_of, read_call
from broker_jobs.dashboard.role import Role
from broker_jobs.dashboard.views import Parameter
from broker_jobs.errors import OptionError
from tests.support.wait import eventually
from tests.unit.dashboard.shop import Shop, flash_of, shop_in


def parameter(name: str, schema: dict[str, Any], **given: Any) -> Parameter:
    kind, required = given.pop("kind", "either"), "default" not in given
    return Parameter(
        name=name,
        kind=kind,
        required=required,
        type="…",
        json_schema=schema,
        secret=given.pop("secret", False),
        **given,
    )


TEXT, WHOLE, NUMBER, YES = {"type": "string"}, {"type": "integer"}, {"type": "number"}, {"type": "boolean"}
MOMENT = {"type": "string", "format": "date-time"}
ENUM = {"$ref": "#/$defs/E", "$defs": {"E": {"enum": ["a", 2], "title": "E"}}}
MAYBE = {"anyOf": [WHOLE, {"type": "null"}]}


# --- inputs ---


@pytest.mark.parametrize(
    ("schema", "control"),
    [
        (TEXT, "text"), (WHOLE, "integer"), (NUMBER, "number"), (YES, "choice"), (ENUM, "choice"), (MAYBE, "integer"),
        (MOMENT, "datetime"), ({"type": "string", "format": "date"}, "date"),
        ({"type": "string", "format": "time"}, "time"),
        ({"type": "string", "format": "uuid"}, "line"), ({"type": "string", "format": "password"}, "secret"),
        ({"type": "array"}, "json"), ({"type": "object"}, "json"), ({}, "json"), ({"anyOf": [TEXT, WHOLE]}, "json"),
        ({"allOf": [{"$ref": "#/$defs/E"}], "$defs": {"E": {"enum": [1]}}}, "choice"),
        ({"$ref": "#/$defs/nope"}, "json"), ({"$ref": "#/$defs/L", "$defs": {"L": {"$ref": "#/$defs/L"}}}, "json"),
    ],
)  # fmt: skip
def test_a_schema_becomes_an_input(schema: dict[str, Any], control: str) -> None:
    (found,) = inputs_of([parameter("x", schema)])
    assert found.control == control
    assert found.required


def test_a_secret_is_never_in_its_input() -> None:
    (found,) = inputs_of([parameter("x", TEXT, secret=True, default="hunter2")])
    assert (found.control, found.value) == ("secret", "")
    (typed,) = read_call([parameter("x", TEXT, secret=True), parameter("n", WHOLE)], {"arg-x": "hunter2"}).inputs[:1]
    assert typed.value == ""


# --- what was typed ---


def test_what_was_typed_becomes_a_call() -> None:
    parameters = [
        parameter("a", WHOLE), parameter("b", NUMBER), parameter("c", YES), parameter("d", TEXT),
        parameter("e", ENUM), parameter("f", MOMENT), parameter("g", {"type": "array"}),
        parameter("h", MAYBE, default=None), parameter("i", TEXT, default="hi"),
    ]  # fmt: skip
    form = {
        "arg-a": " 3 ", "arg-b": "1.5", "arg-c": "false", "arg-d": "two\r\nlines", "arg-e": "2",
        "arg-f": "2026-01-31T08:00", "arg-g": '[1, "x"]', "arg-h": "", "arg-i": "hi",
    }  # fmt: skip
    read = read_call(parameters, form)
    assert read.is_valid, [each.mistake for each in read.inputs]
    assert read.args == []
    assert read.kwargs == {
        "a": 3, "b": 1.5, "c": False, "d": "two\nlines", "e": 2, "f": "2026-01-31T08:00:00Z", "g": [1, "x"],
    }  # fmt: skip


def test_the_default_does_not_travel_but_what_replaces_it_does() -> None:
    parameters = [parameter("a", TEXT, default="hi"), parameter("b", MAYBE, default=5)]
    assert read_call(parameters, {"arg-a": "hi", "arg-b": "5"}).kwargs == {}
    assert read_call(parameters, {"arg-a": "", "arg-b": "6"}).kwargs == {"a": "", "b": 6}
    assert read_call(parameters, {"arg-a": "hi", "arg-b": "", "null-b": "1"}).kwargs == {"b": None}
    assert not read_call(parameters, {"arg-a": "hi", "arg-b": "7", "null-b": "1"}).is_valid


def test_what_goes_by_position_keeps_its_place() -> None:
    parameters = [
        parameter("a", WHOLE, kind="positional"), parameter("b", WHOLE, kind="positional", default=2),
        parameter("c", WHOLE, default=3), parameter("rest", {"type": "array"}, kind="args", default=None),
        parameter("d", WHOLE, kind="keyword", default=4), parameter("more", {}, kind="kwargs", default=None),
    ]  # fmt: skip
    assert read_call(parameters, {"arg-a": "1"}).args == [1]
    read = read_call(parameters, {"arg-a": "1", "arg-b": "2", "arg-rest": "[9]", "arg-more": '{"z": 1}', "arg-d": "5"})
    assert (read.args, read.kwargs) == ([1, 2, 3, 9], {"d": 5, "z": 1})


@pytest.mark.parametrize(
    ("schema", "typed"),
    [
        (WHOLE, "x"), (WHOLE, "1.5"), (WHOLE, ""), (NUMBER, "nan"), (NUMBER, "1e999"), (YES, "maybe"), (ENUM, '"z"'),
        (MOMENT, "soon"), ({"type": "string", "format": "date"}, "31.1.2026"), ({"type": "array"}, "[1,"),
        ({"type": "object"}, "NaN"), ({"type": "object"}, "[" * 100_000), (TEXT, ""),
    ],
)  # fmt: skip
def test_what_cannot_be_is_told_beside_what_was_typed(schema: dict[str, Any], typed: str) -> None:
    read = read_call([parameter("user_id", schema)], {"arg-user_id": typed})
    assert not read.is_valid
    assert read.inputs[0].mistake.startswith("user_id ")
    assert read.inputs[0].value == typed
    assert len(read.inputs[0].mistake) < 200


@given(st.text(max_size=30), st.sampled_from([TEXT, WHOLE, NUMBER, YES, ENUM, MAYBE, MOMENT, {"type": "array"}, {}]))
def test_whatever_is_typed_is_a_value_or_a_mistake(typed: str, schema: dict[str, Any]) -> None:
    read = read_call([parameter("x", schema)], {"arg-x": typed})
    assert read.is_valid == (not read.inputs[0].mistake)
    if read.is_valid:
        assert set(read.kwargs) <= {"x"}


def test_a_refusal_stands_beside_the_input_it_names() -> None:
    inputs = inputs_of([parameter("user", WHOLE), parameter("user_id", WHOLE)])
    marked, rest = attach_error(inputs, "welcome(user: int, user_id: int): user_id must be int, not 'x'")
    assert [each.mistake for each in marked] == ["", "user_id must be int, not 'x'"]
    assert rest == ""
    assert attach_error(inputs, "no coordinator answered") == (inputs, "no coordinator answered")


# --- when ---


def test_when_it_is_to_run() -> None:
    assert RunTime().due_at(100.0) is None
    assert RunTime("after", "1.5", "hours").due_at(100.0) == 100.0 + 5_400
    assert RunTime("at", at="1970-01-01T00:10").due_at(100.0) == 600.0
    for wrong in (
        RunTime("after", "x"),
        RunTime("after", "-1"),
        RunTime("after", "nan"),
        RunTime("after", "1e9", "days"),
        RunTime("at"),
    ):
        with pytest.raises(OptionError):
            wrong.due_at(100.0)


# --- the pages ---


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    with shop_in(tmp_path_factory.mktemp("shop")) as shop:
        assert shop.context is not None
        eventually(shop.context.queries.functions.all, what="the worker has told which jobs there are")
        yield shop


def test_the_jobs_that_can_be_run_are_listed_and_found(shop: Shop) -> None:
    person = shop.visitor()
    page = person.see("/run")
    assert 'href="/run/welcome"' in page
    assert "welcome(user_id, name=…)" in page
    assert "Sends a welcome mail." in page
    found = person.see("/run?text=CHARGE")
    assert 'href="/run/charge"' in found
    assert 'href="/run/welcome"' not in found
    assert "No job has" in person.see("/run?text=<b>")


def test_a_job_is_run_from_its_form(shop: Shop) -> None:
    person = shop.visitor()
    form = person.see("/run/welcome")
    assert 'name="arg-user_id"' in form
    assert re.search(r"<textarea[^>]*>\nAnn</textarea>", form)
    typed = {"arg-user_id": "42", "arg-name": "Bob"}
    page = person.send("/run/welcome", typed, page="/run/welcome", when="now", queue="")
    assert "Enqueued" in flash_of(page)
    (id,) = set(re.findall(r"<dt>Id</dt><dd><code>([^<]+)", page))
    eventually(lambda: shop.state(id) == "succeeded")
    assert "Bob 42" in person.see(f"/jobs/{id}")


def test_a_job_is_scheduled_from_its_form(shop: Shop) -> None:
    typed = {"arg-order": "1", "when": "after", "number": "2", "unit": "days", "queue": "mail", "priority": "high"}
    page = shop.visitor().send("/run/charge", typed, page="/run/charge")
    assert "Scheduled" in flash_of(page)
    assert "<dt>Priority</dt><dd>high</dd>" in page


def test_what_is_wrong_is_told_and_what_was_typed_is_kept(shop: Shop) -> None:
    person = shop.visitor()
    before = sum(shop.store.reader.statistics.counts().values())
    typed = {"arg-user_id": "<b>x", "arg-name": "Bob", "when": "after", "number": "3", "unit": "hours"}
    page = person.send("/run/welcome", typed, page="/run/welcome", status=422)
    assert "must be an integer" in page
    assert 'value="&lt;b&gt;x"' in page
    assert ">\nBob</textarea>" in page
    assert 'value="3"' in page
    assert re.search(r"<option selected>hours", page)
    assert 'aria-invalid="true"' in page
    typed = {"arg-user_id": "1", "when": "at", "at": "x"}
    assert "is no time" in person.send("/run/welcome", typed, page="/run/welcome", status=422)
    typed = {"arg-user_id": "1", "priority": "urgent"}
    assert "priority must be" in person.send("/run/welcome", typed, page="/run/welcome", status=422)
    typed = {"arg-user_id": "1", "queue": "no/such", "priority": "low"}
    assert "<option selected>low" in person.send("/run/welcome", typed, page="/run/welcome", status=422)
    typed = {"arg-user_id": "1", "queue": "no/such"}
    assert "queue" in person.send("/run/welcome", typed, page="/run/welcome", status=422)
    assert sum(shop.store.reader.statistics.counts().values()) == before


def test_an_unknown_function_is_told(shop: Shop) -> None:
    assert "no-such" in shop.visitor().see("/run/no-such", status=404)
    shop.visitor().send("/run/no-such", page="/run/welcome", status=404)


@pytest.mark.parametrize("role", [Role.VIEWER, Role.OPERATOR])
def test_only_an_admin_runs_jobs(shop: Shop, role: Role) -> None:
    person = shop.visitor(role)
    person.see("/run", status=403)
    person.send("/run/welcome", {"arg-user_id": "1"}, page="/jobs", status=403)
