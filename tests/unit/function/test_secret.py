"""Secrets are sent with their values, also inside other values; a result that contains one is refused."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from typing import Any

import pytest
from pydantic import BaseModel, Secret, SecretBytes, SecretStr
from pydantic_core import to_json

from broker_jobs.errors import ArgumentsError
from broker_jobs.function.definition import define
from broker_jobs.function.describe import describe
from broker_jobs.function.signature import Signature


class Login(BaseModel):
    user: str
    password: SecretStr


@dataclass
class Key:
    name: str
    value: SecretStr


def one(secret: SecretStr) -> None: ...
def some(secret: SecretStr | None, more: list[SecretStr]) -> None: ...
def model(login: Login, logins: dict[str, Login]) -> None: ...
def raw(key: Key, pin: SecretBytes, born: Secret[date]) -> None: ...


CALLS: list[tuple[Any, tuple[Any, ...]]] = [
    (one, (SecretStr("geheim"),)),
    (one, (SecretStr(""),)),
    (one, (SecretStr("**********"),)),
    (some, (None, [SecretStr("a"), SecretStr("b")])),
    (some, (SecretStr("x"), [])),
    (model, (Login(user="u", password=SecretStr("geheim")), {"a": Login(user="**********", password=SecretStr("b"))})),
    (raw, (Key("k", SecretStr("v")), SecretBytes(b"\xff\x00"), Secret[date](date(2020, 1, 1)))),
]


@pytest.mark.parametrize(("fn", "args"), CALLS)
def test_secrets_arrive_as_they_were(fn: Any, args: tuple[Any, ...]) -> None:
    signature = Signature(fn, fn.__name__)
    travelling, named = signature.bind(args, {})
    assert signature.decode(to_json({"args": travelling, "kwargs": named})) == (args, {})


def test_a_secret_reaches_a_job_of_another_service() -> None:
    def anything(*args: Any, **kwargs: Any) -> None: ...

    signature = Signature(anything, "billing.charge", loose=True)
    assert signature.bind((SecretStr("geheim"),), {"login": {"password": SecretStr("x")}}) == (
        ["geheim"], {"login": {"password": "x"}},
    )  # fmt: skip


def test_a_secret_without_an_annotation_is_refused_and_not_told() -> None:
    def unannotated(x) -> None: ...  # type: ignore[no-untyped-def]  # that is the case

    with pytest.raises(ArgumentsError) as error:
        Signature(unannotated, "unannotated").bind((SecretStr("geheim"),), {})
    assert "annotate it as what it is" in str(error.value)


def test_a_result_that_holds_a_secret_is_not_kept() -> None:
    def login() -> Login: ...  # type: ignore[empty-body]
    def stars() -> str: ...  # type: ignore[empty-body]

    with pytest.raises(ArgumentsError, match="holds a secret"):
        Signature(login, "login").encode_result(Login(user="u", password=SecretStr("geheim")))
    assert Signature(stars, "stars").encode_result("**********") == '"**********"'


@pytest.mark.parametrize("fn", [one, some, model, raw])
def test_parameters_that_hold_secrets_are_declared_so(fn: Any) -> None:
    assert all(parameter.secret for parameter in describe(define(fn, {})).parameters)
