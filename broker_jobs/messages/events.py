"""Describes what a worker tells the coordinator: the events of its jobs, many in one message.

A failed or handed-back event carries the envelope as the worker received it, so that the coordinator needs nothing
else to act on it. Results and envelopes travel as JSON text inside JSON, so that nobody on the way decodes them.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from broker_jobs.clock import Instant
from broker_jobs.messages.envelope import (
    LAST_MOMENT,
    MAX_DELAY_SECONDS,
    MAX_NUMBER,
    MAX_QUEUES,
    MAX_RECORDS,
    JobId,
    QueueName,
)

MAX_RESULT_BYTES = 64 * 1024
MAX_ERROR_MESSAGE_CHARS = 4_000
MAX_TRACEBACK_CHARS = 16_000
MAX_LINE_CHARS = 4_000
MAX_ENVELOPE_CHARS = 16 * 1024 * 1024
MAX_HELD = 100_000
"""Jobs a heartbeat lists: more than a worker can hold."""
FLUSH_BYTES = 512 * 1024
"""An events message is closed when it grows over this (4.x refuses bodies over 16 MiB)."""

ReturnReason = Literal[
    "redelivered", "fenced", "shutdown", "pause", "unknown job", "delivery limit", "waited too long", "no queue"
]


Moment = Annotated[Instant, Field(ge=0.0, lt=LAST_MOMENT.timestamp(), allow_inf_nan=False)]
"""An instant as it travels: of this millennium, so that every calendar and database holds it."""
Number = Annotated[int, Field(ge=0, le=MAX_NUMBER)]
MAX_ID_CHARS = 300
Id = Annotated[str, Field(max_length=MAX_ID_CHARS, pattern=r"^[^\x00]*$")]
"""Of a worker or a command, or a host's name: what is a key in the store must fit into its index."""
Amount = Annotated[float, Field(allow_inf_nan=False)]
Queues = Annotated[list[QueueName], Field(max_length=MAX_QUEUES, fail_fast=True)]
Running = Annotated[list[tuple[JobId, Number]], Field(max_length=MAX_HELD, fail_fast=True)]


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class WorkerRef(_Value):
    """Which worker process speaks: `id` is new at each start, (`host`, `slot`) is the place it has taken over."""

    id: Id
    host: Id = ""
    slot: Id = ""
    pid: Number = 0


class ErrorInfo(_Value):
    """An exception as it is shown: type's name, message and traceback, both capped."""

    type: str = Field(max_length=1_000)
    message: str = Field(max_length=MAX_ERROR_MESSAGE_CHARS)
    traceback: str = Field(default="", max_length=MAX_TRACEBACK_CHARS)


class Started(_Value):
    """The function runs. `owned`: the delivery is acknowledged, from now on the coordinator owns the job by lease."""

    kind: Literal["started"] = "started"
    id: JobId
    epoch: Number
    at: Moment
    owned: bool = False


class Succeeded(_Value):
    """The function returned. `result` is JSON text; `result_lost` says why there is none though one was returned."""

    kind: Literal["succeeded"] = "succeeded"
    id: JobId
    epoch: Number
    started_at: Moment
    ended_at: Moment
    result: Annotated[str, Field(max_length=MAX_RESULT_BYTES)] | None = None
    result_lost: Annotated[str, Field(max_length=4_000)] | None = None


class Failed(_Value):
    """The function raised. `final`: no retry whatever is left of the budget. `cancelled`: it stopped as asked."""

    kind: Literal["failed"] = "failed"
    id: JobId
    epoch: Number
    started_at: Moment
    ended_at: Moment
    error: ErrorInfo
    final: bool = False
    cancelled: bool = False
    retry_after: Annotated[float, Field(ge=0, le=MAX_DELAY_SECONDS)] | None = None
    envelope: str = Field(max_length=MAX_ENVELOPE_CHARS)


class Returned(_Value):
    """The delivery was not run, and why; the coordinator decides what becomes of the job."""

    kind: Literal["returned"] = "returned"
    id: JobId
    epoch: Number
    at: Moment
    reason: ReturnReason
    redelivered: bool = False
    envelope: str = Field(max_length=MAX_ENVELOPE_CHARS)


class Interrupted(_Value):
    """The function was cut off because its worker had to leave: neither a failure nor a crash.

    It, or a thread that it started, may run until the process ends. So its delivery is not acknowledged: it comes back
    when the process has ended, and then the job runs again. `acknowledged`: no delivery of it comes back.
    """

    kind: Literal["interrupted"] = "interrupted"
    id: Id
    epoch: Number
    started_at: Moment
    ended_at: Moment
    acknowledged: bool = False
    envelope: str


class Progress(_Value):
    """How far a running job is: the last value of a flush, at most one a second."""

    kind: Literal["progress"] = "progress"
    id: JobId
    epoch: Number
    at: Moment
    done: Amount
    total: Amount | None = None


class LogLine(_Value):
    """A line a running job wrote with current_job().log(); at most 100 an attempt."""

    kind: Literal["line"] = "line"
    id: JobId
    epoch: Number
    at: Moment
    text: str = Field(max_length=MAX_LINE_CHARS)


class Heartbeat(_Value):
    """A worker lives, and this is what it has: `running` are (id, epoch) in functions, `held` are unstarted ids."""

    kind: Literal["heartbeat"] = "heartbeat"
    at: Moment
    running: Running = Field(default_factory=list)
    held: list[JobId] = Field(default_factory=list, max_length=MAX_HELD, fail_fast=True)
    queues: Queues = Field(default_factory=list)
    concurrency: Number = 0
    control_version: Number = 0
    done: Number = Field(default=0, description="jobs this process has finished since it started")
    cpu_percent: Amount = 0.0
    rss_bytes: Number = 0
    version: Id = ""
    leaving: bool = Field(default=False, description="the last one of a clean shutdown: its lease may end at once")


JobEvent = Started | Succeeded | Failed | Returned | Interrupted | Progress | LogLine
Event = Annotated[JobEvent | Heartbeat, Field(discriminator="kind")]


class Bundle(_Value):
    """One message of the log: events of one worker, in the order they happened."""

    v: Number = 1
    worker: WorkerRef
    sent_at: Moment
    events: list[Event] = Field(max_length=MAX_RECORDS, fail_fast=True)


class Tick(_Value):
    """A coordinator's mark in the log, once a second: the ruler of log time, and the proof of who is active."""

    coordinator: Id
    store: Id
    serial: Number
    sent_at: Moment
    host: Id = ""
    pid: Number = 0
    version: Id = ""


BUNDLE = TypeAdapter(Bundle)
TICK = TypeAdapter(Tick)
