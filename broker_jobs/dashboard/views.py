"""Describes what pages and API show: plain values, already masked, instants as aware UTC datetimes.

Apart from rows because a page must not see what it must not show. Lengths of time end in their unit.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from broker_jobs.messages.envelope import Policy
from broker_jobs.messages.state import State

Severity = Literal["error", "warning"]
End = Literal["succeeded", "failed", "finished"]
Sort = Literal["newest", "oldest", "changed", "due"]


class View(BaseModel):
    """What is shown; frozen, and complete."""

    model_config = ConfigDict(frozen=True, extra="forbid")


# --- jobs ---


class JobLine(View):
    """A job in a list."""

    id: str
    job: str = Field(description="its name; empty: not known yet")
    call: str = Field(description="the call as code, cut to one line of at most 200 characters")
    queue: str
    state: State
    why: str = Field(description="why it is in this state: retry, crash, alias, unsatisfied, cancel, …; or empty")
    reason: str
    attempt: int
    retries: int
    created_at: datetime
    changed_at: datetime = Field(description="when the state was entered")
    due_at: datetime | None
    started_at: datetime | None
    ended_at: datetime | None
    wait_seconds: float | None = Field(description="from due or created to started")
    run_seconds: float | None = Field(description="from started to ended, or to now")
    worker: str | None
    progress: ProgressView | None
    error: str | None = Field(description="ValueError: first line of the message")
    tags: list[str]
    batch: str | None
    recurring: str | None


class ProgressView(View):
    """How far a running job says it is."""

    done: float
    total: float | None
    percent: float | None = Field(description="0 to 100, or none where no total is known")


class JobsQuery(View):
    """Which jobs are listed: all that is given must be so."""

    state: State | None = None
    why: Literal["retry"] | None = Field(default=None, description="retry: scheduled to run again after a failure")
    queue: str | None = None
    job: str | None = Field(default=None, description="the job's name, whole")
    text: str | None = Field(default=None, description="part of an id, name, argument, tag, reason or error")
    error_text: str | None = None
    tag: str | None = None
    batch: str | None = Field(default=None, description="of this batch, or of a batch inside it")
    recurring: str | None = None
    worker: str | None = Field(default=None, description="running on this worker now")
    created_after: datetime | None = None
    created_before: datetime | None = None
    sort: Sort = "newest"
    limit: int = Field(default=50, ge=1, le=500)
    cursor: str | None = Field(default=None, description="from the page before; opaque")


class JobsPage(View):
    """A page of jobs."""

    jobs: list[JobLine]
    next: str | None = Field(description="cursor of the next page; none: this is the last")
    total: int | None = Field(description="how many match, where that is known")
    looked_at: int = Field(description="how many jobs were looked through for this page")
    complete: bool = Field(description="false: only so many were looked through; the next page goes on from there")


class Argument(View):
    """One argument of a call."""

    name: str = Field(description="of the parameter; empty where only its position is known")
    value: Any = Field(description="as JSON; masked")
    masked: bool


class Step(View):
    """A state that a job came into."""

    at: datetime
    state: State
    reason: str
    after_seconds: float | None = Field(description="since the state before")


class Frame(View):
    """A line of a stack."""

    file: str
    line: int | None
    function: str
    code: str


class RaisedView(View):
    """One of the errors that led to one another."""

    error: str = Field(description="as the traceback ends: type and message")
    frames: list[Frame]
    led_by: Literal["", "cause", "context"] = Field(
        description="what the error before it was: its cause; what was being handled; empty: there is none before it"
    )


class ErrorView(View):
    """What an attempt raised."""

    type: str
    message: str
    traceback: str
    frames: list[Frame] = Field(description="the same for reading; empty where the text is no Python stack")
    chain: list[RaisedView] = Field(description="all errors in it, the first one first; its last has the frames above")


class LogLineView(View):
    """What a job wrote while it ran."""

    at: datetime
    attempt: int
    text: str


class Relative(View):
    """A job or batch that this one waits for, or that waits for it."""

    id: str
    is_batch: bool
    title: str = Field(description="a job's name or a batch's title")
    state: str = Field(description="a job's or batch's state; unknown: it was never seen, or is past its retention")
    on: End
    unsatisfied: bool = False


class JobView(JobLine):
    """All that is known of one job."""

    arguments: list[Argument]
    code: str = Field(description="the call as code, as a program would write it")
    doc: str = Field(description="what its function says of itself, where its code has been seen")
    result: str | None = Field(description="JSON text, masked")
    result_lost: str | None = Field(description="why there is no result though it succeeded")
    failure: ErrorView | None
    steps: list[Step] = Field(description="oldest first")
    lines: list[LogLineView]
    parents: list[Relative]
    children: list[Relative]
    waits_for: list[str] = Field(description="in words: 'slot of concurrency smtp', 'batch import', …")
    stands_for: str | None = Field(description="a duplicate: the id of the job it follows")
    made_by: str | None = Field(description="the job that made it, or the event it was made for")
    crashes: int
    epoch: int
    can: list[Literal["requeue", "run_now", "delete", "cancel", "reschedule", "edit"]]
    deleted_on: datetime | None = Field(description="when its retention ends, where it has ended")


class BulkView(View):
    """How far a command about many jobs has come."""

    done: int
    refused: int
    finished: bool


# --- the rest of the house ---


class QueueView(View):
    """A queue."""

    name: str
    paused: bool
    enqueued: int
    processing: int
    scheduled: int
    failed: int
    oldest_seconds: float | None = Field(description="how long the job that waited longest has waited for a worker")
    ended_per_minute: float = Field(description="over the last five minutes")
    workers: int = Field(description="workers that serve it and are not silent")


class ScheduleLine(View):
    """A recurring job in the list."""

    name: str
    cron: str
    tz: str
    misfire: Literal["skip", "once", "all"]
    overlap: Literal["allow", "skip", "queue"]
    job: str
    call: str
    queue: str
    origin: str = Field(description="the program whose code declares it; empty: put at run time")
    paused: bool
    next_at: datetime | None
    last_at: datetime | None
    last_job: str | None
    last_state: State | None


class ScheduleView(ScheduleLine):
    """All that is known of a recurring job."""

    arguments: list[Argument]
    next_times: list[datetime]
    runs: list[JobLine] = Field(description="the last ones, newest first")


class BatchLine(View):
    """A batch in the list."""

    id: str
    title: str
    state: str
    total: int
    open: int
    succeeded: int
    failed: int
    deleted: int
    percent: float
    created_at: datetime
    ended_at: datetime | None
    parent: str | None


class FailureGroup(View):
    """Failed jobs of a batch with the same error."""

    error: str
    count: int
    example: str = Field(description="id of one of them")


class BatchTree(View):
    """A batch and the batches inside it."""

    batch: BatchLine
    inside: list[BatchTree]


class BatchView(BatchLine):
    """All that is known of a batch."""

    tree: BatchTree
    failures: list[FailureGroup]
    failures_counted: int = Field(description="how many failed jobs the groups were made of; there may be more")
    jobs: list[JobLine] = Field(description="the first of its members")
    parents: list[Relative]
    children: list[Relative]


class WorkerView(View):
    """A worker process."""

    id: str
    host: str
    pid: int
    slot: str
    queues: list[str]
    concurrency: int
    running: int
    done: int
    cpu_percent: float
    rss_bytes: int
    version: str
    started_at: datetime | None
    seen_at: datetime
    silent: bool = Field(description="not heard of for three heartbeats")
    lost: bool = Field(description="given up; its jobs were taken from it")
    jobs: list[JobLine] = Field(description="in flight now, as far as told: a job shorter than a moment is not")


class ComponentView(View):
    """A coordinator or beat."""

    kind: Literal["coordinator", "beat"]
    id: str
    host: str
    pid: int
    version: str
    active: bool
    seen_at: datetime
    silent: bool


class LimitView(View):
    """A limit as it stands."""

    kind: Literal["concurrency", "ordered", "rate"]
    key: str
    limit: int | None
    taken: int
    waiting: int
    is_set: bool = Field(description="a person has set the number")


class DeadLetterLine(View):
    """A message that could not be read, routed or decided."""

    id: str
    at: datetime
    origin: str
    reason: str
    size: int
    type: str


class DeadLetterView(DeadLetterLine):
    """The same with the message itself."""

    body: str = Field(description="as text; bytes that are no text as \\xNN; masked where it is JSON")
    exchange: str
    key: str
    message_id: str


class AuditLine(View):
    """What somebody did."""

    id: str
    at: datetime
    by: str
    kind: str
    subject: str
    detail: str


class Page(View):
    """Where a list goes on."""

    next: str | None = None


class BatchesPage(Page):
    batches: list[BatchLine]


class DeadLettersPage(Page):
    dead_letters: list[DeadLetterLine]
    total: int


class AuditPage(Page):
    audit: list[AuditLine]


class Parameter(View):
    """A parameter of a function that can be run from a form."""

    name: str
    kind: Literal["positional", "either", "keyword", "args", "kwargs"]
    required: bool
    default: Any = None
    type: str = Field(description="as its annotation is written")
    json_schema: dict[str, Any]
    secret: bool


class FunctionView(View):
    """A job that can be enqueued by a person: what the code of some program has declared."""

    name: str
    queue: str
    origin: str
    doc: str
    parameters: list[Parameter]
    policy: Policy = Field(default_factory=Policy, description="retries and times of its jobs, as its code says")
    tags: list[str] = Field(default_factory=list)
    seen_at: datetime


# --- overview ---


class Alert(View):
    """What is wrong now, and what to do about it."""

    severity: Severity
    what: str
    do: str
    page: str = Field(description="path of the page that shows more, from the dashboard's root")


class Latencies(View):
    """How long jobs waited and ran lately."""

    wait_p50: float | None
    wait_p95: float | None
    run_p50: float | None
    run_p95: float | None
    of: int = Field(description="jobs of the last hour it was made of")


class Overview(View):
    """The state of the house at one moment."""

    at: datetime
    counts: dict[State, int]
    retries: int
    recurring: int
    workers: int
    queues: int
    dead_letters: int
    alerts: list[Alert]
    latencies: Latencies
    coordinator_behind_seconds: float | None


class Point(View):
    """Jobs that came to an end in a stretch of time."""

    at: datetime
    succeeded: int
    failed: int
    deleted: int


class Graph(View):
    """Jobs that came to an end, in equal stretches, oldest first, without gaps."""

    span: Literal["hour", "day", "week"]
    step_seconds: float
    points: list[Point]


class ChangeView(View):
    """The little that open pages are told whenever something changed."""

    serial: int = Field(description="grows with every change of the store")
    at: datetime
    counts: dict[State, int]
    ended: dict[str, int] = Field(description="succeeded, failed, deleted: so many ever, for the live graph")
    alerts: int
