"""A provided parameter is provided, or refused where it is written; what a call says arrives where it says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import Annotated, Any

import pytest

from broker_jobs import BrokerJobs, DefinitionError, Depends, JobFailed
from broker_jobs.testing import Tester


class Mailer:
    pass


def get_mailer() -> Mailer:
    return Mailer()


def get_fake() -> str:
    return "fake"


async def get_token() -> str:
    return "token"


def nested(mailer: Annotated[Mailer, Depends(get_mailer)], *, again: Mailer = Depends(get_mailer)) -> str:
    return f"nested {mailer is again}"


async def nested_async(token: Annotated[str, Depends(get_token)]) -> AsyncGenerator[str]:
    yield f"nested {token}"


def with_default(a: int, given: Annotated[str, Depends(get_fake)] = "default", b: int = 5) -> list[Any]:
    return [a, given, b]


def by_nested(a: int, given: str = Depends(nested), b: int = 5) -> list[Any]:
    return [a, given, b]


async def by_nested_async(a: int, given: Annotated[str, Depends(nested_async)] = "", b: int = 5) -> list[Any]:
    await asyncio.sleep(0)
    return [a, given, b]


async def by_both(a: int, given: str = Depends(nested), b: int = 5) -> list[Any]:
    return [a, given, b]


GIVEN = {with_default: "fake", by_nested: "nested True", by_nested_async: "nested token", by_both: "nested True"}


@pytest.mark.parametrize("function", GIVEN)
@pytest.mark.parametrize(("args", "kwargs", "b"), [((1,), {}, 5), ((1, 2), {}, 2), ((1,), {"b": 3}, 3)])
def test_annotated_is_provided_where_no_caller_has_to_give_it(
    function: Callable[..., Any], args: tuple[int, ...], kwargs: dict[str, int], b: int
) -> None:
    jobs = BrokerJobs("memory://")
    job = jobs.job(retries=0)(function)
    expected = [1, GIVEN[function], b]
    with jobs:
        assert job.enqueue(*args, **kwargs).result(timeout=120) == expected
    with Tester(jobs, inline=True):
        assert job.enqueue(*args, **kwargs).result() == expected


def test_a_direct_call_is_provided_too_and_gives_its_own() -> None:
    job: Any = BrokerJobs("memory://").job(with_default)
    assert job(1) == [1, "fake", 5]
    assert job(1, "mine", 2) == [1, "mine", 2]


def test_all_positional_arguments_arrive_beside_provided_ones() -> None:
    jobs = BrokerJobs("memory://")

    @jobs.job(retries=0)
    def rest(
        a: int, given: str = Depends(get_fake), *more: int, key: str = Depends(get_fake), **named: int
    ) -> list[Any]:
        return [a, given, list(more), key, named]

    with jobs:
        receipt = rest.enqueue(1, *[2, 3], x=4)  # type: ignore[arg-type]
        assert receipt.result(timeout=120) == [1, "fake", [2, 3], "fake", {"x": 4}]


def bare(a: int, given: Annotated[str, Depends(get_fake)]) -> None: ...


def needs(x: int) -> int:
    return x


def unprovided(given: int = Depends(needs)) -> None: ...


def circle(mailer: Any = None) -> Any: ...


circle.__defaults__ = (Depends(circle),)


def in_a_circle(given: Any = Depends(circle)) -> None: ...


def async_inside(given: str = Depends(lambda token=Depends(get_token): token)) -> None: ...


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (bare, r"bare: Depends is a default here: write given: … = Depends\(get_fake\), not Annotated"),
        (unprovided, "unprovided: the provider needs needs x, and nothing provides it"),
        (in_a_circle, "in_a_circle: circle needs circle: a provider cannot need itself"),
        (async_inside, "get_token, the provider of given, is async"),
    ],
)
def test_what_cannot_be_provided_is_refused_where_it_is_written(function: Callable[..., Any], message: str) -> None:
    with pytest.raises(DefinitionError, match=message):
        BrokerJobs("memory://").job(function)


def test_depends_takes_what_can_be_called() -> None:
    with pytest.raises(DefinitionError, match="takes a function that returns the value, not 'smtp'"):
        Depends("smtp")  # type: ignore[call-overload]


def test_a_test_overrides_providers() -> None:
    jobs = BrokerJobs("memory://")

    @jobs.job(retries=0)
    def job(given: str = Depends(nested), word: str = Depends(get_fake)) -> str:
        return f"{given} {word}"

    with Tester(jobs) as tester:
        tester.override(get_fake, lambda: "mine")
        tester.override(get_mailer, get_fake)
        receipt = job.enqueue()
        tester.run()
        assert receipt.result() == "nested True mine"
    with jobs:
        assert job.enqueue().result(timeout=120) == "nested True fake"


def test_a_stub_of_another_service_has_no_depends() -> None:
    with pytest.raises(DefinitionError, match="which provides given itself: leave Depends out"):
        BrokerJobs("memory://").remote("billing.charge")(bare)


def test_an_async_provider_that_hides_is_a_failure() -> None:
    jobs = BrokerJobs("memory://")

    def hidden() -> Any:
        return get_token()

    @jobs.job(retries=0)
    def job(given: str = Depends(hidden)) -> str:
        return given

    with jobs, pytest.raises(JobFailed, match="the provider hidden is async"):
        job.enqueue().result(timeout=120)
