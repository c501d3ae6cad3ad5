"""Describes what anybody may ask of the coordinator: commands and questions, each with an id.

A command's id is the primary key of the audit table, so a command that arrives twice is applied once. Commands apply
in the order they arrive. A message with `reply_to` gets a `Reply` after the commit; the asker repeats until it has one.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from broker_jobs.clock import Instant
from broker_jobs.messages.envelope import (
    MAX_RECORDS,
    MAX_TAG_CHARS,
    MAX_TAGS,
    JobId,
    JobName,
    LimitName,
    Policy,
    QueueName,
)
from broker_jobs.messages.events import MAX_ENVELOPE_CHARS, ErrorInfo, Id, Moment, Number, Queues, Running, WorkerRef
from broker_jobs.messages.state import State

Misfire = Literal["skip", "once", "all"]
Overlap = Literal["allow", "skip", "queue"]

MAX_CRON_CHARS = 1_000
"""Longer than six fields that name every value they may have."""
MAX_ZONE_CHARS = 100
Call = Annotated[str, Field(max_length=MAX_ENVELOPE_CHARS)]
"""An envelope as JSON text."""
Origin = Annotated[str, Field(max_length=255, pattern=r"^[^\x00]*$")]
"""The name of a program, which declares what its code says."""

NO_SUCH_JOB = "no such job is known"
"""Refuses a command on an unknown job; who has just enqueued it asks again, as the log may be read a moment later."""


class _Command(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    v: Number = 1
    id: Id
    at: Moment
    by: Id = ""


class DeleteJob(_Command):
    """Delete a job; one that runs is asked to stop, and its outcome decides. Reply detail: {"ended": bool}."""

    kind: Literal["delete"] = "delete"
    job_id: Id


class RequeueJob(_Command):
    """Run a job again, or a waiting one now. Refused while it runs. Reply detail: {"state": str}.

    With `args` or `kwargs` those replace what it was called with; what is not given stays. Refused also for a
    duplicate, while a message with the old arguments may be out, and where the new message would be too large.
    """

    kind: Literal["requeue"] = "requeue"
    job_id: Id
    args: list[Any] | None = None
    kwargs: dict[str, Any] | None = None


class RescheduleJob(_Command):
    """Give a job another time. Refused while it runs or waits for something other than time."""

    kind: Literal["reschedule"] = "reschedule"
    job_id: Id
    due_at: Moment


class Schedule(BaseModel):
    """A recurring job: when, what, and the two rules. `call` is the envelope of its jobs, as JSON text."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: JobName
    cron: str = Field(max_length=MAX_CRON_CHARS)
    tz: str = Field(default="UTC", max_length=MAX_ZONE_CHARS)
    misfire: Misfire = "once"
    overlap: Overlap = "allow"
    call: Call
    origin: Origin = Field(default="", description="the program whose code declares it; empty: put at run time")


class PutRecurring(_Command):
    """Add a recurring job or replace the one of this name; its pause is kept."""

    kind: Literal["recurring put"] = "recurring put"
    schedule: Schedule


class DeclareRecurring(_Command):
    """All recurring jobs the code of `origin` declares: put these, remove others of this origin."""

    kind: Literal["recurring declare"] = "recurring declare"
    origin: Origin
    schedules: list[Schedule] = Field(max_length=MAX_RECORDS, fail_fast=True)


class RemoveRecurring(_Command):
    kind: Literal["recurring remove"] = "recurring remove"
    name: Id


class PauseRecurring(_Command):
    kind: Literal["recurring pause"] = "recurring pause"
    name: Id
    paused: bool


class TriggerRecurring(_Command):
    """Run a recurring job now, beside its schedule; the job gets the id `job_id`."""

    kind: Literal["recurring trigger"] = "recurring trigger"
    name: Id
    job_id: JobId


class RunJob(_Command):
    """Run a job that a person describes. `call`: its envelope as JSON text, with its id, and its time if it has one.

    Reply detail: {"job": its name}. Refused where the envelope cannot be read, or waits for other jobs.
    """

    kind: Literal["run"] = "run"
    call: Call


class Fire(_Command):
    """From a beat: this planned time of this version of a schedule has come. Not audited: the row takes it once."""

    kind: Literal["fire"] = "fire"
    name: Id
    version: Number
    planned_at: Moment


class PauseQueue(_Command):
    kind: Literal["queue pause"] = "queue pause"
    queue: QueueName
    paused: bool


class ReplayDeadLetter(_Command):
    """Decide a dead letter again, as after an upgrade of the program that could not read it. Refused with reason."""

    kind: Literal["dead letter replay"] = "dead letter replay"
    dead_letter_id: Id


class DeleteDeadLetter(_Command):
    """Forget a dead letter for good."""

    kind: Literal["dead letter delete"] = "dead letter delete"
    dead_letter_id: Id


class AcceptStore(_Command):
    """A person accepts that the store was restored from a backup: releases go on, waiting jobs leap over old epochs."""

    kind: Literal["store accept"] = "store accept"


class Hello(_Command):
    """A worker has connected; the answer is a `Control` snapshot. `predecessor`: who held its place is dead."""

    kind: Literal["hello"] = "hello"
    worker: WorkerRef
    queues: Queues
    running: Running = Field(default_factory=list)
    version: Id = ""


class GetJob(_Command):
    """A job's state; with `until_ended` the answer comes when it ends. Reply detail: a `JobView`."""

    kind: Literal["get job"] = "get job"
    job_id: JobId
    until_ended: bool = False


class DeleteBatch(_Command):
    """Delete all jobs of a batch and of its sub-batches that have not ended. Reply detail: {"ended": bool}."""

    kind: Literal["batch delete"] = "batch delete"
    batch_id: Id


Text = Annotated[str, Field(min_length=1, max_length=1_000, pattern="^[^\x00]*$")]
"""What a database can be asked for."""


class JobFilter(BaseModel):
    """Which jobs a bulk command means: all that is given must be so."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    state: State | None = Field(
        default=None, description="none: requeue means failed ones, delete all not ended; of `ids` both mean any"
    )
    queue: QueueName | None = None
    job: Text | None = Field(default=None, description="the job's name")
    batch: JobId | None = Field(default=None, description="of this batch, or of a batch inside it")
    recurring: Text | None = Field(default=None, description="made by this recurring job")
    tag: Text | None = None
    created_after: Moment | None = Field(default=None, description="at this instant or later")
    created_before: Moment | None = None
    error_text: Text | None = Field(default=None, description="part of the reason or of the last error, in any case")
    ids: Annotated[list[JobId], Field(max_length=1_000, fail_fast=True)] | None = Field(
        default=None, description="only these"
    )


class BulkDelete(_Command):
    """Delete every job the filter means that is there now. Reply detail: {"started": true, "finished": bool, …}.

    It is worked off page by page: asked again with the same id, the reply says how far it has come (`done`, `refused`).
    Each job is looked at once, as it is then.
    """

    kind: Literal["bulk delete"] = "bulk delete"
    filter: JobFilter


class BulkRequeue(_Command):
    """Run again every job the filter means that is there now. Only ended jobs, no duplicates. As `BulkDelete`."""

    kind: Literal["bulk requeue"] = "bulk requeue"
    filter: JobFilter


class Subscription(BaseModel):
    """A job that is made for every event of a name. `call`: the envelope of its jobs, JSON text, no arguments."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    event: JobName
    call: Call


class DeclareSubscriptions(_Command):
    """All subscriptions the code of `origin` declares: keep these, remove others of this origin."""

    kind: Literal["subscriptions declare"] = "subscriptions declare"
    origin: Origin
    subscriptions: list[Subscription] = Field(max_length=MAX_RECORDS, fail_fast=True)


ParameterKind = Literal["positional", "either", "keyword", "args", "kwargs"]


class ParameterInfo(BaseModel):
    """A parameter of a function, for a form."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    kind: ParameterKind
    required: bool
    default: Any = Field(default=None, description="as JSON; none also where it has no JSON form or may be a secret")
    type: str = Field(default="", description="as its annotation is written")
    json_schema: dict[str, Any] = Field(default_factory=dict)
    secret: bool = Field(default=False, description="its type is one of secrets")


class FunctionInfo(BaseModel):
    """A function that can be run as a job, for who has not its code."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: JobName
    queue: QueueName
    doc: str = ""
    parameters: list[ParameterInfo] = Field(default_factory=list, max_length=1_000, fail_fast=True)
    policy: Policy = Field(default_factory=Policy, description="what its code says of retries and times")
    tags: tuple[Annotated[str, Field(max_length=MAX_TAG_CHARS)], ...] = Field(
        default=(), max_length=MAX_TAGS, fail_fast=True
    )


class DeclareFunctions(_Command):
    """Functions the code of `origin` can run. Those it has declared before another `at` go with the last message.

    Not audited: each program says so whenever it starts, and repeating it changes nothing.
    """

    kind: Literal["functions declare"] = "functions declare"
    origin: Origin
    functions: list[FunctionInfo] = Field(max_length=MAX_RECORDS, fail_fast=True)
    last: bool = Field(default=True, description="of the messages of one declaration, which have one `at`")


class BeatHeartbeat(_Command):
    """A beat lives: said every few seconds, with or without schedules. `by` is its id. Neither audited nor answered."""

    kind: Literal["beat heartbeat"] = "beat heartbeat"
    host: Id = ""
    pid: Number = 0
    version: Id = ""


class SetLimit(_Command):
    """Change the number of a concurrency or rate limit at run time; None: what jobs are enqueued with counts again."""

    kind: Literal["limit set"] = "limit set"
    key: LimitName
    limit: int | None = Field(default=None, ge=1, le=1_000_000)


class GetBatch(_Command):
    """A batch's state and counts; with `until_ended` the answer comes when it ends. Reply detail: a `BatchView`."""

    kind: Literal["get batch"] = "get batch"
    batch_id: Id
    until_ended: bool = False


class ListFailures(_Command):
    """Failed jobs of a batch and its sub-batches, a page: ids after `after`. Reply detail: {"failures": [JobView…]}."""

    kind: Literal["list failures"] = "list failures"
    batch_id: Id
    after: Id = ""
    limit: int = Field(default=100, ge=1, le=500)


class ListSchedules(_Command):
    """The list of schedules, for a beat. Reply detail: {"schedules": [ScheduleView…], "version": int}."""

    kind: Literal["list schedules"] = "list schedules"


Command = Annotated[
    DeleteJob
    | RequeueJob
    | RescheduleJob
    | PutRecurring
    | DeclareRecurring
    | RemoveRecurring
    | PauseRecurring
    | TriggerRecurring
    | RunJob
    | Fire
    | PauseQueue
    | ReplayDeadLetter
    | DeleteDeadLetter
    | AcceptStore
    | Hello
    | GetJob
    | ListSchedules
    | DeleteBatch
    | BulkDelete
    | BulkRequeue
    | SetLimit
    | DeclareSubscriptions
    | DeclareFunctions
    | BeatHeartbeat
    | GetBatch
    | ListFailures,
    Field(discriminator="kind"),
]


class JobReply(BaseModel):
    """What an asker learns of a job; `known` False: the coordinator has not (yet) heard of it."""

    model_config = ConfigDict(frozen=True)

    id: str
    known: bool
    job: str = ""
    state: str = ""
    attempt: int = 0
    reason: str = ""
    result: str | None = None
    result_lost: str | None = None
    error: ErrorInfo | None = None
    args: list[Any] = Field(default_factory=list, description="only where failures are listed")
    kwargs: dict[str, Any] = Field(default_factory=dict)


class BatchReply(BaseModel):
    """What an asker learns of a batch; `known` False: the coordinator has not (yet) heard of it."""

    model_config = ConfigDict(frozen=True)

    id: str
    known: bool
    title: str = ""
    state: str = Field(default="", description="awaiting (not complete or not begun), processing, or how it ended")
    total: int = 0
    open: int = Field(default=0, description="members that have not ended; sub-batches count as one each")
    succeeded: int = 0
    failed: int = 0
    deleted: int = 0


class ScheduleReply(BaseModel):
    """What a beat needs of a schedule."""

    model_config = ConfigDict(frozen=True)

    name: str
    cron: str
    tz: str
    version: int
    paused: bool
    last_planned_at: Instant | None = None


class Fence(BaseModel):
    """Epochs of this job up to and including `epoch` must not be run."""

    model_config = ConfigDict(frozen=True)

    id: str
    epoch: int


class Control(BaseModel):
    """What the coordinator tells workers: a snapshot (answer to hello) or news (broadcast). Fences only grow."""

    model_config = ConfigDict(frozen=True)

    version: int
    snapshot: bool = False
    fences: list[Fence] = Field(default_factory=list)
    paused: list[str] | None = Field(default=None, description="all paused queues; None: unchanged")
    cancel: list[str] = Field(default_factory=list, description="running jobs asked to stop")
    schedules_changed: bool = False
    store: str | None = Field(
        default=None, description="the active coordinator's store; one of another store must stop"
    )


class Reply(BaseModel):
    """The answer to a command or question."""

    model_config = ConfigDict(frozen=True)

    id: str
    ok: bool = True
    refused: str | None = Field(default=None, description="why not, and what to do")
    detail: dict[str, Any] = Field(default_factory=dict)


COMMAND: TypeAdapter[Command] = TypeAdapter(Command)
