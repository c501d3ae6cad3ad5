"""Unique keys and limits: which ones are refused, with which messages, and the keys of calls."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from broker_jobs import Concurrency, Depends, Ordered, RateLimit, Unique
from broker_jobs.errors import ArgumentsError, DefinitionError, OptionError
from broker_jobs.function.definition import define
from broker_jobs.function.keys import (
    Limit,
    TemplateError,
    limit_keys,
    limit_option,
    template_of,
    unique_key,
    unique_option,
)
from broker_jobs.function.signature import Signature
from broker_jobs.messages.envelope import MAX_KEY_CHARS, LimitKey, UniqueKey


class User(BaseModel):
    id: int
    name: str = ""


def welcome(user_id: int, name: str = "you", *, loud: bool = False) -> None: ...


def greet(user: User, day: date = date(2026, 1, 2), sender: object = Depends(object)) -> None: ...


def key(fn: Callable[..., Any], template: str, *args: Any, **kwargs: Any) -> str:
    signature = Signature(fn, fn.__name__)
    found = unique_key(Unique(template), signature, *signature.bind(args, kwargs))
    assert found is not None
    return found.key


def refused(make: Callable[[], object], kind: type[Exception] = OptionError) -> str:
    with pytest.raises(kind) as caught:
        make()
    return str(caught.value)


# ---- templates

NAMES = st.from_regex(r"[a-z_][a-z0-9_]{0,8}", fullmatch=True)
TEXTS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)


@given(
    parts=st.lists(st.tuples(TEXTS, NAMES), min_size=1, max_size=5),
    values=st.dictionaries(NAMES, TEXTS.filter(bool)),  # a key of nothing is refused
)
def test_a_key_is_the_text_with_the_arguments_in_their_places(
    parts: list[tuple[str, str]], values: dict[str, str]
) -> None:
    text = "".join(literal.replace("{", "{{").replace("}", "}}") + f"{{{name}}}" for literal, name in parts)
    template = template_of(text)
    assert [each.name for each in template.placeholders] == [name for _, name in parts]
    expected = "".join(literal + values.get(name, "x") for literal, name in parts)
    assert template.render(lambda name: values.get(name, "x")) == expected


@given(st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=30))
def test_any_text_is_a_template_or_refused(text: str) -> None:
    try:
        template = template_of(text)
    except OptionError:
        return
    assert all(each.name.isidentifier() for each in template.placeholders)
    assert len(template.render(lambda _: "x") if text else "") <= len(text)


@given(user_id=st.integers(), name=st.text("abc:{}", max_size=9), loud=st.booleans())
def test_positional_and_keyword_arguments_make_the_same_key(user_id: int, name: str, loud: bool) -> None:
    template = "{user_id}/{name}/{loud}"
    expected = f"{user_id}/{name}/{str(loud).lower()}"
    assert key(welcome, template, user_id, name, loud=loud) == expected
    assert key(welcome, template, loud=loud, name=name, user_id=user_id) == expected


def test_defaults_are_filled_in() -> None:
    assert key(welcome, "{user_id}:{name}:{loud}", 7) == "7:you:false"
    assert key(greet, "{day}", User(id=1)) == key(greet, "{day}", User(id=1), date(2026, 1, 2)) == "2026-01-02"


def test_one_field_of_an_argument_can_stand_in_a_key() -> None:
    assert key(greet, "user:{user.id}:{user.name}", User(id=7, name="a")) == "user:7:a"


def test_an_argument_beside_the_named_ones_is_found_by_its_name() -> None:
    def loose(*args: Any, **kwargs: Any) -> None: ...

    assert key(loose, "order:{order_id}", order_id=7) == "order:7"
    assert refused(lambda: key(loose, "order:{order}", order_id=7), ArgumentsError) == (
        "unique=\"order:{order}\" of loose(…): no parameter 'order'; did you mean 'order_id'? Nothing was enqueued."
    )


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        (lambda: key(welcome, "{name}", 1, "x" * 513), f"the key has 513 characters, the limit is {MAX_KEY_CHARS}: "),
        (lambda: key(welcome, "{name}", 1, ""), "the key is empty"),
        (lambda: key(welcome, "{name}", 1, "a\0"), "the key contains a null character"),
        (lambda: key(greet, "{user.age}", User(id=1)), "user has no 'age'"),
        (lambda: key(welcome, "{user_id.x}", 1), "user_id has no 'x'"),
    ],
)
def test_arguments_that_make_no_key_are_refused(call: Callable[[], str], reason: str) -> None:
    text = refused(call, ArgumentsError)
    assert f": {reason}" in text
    assert text.endswith("Nothing was enqueued.")


def test_a_key_of_exactly_the_longest_length_is_taken() -> None:
    longest = "x" * MAX_KEY_CHARS
    assert key(welcome, "{name}", 1, longest) == longest
    with pytest.raises(TemplateError):
        template_of("{name}y").render(lambda _: longest)


# ---- where it is written


def test_a_name_that_is_no_parameter_is_a_mistake_of_the_definition() -> None:
    def welcome(user_id: int) -> None: ...

    assert refused(lambda: define(welcome, {"unique": "user:{id}"}), DefinitionError) == (
        "unique=\"user:{id}\" of welcome(user_id): no parameter 'id'; did you mean 'user_id'?"
    )
    assert refused(lambda: define(welcome, {"limit": [Ordered("a"), Concurrency("{usr_id}", 2)]}), DefinitionError) == (
        "limit=\"{usr_id}\" of welcome(user_id): no parameter 'usr_id'; did you mean 'user_id'?"
    )
    assert refused(lambda: define(welcome, {"unique": "{zzz}"}), DefinitionError) == (
        "unique=\"{zzz}\" of welcome(user_id): no parameter 'zzz'"
    )


def test_what_the_worker_makes_is_in_no_key() -> None:
    assert refused(lambda: define(greet, {"unique": "{sender}"}), DefinitionError) == (
        "unique=\"{sender}\" of greet(user, day): 'sender' is provided by the worker (Depends)"
    )


@pytest.mark.parametrize("text", ["{", "}", "{}", "{0}", "{a[0]}", "{a!r}", "{a:>3}", "{a.b.c}", "{a b}", "{.x}"])
def test_braces_hold_a_parameter_or_one_field_of_it(text: str) -> None:
    assert refused(lambda: Unique(text)).startswith(f"{text!r} is not a valid key: ")
    assert refused(lambda: Ordered(text)).startswith(f"{text!r} is not a valid key: ")


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: Concurrency("k", 0), "Concurrency('k', …): limit must be an int from 1 to 1_000_000, not 0"),
        (lambda: Concurrency("k", -1), "Concurrency('k', …): limit must be an int from 1 to 1_000_000, not -1"),
        (lambda: Concurrency("k", True), "Concurrency('k', …): limit must be an int from 1 to 1_000_000, not True"),
        (lambda: RateLimit("k", 0, 1), "RateLimit('k', …): limit must be an int from 1 to 1_000_000, not 0"),
        (
            lambda: RateLimit("k", 1, 0),
            "RateLimit('k', …): per must be more than 0 seconds and at most 10 years, not 0",
        ),
        (
            lambda: RateLimit("k", 1, timedelta(-1)),
            "RateLimit('k', …): per must be more than 0 seconds and at most 10 years, not datetime.timedelta(days=-1)",
        ),
        (lambda: RateLimit("k", 1, "1"), "RateLimit('k', …): per must be seconds or a timedelta, not '1'"),  # type: ignore[arg-type]
        (
            lambda: RateLimit("k", 1, 1, "x"),  # type: ignore[arg-type]
            "RateLimit('k', …): window must be 'sliding' or 'fixed', not 'x'",
        ),
        (
            lambda: Unique("k", scope="x"),  # type: ignore[arg-type]
            "Unique('k', …): scope must be 'queued', 'running' or a timedelta, not 'x'",
        ),
        (
            lambda: Unique("k", scope=timedelta()),
            "Unique('k', …): scope must be more than 0 seconds and at most 10 years, not datetime.timedelta(0)",
        ),
        (
            lambda: Unique("k", conflict="x"),  # type: ignore[arg-type]
            "Unique('k', …): conflict must be 'keep' or 'replace', not 'x'",
        ),
        (lambda: Ordered(""), "the key of Ordered(…) must be a str of 1 to 512 characters, not ''"),
        (lambda: unique_option(7), "unique must be a str or Unique(…), not 7"),
        (
            lambda: limit_option("smtp"),
            "limit must be Concurrency(…), RateLimit(…), Ordered(…) or several of them, not 'smtp'",
        ),
        (
            lambda: limit_option([Concurrency("a", 1), Concurrency("a", 2)]),
            "limit has Concurrency('a', …) twice",
        ),
        (
            lambda: limit_option([Ordered(str(n)) for n in range(9)]),
            "limit takes at most 8 limits, not 9; let jobs that share a limit share its key",
        ),
    ],
)
def test_options_out_of_range_are_refused_where_they_are_written(make: Callable[[], object], text: str) -> None:
    assert refused(make) == text


# ---- how they travel


def test_each_kind_travels_as_what_it_is() -> None:
    signature = Signature(welcome, "welcome")
    bound = signature.bind((7,), {})
    limits: list[Limit] = [
        Concurrency("c:{user_id}", 3),
        RateLimit("r", 5, per=timedelta(minutes=1), window="fixed"),
        Ordered("c:{user_id}"),
    ]
    assert limit_keys(limits, signature, *bound) == (
        LimitKey(kind="concurrency", key="c:7", limit=3),
        LimitKey(kind="rate", key="r", limit=5, per=60.0, window="fixed"),
        LimitKey(kind="ordered", key="c:7"),
    )
    hour = timedelta(hours=1)
    assert unique_key(Unique("k", "running", "replace"), signature, *bound) == UniqueKey(
        key="k", scope="running", replace=True
    )
    assert unique_key(Unique("k", hour), signature, *bound) == UniqueKey(key="k", scope="window", seconds=3600.0)
    assert unique_key(None, signature, *bound) is None


def test_two_limits_of_one_kind_must_not_get_one_key() -> None:
    signature = Signature(welcome, "welcome")
    limits = [Concurrency("{user_id}", 1), Concurrency("{name}", 2)]
    assert len(limit_keys(limits, signature, *signature.bind((7,), {}))) == 2
    text = refused(lambda: limit_keys(limits, signature, *signature.bind((7, "7"), {})), ArgumentsError)
    assert text == "welcome(user_id, name, loud): two limits get the key '7'. Nothing was enqueued."
