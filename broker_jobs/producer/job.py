"""What can be enqueued: a function of this program, a job of another service, either one with options.

`SyncJob` and `AsyncJob` are also called, as the ordinary functions they are; so what cannot be called here (a job of
another service, a job with options) has no `__call__`, and a type checker says so.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Coroutine
from datetime import datetime
from typing import (
    TYPE_CHECKING,
    Any,
    Generic,
    NamedTuple,
    NoReturn,
    ParamSpec,
    Protocol,
    TypeVar,
    Unpack,
    cast,
    overload,
)

from broker_jobs.broker.interface import Message, PublishFailure, Unconfirmed
from broker_jobs.clock import Instant, When, as_datetime
from broker_jobs.errors import EnqueueError, OptionError
from broker_jobs.function.depends import filled, filled_async
from broker_jobs.function.keys import limit_keys, unique_key, wrong_name
from broker_jobs.function.options import CallOptions, FunctionOptions, check_id
from broker_jobs.function.pending import take_out
from broker_jobs.function.registry import Function
from broker_jobs.function.signature import Signature
from broker_jobs.messages.envelope import End, Envelope, Parent, new_id
from broker_jobs.producer import stray_enqueues
from broker_jobs.producer.batch_submission import BatchSubmission
from broker_jobs.producer.blocking import warn_if_blocking
from broker_jobs.producer.call import Call, call_shown
from broker_jobs.producer.dependencies import dependencies_of, joined, parents_of
from broker_jobs.producer.errors import EnqueueUnknown
from broker_jobs.producer.receipt import Receipt
from broker_jobs.producer.requests import RequestClient
from broker_jobs.producer.routing import Later, later, message_for

if TYPE_CHECKING:
    from broker_jobs.producer.batch import Batch

P = ParamSpec("P")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)

_PEERS = {
    "delay": "enqueue",
    "send": "enqueue",
    "kiq": "enqueue",
    "defer": "enqueue",
    "apply_async": "enqueue",
}
"""How other libraries call it, for people who come from them."""


class Prepared(NamedTuple):
    """A message, and what the caller gets when it is confirmed."""

    message: Message
    receipt: Receipt[Any]


class Job(Generic[P, R_co]):
    """What can be enqueued. Made by `@jobs.job` and `@jobs.remote`, changed by `using` and `after`."""

    def __init__(
        self,
        name: str,
        signature: Signature,
        options: FunctionOptions,
        requests: RequestClient,
        call_options: CallOptions | None = None,
        *,
        parents: tuple[Parent, ...] = (),
    ) -> None:
        self.name = name
        self._signature = signature
        self._options = options
        self._requests = requests
        self._call_options: CallOptions = call_options or {}
        self._parents = parents

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._signature.call_text}>"

    def enqueue(self, /, *args: P.args, **kwargs: P.kwargs) -> Receipt[R_co]:
        """Enqueue the job; when this returns RabbitMQ has confirmed it, and it will be run.

        Raises:
            ArgumentsError: the arguments do not fit; nothing was published.
            EnqueueError: not enqueued: unreachable, blocked, refused or too large.
            EnqueueUnknown: no confirm came in time; repeat with the same id.
            UsageError: called in a callback of the library's I/O thread, where it would wait for itself.
        """
        warn_if_blocking(f"{self.name}.enqueue()", f"{self.name}.enqueue_async(…)")
        prepared = self.prepare(self._signature.bind(args, kwargs))
        failure = self._requests.connection.send([prepared.message])[0]
        if failure is not None:
            self._raise(failure, prepared, call_shown("enqueue", args, kwargs))
        stray_enqueues.note(self.name)
        return prepared.receipt

    async def enqueue_async(self, /, *args: P.args, **kwargs: P.kwargs) -> Receipt[R_co]:
        """As `enqueue`; the event loop goes on meanwhile. Cancelled, what is not on its way yet never goes out."""
        prepared = self.prepare(self._signature.bind(args, kwargs))
        failure = (await self._requests.connection.send_async([prepared.message]))[0]
        if failure is not None:
            self._raise(failure, prepared, call_shown("enqueue_async", args, kwargs))
        stray_enqueues.note(self.name)
        return prepared.receipt

    def schedule(self, when: When, /, *args: P.args, **kwargs: P.kwargs) -> Receipt[R_co]:
        """Enqueue the job for later; for every Monday see `jobs.recurring`.

        Args:
            when: a timedelta from now or an aware datetime, at most ten years ahead; a past one means now. After
                parents (`after`, `result_of`) a timedelta counts from the end of the last one.

        Raises:
            As `enqueue`.
        """
        warn_if_blocking(f"{self.name}.schedule()", f"{self.name}.schedule_async(…)")
        meant = later(when, self._requests.now())
        prepared = self.prepare(self._signature.bind(args, kwargs), meant)
        failure = self._requests.connection.send([prepared.message])[0]
        if failure is not None:
            self._raise(failure, prepared, call_shown("schedule", (when, *args), kwargs))
        stray_enqueues.note(self.name)
        return prepared.receipt

    async def schedule_async(self, when: When, /, *args: P.args, **kwargs: P.kwargs) -> Receipt[R_co]:
        """As `schedule`; the event loop goes on meanwhile."""
        meant = later(when, self._requests.now())
        prepared = self.prepare(self._signature.bind(args, kwargs), meant)
        failure = (await self._requests.connection.send_async([prepared.message]))[0]
        if failure is not None:
            self._raise(failure, prepared, call_shown("schedule_async", (when, *args), kwargs))
        stray_enqueues.note(self.name)
        return prepared.receipt

    def bind(self, /, *args: P.args, **kwargs: P.kwargs) -> Call[R_co]:
        """The job with these arguments, not enqueued: for `enqueue_many` and `recurring`.

        Raises:
            ArgumentsError: the arguments do not fit.
        """
        bound = self._signature.bind(args, kwargs)
        return Call(self.name, args, kwargs, self._call_options, source=self, bound=bound)

    def using(self, /, **options: Unpack[CallOptions]) -> Job[P, R_co]:
        """The same job with other options for one call; of two `using` the later wins. Nothing is enqueued.

        Raises:
            OptionError: unknown (the nearest right one is named), out of range, of the function only, or a key with
                a name that is no parameter.
        """
        changed = self._options.changed(options)
        if (wrong := wrong_name(changed.unique, changed.limits, self._signature)) is not None:
            raise OptionError(wrong)
        return Job(
            self.name,
            self._signature,
            changed,
            self._requests,
            {**self._call_options, **options},
            parents=self._parents,
        )

    def after(
        self, parent: Receipt[object] | Batch, /, *more: Receipt[object] | Batch, on: End = "succeeded"
    ) -> Job[P, R_co]:
        """The same job, run when others have ended. Nothing is enqueued; `after` of `after` waits for all.

        Args:
            parent, more: receipts and batches; ended ones count too.
            on: how they must end; "finished": succeeded, failed or deleted. One that ends otherwise ends this job as
                deleted, until it is requeued.

        Raises:
            ArgumentsError: no receipt or batch, no such end, or over 1,000 of them.
        """
        parents = joined(self._parents, parents_of((parent, *more), on, self.name))
        return Job(self.name, self._signature, self._options, self._requests, self._call_options, parents=parents)

    def receipt(self, id: str, /) -> Receipt[R_co]:
        """The receipt of a job of this name that was enqueued before, as from an id in a database."""
        return Receipt(check_id(id, "the id of a job"), self._requests, self.name, self._signature.decode_result)

    def prepare(self, bound: tuple[list[Any], dict[str, Any]], meant: Later | None = None) -> Prepared:
        """The message of one call.

        Raises:
            ArgumentsError: a result is wanted of a parent that need not have one.
            EnqueueError: the message is too large.
        """
        options, requests = self._options, self._requests
        now = requests.now()
        envelope = self.draft(bound, now, meant)
        message = message_for(envelope, now, requests.connection.settings.max_body, own_id=options.id is not None)
        return Prepared(message, self.fresh_receipt(envelope.id))

    def draft(self, bound: tuple[list[Any], dict[str, Any]], now: Instant, meant: Later | None = None) -> Envelope:
        """The envelope of one call, with an id. Raises ArgumentsError as `prepare`."""
        job_id = self._options.id or new_id()
        return self.envelope(bound, job_id, as_datetime(now), meant)

    def envelope(
        self,
        bound: tuple[list[Any], dict[str, Any]],
        job_id: str,
        created_at: datetime,
        meant: Later | None = None,
    ) -> Envelope:
        """The envelope of one call. Raises ArgumentsError as `prepare`."""
        options, signature = self._options, self._signature
        unique = unique_key(options.unique, signature, *bound)
        limits = limit_keys(options.limits, signature, *bound) if options.limits else ()
        args, kwargs, result_args = take_out(*bound)
        due_at, delay = (None, None) if meant is None else meant
        after = dependencies_of(self._parents, result_args, delay) if result_args or self._parents else None
        if due_at is not None and after is not None and delay is not None:
            due_at = None  # it counts from the end of the parents
        return Envelope(
            id=job_id,
            job=self.name,
            args=args,
            kwargs=kwargs,
            queue=options.queue,
            created_at=created_at,
            due_at=None if due_at is None else as_datetime(due_at),
            after=after,
            result_args=result_args,
            unique=unique,
            limits=limits,
            policy=options.policy,
            tags=options.tags,
        )

    def bound(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
        """The arguments of a call, checked. Raises ArgumentsError."""
        return self._signature.bind(args, kwargs)

    def fresh_receipt(self, job_id: str, submission: BatchSubmission | None = None) -> Receipt[R_co]:
        """The receipt of a job enqueued just now, in a submission to a batch if one is given."""
        return Receipt(
            job_id, self._requests, self.name, self._signature.decode_result, fresh=True, submission=submission
        )

    @property
    def waits(self) -> bool:
        """Whether it was told to run after others."""
        return bool(self._parents)

    @property
    def key_texts(self) -> list[str]:
        """The keys it was told, of what is unique and of limits, as they were written."""
        options = self._options
        return [each.key for each in (options.unique, *options.limits) if each is not None]

    @property
    def call_text(self) -> str:
        """The job as a reader calls it: "welcome(user_id: int)"."""
        return self._signature.call_text

    def required(self) -> list[str]:
        """The parameters a call must give; no annotation is evaluated."""
        return self._signature.required()

    def belongs_to(self, requests: RequestClient) -> bool:
        """Whether the job was made by the program that has this asker."""
        return self._requests is requests

    def _raise(self, failure: PublishFailure, prepared: Prepared, call: str) -> NoReturn:
        title = f"{self.name} {prepared.receipt.id}"
        if failure.kind is Unconfirmed.NOT_SENT:
            raise EnqueueError(f"{title} was not enqueued: {failure.reason}")
        after = ".after(…)" if self._parents else ""
        raise EnqueueUnknown(
            f"{title} may be enqueued or not: {failure.reason}; "
            f'repeat with the same id: {self.name}.using(id="{prepared.receipt.id}"){after}.{call}',
            prepared.receipt,
        )

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> NoReturn:
            if name in _PEERS:
                raise AttributeError(f"jobs have no {name!r}; write {self.name}.{_PEERS[name]}(42)")
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")


class _LocalJob(Job[P, R_co]):
    """A job whose function is here."""

    def __init__(self, function: Function, requests: RequestClient) -> None:
        super().__init__(function.name, function.signature, function.options, requests)
        self._function = function
        functools.update_wrapper(cast("Any", self), function.fn, updated=())  # its attributes must not hide ours


class SyncJob(_LocalJob[P, R_co]):
    """A job that is an ordinary function: `welcome(42)` just runs, here and now, `Depends` filled in."""

    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> R_co:
        with filled(self._function, args, kwargs) as (given, named):
            result: R_co = self._function.fn(*given, **named)
            return result


class AsyncJob(_LocalJob[P, R_co]):
    """A job that is a coroutine function: `await fetch(url)` just runs, here and now, `Depends` filled in."""

    async def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> R_co:
        async with filled_async(self._function, args, kwargs) as (given, named):
            result: R_co = await self._function.fn(*given, **named)
            return result


class JobDecorator(Protocol):
    """What `@jobs.job(…)` gives; a coroutine function fits both overloads, so the order is the rule."""

    @overload
    def __call__(self, fn: Callable[P, Coroutine[Any, Any, R]], /) -> AsyncJob[P, R]: ...  # type: ignore[overload-overlap]  # pyright: ignore[reportOverlappingOverload]
    @overload
    def __call__(self, fn: Callable[P, R], /) -> SyncJob[P, R]: ...
