"""Provided arguments: made once per attempt, closed at the end, and only if the caller did not give them."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from broker_jobs import Depends
from broker_jobs.function.definition import define
from broker_jobs.function.depends import provide, provide_async


def test_a_plain_provider_is_called() -> None:
    def notify(user_id: int, mailer: str = Depends(lambda: "smtp")) -> None: ...

    with provide(define(notify, {}), (42,), {}) as (args, kwargs):
        assert (args, kwargs) == ((42,), {"mailer": "smtp"})


def test_what_is_given_is_not_made() -> None:
    def notify(user_id: int, mailer: str = Depends(lambda: pytest.fail("made"))) -> None: ...

    function = define(notify, {})
    with provide(function, (42, "mine"), {}) as found:
        assert found == ((42, "mine"), {})
    with provide(function, (42,), {"mailer": "mine"}) as found:
        assert found == ((42,), {"mailer": "mine"})


def test_a_scope_is_closed_at_the_end_in_reverse_order() -> None:
    seen: list[str] = []

    def first() -> Iterator[str]:
        yield "first"
        seen.append("first closed")

    def second() -> Iterator[str]:
        yield "second"
        seen.append("second closed")

    def job(a: str = Depends(first), b: str = Depends(second)) -> None: ...

    with provide(define(job, {}), (), {}) as (_, kwargs):
        assert kwargs == {"a": "first", "b": "second"}
        assert seen == []
    assert seen == ["second closed", "first closed"]


def test_a_scope_sees_the_failure_and_cannot_hide_it() -> None:
    seen: list[BaseException] = []

    def session() -> Iterator[str]:
        try:
            yield "session"
        except ValueError as error:
            seen.append(error)  # swallowed here, and yet the job has failed

    def job(session: str = Depends(session)) -> None: ...

    with pytest.raises(ValueError, match="boom"), provide(define(job, {}), (), {}):
        raise ValueError("boom")
    assert len(seen) == 1


def test_a_provider_has_providers_and_each_is_called_once() -> None:
    calls: list[str] = []

    def settings() -> str:
        calls.append("settings")
        return "s"

    def mailer(settings: str = Depends(settings)) -> str:
        return f"mailer({settings})"

    def job(mailer: str = Depends(mailer), settings: str = Depends(settings)) -> None: ...

    with provide(define(job, {}), (), {}) as (_, kwargs):
        assert kwargs == {"mailer": "mailer(s)", "settings": "s"}
    assert calls == ["settings"]


def test_an_async_job_has_providers_of_every_kind() -> None:
    seen: list[str] = []

    async def awaited() -> str:
        return "awaited"

    async def scoped() -> AsyncIterator[str]:
        yield "scoped"
        seen.append("scoped closed")

    def plain() -> Iterator[str]:
        yield "plain"
        seen.append("plain closed")

    async def job(a: Any = Depends(awaited), b: Any = Depends(scoped), c: Any = Depends(plain)) -> None: ...

    async def run() -> dict[str, Any]:
        async with provide_async(define(job, {}), (), {}) as (_, kwargs):
            assert seen == []
            return kwargs

    assert asyncio.run(run()) == {"a": "awaited", "b": "scoped", "c": "plain"}
    assert seen == ["plain closed", "scoped closed"]


def test_an_async_scope_cannot_hide_a_failure() -> None:
    async def scoped() -> AsyncIterator[str]:
        with contextlib.suppress(ValueError):
            yield "scoped"

    async def job(a: Any = Depends(scoped)) -> None: ...

    async def run() -> None:
        async with provide_async(define(job, {}), (), {}):
            raise ValueError("boom")

    with pytest.raises(ValueError, match="boom"):
        asyncio.run(run())
