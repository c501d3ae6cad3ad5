"""Recurring jobs: declared in code, or put at run time; triggered, paused, resumed and removed by name.

`jobs.recurring(…)` only remembers: it is written at import, where nothing may touch the network. The beat of the
program sends what is declared, and removes what its code no longer declares. `jobs.recurring.put(…)` acts at once and
is never removed by a declaration.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypedDict, Unpack, get_args

from broker_jobs.beat.cron import check
from broker_jobs.errors import ArgumentsError, DefinitionError, OptionError, nearest
from broker_jobs.function.options import check_name
from broker_jobs.function.pending import has_pending
from broker_jobs.messages.codec import encode
from broker_jobs.messages.commands import (
    MAX_CRON_CHARS,
    MAX_ZONE_CHARS,
    Misfire,
    Overlap,
    PauseRecurring,
    PutRecurring,
    RemoveRecurring,
    Schedule,
    TriggerRecurring,
)
from broker_jobs.messages.envelope import MAX_RECORDS, new_id
from broker_jobs.producer.call import Call
from broker_jobs.producer.job import Job
from broker_jobs.producer.receipt import Receipt
from broker_jobs.producer.requests import RequestClient

TEMPLATE_ID = "template"
TEMPLATE_CREATED_AT = datetime(1970, 1, 1, tzinfo=UTC)
"""A schedule's envelope is a template: always the same for the same code, so that a restart changes no schedule."""
_NAME = "the name of a recurring job"
_NO_PARENTS = "a recurring job waits for its time and for nothing else; have a job enqueue one that waits"


class RecurringOptions(TypedDict, total=False):
    """Options of a recurring job.

    tz: a name of the time zone database; UTC if absent.
    misfire: what to do about missed runs. "once" (if absent) runs the times that were not missed or, if there are none,
    the latest missed one; "skip" runs only those that were not missed; "all" runs every one. A time is missed if it is
    decided more than 60 seconds late, or more than 5 when a later one is due already.
    overlap: while the last one has not ended the next is run too (if absent), skipped or queued behind it.
    """

    tz: str
    misfire: Misfire
    overlap: Overlap


class BindableJob(Protocol):
    """A job that needs no arguments; a protocol, as ParamSpec is invariant."""

    def bind(self) -> Call[object]: ...


class _Declared(NamedTuple):
    where: str
    make: Callable[[], Schedule]


class Recurring:
    """The recurring jobs of a program. Called, it declares one; its methods act at once and block until answered."""

    def __init__(self, requests: RequestClient, on_declared: Callable[[], None]) -> None:
        self._requests = requests
        self._on_declared = on_declared
        self._declared: dict[str, _Declared] = {}

    def __call__(
        self, name: str, cron: str, call: Call[object] | BindableJob, /, **options: Unpack[RecurringOptions]
    ) -> None:
        """Declare a recurring job; the beat that loads this code sends it, at once if it runs in this program.

        Args:
            name: of the schedule, once in the code of a program.
            cron: five fields (minute hour day month weekday) or six (second first).
            call: a job that needs no arguments, or `job.bind(…)`.
            options: see `RecurringOptions`.

        Raises:
            OptionError: the cron, the time zone or another option is wrong.
            ArgumentsError: `call` is no call, or lacks arguments.
            DefinitionError: the name is declared twice.
        """
        _check_options(name, cron, options)
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
        self, name: str, cron: str, call: Call[object] | BindableJob, /, **options: Unpack[RecurringOptions]
    ) -> None:
        """Add a recurring job now, or replace the one of this name; returns when the coordinator has it.

        Raises:
            As declaring one; also
            UsageError: the coordinator refuses.
            ResultTimeout: no coordinator answered within the publish timeout.
            BrokerError: RabbitMQ cannot be reached.
        """
        _check_options(name, cron, options)
        _check_call(call, "recurring.put")
        requests = self._requests
        schedule = _schedule(name, cron, call, options)
        requests.command(PutRecurring(id=new_id(), at=requests.now(), by=requests.by, schedule=schedule))

    def trigger(self, name: str, /) -> Receipt[Any]:
        """Run a recurring job now, beside its schedule. Raises as `put`; UsageError names an unknown one."""
        check_name(name, _NAME)
        requests, job_id = self._requests, new_id()
        requests.command(TriggerRecurring(id=new_id(), at=requests.now(), by=requests.by, name=name, job_id=job_id))
        return Receipt(job_id, requests, fresh=True)

    def pause(self, name: str, /) -> None:
        """Plan no more times of it until `resume`. Raises as `trigger`."""
        self._pause(name, paused=True)

    def resume(self, name: str, /) -> None:
        """Plan its times again. Raises as `trigger`."""
        self._pause(name, paused=False)

    def remove(self, name: str, /) -> None:
        """Forget it; its jobs stay. One that code declares comes back with the next start of that program."""
        check_name(name, _NAME)
        requests = self._requests
        requests.command(RemoveRecurring(id=new_id(), at=requests.now(), by=requests.by, name=name))

    def declared(self, origin: str) -> list[Schedule]:
        """What the code declares, as schedules of this origin; what a beat sends.

        Raises:
            ArgumentsError, DefinitionError: a declared call does not fit its function.
        """
        return [each.make().model_copy(update={"origin": origin}) for each in self._declared.values()]

    def _pause(self, name: str, *, paused: bool) -> None:
        check_name(name, _NAME)
        requests = self._requests
        requests.command(PauseRecurring(id=new_id(), at=requests.now(), by=requests.by, name=name, paused=paused))


_CHOICES = {"misfire": get_args(Misfire), "overlap": get_args(Overlap)}


def _check_options(name: object, cron: object, options: Mapping[str, Any]) -> None:
    check_name(name, _NAME)
    known = sorted(RecurringOptions.__annotations__)
    for option, value in options.items():
        if option not in known:
            raise OptionError(
                f"no option {option!r}{nearest(option, known) or '.'} Options of recurring: {', '.join(known)}"
            )
        if option in _CHOICES and value not in _CHOICES[option]:
            raise OptionError(f"{option} must be {' or '.join(map(repr, _CHOICES[option]))}, not {value!r}")
    if not isinstance(cron, str):
        raise OptionError(f"cron must be a str as '0 9 * * MON', not {cron!r}")
    if len(cron) > MAX_CRON_CHARS:
        raise OptionError(
            f"cron must be at most {MAX_CRON_CHARS:_} characters, not {len(cron):_} ({cron[:40]!r}…); "
            "write ranges and steps, as '*/5 8-18 * * *', or several recurring jobs"
        )
    tz = options.get("tz", "UTC")
    if isinstance(tz, str) and len(tz) > MAX_ZONE_CHARS:
        raise OptionError(f"tz must be a name as 'Europe/Istanbul', not {len(tz):_} characters ({tz[:40]!r}…)")
    check(cron, options.get("tz", "UTC"))


def _check_call(call: object, method: str) -> None:
    """Refuse what is no call, without evaluating annotations: this runs at import."""
    match call:
        case Call():
            if "id" in call.options:
                raise OptionError("id belongs to one call; each job of a recurring one gets its own")
            if call.source.waits or has_pending(*call.bound):
                raise ArgumentsError(_NO_PARENTS)
        case Job():
            if call.waits:
                raise ArgumentsError(_NO_PARENTS)
            missing = call.required()
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
    """Where the program declares: file and line of who called the public method."""
    frame = inspect.currentframe()
    for _ in range(2):
        frame = frame.f_back if frame is not None else None
    if frame is None:
        return sys.argv[0]
    file = Path(frame.f_code.co_filename)
    if file.is_relative_to(Path.cwd()):
        file = file.relative_to(Path.cwd())
    return f"{file.as_posix()}:{frame.f_lineno}"
