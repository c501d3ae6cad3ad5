"""Provides arguments in the worker: `mailer: Mailer = Depends(get_mailer)`.

`Depends` is a default value, so that type checkers see an optional parameter, and tests pass their own. A provider that
yields is scoped: the code after its yield runs when the function has ended, also if it raised. A provider may itself
have provided parameters. Each provider is called once per attempt.

`Annotated[Mailer, Depends(get_mailer)]` works where a caller need not give a value: with a default, and in a provider,
which only the worker calls. A job's parameter without a default is refused: type checkers would miss an argument in
each `enqueue`, as a ParamSpec cannot leave a parameter out.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    AsyncExitStack,
    ExitStack,
    asynccontextmanager,
    contextmanager,
)
from contextvars import ContextVar
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType
from typing import Annotated, Any, Final, Protocol, TypeVar, get_origin, overload

from broker_jobs.errors import DefinitionError

R = TypeVar("R")


@dataclass(frozen=True)
class Provided:
    """The default of a provided parameter: the worker calls `provider` for its value."""

    provider: Callable[[], Any]


_NONE_REPLACED: Mapping[Callable[..., Any], Callable[..., Any]] = MappingProxyType({})
REPLACED: ContextVar[Mapping[Callable[..., Any], Callable[..., Any]]] = ContextVar("REPLACED", default=_NONE_REPLACED)
"""Provider -> what is called in its place, in a test."""


class NeedsProvided(Protocol):
    """A function with its provided parameters; `registry.Function` implements it."""

    @property
    def fn(self) -> Callable[..., Any]: ...
    @property
    def provided(self) -> Mapping[str, tuple[int, Provided]]: ...


@overload
def Depends(provider: Callable[..., Iterator[R] | AsyncIterator[R]], /) -> R: ...  # pyright: ignore[reportOverlappingOverload]
@overload
def Depends(provider: Callable[..., Awaitable[R]], /) -> R: ...  # pyright: ignore[reportOverlappingOverload]
@overload
def Depends(provider: Callable[..., R], /) -> R: ...
def Depends(provider: Callable[..., Any], /) -> Any:  # noqa: N802  # reads as a type beside the annotation
    """Let the worker provide this argument, by calling `provider`.

    @jobs.job
    def notify(user_id: int, mailer: Mailer = Depends(get_mailer)) -> None: ...

    A provider may be a function, a generator with one yield or, for an async job, a coroutine function or an async
    generator. Code after the yield runs when the function has ended. The parameter is not enqueued, and does not count
    among positional arguments: with `def f(a, mailer=Depends(…), b=5)`, `f.enqueue(1, 2)` means a=1 and b=2.

    Raises:
        DefinitionError: `provider` cannot be called.
    """
    if not callable(provider):
        raise DefinitionError(f"Depends takes a function that returns the value, not {provider!r}")
    return Provided(provider)


def provided_parameters(fn: Callable[..., Any], *, bare: bool = False) -> dict[str, tuple[int, Provided]]:
    """The provided parameters of `fn`: name -> (position, or -1 for keyword-only; marker).

    `bare`: those that are written `Annotated[…, Depends(…)]` without a default too.
    """
    found: dict[str, tuple[int, Provided]] = {}
    for index, parameter in enumerate(inspect.signature(fn).parameters.values()):
        marker = parameter.default
        if not isinstance(marker, Provided):
            marker = annotated_marker(fn, parameter.annotation)
            if marker is None or (parameter.default is parameter.empty and not bare):
                continue
        found[parameter.name] = (-1 if parameter.kind is inspect.Parameter.KEYWORD_ONLY else index, marker)
    return found


def annotated_marker(fn: Callable[..., Any], annotation: Any) -> Provided | None:
    """The `Depends` inside `Annotated[…]`; None: there is none, or the annotation is text that is not known yet."""
    if isinstance(annotation, str):
        try:
            annotation = eval(annotation, getattr(inspect.unwrap(fn), "__globals__", {}))  # noqa: S307  # as typing does
        except Exception:  # noqa: BLE001  # the codec reads it again on first use, and says what is wrong
            return None
    if get_origin(annotation) is not Annotated:
        return None
    return next((marker for marker in annotation.__metadata__ if isinstance(marker, Provided)), None)


class _Gap(Enum):
    GAP = 0


_GAP: Final = _Gap.GAP
"""Marks a positional argument that is to be provided."""


def insert_gaps(function: NeedsProvided, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """The positional arguments of a message, at their positions in the function.

    A message does not count provided parameters, as its sender does not know them: in
    `def f(a, mailer=Depends(…), b=5)` the second argument is b.
    """
    placed = list(args)
    for position in sorted(position for position, _ in function.provided.values() if position >= 0):
        if position >= len(placed):
            break  # what follows is given by name
        placed.insert(position, _GAP)
    return tuple(placed)


@contextmanager
def provide(
    function: NeedsProvided, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
    """The arguments for a call of a sync function. Scoped providers are closed at the end, in reverse order."""
    given = dict(kwargs)
    wanted = _wanted(function.provided, args, given)
    if not wanted:
        yield _in_place(function.provided, args, given), given
        return
    with ExitStack() as stack:
        made: dict[Callable[[], Any], Any] = {}
        for name, marker in wanted:
            given[name] = _make(marker, stack, made)
        yield _in_place(function.provided, args, given), given


@asynccontextmanager
async def provide_async(
    function: NeedsProvided, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> AsyncIterator[tuple[tuple[Any, ...], dict[str, Any]]]:
    """As `provide`, for an async function: its providers may be async too."""
    given = dict(kwargs)
    wanted = _wanted(function.provided, args, given)
    if not wanted:
        yield _in_place(function.provided, args, given), given
        return
    async with AsyncExitStack() as stack:
        made: dict[Callable[[], Any], Any] = {}
        for name, marker in wanted:
            given[name] = await _make_async(marker, stack, made)
        yield _in_place(function.provided, args, given), given


def _wanted(
    provided: Mapping[str, tuple[int, Provided]], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> list[tuple[str, Provided]]:
    return [
        (name, marker)
        for name, (position, marker) in provided.items()
        if name not in kwargs and (not 0 <= position < len(args) or args[position] is _GAP)
    ]


def _in_place(
    provided: Mapping[str, tuple[int, Provided]], args: tuple[Any, ...], given: dict[str, Any]
) -> tuple[Any, ...]:
    """The positional arguments with the provided ones in their gaps; these are removed from `given`."""
    if not any(arg is _GAP for arg in args):
        return args
    filled_in = list(args)
    for name, (position, _) in provided.items():
        if 0 <= position < len(args) and args[position] is _GAP:
            filled_in[position] = given.pop(name)
    return tuple(filled_in)


def _make(marker: Provided, stack: ExitStack, made: dict[Callable[[], Any], Any]) -> Any:
    provider: Any = REPLACED.get().get(marker.provider, marker.provider)
    if provider not in made:
        own = {name: _make(inner, stack, made) for name, inner in _own(provider)}
        if inspect.isgeneratorfunction(provider):
            made[provider] = _enter(stack, contextmanager(provider)(**own))
        else:
            made[provider] = _entered(provider(**own), provider, stack)
    return made[provider]


async def _make_async(marker: Provided, stack: AsyncExitStack, made: dict[Callable[[], Any], Any]) -> Any:
    provider: Any = REPLACED.get().get(marker.provider, marker.provider)
    if provider not in made:
        own = {name: await _make_async(inner, stack, made) for name, inner in _own(provider)}
        if inspect.isasyncgenfunction(provider):
            made[provider] = await _enter_async(stack, asynccontextmanager(provider)(**own))
        elif inspect.isgeneratorfunction(provider):
            made[provider] = _enter(stack, contextmanager(provider)(**own))
        else:
            value = provider(**own)
            if inspect.iscoroutine(value):
                value = await value
            if inspect.isasyncgen(value):
                made[provider] = await _enter_async(stack, asynccontextmanager(_returning(value))())
            else:
                made[provider] = _entered(value, provider, stack)
    return made[provider]


def _entered(value: Any, provider: Callable[..., Any], stack: ExitStack | AsyncExitStack) -> Any:
    """The value of a provider. A generator function behind a plain wrapper returns a generator, which is a scope."""
    if inspect.iscoroutine(value) or inspect.isasyncgen(value):
        if inspect.iscoroutine(value):
            value.close()
        raise DefinitionError(
            f"the provider {name_of(provider)} is async, and this job runs in a thread; "
            "write async def (a decorator around the job must be async too), or make the provider sync"
        )
    return _enter(stack, contextmanager(_returning(value))()) if inspect.isgenerator(value) else value


def _returning(value: Any) -> Callable[[], Any]:
    return lambda: value


def name_of(provider: Callable[..., Any]) -> str:
    """A provider, as errors name it."""
    return getattr(provider, "__name__", None) or repr(provider)


def _own(provider: Callable[[], Any]) -> list[tuple[str, Provided]]:
    if not is_inspectable(provider):
        return []
    return [(name, marker) for name, (_, marker) in provided_parameters(provider, bare=True).items()]


def is_inspectable(provider: Callable[..., Any]) -> bool:
    """Whether the parameters of a provider can be read, which those of some built-in functions cannot."""
    try:
        inspect.signature(provider)
    except (TypeError, ValueError):
        return False
    return True


def _enter(stack: ExitStack | AsyncExitStack, scope: AbstractContextManager[Any]) -> Any:
    value = scope.__enter__()

    def leave(*error: Any) -> bool:
        scope.__exit__(*error)
        return False  # a provider can see the exception of a job but not suppress it

    stack.push(leave)
    return value


async def _enter_async(stack: AsyncExitStack, scope: AbstractAsyncContextManager[Any]) -> Any:
    value = await scope.__aenter__()

    async def leave(*error: Any) -> bool:
        await scope.__aexit__(*error)
        return False

    stack.push_async_exit(leave)
    return value
