"""Declares recurring jobs, and puts, triggers, pauses, resumes and removes them by name.

`jobs.recurring(…)` sends nothing, as it runs at import. The beat of the program sends the declarations, and removes the
recurring jobs that are no longer in its code. `jobs.recurring.put(…)` acts at once; a declaration never removes what it
put. Over 300 lines: each call that waits has a twin for event loops beside it.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypedDict, Unpack, get_args

from broker_jobs.beat.cron import check, interval_text
from broker_jobs.errors import ArgumentsError, DefinitionError, OptionError, nearest
from broker_jobs.function.option_checks import check_name
from broker_jobs.function.pending import has_pending
from broker_jobs.messages.codec import encode
from broker_jobs.messages.commands import (
    MAX_CRON_CHARS,
    MAX_ZONE_CHARS,
    Command,
    Misfire,
    Overlap,
    PauseRecurring,
    PutRecurring,
    RemoveRecurring,
    Schedule,
    TriggerRecurring,
)
from broker_jobs.messages.envelope import MAX_RECORDS, new_id
from broker_jobs.producer.asyncio_support import warn_if_blocking
from broker_jobs.producer.job import Call, Job
from broker_jobs.producer.receipt import Receipt
from broker_jobs.producer.requests import JobSource, RequestClient

TEMPLATE_ID = "template"
TEMPLATE_CREATED_AT = datetime(1970, 1, 1, tzinfo=UTC)
"""The envelope of a schedule is a template, the same for the same code, so that a restart does not change it."""
ANSWERS = "the coordinator answers"
_NAME = "the name of a recurring job"
_NO_ID = "id belongs to one call; each job of a recurring one gets its own"
_NO_PARENTS = "a recurring job waits for its time and for nothing else; have a job enqueue one that waits"


class RecurringOptions(TypedDict, total=False):
    """Options of a recurring job.

    tz: a name of the time zone database, as "Europe/Istanbul"; default UTC.
    misfire: what to do about missed runs. "once" (default) runs the times that were not missed or, if there are none,
    the latest missed one; "skip" runs only those that were not missed; "all" runs every one. A time is missed if it is
    decided more than 60 seconds late, or more than 5 if a later one is already due.
    overlap: what to do if the run before has not ended: "allow" (default) runs both, "skip" omits the new run, "queue"
    runs it afterwards.
    """

    tz: str
    misfire: Misfire
    overlap: Overlap


class BindableJob(Protocol):
    """A job that needs no arguments. A protocol, because `Job` is invariant in its parameters."""

    def bind(self) -> Call[object]: ...


class _Declared(NamedTuple):
    where: str
    make: Callable[[], Schedule]


class Recurring:
    """The recurring jobs of a program: `jobs.recurring`.

    Call it to declare one in code. Its methods act at once, and wait until the coordinator has answered.
    """

    def __init__(self, source: JobSource, on_declared: Callable[[], None]) -> None:
        self._source = source
        self._on_declared = on_declared
        self._declared: dict[str, _Declared] = {}
        self._included: list[Recurring] = []

    def __call__(
        self,
        name: str,
        schedule: str | timedelta,
        call: Call[object] | BindableJob,
        /,
        **options: Unpack[RecurringOptions],
    ) -> None:
        """Declare a recurring job. The beat that loads this code sends the declaration when it starts.

        jobs.recurring("weekly-report", "0 9 * * MON", report, tz="Europe/Istanbul")
        jobs.recurring("sync", timedelta(minutes=5), sync)

        Args:
            name: the name of the schedule, 1 to 200 characters, once in the code of a program.
            schedule: a cron expression of five fields (minute hour day month weekday) or six (second first); or a
                timedelta of whole seconds, from one second to ten years: it runs at each multiple of it since
                1970-01-01T00:00 UTC, so timedelta(minutes=5) at :00, :05, :10 and so on.
            call: a job that needs no arguments, or `job.bind(…)`.
            options: see `RecurringOptions`.

        Raises:
            OptionError: the name, the schedule, the time zone or another option is wrong; or an interval has a zone.
            ArgumentsError: `call` is no job and no call, or lacks arguments.
            DefinitionError: the name is declared twice.
        """
        cron = _check_options(name, schedule, options)
        where = _caller()
        known = self._declared.get(name)
        if known is not None and known.where != where:
            raise DefinitionError(f"recurring {name!r} is declared twice: {known.where}, {where}")
        _check_call(call, "recurring")
        if known is None and len(self._declared) >= MAX_RECORDS:
            raise DefinitionError(
                f"the code of a program declares at most {MAX_RECORDS:_} recurring jobs; "
                "put those that are made of data: jobs.recurring.put(…)"
            )
        self._declared[name] = _Declared(where, lambda: _schedule(name, cron, call, options))
        self._on_declared()

    def put(
        self,
        name: str,
        schedule: str | timedelta,
        call: Call[object] | BindableJob,
        /,
        **options: Unpack[RecurringOptions],
    ) -> None:
        """Add a recurring job now, or replace the one with this name. Returns when the coordinator has stored it.

        jobs.recurring.put("tenant-7", "0 9 * * *", welcome.bind(7))

        Raises:
            As a declaration; also
            UsageError: the coordinator refuses it.
            ResultTimeout: no coordinator answered within the publish timeout.
            BrokerError: RabbitMQ cannot be reached.
        """
        warn_if_blocking("recurring.put()", "recurring.put_async(…)", ANSWERS)
        self._requests.command(self._put_command(name, schedule, call, options))

    async def put_async(
        self,
        name: str,
        schedule: str | timedelta,
        call: Call[object] | BindableJob,
        /,
        **options: Unpack[RecurringOptions],
    ) -> None:
        """As `put`, without blocking the event loop."""
        await self._requests.command_async(self._put_command(name, schedule, call, options))

    def _put_command(
        self, name: str, schedule: str | timedelta, call: Call[object] | BindableJob, options: RecurringOptions
    ) -> Command:
        cron = _check_options(name, schedule, options)
        _check_call(call, "recurring.put")
        return PutRecurring(**self._requests.command_fields(), schedule=_schedule(name, cron, call, options))

    def trigger(self, name: str, /) -> Receipt[Any]:
        """Run a recurring job now; its schedule does not change. Raises as `put`; UsageError if the name is unknown."""
        warn_if_blocking("recurring.trigger()", "recurring.trigger_async(…)", ANSWERS)
        command = self._trigger_command(name)
        self._requests.command(command)
        return Receipt(command.job_id, self._requests, fresh=True)

    async def trigger_async(self, name: str, /) -> Receipt[Any]:
        """As `trigger`, without blocking the event loop."""
        command = self._trigger_command(name)
        await self._requests.command_async(command)
        return Receipt(command.job_id, self._requests, fresh=True)

    def _trigger_command(self, name: str) -> TriggerRecurring:
        check_name(name, _NAME)
        return TriggerRecurring(**self._requests.command_fields(), name=name, job_id=new_id())

    def pause(self, name: str, /) -> None:
        """Run it no more until `resume`. Raises as `trigger`."""
        warn_if_blocking("recurring.pause()", "recurring.pause_async(…)", ANSWERS)
        self._requests.command(self._pause_command(name, paused=True))

    async def pause_async(self, name: str, /) -> None:
        """As `pause`, without blocking the event loop."""
        await self._requests.command_async(self._pause_command(name, paused=True))

    def resume(self, name: str, /) -> None:
        """Run it at its times again. Raises as `trigger`."""
        warn_if_blocking("recurring.resume()", "recurring.resume_async(…)", ANSWERS)
        self._requests.command(self._pause_command(name, paused=False))

    async def resume_async(self, name: str, /) -> None:
        """As `resume`, without blocking the event loop."""
        await self._requests.command_async(self._pause_command(name, paused=False))

    def remove(self, name: str, /) -> None:
        """Remove it; its jobs stay. One that is declared in code returns when that program starts again."""
        warn_if_blocking("recurring.remove()", "recurring.remove_async(…)", ANSWERS)
        self._requests.command(self._remove_command(name))

    async def remove_async(self, name: str, /) -> None:
        """As `remove`, without blocking the event loop."""
        await self._requests.command_async(self._remove_command(name))

    def _remove_command(self, name: str) -> Command:
        check_name(name, _NAME)
        return RemoveRecurring(**self._requests.command_fields(), name=name)

    def declared(self, service: str) -> list[Schedule]:
        """The declarations of the code, as schedules of this service, for a beat to send.

        Raises:
            ArgumentsError, DefinitionError: the arguments of a call do not fit its function.
        """
        return [each.make().model_copy(update={"service": service}) for each in self.all().values()]

    @property
    def is_declared(self) -> bool:
        """Whether the code declares any."""
        return bool(self._declared or self._included)

    def include(self, group: Recurring) -> None:
        """Declare what this group declares too.

        Raises:
            DefinitionError: a name is declared twice.
        """
        self._included.append(group)
        try:
            self.all()
        except DefinitionError:
            self._included.remove(group)
            raise

    def all(self) -> dict[str, _Declared]:
        """The declarations of the code, and of its groups. Raises DefinitionError: a name is declared twice."""
        declared = dict(self._declared)
        for group in self._included:
            for name, each in group.all().items():
                if (known := declared.setdefault(name, each)) is not each:
                    raise DefinitionError(f"recurring {name!r} is declared twice: {known.where}, {each.where}")
        return declared

    @property
    def _requests(self) -> RequestClient:
        return self._source.requests

    def _pause_command(self, name: str, *, paused: bool) -> Command:
        check_name(name, _NAME)
        return PauseRecurring(**self._requests.command_fields(), name=name, paused=paused)


_CHOICES = {"misfire": get_args(Misfire), "overlap": get_args(Overlap)}


def _check_options(name: object, cron: object, options: Mapping[str, Any]) -> str:
    """Check what is not the call; the schedule as text."""
    check_name(name, _NAME)
    known = sorted(RecurringOptions.__annotations__)
    for option, value in options.items():
        if option not in known:
            raise OptionError(
                f"no option {option!r}{nearest(option, known) or '.'} Options of recurring: {', '.join(known)}"
            )
        if option in _CHOICES and value not in _CHOICES[option]:
            raise OptionError(f"{option} must be {' or '.join(map(repr, _CHOICES[option]))}, not {value!r}")
    if isinstance(cron, timedelta):
        cron = interval_text(cron)
    if not isinstance(cron, str):
        raise OptionError(f"cron must be a str as '0 9 * * MON', or a timedelta, not {cron!r}")
    if len(cron) > MAX_CRON_CHARS:
        raise OptionError(
            f"cron must be at most {MAX_CRON_CHARS:_} characters, not {len(cron):_} ({cron[:40]!r}…); "
            "write ranges and steps, as '*/5 8-18 * * *', or several recurring jobs"
        )
    tz = options.get("tz", "UTC")
    if not isinstance(tz, str):
        raise OptionError(f"tz must be the name of a time zone as 'Europe/Istanbul', not {tz!r}")
    if len(tz) > MAX_ZONE_CHARS:
        raise OptionError(f"tz must be a name as 'Europe/Istanbul', not {len(tz):_} characters ({tz[:40]!r}…)")
    check(cron, tz)
    return cron


def _check_call(call: object, method: str) -> None:
    """Refuse a value that is no job and no call. It evaluates no annotation, as it runs at import."""
    match call:
        case Call():
            if "publish_timeout" in call.options or "fail_fast" in call.options:
                raise OptionError(
                    "publish_timeout and fail_fast belong to an enqueue; these jobs the coordinator makes"
                )
            if call.source.has_own_id:
                raise OptionError(_NO_ID)
            if call.source.has_parents or has_pending(*call.bound):
                raise ArgumentsError(_NO_PARENTS)
        case Job():
            if call.has_own_id:
                raise OptionError(_NO_ID)
            if call.has_parents:
                raise ArgumentsError(_NO_PARENTS)
            missing = call.required_parameters()
            if missing:
                raise ArgumentsError(f"{call.call_text} needs {' and '.join(missing)}; write {call.name}.bind(…)")
        case Receipt():
            raise ArgumentsError(f"{method}() takes a job that is not enqueued: write .bind(…), not .enqueue(…)")
        case _:
            raise ArgumentsError(f"{method}() takes a job or job.bind(…), not {call!r}")


def _schedule(name: str, cron: str, call: Call[object] | BindableJob, options: RecurringOptions) -> Schedule:
    bound = call if isinstance(call, Call) else call.bind()
    template = bound.source.envelope(bound.bound, TEMPLATE_ID, TEMPLATE_CREATED_AT)
    text = encode(template.evolve(epoch=0, recurring=name)).decode()
    return Schedule(name=name, cron=cron, call=text, **options)


def _caller() -> str:
    """The file and line of the caller of the public method."""
    frame = inspect.currentframe()
    for _ in range(2):
        frame = frame.f_back if frame is not None else None
    if frame is None:
        return sys.argv[0]
    file = Path(frame.f_code.co_filename)
    if file.is_relative_to(Path.cwd()):
        file = file.relative_to(Path.cwd())
    return f"{file.as_posix()}:{frame.f_lineno}"
