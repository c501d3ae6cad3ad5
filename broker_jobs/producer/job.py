"""Enqueues and schedules a job: a function of this program, or a job of another service, with or without options.

`SyncJob` and `AsyncJob` can also be called, as ordinary functions. A job that cannot be called here (a job of another
service, a job with options) has no `__call__`, so a type checker reports the mistake. The file is over 300 lines, as
the public methods of `Job` with their docstrings take most of it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import (
    TYPE_CHECKING,
    Any,
    Generic,
    NamedTuple,
    NoReturn,
    ParamSpec,
    Protocol,
    Self,
    TypeVar,
    Unpack,
    cast,
    overload,
)

from broker_jobs.broker.interface import Message, PublishFailure, Unconfirmed
from broker_jobs.clock import Instant, When, as_datetime
from broker_jobs.errors import EnqueueError, OptionError
from broker_jobs.function.depends import provide, provide_async
from broker_jobs.function.hooks import call_on_enqueue, job_message
from broker_jobs.function.keys import limit_keys, template_error, unique_key
from broker_jobs.function.option_checks import check_id
from broker_jobs.function.options import NO_OPTIONS, CallOptions, FunctionOptions
from broker_jobs.function.pending import extract_result_args
from broker_jobs.function.registry import Function
from broker_jobs.function.signature import Signature
from broker_jobs.messages.envelope import End, Envelope, Parent, new_id
from broker_jobs.producer.asyncio_support import warn_if_blocking
from broker_jobs.producer.batch_submission import BatchSubmission, note_enqueued
from broker_jobs.producer.connection import Publishing
from broker_jobs.producer.current_job import inherited_trace
from broker_jobs.producer.dependencies import dependencies_of, join_parents, parents_of
from broker_jobs.producer.errors import EnqueueUnknown
from broker_jobs.producer.receipt import Receipt
from broker_jobs.producer.requests import JobSource, RequestClient
from broker_jobs.producer.routing import ScheduledTime, message_for, scheduled_time

if TYPE_CHECKING:
    from broker_jobs.producer.batch import Batch

P = ParamSpec("P")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)

_OTHER_LIBRARIES = {
    "delay": "enqueue",
    "send": "enqueue",
    "kiq": "enqueue",
    "defer": "enqueue",
    "apply_async": "enqueue",
}
"""Names of `enqueue` in other libraries, for an error message that names ours."""


@dataclass(frozen=True)
class Call(Generic[R_co]):
    """A job with arguments and options, checked but not enqueued. Made by `job.bind(…)`.

    For `jobs.enqueue_many`, `batch.enqueue_many` and `jobs.recurring`.
    """

    job: str
    args: tuple[object, ...]
    kwargs: Mapping[str, object]
    options: CallOptions
    source: Job[..., R_co] = field(repr=False, compare=False)
    bound: tuple[list[Any], dict[str, Any]] = field(repr=False, compare=False)


class PreparedMessage(NamedTuple):
    """A message, and the receipt that the caller gets when it is confirmed."""

    message: Message
    receipt: Receipt[Any]


class Job(Generic[P, R_co]):
    """A job that can be enqueued. Made by `@jobs.job` and `@jobs.remote`, changed by `using` and `after`."""

    def __init__(
        self,
        name: str,
        signature: Signature,
        options: FunctionOptions,
        source: JobSource,
        call_options: CallOptions | None = None,
        *,
        parents: tuple[Parent, ...] = (),
    ) -> None:
        self.name = name
        self._signature = signature
        self._options = options
        self.source = source
        self.has_own_id = options.id is not None
        """Whether the caller has chosen the id (`using(id=…)`), so that it runs once."""
        self._call_options: CallOptions = call_options or {}
        self._parents = parents

    @property
    def _requests(self) -> RequestClient:
        return self.source.requests

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._signature.call_text}>"

    def __copy__(self) -> Self:
        return self  # it does not change

    def __deepcopy__(self, memo: object) -> Self:
        return self

    def __reduce__(self) -> str | tuple[Any, ...]:
        raise TypeError(
            f"a job with options (using, after) and a job of another service cannot be pickled: pickle {self.name} as "
            "it was decorated, or the arguments, and write the options where it is enqueued"
        )

    def enqueue(self, /, *args: P.args, **kwargs: P.kwargs) -> Receipt[R_co]:
        """Enqueue the job. It returns when RabbitMQ has confirmed the message; from then on the job is not lost.

        receipt = welcome.enqueue(42)

        Returns:
            The receipt: `receipt.id`, `receipt.state()`, `receipt.result(timeout=10)`.

        Raises:
            ArgumentsError: the arguments do not fit the function; nothing was published.
            EnqueueError: not enqueued: RabbitMQ is unreachable, blocked or refuses, or the job is too large.
            EnqueueUnknown: no confirm came within the publish timeout. The job may be enqueued or not; enqueue it again
                with the same id, which is harmless.
            UsageError: called in a callback of the library's I/O thread, where it would wait for itself.
        """
        warn_if_blocking(f"{self.name}.enqueue()", f"{self.name}.enqueue_async(…)")
        prepared = self.prepare(self._signature.bind(args, kwargs))
        failure = self._requests.connection.send([prepared.message], self.publishing())[0]
        if failure is not None:
            self._raise_failure(failure, prepared, _call_text("enqueue", args, kwargs))
        note_enqueued(self.name)
        return prepared.receipt

    async def enqueue_async(self, /, *args: P.args, **kwargs: P.kwargs) -> Receipt[R_co]:
        """As `enqueue`, without blocking the event loop. If it is cancelled, what is not written yet is never sent."""
        prepared = self.prepare(self._signature.bind(args, kwargs))
        failure = (await self._requests.connection.send_async([prepared.message], self.publishing()))[0]
        if failure is not None:
            self._raise_failure(failure, prepared, _call_text("enqueue_async", args, kwargs))
        note_enqueued(self.name)
        return prepared.receipt

    def schedule(self, when: When, /, *args: P.args, **kwargs: P.kwargs) -> Receipt[R_co]:
        """Enqueue the job to run once, later. It does not run before that time. See also `jobs.recurring`.

        welcome.schedule(timedelta(hours=1), 42)

        Args:
            when: a timedelta from now or an aware datetime, at most ten years ahead. A time in the past means now. For
                a job with parents (`after`, `result_of`), a timedelta counts from the end of the last parent.

        Raises:
            As `enqueue`; also ArgumentsError: `when` is a bare number or has no time zone.
        """
        warn_if_blocking(f"{self.name}.schedule()", f"{self.name}.schedule_async(…)")
        scheduled = scheduled_time(when, self._requests.now())
        prepared = self.prepare(self._signature.bind(args, kwargs), scheduled)
        failure = self._requests.connection.send([prepared.message], self.publishing())[0]
        if failure is not None:
            self._raise_failure(failure, prepared, _call_text("schedule", (when, *args), kwargs))
        note_enqueued(self.name)
        return prepared.receipt

    async def schedule_async(self, when: When, /, *args: P.args, **kwargs: P.kwargs) -> Receipt[R_co]:
        """As `schedule`, without blocking the event loop."""
        scheduled = scheduled_time(when, self._requests.now())
        prepared = self.prepare(self._signature.bind(args, kwargs), scheduled)
        failure = (await self._requests.connection.send_async([prepared.message], self.publishing()))[0]
        if failure is not None:
            self._raise_failure(failure, prepared, _call_text("schedule_async", (when, *args), kwargs))
        note_enqueued(self.name)
        return prepared.receipt

    def bind(self, /, *args: P.args, **kwargs: P.kwargs) -> Call[R_co]:
        """Check the arguments of a call without enqueueing it: for `enqueue_many` and `recurring`.

        jobs.enqueue_many(welcome.bind(user_id) for user_id in user_ids)

        Raises:
            ArgumentsError: the arguments do not fit the function.
        """
        bound = self._signature.bind(args, kwargs)
        return Call(self.name, args, kwargs, self._call_options, source=self, bound=bound)

    def using(self, /, **options: Unpack[CallOptions]) -> Job[P, R_co]:
        """The same job with other options. It enqueues nothing; of two `using` the later one wins.

        welcome.using(queue="slow", id="welcome-42").enqueue(42)

        Args:
            options: all options of `CallOptions`. Your own `id` makes a repeated enqueue harmless: the job runs once.

        Raises:
            OptionError: an option is unknown, out of range or only for `@jobs.job`, or a key names no parameter.
        """
        changed = self._options.changed(options)
        if (wrong := template_error(changed.unique, changed.limits, self._signature)) is not None:
            raise OptionError(wrong)
        return Job(
            self.name,
            self._signature,
            changed,
            self.source,
            {**self._call_options, **options},
            parents=self._parents,
        )

    def after(
        self, parent: Receipt[object] | Batch, /, *more: Receipt[object] | Batch, on: End = "succeeded"
    ) -> Job[P, R_co]:
        """The same job, to run when other jobs have ended (a continuation). It enqueues nothing.

        Parents may have ended already. `after` of `after` waits for all of them.

        welcome.after(receipt).enqueue(42)

        Args:
            parent, more: receipts and batches, at most 1,000.
            on: how the parents must end: "succeeded", "failed", or "finished" (succeeded, failed or deleted). If one
                ends otherwise, this job is deleted; it waits again when that parent is requeued.

        Raises:
            ArgumentsError: something is no receipt and no batch, `on` is unknown, or there are more than 1,000 parents.
        """
        parents = join_parents(self._parents, parents_of((parent, *more), on, self.name))
        return Job(self.name, self._signature, self._options, self.source, self._call_options, parents=parents)

    def receipt(self, id: str, /) -> Receipt[R_co]:
        """The receipt of a job of this name that was enqueued before, for example by an id from a database.

        Raises:
            OptionError: this is no id of a job.
        """
        return Receipt(check_id(id, "the id of a job"), self._requests, self.name, self._signature.decode_result)

    def prepare(
        self, bound: tuple[list[Any], dict[str, Any]], scheduled: ScheduledTime | None = None
    ) -> PreparedMessage:
        """The message of one call.

        Raises:
            ArgumentsError: it takes the result of a parent that may end without one.
            EnqueueError: the message is too large.
        """
        options, requests = self._options, self._requests
        now = requests.now()
        envelope = self.new_envelope(bound, now, scheduled)
        message = message_for(envelope, now, requests.connection.settings.max_body, own_id=options.id is not None)
        return PreparedMessage(message, self.new_receipt(envelope.id))

    def new_envelope(
        self, bound: tuple[list[Any], dict[str, Any]], now: Instant, scheduled: ScheduledTime | None = None
    ) -> Envelope:
        """The envelope of one call, with the caller's id or a new one.

        Raises:
            ArgumentsError: as `prepare`.
            Exception: whatever a hook of on_enqueue raises.
        """
        job_id = self._options.id or new_id()
        envelope = self.envelope(bound, job_id, as_datetime(now), scheduled)
        if envelope.trace is None and (inherited := inherited_trace()) is not None:
            envelope = envelope.evolve(trace=inherited)
        if hooks := self.source.enqueue_hooks:
            info = job_message(envelope, attempt=0)
            for hook in hooks:
                call_on_enqueue(hook, info)
        return envelope

    def envelope(
        self,
        bound: tuple[list[Any], dict[str, Any]],
        job_id: str,
        created_at: datetime,
        scheduled: ScheduledTime | None = None,
    ) -> Envelope:
        """The envelope of one call. Raises ArgumentsError as `prepare`."""
        options, signature = self._options, self._signature
        unique = unique_key(options.unique, signature, *bound)
        limits = limit_keys(options.limits, signature, *bound) if options.limits else ()
        args, kwargs, result_args = extract_result_args(*bound)
        due_at, delay = (None, None) if scheduled is None else scheduled
        after = dependencies_of(self._parents, result_args, delay) if result_args or self._parents else None
        if due_at is not None and after is not None and delay is not None:
            due_at = None  # the delay counts from the end of the parents
        return Envelope(
            id=job_id,
            job=self.name,
            args=args,
            kwargs=kwargs,
            queue=options.queue,
            priority=options.priority,
            created_at=created_at,
            due_at=None if due_at is None else as_datetime(due_at),
            after=after,
            result_args=result_args,
            unique=unique,
            limits=limits,
            policy=options.policy,
            tags=options.tags,
            trace=None if options.trace is None else dict(options.trace),
        )

    def bind_arguments(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
        """The arguments of a call as JSON values, checked. Raises ArgumentsError."""
        return self._signature.bind(args, kwargs)

    def new_receipt(self, job_id: str, submission: BatchSubmission | None = None) -> Receipt[R_co]:
        """The receipt of a job that was enqueued just now, in a batch submission if one is given."""
        return Receipt(
            job_id, self._requests, self.name, self._signature.decode_result, fresh=True, submission=submission
        )

    def publishing(self, default: FunctionOptions = NO_OPTIONS) -> Publishing:
        """How its messages are published: by its options, else by those given, else by the settings."""
        own = self._options
        return self._requests.connection.publishing(
            default.publish_timeout if own.publish_timeout is None else own.publish_timeout,
            default.fail_fast if own.fail_fast is None else own.fail_fast,
        )

    @property
    def has_parents(self) -> bool:
        """Whether it runs after other jobs (`after`)."""
        return bool(self._parents)

    @property
    def key_templates(self) -> list[str]:
        """The keys of its options `unique` and `limit`, as they are written."""
        options = self._options
        return [each.key for each in (options.unique, *options.limits) if each is not None]

    @property
    def call_text(self) -> str:
        """The job with its parameters, for error messages: "welcome(user_id: int)"."""
        return self._signature.call_text

    def required_parameters(self) -> list[str]:
        """The parameters without a default; no annotation is evaluated."""
        return self._signature.required_parameters()

    def belongs_to(self, requests: RequestClient) -> bool:
        """Whether the job belongs to the program with this request client. Raises UsageError: to none yet."""
        return self._requests is requests

    def _raise_failure(self, failure: PublishFailure, prepared: PreparedMessage, call: str) -> NoReturn:
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
            if name in _OTHER_LIBRARIES:
                raise AttributeError(f"jobs have no {name!r}; write {self.name}.{_OTHER_LIBRARIES[name]}(42)")
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")


class _LocalJob(Job[P, R_co]):
    """A job whose function is in this program."""

    def __init__(self, function: Function, source: JobSource) -> None:
        super().__init__(function.name, function.signature, function.options, source)
        self._function = function
        functools.update_wrapper(cast("Any", self), function.fn, updated=())  # its attributes must not hide the job's

    def __reduce__(self) -> str:
        """Pickled by its place in its module, as functions are."""
        return self._function.fn.__qualname__


class SyncJob(_LocalJob[P, R_co]):
    """A job that is an ordinary function: `welcome(42)` runs it here and now, with its `Depends` provided."""

    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> R_co:
        with provide(self._function, args, kwargs) as (given, named):
            result: R_co = self._function.fn(*given, **named)
            return result


class AsyncJob(_LocalJob[P, R_co]):
    """A job that is a coroutine function: `await fetch(url)` runs it here and now, with its `Depends` provided."""

    async def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> R_co:
        async with provide_async(self._function, args, kwargs) as (given, named):
            result: R_co = await self._function.fn(*given, **named)
            return result


class JobDecorator(Protocol):
    """The decorator that `@jobs.job(…)` returns. A coroutine function fits both overloads, so their order matters."""

    @overload
    def __call__(self, fn: Callable[P, Coroutine[Any, Any, R]], /) -> AsyncJob[P, R]: ...  # type: ignore[overload-overlap]  # pyright: ignore[reportOverlappingOverload]
    @overload
    def __call__(self, fn: Callable[P, R], /) -> SyncJob[P, R]: ...


def _call_text(method: str, args: tuple[object, ...], kwargs: Mapping[str, object]) -> str:
    """The text of a call, for an error message: "enqueue(42, loud=True)". Long arguments are cut."""
    parts = [_short(arg) for arg in args] + [f"{name}={_short(value)}" for name, value in kwargs.items()]
    return f"{method}({', '.join(parts)})"


def _short(value: object, limit: int = 60) -> str:
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"
