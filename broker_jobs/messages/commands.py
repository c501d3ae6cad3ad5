"""Describes the commands and queries that the coordinator accepts, and its replies.

The id of a command is the primary key of the audit table, so a command that arrives twice is applied once. Commands are
applied in the order of their arrival. A message with `reply_to` gets a `Reply` after the commit; the sender repeats it
until the reply arrives.

Over 300 lines: one class per command, and each reader of a command needs the union of all of them.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from broker_jobs.clock import Instant
from broker_jobs.messages.envelope import (
    MAX_LIMITS,
    MAX_PARAMETER_CHARS,
    MAX_QUEUES,
    MAX_RECORDS,
    MAX_TAG_CHARS,
    MAX_TAGS,
    JobId,
    JobName,
    LimitKey,
    LimitName,
    Policy,
    QueueName,
    UniqueKey,
)
from broker_jobs.messages.events import (
    MAX_ENVELOPE_CHARS,
    ErrorInfo,
    Id,
    Number,
    Queues,
    Running,
    Timestamp,
    WorkerRef,
    WrittenQueue,
)
from broker_jobs.messages.priority import NORMAL, Priority
from broker_jobs.messages.state import State
from broker_jobs.service_name import MAX_KNOWN_JOBS, CodeDigest, ServiceText

Misfire = Literal["skip", "once", "all"]
Overlap = Literal["allow", "skip", "queue"]

MAX_CRON_CHARS = 1_000
"""Enough for six fields that list every possible value."""
MAX_ZONE_CHARS = 100
MAX_DOC_CHARS = 1_000
MAX_TYPE_CHARS = 300
EnvelopeText = Annotated[str, Field(max_length=MAX_ENVELOPE_CHARS)]
"""An envelope as JSON text."""

NO_SUCH_JOB = "there is no job with this id"
"""Refuses a command on an unknown job. A sender that has just enqueued it repeats the command: the coordinator may not
have read the envelope yet."""


class _Command(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    v: Number = 1
    id: Id
    at: Timestamp
    by: Id = ""


class DeleteJob(_Command):
    """Delete a job. A running job is cancelled, and its outcome decides. Reply detail: {"ended": bool}."""

    kind: Literal["delete"] = "delete"
    job_id: JobId


class RequeueJob(_Command):
    """Run an ended job again, or a waiting job now. Refused while it runs. Reply detail: {"state": str}.

    `args` and `kwargs`, where given, replace the arguments. Also refused for a duplicate, while a message with the old
    arguments may still be in a queue, and if the new message would be too large.
    """

    kind: Literal["requeue"] = "requeue"
    job_id: JobId
    args: list[Any] | None = None
    kwargs: dict[str, Any] | None = None


class RescheduleJob(_Command):
    """Change the time of a job. Refused while it runs or waits for something other than time."""

    kind: Literal["reschedule"] = "reschedule"
    job_id: JobId
    due_at: Timestamp


class Schedule(BaseModel):
    """A recurring job: its times, its job, and its misfire and overlap rules. `call`: the envelope as JSON text."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: JobName
    cron: str = Field(max_length=MAX_CRON_CHARS)
    tz: str = Field(default="UTC", max_length=MAX_ZONE_CHARS)
    misfire: Misfire = "once"
    overlap: Overlap = "allow"
    call: EnvelopeText
    service: ServiceText = Field(default="", description="the program whose code declares it; empty: added at run time")


class PutRecurring(_Command):
    """Add a recurring job, or replace the one with this name. A paused one stays paused."""

    kind: Literal["recurring put"] = "recurring put"
    schedule: Schedule


class DeclareRecurring(_Command):
    """Replace all recurring jobs of the program named `service` by those that its code declares now."""

    kind: Literal["recurring declare"] = "recurring declare"
    service: ServiceText
    schedules: list[Schedule] = Field(max_length=MAX_RECORDS, fail_fast=True)


class RemoveRecurring(_Command):
    kind: Literal["recurring remove"] = "recurring remove"
    name: Id


class PauseRecurring(_Command):
    kind: Literal["recurring pause"] = "recurring pause"
    name: Id
    paused: bool


class TriggerRecurring(_Command):
    """Run a recurring job now, in addition to its schedule. The job gets the id `job_id`."""

    kind: Literal["recurring trigger"] = "recurring trigger"
    name: Id
    job_id: JobId


class RunJob(_Command):
    """Run a job that a person has filled in. `call`: its envelope as JSON text, with an id and perhaps a time.

    Reply detail: {"job": its name}. Refused if the envelope cannot be decoded, or has dependencies.
    """

    kind: Literal["run"] = "run"
    call: EnvelopeText


class Fire(_Command):
    """Sent by a beat: a planned time of this version of a schedule is due. Not audited: the row accepts it once."""

    kind: Literal["fire"] = "fire"
    name: Id
    version: Number
    planned_at: Timestamp


class PauseQueue(_Command):
    kind: Literal["queue pause"] = "queue pause"
    queue: QueueName
    paused: bool


class ChangeWorker(_Command):
    """Change how many jobs a worker runs at once and which queues it serves, until it restarts. None: as before.

    `worker` is the id of one, or `host` a name: all workers there. Reply detail: {"workers": [their ids]}. Refused if
    none of them lives, or if the queues are not written as a worker takes them.
    """

    kind: Literal["worker change"] = "worker change"
    worker: Id = ""
    host: Id = ""
    concurrency: int | None = Field(default=None, ge=1, le=10_000)
    queues: list[WrittenQueue] | None = Field(default=None, max_length=MAX_QUEUES)
    queue_limits: dict[QueueName, Annotated[int, Field(ge=1, le=10_000)]] | None = Field(
        default=None, max_length=MAX_QUEUES
    )


class ReplayDeadLetter(_Command):
    """Apply a dead letter again, for example after an upgrade. Refused with the reason if that fails."""

    kind: Literal["dead letter replay"] = "dead letter replay"
    dead_letter_id: Id


class DeleteDeadLetter(_Command):
    """Delete a dead letter."""

    kind: Literal["dead letter delete"] = "dead letter delete"
    dead_letter_id: Id


class AcceptStore(_Command):
    """Accept that the store was restored from a backup. Releases go on; waiting jobs skip the epochs used since."""

    kind: Literal["store accept"] = "store accept"


class Hello(_Command):
    """Sent by a worker that has connected, and when its program has more jobs. The reply is a `Control` snapshot."""

    kind: Literal["hello"] = "hello"
    worker: WorkerRef
    queues: Queues
    running: Running = Field(default_factory=list)
    version: Id = ""
    service: ServiceText = Field(default="", description="the name of its program; empty: it has none")
    code: CodeDigest = Field(
        default="", description="a digest of `jobs`, as its heartbeats name it; empty: it does not tell what it knows"
    )
    jobs: list[JobName] = Field(
        default_factory=list, max_length=MAX_KNOWN_JOBS, fail_fast=True, description="the jobs that its program has"
    )


class GetJob(_Command):
    """Ask for the state of a job; with `until_ended` the reply is sent when it ends. Reply detail: a `JobReply`."""

    kind: Literal["get job"] = "get job"
    job_id: JobId
    until_ended: bool = False


class DeleteBatch(_Command):
    """Delete all jobs of a batch and of its sub-batches that have not ended. Reply detail: {"ended": bool}."""

    kind: Literal["batch delete"] = "batch delete"
    batch_id: Id


Text = Annotated[str, Field(min_length=1, max_length=1_000, pattern="^[^\x00]*$")]
"""A search text that every database accepts."""


class JobFilter(BaseModel):
    """Selects the jobs of a bulk command: a job must match every given field."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    state: State | None = Field(
        default=None,
        description="absent: requeue takes failed jobs, delete all that have not ended; with `ids` any state",
    )
    queue: QueueName | None = None
    job: Text | None = Field(default=None, description="the name of the job")
    batch: JobId | None = Field(default=None, description="part of this batch or of one of its sub-batches")
    recurring: Text | None = Field(default=None, description="a run of this recurring job")
    tag: Text | None = None
    created_after: Timestamp | None = Field(default=None, description="created at this instant or later")
    created_before: Timestamp | None = None
    error_text: Text | None = Field(
        default=None, description="text in the reason or in the last error; case is ignored"
    )
    ids: Annotated[list[JobId], Field(max_length=1_000, fail_fast=True)] | None = Field(
        default=None, description="only these jobs"
    )
    unknown: bool = Field(default=False, description="only jobs that are held, as no living worker knows them")


class BulkDelete(_Command):
    """Delete every job that matches the filter now. Reply detail: {"started": true, "finished": bool, …}.

    The coordinator works page by page. Repeat the command with the same id to get the progress (`done`, `refused`).
    Each job is processed once, in the state that it has then.
    """

    kind: Literal["bulk delete"] = "bulk delete"
    filter: JobFilter


class BulkRequeue(_Command):
    """Requeue every job that matches the filter now: ended jobs only, no duplicates. Otherwise like `BulkDelete`."""

    kind: Literal["bulk requeue"] = "bulk requeue"
    filter: JobFilter


class BulkFail(_Command):
    """Fail every job that matches the filter and is held, as no living worker knows it. Otherwise like `BulkDelete`."""

    kind: Literal["bulk fail"] = "bulk fail"
    filter: JobFilter


class Subscription(BaseModel):
    """A job that runs for each event of this name. `call`: its envelope without arguments, as JSON text."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    event: JobName
    call: EnvelopeText


class DeclareSubscriptions(_Command):
    """Replace all subscriptions of the program named `service` by those that its code declares now."""

    kind: Literal["subscriptions declare"] = "subscriptions declare"
    service: ServiceText
    subscriptions: list[Subscription] = Field(max_length=MAX_RECORDS, fail_fast=True)


ParameterKind = Literal["positional", "either", "keyword", "args", "kwargs"]


class ParameterInfo(BaseModel):
    """A parameter of a function, for the form that runs it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(max_length=MAX_PARAMETER_CHARS)
    kind: ParameterKind
    required: bool
    default: Any = Field(default=None, description="JSON; null also if it has no JSON form or may be a secret")
    type: str = Field(default="", max_length=MAX_TYPE_CHARS, description="its annotation as written")
    json_schema: dict[str, Any] = Field(default_factory=dict)
    secret: bool = Field(default=False, description="its type is a secret type")
    default_left_out: bool = Field(default=False, description="it has a default that is not told")


class FunctionInfo(BaseModel):
    """A function that can be run as a job, for processes that do not have its code."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: JobName
    queue: QueueName
    doc: str = Field(default="", max_length=MAX_DOC_CHARS)
    parameters: list[ParameterInfo] = Field(default_factory=list, max_length=1_000, fail_fast=True)
    priority: Priority = Field(default=NORMAL, description="from its code")
    policy: Policy = Field(default_factory=Policy, description="retries, timeout and expiry from its code")
    tags: tuple[Annotated[str, Field(max_length=MAX_TAG_CHARS)], ...] = Field(
        default=(), max_length=MAX_TAGS, fail_fast=True
    )
    unique: UniqueKey | None = Field(default=None, description="its key is a template")
    limits: tuple[LimitKey, ...] = Field(
        default=(), max_length=MAX_LIMITS, fail_fast=True, description="their keys are templates"
    )


class DeclareFunctions(_Command):
    """Declare functions of the program named `service`. The last message removes those declared with another `at`.

    Not audited: each program sends it at each start, and a repetition changes nothing.
    """

    kind: Literal["functions declare"] = "functions declare"
    service: ServiceText
    functions: list[FunctionInfo] = Field(max_length=MAX_RECORDS, fail_fast=True)
    last: bool = Field(default=True, description="the last message of a declaration; all have the same `at`")


class BeatHeartbeat(_Command):
    """A beat is alive. Sent every few seconds, also without schedules. `by`: its id. Not audited, no reply."""

    kind: Literal["beat heartbeat"] = "beat heartbeat"
    host: Id = ""
    pid: Number = 0
    version: Id = ""


class SetLimit(_Command):
    """Override a concurrency or rate limit at run time. None removes the override: the limits of the jobs apply."""

    kind: Literal["limit set"] = "limit set"
    key: LimitName
    limit: int | None = Field(default=None, ge=0, le=1_000_000)


class GetBatch(_Command):
    """Ask for a batch's counts; with `until_ended` the reply is sent when it ends. Reply detail: a `BatchReply`."""

    kind: Literal["get batch"] = "get batch"
    batch_id: Id
    until_ended: bool = False


class ListFailures(_Command):
    """Ask for failed jobs of a batch, a page: ids after `after`. Reply detail: {"failures": [JobReply…]}.

    A page has `limit` jobs at most, or fewer where their arguments are long; an empty one is the last.
    """

    kind: Literal["list failures"] = "list failures"
    batch_id: Id
    after: Id = ""
    limit: int = Field(default=100, ge=1, le=500)


class ListSchedules(_Command):
    """Ask for the schedules, as a beat does, a page: names after `after`.

    Reply detail: {"schedules": [ScheduleReply…], "version": int, "more": bool}.
    """

    kind: Literal["list schedules"] = "list schedules"
    after: Id = ""


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
    | ChangeWorker
    | ReplayDeadLetter
    | DeleteDeadLetter
    | AcceptStore
    | Hello
    | GetJob
    | ListSchedules
    | DeleteBatch
    | BulkDelete
    | BulkRequeue
    | BulkFail
    | SetLimit
    | DeclareSubscriptions
    | DeclareFunctions
    | BeatHeartbeat
    | GetBatch
    | ListFailures,
    Field(discriminator="kind"),
]


class JobReply(BaseModel):
    """The state of a job. `known` False: the coordinator has not read its envelope, or has never received it."""

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
    queue: str = ""
    priority: Priority | None = None
    tags: list[str] = Field(default_factory=list)
    runs: int = Field(default=0, description="runs that have begun, interrupted and crashed ones too")
    retries: int = 0
    created_at: Instant = 0.0
    due_at: Instant | None = None
    started_at: Instant | None = Field(default=None, description="of the last run, by the worker's clock")
    ended_at: Instant | None = None
    args: list[Any] = Field(default_factory=list, description="only in lists of failures")
    kwargs: dict[str, Any] = Field(default_factory=dict)


class BatchReply(BaseModel):
    """The state of a batch. `known` False: the coordinator has not read it yet, or has never received it."""

    model_config = ConfigDict(frozen=True)

    id: str
    known: bool
    title: str = ""
    state: str = Field(default="", description="awaiting (not committed or not started), processing, or how it ended")
    total: int = 0
    open: int = Field(default=0, description="members that have not ended; a sub-batch counts as one")
    succeeded: int = 0
    failed: int = 0
    deleted: int = 0


class ScheduleReply(BaseModel):
    """The part of a schedule that a beat needs."""

    model_config = ConfigDict(frozen=True)

    name: str
    cron: str
    tz: str
    version: int
    paused: bool
    last_planned_at: Instant | None = None


class Reply(BaseModel):
    """The reply to a command or question."""

    model_config = ConfigDict(frozen=True)

    id: str
    ok: bool = True
    refused: str | None = Field(default=None, description="why it was refused, and what to do")
    expired: bool = Field(default=False, description="its time was over before it was applied; it never will be")
    detail: dict[str, Any] = Field(default_factory=dict)


COMMAND: TypeAdapter[Command] = TypeAdapter(Command)
