"""Fills in the arguments the worker makes: `mailer: Mailer = Depends(get_mailer)`.

A default value, so that type checkers see an optional parameter and tests pass their own. A provider that yields is
scoped: what stands after its yield runs when the function has ended, also when it raised. A provider may have
`Depends` defaults itself; each provider is called once an attempt.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    AsyncExitStack,
    ExitStack,
    asynccontextmanager,
    contextmanager,
)
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, overload

R = TypeVar("R")


@dataclass(frozen=True)
class Provided:
    """The marker that stands as a parameter's default: the worker calls `provider` for it."""

    provider: Callable[[], Any]


class NeedsProvided(Protocol):
    """A function whose parameters may be provided (`registry.Function` is one)."""

    @property
    def fn(self) -> Callable[..., Any]: ...
    @property
    def provided(self) -> Mapping[str, tuple[int, Provided]]: ...


@overload
def Depends(provider: Callable[[], Iterator[R]], /) -> R: ...  # pyright: ignore[reportOverlappingOverload]
@overload
def Depends(provider: Callable[[], R], /) -> R: ...
def Depends(provider: Callable[[], Any], /) -> Any:  # noqa: N802  # reads as a type beside the annotation
    """Have the worker make this argument by calling `provider`.

    A generator (or async generator, for an async job) is scoped: what follows its yield runs after the function.
    """
    return Provided(provider)


def provided_parameters(fn: Callable[..., Any]) -> dict[str, tuple[int, Provided]]:
    """The parameters of `fn` that are provided: name -> (position, or -1 for keyword-only; marker)."""
    found: dict[str, tuple[int, Provided]] = {}
    for index, parameter in enumerate(inspect.signature(fn).parameters.values()):
        if isinstance(parameter.default, Provided):
            position = -1 if parameter.kind is inspect.Parameter.KEYWORD_ONLY else index
            found[parameter.name] = (position, parameter.default)
    return found


def async_provider(fn: Callable[..., Any]) -> tuple[str, str] | None:
    """(parameter, provider's name) of the first provider, at any depth, that needs an event loop; None if none does."""
    for name, (_, marker) in provided_parameters(fn).items():
        provider = marker.provider
        if inspect.iscoroutinefunction(provider) or inspect.isasyncgenfunction(provider):
            return name, getattr(provider, "__name__", repr(provider))
        if _is_inspectable(provider) and (deeper := async_provider(provider)) is not None:
            return name, deeper[1]
    return None


@contextmanager
def filled(
    function: NeedsProvided, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
    """The arguments to call a sync function with; scoped ones are closed at the end, in reverse order."""
    given = dict(kwargs)
    wanted = _wanted(function.provided, args, given)
    if not wanted:
        yield args, given
        return
    with ExitStack() as stack:
        made: dict[Callable[[], Any], Any] = {}
        for name, marker in wanted:
            given[name] = _make(marker, stack, made)
        yield args, given


@asynccontextmanager
async def filled_async(
    function: NeedsProvided, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> AsyncIterator[tuple[tuple[Any, ...], dict[str, Any]]]:
    """As `filled`, for an async function: its providers may be async too."""
    given = dict(kwargs)
    wanted = _wanted(function.provided, args, given)
    if not wanted:
        yield args, given
        return
    async with AsyncExitStack() as stack:
        made: dict[Callable[[], Any], Any] = {}
        for name, marker in wanted:
            given[name] = await _make_async(marker, stack, made)
        yield args, given


def _wanted(
    provided: Mapping[str, tuple[int, Provided]], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> list[tuple[str, Provided]]:
    return [
        (name, marker)
        for name, (position, marker) in provided.items()
        if name not in kwargs and not 0 <= position < len(args)
    ]


def _make(marker: Provided, stack: ExitStack, made: dict[Callable[[], Any], Any]) -> Any:
    provider = marker.provider
    if provider not in made:
        own = {name: _make(inner, stack, made) for name, inner in _own(provider)}
        if inspect.isgeneratorfunction(provider):
            made[provider] = _enter(stack, contextmanager(provider)(**own))
        else:
            made[provider] = provider(**own)
    return made[provider]


async def _make_async(marker: Provided, stack: AsyncExitStack, made: dict[Callable[[], Any], Any]) -> Any:
    provider = marker.provider
    if provider not in made:
        own = {name: await _make_async(inner, stack, made) for name, inner in _own(provider)}
        if inspect.isasyncgenfunction(provider):
            made[provider] = await _enter_async(stack, asynccontextmanager(provider)(**own))
        elif inspect.isgeneratorfunction(provider):
            made[provider] = _enter(stack, contextmanager(provider)(**own))
        else:
            value = provider(**own)
            made[provider] = await value if inspect.iscoroutine(value) else value
    return made[provider]


def _own(provider: Callable[[], Any]) -> list[tuple[str, Provided]]:
    if not _is_inspectable(provider):
        return []
    return [(name, marker) for name, (_, marker) in provided_parameters(provider).items()]


def _is_inspectable(provider: Callable[..., Any]) -> bool:
    try:
        inspect.signature(provider)
    except (TypeError, ValueError):
        return False
    return True


def _enter(stack: ExitStack | AsyncExitStack, scope: AbstractContextManager[Any]) -> Any:
    value = scope.__enter__()

    def leave(*error: Any) -> bool:
        scope.__exit__(*error)
        return False  # a provider may look at the failure of a job but not hide it

    stack.push(leave)
    return value


async def _enter_async(stack: AsyncExitStack, scope: AbstractAsyncContextManager[Any]) -> Any:
    value = await scope.__aenter__()

    async def leave(*error: Any) -> bool:
        await scope.__aexit__(*error)
        return False

    stack.push_async_exit(leave)
    return value
