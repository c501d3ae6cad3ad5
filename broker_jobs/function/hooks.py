"""Keeps the hooks of a program or of a group of jobs, and describes the job that they get."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from broker_jobs.errors import DefinitionError
from broker_jobs.messages.envelope import Envelope

Around: TypeAlias = Callable[[], Iterator[None]] | Callable[[], AsyncIterator[None]]
"""A hook: a generator function with one yield (sync or async), at which the attempt runs."""


@dataclass(frozen=True)
class JobMessage:
    """The job that a hook is about.

    Attributes:
        id: its id.
        name: its name in messages.
        queue: the queue in which it waits or waited.
        attempt: the number of the run, from 1; 0 where it is enqueued.
        retries: the runs that it may have after the first one.
        tags: its tags.
        args, kwargs: its arguments, as the JSON values that travel.
    """

    id: str
    name: str
    queue: str
    attempt: int
    retries: int
    tags: Sequence[str]
    args: Sequence[Any] = field(repr=False)
    kwargs: Mapping[str, Any] = field(repr=False)


OnEnqueue: TypeAlias = Callable[[JobMessage], None]
OnStart: TypeAlias = Callable[[JobMessage], Awaitable[None] | None]
OnSuccess: TypeAlias = Callable[[JobMessage, Any], Awaitable[None] | None]
OnFailed: TypeAlias = Callable[[JobMessage, BaseException], Awaitable[None] | None]
OnWorker: TypeAlias = Callable[[], Awaitable[None] | None]


def job_message(envelope: Envelope, attempt: int | None = None) -> JobMessage:
    """A job as hooks get it; `attempt`: that of the envelope, if none is given."""
    return JobMessage(
        id=envelope.id,
        name=envelope.job,
        queue=envelope.queue,
        attempt=envelope.attempt if attempt is None else attempt,
        retries=envelope.policy.retries,
        tags=tuple(envelope.tags),
        args=tuple(deepcopy(envelope.args)),  # what a hook does to them changes nothing of the job
        kwargs=deepcopy(envelope.kwargs),
    )


def returned_by(hook: Callable[..., Any], value: Any) -> Any:
    """What a hook returned, if it has run to its end or can be awaited.

    Raises:
        DefinitionError: it is a generator behind a decorator: nothing would ever run of it.
    """
    if inspect.isgenerator(value) or inspect.isasyncgen(value):
        name = getattr(hook, "__qualname__", repr(hook))
        raise DefinitionError(f"the hook {name} returned a generator, of which nothing runs: remove the yield")
    return value


def call_on_enqueue(hook: OnEnqueue, job: JobMessage) -> None:
    """Call a hook of on_enqueue.

    Raises:
        DefinitionError: it is async behind a decorator, or a generator.
        Exception: what it raises.
    """
    called: Callable[[JobMessage], Any] = hook
    value = called(job)
    if inspect.iscoroutine(value):
        value.close()
        name = getattr(hook, "__qualname__", repr(hook))
        raise DefinitionError(f"the hook {name} is async, and nothing awaits it: on_enqueue takes a plain function")
    returned_by(hook, value)


class Hooks:
    """The hooks of a program or of a group, each kind in the order of declaration."""

    def __init__(self) -> None:
        self.around: list[Around] = []
        self.on_enqueue: list[OnEnqueue] = []
        self.on_start: list[OnStart] = []
        self.on_success: list[OnSuccess] = []
        self.on_failed: list[OnFailed] = []
        self.on_worker_start: list[OnWorker] = []
        self.on_worker_stop: list[OnWorker] = []

    def extend(self, inner: Hooks) -> None:
        """Add hooks that are inside of these."""
        for kind, hooks in vars(inner).items():
            getattr(self, kind).extend(hooks)


def joined(chain: Sequence[Hooks]) -> Hooks:
    """The hooks of all of these, the outermost first."""
    if len(chain) == 1:
        return chain[0]
    all_hooks = Hooks()
    for hooks in chain:
        all_hooks.extend(hooks)
    return all_hooks


def check_around(fn: Any) -> None:
    """Raise DefinitionError unless this is a generator function."""
    if inspect.isgeneratorfunction(fn) or inspect.isasyncgenfunction(fn):
        return
    name, inner = getattr(fn, "__name__", fn), inspect.unwrap(fn)
    if inspect.isgeneratorfunction(inner) or inspect.isasyncgenfunction(inner):
        raise DefinitionError(
            f"{name} has no yield of its own, as a decorator is around it: "
            "leave the decorator out, also @contextmanager"
        )
    raise DefinitionError(f"{name} has no yield: write a yield where the attempt is to run")


def check_hook(kind: str, fn: Any, *parameters: str, sync_only: bool = False) -> None:
    """Check a hook that is called with these parameters.

    Raises:
        DefinitionError: it cannot be called so, or is a generator; the message says what to write.
    """
    name = getattr(fn, "__name__", repr(fn))
    call = f"{name}({', '.join(parameters)})"
    if not callable(fn) or inspect.isclass(fn):
        raise DefinitionError(f"@jobs.{kind} decorates a function, not {fn!r}")
    if inspect.isgeneratorfunction(fn) or inspect.isasyncgenfunction(fn):
        raise DefinitionError(f"{name} is a generator: write def {call} without a yield, or use @jobs.around")
    if sync_only and inspect.iscoroutinefunction(fn):
        raise DefinitionError(
            f"{name} is async, and {kind} is called where jobs are enqueued, in enqueue() too: write def {call}"
        )
    try:
        inspect.signature(fn).bind(*parameters)
    except TypeError:
        raise DefinitionError(f"{name} is called as {call}: write def {call}") from None
