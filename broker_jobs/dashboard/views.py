"""Defines the views that pages and API show: frozen values, already masked, instants as aware UTC datetimes.

Views are separate from the store's rows, so that a page never holds a value that it must not show. Names of durations
end in their unit. The descriptions are those of the OpenAPI document.

Over 300 lines: all views in one place, each a list of fields.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from broker_jobs.messages.envelope import LimitKey, Policy, UniqueKey
from broker_jobs.messages.priority import NORMAL, Priority
from broker_jobs.messages.state import State

Severity = Literal["error", "warning"]
End = Literal["succeeded", "failed", "finished"]
Ended = Literal["succeeded", "raised", "timed out", "cancelled", "interrupted", "crashed", "returned"]
Sort = Literal["newest", "oldest", "changed", "due"]


class View(BaseModel):
    """Base of all views: frozen, without unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


# --- jobs ---


class JobSummary(View):
    """A job in a list."""

    id: str
    job: str = Field(description="name of the job; empty: not known yet")
    call: str = Field(description="the call as Python code, on one line of at most 200 characters")
    queue: str
    priority: Priority
    state: State
    reason_code: str = Field(description="reason for the state: retry, crash, alias, unsatisfied, cancel, …; or empty")
    reason: str
    attempt: int
    retries: int
    created_at: datetime
    changed_at: datetime = Field(description="when the state was entered")
    due_at: datetime | None
    started_at: datetime | None
    ended_at: datetime | None
    wait_seconds: float | None = Field(description="from the due time, or creation, to the start")
    run_seconds: float | None = Field(description="from the start to the end, or to now")
    worker: str | None
    progress: ProgressView | None
    error: str | None = Field(description="type and first line of the message: 'ValueError: no such user'")
    tags: list[str]
    batch: str | None
    recurring: str | None


class ProgressView(View):
    """The progress that a running job reports."""

    done: float
    total: float | None
    percent: float | None = Field(description="0 to 100; null where the total is not known")


class JobsQuery(View):
    """Selects jobs: every given field must match."""

    state: State | None = None
    reason_code: Literal["retry"] | None = Field(
        default=None, description="retry: only jobs scheduled to run again after a failure"
    )
    unknown: bool | None = Field(
        default=None, description="true: only jobs that are held, as no living worker knows them"
    )
    queue: str | None = None
    job: str | None = Field(default=None, description="the job's full name")
    text: str | None = Field(default=None, description="part of an id, name, argument, tag, reason or error")
    error_text: str | None = None
    tag: str | None = None
    batch: str | None = Field(default=None, description="in this batch or in one of its inner batches")
    recurring: str | None = None
    worker: str | None = Field(default=None, description="runs on this worker now")
    created_after: datetime | None = None
    created_before: datetime | None = None
    sort: Sort = "newest"
    limit: int = Field(default=50, ge=1, le=500)
    cursor: str | None = Field(default=None, description="`next` of the previous page")


class JobsPage(View):
    """A page of jobs."""

    jobs: list[JobSummary]
    next: str | None = Field(description="cursor of the next page; null: this is the last page")
    total: int | None = Field(description="number of matching jobs, where it is known")
    scanned: int = Field(description="number of jobs that were searched for this page")
    complete: bool = Field(description="false: the search stopped after `scanned` jobs; the next page continues it")


class Argument(View):
    """One argument of a call."""

    name: str = Field(description="name of the parameter; empty where only the position is known")
    value: Any = Field(description="JSON value, hidden values masked")
    masked: bool


class StateChange(View):
    """A state that a job entered."""

    at: datetime
    state: State
    reason: str
    after_seconds: float | None = Field(description="since the previous state")


class StackFrame(View):
    """A frame of a traceback."""

    file: str
    line: int | None
    function: str
    code: str


class ExceptionView(View):
    """One exception of a chain."""

    error: str = Field(description="type and message, as the traceback ends")
    frames: list[StackFrame]
    link: Literal["", "cause", "context"] = Field(
        description="how the previous exception relates to it: its cause, or the exception that was being handled;"
        " empty for the first one"
    )


class ErrorView(View):
    """The error of an attempt."""

    type: str
    message: str
    traceback: str
    frames: list[StackFrame] = Field(description="the parsed traceback; empty where the text is no Python traceback")
    chain: list[ExceptionView] = Field(
        description="all exceptions, the first raised first; the last has the frames above"
    )


class AttemptView(View):
    """How an attempt of a job ended."""

    attempt: int
    ended: Ended
    started_at: datetime | None = Field(description="null: it was returned without a run")
    ended_at: datetime
    worker: str | None
    host: str | None
    release: str | None = Field(description="version of broker_jobs that the worker reported")
    reason: str = Field(description="why it crashed or was returned")
    error: str | None = Field(description="type and first line of the message")
    fingerprint: str | None = Field(description="equal for errors of one type that were raised at one place")


class LogLineView(View):
    """A log line that a job wrote."""

    at: datetime
    attempt: int
    text: str


class RelationView(View):
    """A job or batch that this one waits for, or that waits for this one."""

    id: str
    is_batch: bool
    title: str = Field(description="the job's name or the batch's title")
    state: str = Field(description="state of the job or batch; unknown: not in the store, or past its retention")
    on: End
    unsatisfied: bool = False


class JobView(JobSummary):
    """Everything about one job."""

    arguments: list[Argument]
    code: str = Field(description="the call as Python code")
    doc: str = Field(description="docstring of the function, where a program has declared it")
    result: str | None = Field(description="JSON text, hidden values masked")
    result_lost: str | None = Field(description="why a succeeded job has no result")
    result_until: datetime | None = Field(description="when its result is kept no longer, if before the job")
    failure: ErrorView | None
    history: list[StateChange] = Field(description="oldest first")
    attempts: list[AttemptView] = Field(
        description="the last 200, the oldest first; empty if it succeeded on its first attempt"
    )
    log_lines: list[LogLineView]
    parents: list[RelationView]
    children: list[RelationView]
    waits_for: list[str] = Field(
        description="in words: 'a slot of the concurrency limit smtp', 'batch 0190… to be succeeded', …"
    )
    alias_of: str | None = Field(description="of a duplicate: id of the job whose outcome it shares")
    created_by: str | None = Field(description="the job that enqueued it, or the event it was created for")
    crashes: int
    epoch: int
    ran_on: str | None = Field(description="the worker that ran it last")
    ran_host: str | None = Field(description="the host of that worker")
    actions: list[Literal["requeue", "run_now", "delete", "cancel", "reschedule", "edit"]] = Field(
        description="what its state allows"
    )
    expires_at: datetime | None = Field(description="when the retention of an ended job ends")


class BulkView(View):
    """Progress of a bulk command."""

    done: int
    refused: int
    finished: bool


# --- everything else ---


class QueueView(View):
    """A queue."""

    name: str
    paused: bool
    enqueued: int
    enqueued_high: int = Field(description="those of `enqueued` that have a high priority")
    enqueued_low: int = Field(description="those of `enqueued` that have a low priority")
    processing: int
    scheduled: int
    failed: int
    oldest_seconds: float | None = Field(description="waiting time of the oldest enqueued job")
    ended_per_minute: float = Field(description="average of the last five minutes")
    workers: int = Field(description="workers that consume it and are not silent")


class ScheduleSummary(View):
    """A recurring job in the list."""

    name: str
    cron: str = Field(description="a cron expression, or an interval as @every 5m")
    schedule: str = Field(description="the schedule as it is shown: an interval in words, as every 5 minutes")
    tz: str
    misfire: Literal["skip", "once", "all"]
    overlap: Literal["allow", "skip", "queue"]
    job: str
    call: str
    queue: str
    priority: Priority
    service: str = Field(description="the program whose code declares it; empty: added at run time")
    paused: bool
    next_at: datetime | None
    last_at: datetime | None
    last_job: str | None
    last_state: State | None


class ScheduleView(ScheduleSummary):
    """Everything about one recurring job."""

    arguments: list[Argument]
    next_times: list[datetime]
    runs: list[JobSummary] = Field(description="the last runs, newest first")


class BatchSummary(View):
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
    """Failed jobs of a batch that have the same error."""

    error: str
    count: int
    example: str = Field(description="id of one of these jobs")


class BatchTree(View):
    """A batch and its inner batches."""

    batch: BatchSummary
    inside: list[BatchTree]


class BatchView(BatchSummary):
    """Everything about one batch."""

    tree: BatchTree
    failures: list[FailureGroup]
    failures_counted: int = Field(description="failed jobs in the groups; there may be more")
    jobs: list[JobSummary] = Field(description="its first jobs")
    parents: list[RelationView]
    children: list[RelationView]


class WorkerView(View):
    """A worker process."""

    id: str
    host: str
    pid: int
    slot: str
    queues: list[str]
    served: list[str] = Field(description="the queues with their weights, if they have any: mail:3")
    queue_limits: dict[str, int] = Field(description="how many jobs of a queue it runs at once, where that is limited")
    concurrency: int
    running: int
    done: int
    cpu_percent: float
    rss_bytes: int
    busy: str = Field(
        description="the job that keeps others of it from running, or did within the last minute; empty: none"
    )
    version: str
    service: str = Field(default="", description="the name of its program; empty: it has none")
    started_at: datetime | None
    seen_at: datetime
    silent: bool = Field(description="three heartbeats are missing")
    lost: bool = Field(description="declared dead; its jobs were requeued")
    busy_since: datetime | None = Field(
        default=None,
        description="since when it does not answer its supervisor, which says that it lives: a job keeps Python's GIL",
    )
    problem: str = Field(default="", description="why it takes no jobs, or not from all queues")
    jobs: list[JobSummary] = Field(description="running jobs; very short ones may be missing")


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
    """The current state of a limit."""

    kind: Literal["concurrency", "ordered", "rate"]
    key: str
    limit: int | None
    taken: int
    waiting: int
    is_set: bool = Field(description="a person has set the number, which overrides that of the jobs")


class DeadLetterEntry(View):
    """A message that could not be decoded, routed or applied."""

    id: str
    at: datetime
    origin: str
    reason: str
    size: int
    type: str


class DeadLetterView(DeadLetterEntry):
    """A dead letter with its message."""

    body: str = Field(description="as text; other bytes as \\xNN; hidden values masked")
    exchange: str
    key: str
    message_id: str
    user_id: str = Field(description="the user of the broker that sent it; empty: not named")


class AuditEntry(View):
    """A command that was applied or refused."""

    id: str
    at: datetime
    by: str = Field(description="the name that its sender claims")
    user_id: str = Field(description="the user of the broker that sent it, as the broker attests; empty: not named")
    kind: str
    subject: str
    detail: str


class ListPage(View):
    """A page of a list."""

    next: str | None = Field(default=None, description="cursor of the next page; null: this is the last page")


class BatchesPage(ListPage):
    batches: list[BatchSummary]


class DeadLettersPage(ListPage):
    dead_letters: list[DeadLetterEntry]
    total: int


class AuditPage(ListPage):
    audit: list[AuditEntry]


class Parameter(View):
    """A parameter of a declared function."""

    name: str
    kind: Literal["positional", "either", "keyword", "args", "kwargs"]
    required: bool
    default: Any = None
    type: str = Field(description="the annotation as written in the code")
    json_schema: dict[str, Any]
    secret: bool
    default_left_out: bool = False


class FunctionView(View):
    """A function that a program has declared as a job, and that can be run from a form."""

    name: str
    queue: str
    service: str
    doc: str
    parameters: list[Parameter]
    priority: Priority = Field(default=NORMAL, description="as declared in the code")
    policy: Policy = Field(default_factory=Policy, description="retries and timeouts, as declared in the code")
    tags: list[str] = Field(default_factory=list)
    unique: UniqueKey | None = Field(default=None, description="as declared in the code; its key is a template")
    limits: list[LimitKey] = Field(default_factory=list, description="as declared; their keys are templates")
    seen_at: datetime


# --- overview ---


class Alert(View):
    """A problem, and what to do about it."""

    severity: Severity
    what: str
    do: str
    page: str = Field(description="path of the page with details, from the dashboard's root")


class Latencies(View):
    """Waiting and run times of the last hour, in seconds."""

    wait_p50: float | None
    wait_p95: float | None
    run_p50: float | None
    run_p95: float | None
    jobs: int = Field(description="number of jobs in the sample")


class Overview(View):
    """The state of the system at one moment."""

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


class HistoryPoint(View):
    """Jobs that ended in one interval."""

    at: datetime
    succeeded: int
    failed: int
    deleted: int


class History(View):
    """Ended jobs in equal intervals, oldest first, without gaps."""

    span: Literal["hour", "day", "week"]
    step_seconds: float
    points: list[HistoryPoint]


class LiveCounts(View):
    """The counters that open pages receive when something changes."""

    serial: int = Field(description="increases with every change of the store")
    at: datetime
    counts: dict[State, int]
    ended: dict[str, int] = Field(description="total of succeeded, failed and deleted jobs, for the live graph")
    alerts: int
