"""What a form needs of a function is said without its code, and without what may be secret."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, Field, SecretBytes, SecretStr

from broker_jobs import Depends
from broker_jobs.function.definition import define
from broker_jobs.function.describe import CHUNK_BYTES, chunks, describe
from broker_jobs.messages.commands import FunctionInfo, ParameterInfo


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
    told = described(send, name="letters.send", queue="mail")
    assert (told.name, told.queue, told.doc) == ("letters.send", "mail", "Send a letter to somebody.")
    assert [(p.name, p.kind, p.required, p.default, p.type.replace('"', "'")) for p in told.parameters] == [
        ("to", "positional", True, None, "str"),
        ("address", "either", True, None, "Address"),
        ("count", "either", False, 3, "int"),
        ("tags", "args", False, None, "str"),
        ("kind", "keyword", False, "a", "Literal['a', 'b']"),
        ("key", "keyword", False, None, "SecretStr | None"),
        ("db_password", "keyword", False, None, "str"),
        ("more", "kwargs", False, None, "int"),
    ]
    schemas = {p.name: p.json_schema for p in told.parameters}
    assert schemas["count"]["type"] == "integer"
    assert schemas["address"]["properties"]["zip"]["type"] == "integer"
    assert schemas["kind"]["enum"] == ["a", "b"]


def test_no_default_that_may_be_secret_leaves_the_program() -> None:
    told = described(send)
    assert "hidden" not in told.model_dump_json()
    assert [p.name for p in told.parameters if p.secret] == ["key"]


@pytest.mark.parametrize("annotation", [SecretStr, SecretBytes, list[SecretStr], dict[str, SecretBytes | None]])
def test_a_secret_inside_a_type_is_noticed(annotation: Any) -> None:
    def job(value: Any) -> None: ...

    job.__annotations__ = {"value": annotation}
    assert described(job).parameters[0].secret


def test_what_the_worker_makes_is_left_out() -> None:
    assert "connection" not in {p.name for p in described(send).parameters}


def test_what_has_no_json_form_is_described_without_it() -> None:
    def job(a: Missing, b: float = float("nan"), c=object()) -> None:  # type: ignore[name-defined, no-untyped-def]  # noqa: B008, F821
        ...

    told = described(job)
    assert [(p.name, p.required, p.default, p.type, p.json_schema) for p in told.parameters] == [
        ("a", True, None, "Missing", {}),
        ("b", False, None, "float", {}),
        ("c", False, None, "", {}),
    ]
    assert json.loads(told.model_dump_json())


def test_a_huge_schema_and_a_huge_default_are_left_out() -> None:
    values = tuple(f"value-{n}" for n in range(3_000))

    def job(value: str = "x" * 10_000) -> None: ...

    job.__annotations__ = {"value": Annotated[str, Field(examples=list(values))]}
    told = described(job).parameters[0]
    assert (told.json_schema, told.default) == ({}, None)


def test_many_functions_go_in_several_messages_and_none_in_one() -> None:
    parameter = ParameterInfo(name="p" * 10_000, kind="either", required=True)
    functions = [FunctionInfo(name=f"f{n}", queue="q", parameters=[parameter]) for n in range(40)]
    told = list(chunks(functions))
    assert len(told) > 1
    assert [one for chunk in told for one in chunk] == functions
    assert all(sum(len(one.model_dump_json()) for one in chunk) <= CHUNK_BYTES for chunk in told)
    assert list(chunks([])) == [[]]
    huge = FunctionInfo(name="huge", queue="q", doc="x" * 2 * CHUNK_BYTES)
    assert list(chunks([functions[0], huge, functions[1]])) == [[functions[0]], [huge], [functions[1]]]
