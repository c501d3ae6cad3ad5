"""A body that never ran is no success of its job, and no argument lands in another parameter."""

import asyncio
import functools
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from typing import Annotated, Any
from unittest.mock import ANY

import pytest

from broker_jobs import BrokerJobs, DefinitionError, Depends, JobFailed, State, current_job, result_of
from broker_jobs.errors import ArgumentsError
from broker_jobs.testing import Tester
from tests.support.wait import eventually

pytestmark = pytest.mark.acceptance

ran: list[Any] = []


@pytest.fixture
def jobs() -> Iterator[BrokerJobs]:
    ran.clear()
    program = BrokerJobs("memory://")
    yield program
    program.stop(0)


def traced(fn: Callable[..., Any]) -> Callable[..., Any]:
    """An ordinary decorator, as users write them for functions of every kind."""

    @functools.wraps(fn)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return fn(*args, **kwargs)

    return wrapper


# ---- what a sync function leaves to an event loop


@traced
async def charge(order: int) -> int:
    await asyncio.sleep(0)
    ran.append((current_job().attempt, order))
    return order


def bare(fn: Callable[..., Any]) -> Callable[..., Any]:
    def charge_bare(order: int) -> Any:
        return fn(order)

    return charge_bare


class Charger:
    async def __call__(self, order: int) -> int:
        ran.append((current_job().attempt, order))
        return order


def by_object(order: int) -> Awaitable[int]:
    return Charger()(order)


def by_partial(order: int) -> Awaitable[int]:
    return functools.partial(charge, order)()  # type: ignore[no-any-return]


class Lazy:
    """As the queries of some libraries: nothing happens before it is awaited."""

    def __init__(self, order: int) -> None:
        self._order = order

    def __await__(self) -> Generator[Any, None, int]:
        yield from asyncio.sleep(0).__await__()
        ran.append((current_job().attempt, self._order))
        return self._order


def by_awaitable(order: int) -> Lazy:
    return Lazy(order)


async def returns_a_coroutine(order: int) -> Any:
    return charge(order)


async def returns_a_task(order: int) -> Any:
    return asyncio.ensure_future(charge(order))


RUN = [
    charge,
    bare(charge),
    by_object,
    by_partial,
    by_awaitable,
    returns_a_coroutine,
    returns_a_task,
    traced(traced(charge)),
]


@pytest.mark.parametrize("function", RUN)
def test_an_awaitable_that_a_job_returns_is_run(jobs: BrokerJobs, function: Callable[..., Any]) -> None:
    job = jobs.job(retries=0)(function)
    with jobs:
        assert job.enqueue(7).result(timeout=120) == 7
    assert ran == [(1, 7)]


@pytest.mark.parametrize("function", RUN)
@pytest.mark.parametrize("inline", [False, True])
def test_so_it_is_in_a_tester(jobs: BrokerJobs, function: Callable[..., Any], inline: bool) -> None:
    job = jobs.job(retries=0)(function)
    with Tester(jobs, inline=inline) as tester:
        receipt = job.enqueue(7)
        tester.run()
        assert receipt.result(timeout=120) == 7
    assert ran == [(1, 7)]


def test_work_in_an_executor_is_waited_for(jobs: BrokerJobs) -> None:
    gate = threading.Event()

    def work() -> str:
        gate.wait(30)
        return "worked"

    with ThreadPoolExecutor(1) as executor:

        @jobs.job(retries=0)
        def submit() -> Any:
            return executor.submit(work)

        @jobs.job(retries=0)
        async def submit_async() -> Any:
            return executor.submit(work)

        with jobs:
            receipts = [submit.enqueue(), submit_async.enqueue()]
            eventually(lambda: receipts[0].state() is State.PROCESSING, 30, "it runs")
            gate.set()
            assert [receipt.result(timeout=120) for receipt in receipts] == ["worked", "worked"]


def test_what_an_awaitable_raises_is_the_failure_of_its_job(jobs: BrokerJobs) -> None:
    @jobs.job(retries=0)
    @traced
    async def refuse() -> None:
        await asyncio.sleep(0)
        raise ValueError("card declined")

    with jobs, pytest.raises(JobFailed, match="ValueError: card declined") as caught:
        refuse.enqueue().result(timeout=120)
    assert "in refuse" in "".join(caught.value.__notes__)


def test_an_awaitable_stops_at_the_timeout_of_its_job(jobs: BrokerJobs) -> None:
    @jobs.job(retries=0, timeout=0.2)
    @traced
    async def hang() -> None:
        await asyncio.sleep(60)

    with jobs, pytest.raises(JobFailed, match="TimedOut"):
        hang.enqueue().result(timeout=120)


def test_an_awaitable_stops_when_its_job_is_deleted(jobs: BrokerJobs) -> None:
    @jobs.job(retries=0)
    @traced
    async def hang() -> None:
        try:
            ran.append("started")
            await asyncio.sleep(60)
        finally:
            ran.append("stopped")

    with jobs:
        receipt = hang.enqueue()
        eventually(lambda: ran == ["started"] and receipt.state() is State.PROCESSING, 30, "it runs")
        receipt.delete()
        eventually(lambda: ran == ["started", "stopped"], 30, "stopped")
        eventually(lambda: receipt.state() is State.DELETED, 30, "deleted")


def test_a_stop_does_not_wait_for_an_awaitable_beyond_its_time(jobs: BrokerJobs) -> None:
    @jobs.job(retries=0)
    @traced
    async def hang() -> None:
        try:
            ran.append("started")
            await asyncio.sleep(60)
        finally:
            ran.append("stopped")

    with jobs:
        hang.enqueue()
        eventually(lambda: ran == ["started"], 30, "it runs")
        jobs.stop(0)
    assert ran == ["started", "stopped"]


TENANT: ContextVar[str] = ContextVar("TENANT", default="nobody")


def test_hooks_and_provided_arguments_are_around_an_awaitable(jobs: BrokerJobs) -> None:
    @jobs.around
    def in_thread() -> Generator[None]:
        TENANT.set("acme")
        ran.append("before")
        yield
        ran.append("after")

    @jobs.around
    async def on_loop() -> AsyncGenerator[None]:
        ran.append("before async")
        yield
        ran.append("after async")

    def session() -> Generator[str]:
        ran.append("open")
        yield "session"
        ran.append("close")

    @jobs.job(retries=0)
    @traced
    async def use(given: str = Depends(session)) -> str:
        await asyncio.sleep(0)
        ran.append("run")
        return f"{given} of {TENANT.get()}"

    with jobs:
        assert use.enqueue().result(timeout=120) == "session of acme"
    assert ran == ["before", "before async", "open", "run", "close", "after async", "after"]


def test_an_awaitable_on_another_loop_is_refused(jobs: BrokerJobs) -> None:
    loop = asyncio.new_event_loop()

    @jobs.job(retries=0)
    def elsewhere() -> Any:
        return loop.create_future()

    with jobs, pytest.raises(JobFailed, match="of another event loop"):
        elsewhere.enqueue().result(timeout=120)
    loop.close()


# ---- what nobody would run


@traced
def yields() -> Iterator[int]:
    ran.append("body")
    yield 1


@traced
async def yields_async() -> AsyncIterator[int]:
    ran.append("body")
    yield 1


@contextmanager
def manager() -> Iterator[None]:
    ran.append("body")
    yield


@asynccontextmanager
async def async_manager() -> AsyncIterator[None]:
    ran.append("body")
    yield


def without_parentheses() -> Any:
    def wrapper() -> None:
        ran.append("body")

    return wrapper


async def yields_behind_await() -> Any:
    return yields()


made: list[Coroutine[Any, Any, Any]] = []
"""Coroutines that a test closes, as Python warns of each that is not awaited when the last log record lets it go."""


def several() -> list[Any]:
    made.extend(charge(order) for order in range(3))
    return list(made)


async def several_by_name() -> dict[str, Any]:
    made.append(charge(1))
    return {"one": made[0]}


@pytest.mark.parametrize("function", [several, several_by_name])
def test_coroutines_in_a_result_are_a_failure(jobs: BrokerJobs, function: Callable[..., Any]) -> None:
    job = jobs.job(retries=0)(function)
    try:
        with jobs, pytest.raises(JobFailed, match="they did not run"):
            job.enqueue().result(timeout=120)
        assert ran == []
        assert made
    finally:
        while made:
            made.pop().close()


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (yields, "returned a generator"),
        (yields_async, "returned an async generator"),
        (yields_behind_await, "returned a generator"),
        (manager, "returned a context manager"),
        (async_manager, "returned a context manager"),
        (without_parentheses, "returned a function"),
    ],
)
def test_a_body_that_did_not_run_is_a_failure(jobs: BrokerJobs, function: Callable[..., Any], reason: str) -> None:
    job = jobs.job(retries=0)(function)
    with jobs, pytest.raises(JobFailed, match=f"{reason}.*its body did not run"):
        job.enqueue().result(timeout=120)
    assert ran == []


@pytest.mark.parametrize("function", [Charger(), functools.partial(by_object, 1)])
def test_what_is_no_function_is_refused_where_it_is_written(jobs: BrokerJobs, function: Any) -> None:
    with pytest.raises(DefinitionError, match="write a def that calls it"):
        jobs.job(function)


def test_a_hook_behind_an_ordinary_decorator_is_refused_where_it_is_written(jobs: BrokerJobs) -> None:
    def hook() -> Generator[None]:
        yield

    with pytest.raises(DefinitionError, match="no yield"):
        jobs.around(traced(hook))


def test_providers_behind_ordinary_decorators_are_run(jobs: BrokerJobs) -> None:
    @traced
    def session() -> Generator[str]:
        yield "session"
        ran.append("closed")

    @traced
    async def token() -> str:
        return "token"

    @traced
    async def connection() -> AsyncGenerator[str]:
        yield "connection"
        ran.append("closed async")

    @jobs.job(retries=0)
    def use(given: str = Depends(session)) -> str:
        return given

    @jobs.job(retries=0)
    async def use_async(a: str = Depends(session), b: str = Depends(token), c: str = Depends(connection)) -> list[str]:
        return [a, b, c]

    @jobs.job(retries=0)
    def misuse(given: str = Depends(token)) -> str:
        return given

    with jobs:
        assert use.enqueue().result(timeout=120) == "session"
        assert ran == ["closed"]
        assert use_async.enqueue().result(timeout=120) == ["session", "token", "connection"]
        assert ran == ["closed", "closed async", "closed"]
        with pytest.raises(JobFailed, match="the provider token is async"):
            misuse.enqueue().result(timeout=120)


# ---- positional arguments beside provided ones


def make() -> str:
    return "made"


def first(given: str = Depends(make), a: int = 1, b: int = 2) -> list[Any]:
    return [given, a, b]


def middle(a: int, given: str = Depends(make), b: int = 2) -> list[Any]:
    return [given, a, b]


def last(a: int, b: int = 2, given: str = Depends(make)) -> list[Any]:
    return [given, a, b]


def between(a: int = 1, given: str = Depends(make), b: int = 2, other: str = Depends(make)) -> list[Any]:
    assert other == "made"
    return [given, a, b]


def adjacent(a: int = 1, given: str = Depends(make), other: str = Depends(make), b: int = 2) -> list[Any]:
    assert other == "made"
    return [given, a, b]


def by_keyword(a: int = 1, *, given: str = Depends(make), b: int = 2) -> list[Any]:
    return [given, a, b]


def positional_only(a: int, /, given: str = Depends(make), b: int = 2) -> list[Any]:
    return [given, a, b]


def annotated(
    a: Annotated[int, "an amount"], given: Annotated[str, "a word"] = Depends(make), b: Annotated[int, "more"] = 2
) -> list[Any]:
    return [given, a, b]


async def middle_async(a: int, given: str = Depends(make), b: int = 2) -> list[Any]:
    return [given, a, b]


FUNCTIONS = [first, middle, last, between, adjacent, by_keyword, positional_only, annotated, middle_async]
FUNCTIONS += [traced(middle), traced(middle_async)]


@pytest.mark.parametrize("function", FUNCTIONS)
def test_positional_arguments_are_bound_without_the_provided_ones(
    jobs: BrokerJobs, function: Callable[..., Any]
) -> None:
    job = jobs.job(retries=0)(function)
    with jobs:
        assert job.enqueue(7).result(timeout=120) == ["made", 7, 2]
        assert job.enqueue(7, b=8).result(timeout=120) == ["made", 7, 8]
        if function is not by_keyword:
            assert job.enqueue(7, 8).result(timeout=120) == ["made", 7, 8]
        with pytest.raises(ArgumentsError, match="Nothing was enqueued"):
            job.enqueue(7, 8, 9)
        with pytest.raises(ArgumentsError, match="Depends"):
            job.enqueue(7, given="mine")


def test_the_rest_of_the_arguments_comes_after_the_provided_one(jobs: BrokerJobs) -> None:
    def rest_fn(a: int, given: str = Depends(make), *more: int, c: int = 3) -> list[Any]:
        return [given, a, *more, c]

    def only_rest_fn(given: str = Depends(make), *more: int) -> list[Any]:
        return [given, *more]

    def named_fn(a: int, given: str = Depends(make), b: int = 2, **more: int) -> list[Any]:
        return [given, a, b, more]

    job = jobs.job(retries=0)
    functions: list[Any] = [rest_fn, only_rest_fn, named_fn]  # type checkers count the provided parameter too
    rest, only_rest, named = map(job, functions)
    with jobs:
        assert rest.enqueue(1).result(timeout=120) == ["made", 1, 3]
        assert rest.enqueue(1, 5, 6, c=7).result(timeout=120) == ["made", 1, 5, 6, 7]
        assert only_rest.enqueue(5, 6).result(timeout=120) == ["made", 5, 6]
        assert named.enqueue(1, 5, c=6).result(timeout=120) == ["made", 1, 5, {"c": 6}]
        with pytest.raises(ArgumentsError, match="given is provided by the worker"):
            named.enqueue(1, given="mine")
        # A producer that has not this code checks nothing; the worker does.
        with pytest.raises(JobFailed, match="given is provided by the worker"):
            jobs.remote("named_fn").using(retries=0).enqueue(1, given="mine").result(timeout=120)


def test_a_producer_without_the_code_counts_as_the_worker_does(jobs: BrokerJobs) -> None:
    jobs.job(retries=0)(middle)
    remote = jobs.remote("middle").using(retries=0)
    with jobs:
        assert remote.enqueue(7, 8).result(timeout=120) == ["made", 7, 8]
        with pytest.raises(JobFailed, match="ArgumentsError"):
            remote.enqueue(7, "mine", 8).result(timeout=120)


def test_results_of_parents_are_filled_in_where_they_were_given(jobs: BrokerJobs) -> None:
    job: Any = jobs.job(retries=0)(middle)

    @jobs.job(retries=0)
    def number(value: int) -> int:
        return value

    with jobs:
        parents = [number.enqueue(7), number.enqueue(8)]
        assert job.enqueue(*map(result_of, parents)).result(timeout=120) == ["made", 7, 8]
        many = jobs.enqueue_many([job.bind(7, 8), job.bind(7)])
        assert [receipt.result(timeout=120) for receipt in many] == [["made", 7, 8], ["made", 7, 2]]


def test_a_direct_call_stays_pythons(jobs: BrokerJobs) -> None:
    job = jobs.job(middle)
    assert job(7) == ["made", 7, 2]
    assert job(7, b=8) == ["made", 7, 8]
    assert job(7, "mine", 8) == ["mine", 7, 8]


def test_a_tester_counts_as_the_worker_does(jobs: BrokerJobs) -> None:
    job: Any = jobs.job(middle)
    with Tester(jobs) as tester:
        receipt = job.enqueue(7, 8)
        tester.assert_enqueued(job, 7, 8)
        tester.assert_enqueued(job, 7, b=8)
        tester.assert_enqueued(job, ANY, ANY)
        with pytest.raises(AssertionError):
            tester.assert_enqueued(job, 7, 9)
        tester.run()
        assert receipt.result(timeout=120) == ["made", 7, 8]


def test_depends_inside_an_annotation_is_refused(jobs: BrokerJobs) -> None:
    def job(a: int, given: Annotated[str, Depends(make)]) -> None: ...

    def job_as_text(a: int, given: "Annotated[str, Depends(make)]") -> None: ...

    for written in (job, job_as_text):
        with pytest.raises(DefinitionError, match=r"write given: … = Depends\(make\)"):
            jobs.job(written)


def test_a_future_that_is_done_gives_its_result(jobs: BrokerJobs) -> None:
    @jobs.job(retries=0)
    def done() -> Any:
        future: Future[int] = Future()
        future.set_result(7)
        return future

    with jobs:
        assert done.enqueue().result(timeout=120) == 7
