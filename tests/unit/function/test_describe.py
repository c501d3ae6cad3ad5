"""Descriptions of functions for forms: complete without the code, and without defaults that may be secrets."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, Field, SecretBytes, SecretStr

from broker_jobs import Depends, RateLimit, Unique
from broker_jobs.function.definition import define
from broker_jobs.function.describe import chunks, describe
from broker_jobs.messages.commands import FunctionInfo, ParameterInfo
from broker_jobs.messages.envelope import LimitKey, UniqueKey


class Address(BaseModel):
    street: str
    zip: int = 0


HIDDEN = SecretStr("hidden")


def connection() -> object:
    return object()


def send(
    to: str,
    /,
    address: Address,
    count: int = 3,
    *tags: str,
    kind: Literal["a", "b"] = "a",
    key: SecretStr | None = HIDDEN,
    db_password: str = "hidden",  # is to be left out
    connection: object = Depends(connection),
    **more: int,
) -> None:
    """Send a letter
    to somebody.

    Not this.
    """


def described(fn: Any, masked: tuple[str, ...] = ("password",), **options: Any) -> FunctionInfo:
    return describe(define(fn, options), masked)


def test_a_function_is_told_with_its_parameters_and_the_first_words_of_its_doc() -> None:
    info = described(send, name="letters.send", queue="mail")
    assert (info.name, info.queue, info.doc) == ("letters.send", "mail", "Send a letter to somebody.")
    assert [(p.name, p.kind, p.required, p.default, p.type.replace('"', "'")) for p in info.parameters] == [
        ("to", "positional", True, None, "str"),
        ("address", "either", True, None, "Address"),
        ("count", "either", False, 3, "int"),
        ("tags", "args", False, None, "str"),
        ("kind", "keyword", False, "a", "Literal['a', 'b']"),
        ("key", "keyword", False, None, "SecretStr | None"),
        ("db_password", "keyword", False, None, "str"),
        ("more", "kwargs", False, None, "int"),
    ]
    schemas = {p.name: p.json_schema for p in info.parameters}
    assert schemas["count"]["type"] == "integer"
    assert schemas["address"]["properties"]["zip"]["type"] == "integer"
    assert schemas["kind"]["enum"] == ["a", "b"]


def test_no_default_that_may_be_secret_leaves_the_program() -> None:
    info = described(send)
    assert "hidden" not in info.model_dump_json()
    assert [p.name for p in info.parameters if p.secret] == ["key"]


@pytest.mark.parametrize("annotation", [SecretStr, SecretBytes, list[SecretStr], dict[str, SecretBytes | None]])
def test_a_secret_inside_a_type_is_noticed(annotation: Any) -> None:
    def job(value: Any) -> None: ...

    job.__annotations__ = {"value": annotation}
    assert described(job).parameters[0].secret


def test_unique_key_and_limits_are_told_as_templates_and_which_defaults_are_hidden() -> None:
    def charge(account: int, password: str = "x", plan: str | None = None) -> None: ...

    told = described(charge, unique=Unique("{account}", scope=timedelta(hours=1)), limit=RateLimit("{plan}", 2, per=60))
    assert told.unique == UniqueKey(key="{account}", scope="window", seconds=3_600.0)
    assert told.limits == (LimitKey(kind="rate", key="{plan}", limit=2, per=60.0),)
    assert [parameter.default_left_out for parameter in told.parameters] == [False, True, False]


def test_what_the_worker_makes_is_left_out() -> None:
    assert "connection" not in {p.name for p in described(send).parameters}


def test_what_has_no_json_form_is_described_without_it() -> None:
    def job(a: Missing, b: float = float("nan"), c=object()) -> None:  # type: ignore[name-defined, no-untyped-def]  # noqa: B008, F821
        ...

    info = described(job)
    assert [(p.name, p.required, p.default, p.type, p.json_schema) for p in info.parameters] == [
        ("a", True, None, "Missing", {}),
        ("b", False, None, "float", {}),
        ("c", False, None, "", {}),
    ]
    assert json.loads(info.model_dump_json())


def test_a_huge_schema_and_a_huge_default_are_left_out() -> None:
    values = tuple(f"value-{n}" for n in range(3_000))

    def job(value: str = "x" * 10_000) -> None: ...

    job.__annotations__ = {"value": Annotated[str, Field(examples=list(values))]}
    info = described(job).parameters[0]
    assert (info.json_schema, info.default) == ({}, None)


def test_many_functions_go_in_several_messages_and_none_in_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("broker_jobs.function.describe.CHUNK_BYTES", 4_000)
    parameter = ParameterInfo(name="p" * 1_000, kind="either", required=True)
    functions = [FunctionInfo(name=f"f{n}", queue="q", parameters=[parameter]) for n in range(40)]
    info = list(chunks(functions))
    assert len(info) > 1
    assert [one for chunk in info for one in chunk] == functions
    assert all(sum(len(one.model_dump_json()) for one in chunk) <= 4_000 for chunk in info)
    assert list(chunks([])) == [[]]
    huge = FunctionInfo(name="huge", queue="q", parameters=[parameter] * 8)
    assert list(chunks([functions[0], huge, functions[1]])) == [[functions[0]], [huge], [functions[1]]]
