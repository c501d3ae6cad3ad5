"""Describes the events that workers report to the coordinator, many in one message, and the coordinator's tick.

Failed, returned and interrupted events carry the envelope as the worker received it, so that the coordinator needs
nothing else to apply them. Results and envelopes are JSON text inside JSON, so that they are decoded only where needed.
"""

from __future__ import annotations

from json.encoder import encode_basestring_ascii as json_string
from typing import Annotated, Any, Literal

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
from broker_jobs.service_name import CodeDigest, ServiceText

MAX_RESULT_BYTES = 64 * 1024
MAX_ERROR_MESSAGE_CHARS = 4_000
MAX_TRACEBACK_CHARS = 16_000
MAX_LINE_CHARS = 4_000
MAX_REASON_CHARS = 500
MAX_ENVELOPE_CHARS = 16 * 1024 * 1024
MAX_HELD = 100_000
"""Jobs listed in a heartbeat: more than a worker can have."""
FLUSH_BYTES = 512 * 1024
"""An events message is sent when it grows over this. RabbitMQ 4 refuses bodies over 16 MiB."""

ReturnReason = Literal[
    "redelivered",
    "fenced",
    "shutdown",
    "pause",
    "unknown job",
    "delivery limit",
    "waited too long",
    "no queue",
    "not released",
]
"""Why a delivery was not run. Not released: its producer published it directly, though the coordinator has to ask its
conditions first."""


FailureKind = Literal["raised", "timed out", "cancelled", "crashed"]
"""How a run ended that did not succeed. Cancelled: it was deleted, and stopped. Crashed: its own process died."""

Timestamp = Annotated[Instant, Field(ge=0.0, le=LAST_MOMENT.timestamp(), allow_inf_nan=False)]
"""Seconds since the Unix epoch, up to the year 3000, so that every calendar and database stores it."""
Number = Annotated[int, Field(ge=0, le=MAX_NUMBER)]
MAX_ID_CHARS = 300
Id = Annotated[str, Field(max_length=MAX_ID_CHARS, pattern=r"^[^\x00]*$")]
"""The id of a worker or a command, or a host name. Keys in the store must fit into an index row."""
Amount = Annotated[float, Field(ge=-1e300, le=1e300, allow_inf_nan=False)]
"""A number that a program reports, such as a progress: of any size with which one can still calculate."""
Queues = Annotated[list[QueueName], Field(max_length=MAX_QUEUES, fail_fast=True)]
WrittenQueue = Annotated[str, Field(max_length=120)]
"""A queue as a worker is told to serve it: mail, or with a weight mail:3."""
Running = Annotated[list[tuple[JobId, Number]], Field(max_length=MAX_HELD, fail_fast=True)]


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class WorkerRef(_Value):
    """The worker process that sends. `id` is new at each start; a restarted process keeps (`host`, `slot`)."""

    id: Id
    host: Id = ""
    slot: Id = ""
    pid: Number = 0


class ErrorInfo(_Value):
    """An exception as it is shown: name of its type, message and traceback, each cut to a maximum length."""

    type: str = Field(max_length=1_000)
    message: str = Field(max_length=MAX_ERROR_MESSAGE_CHARS)
    traceback: str = Field(default="", max_length=MAX_TRACEBACK_CHARS)


class Started(_Value):
    """The function runs. `owned`: the delivery is acknowledged, and the worker's lease guards the job from now on."""

    kind: Literal["started"] = "started"
    id: JobId
    epoch: Number
    at: Timestamp
    owned: bool = False


class Succeeded(_Value):
    """The function returned. `result` is JSON text; `result_lost` is the reason why a result could not be sent."""

    kind: Literal["succeeded"] = "succeeded"
    id: JobId
    epoch: Number
    started_at: Timestamp
    ended_at: Timestamp
    result: Annotated[str, Field(max_length=MAX_RESULT_BYTES)] | None = None
    result_lost: Annotated[str, Field(max_length=4_000)] | None = None


class Failed(_Value):
    """The run failed, or stopped as it was asked to; `ended` says which.

    `final`: no retry, even if retries are left. `runs_on`: it still runs, and ends with its process, which is about to
    exit; the next run waits a moment for that.
    """

    kind: Literal["failed"] = "failed"
    id: JobId
    epoch: Number
    started_at: Timestamp
    ended_at: Timestamp
    error: ErrorInfo
    ended: FailureKind = "raised"
    final: bool = False
    runs_on: bool = False
    retry_after: Annotated[float, Field(ge=0, le=MAX_DELAY_SECONDS)] | None = None
    envelope: str = Field(max_length=MAX_ENVELOPE_CHARS)


class Returned(_Value):
    """The worker returned the delivery without running it. The coordinator decides whether the job runs again."""

    kind: Literal["returned"] = "returned"
    id: JobId
    epoch: Number
    at: Timestamp
    reason: ReturnReason
    redelivered: bool = False
    envelope: str = Field(max_length=MAX_ENVELOPE_CHARS)


class Interrupted(_Value):
    """The function was stopped because its worker process had to exit. This is neither a failure nor a crash.

    The function, or a thread that it started, may run until the process ends. So the delivery is not acknowledged:
    RabbitMQ redelivers it after the process has ended, and the job runs again then. `acknowledged`: the delivery was
    acknowledged earlier and is not redelivered.
    """

    kind: Literal["interrupted"] = "interrupted"
    id: JobId
    epoch: Number
    started_at: Timestamp
    ended_at: Timestamp
    acknowledged: bool = False
    envelope: str = Field(max_length=MAX_ENVELOPE_CHARS)


class Overrun(_Value):
    """The function goes on after its timeout, though it was asked to stop. Its outcome follows when it has ended."""

    kind: Literal["overrun"] = "overrun"
    id: JobId
    epoch: Number
    at: Timestamp


class Progress(_Value):
    """The progress of a running job: the last value since the last message, at most one a second."""

    kind: Literal["progress"] = "progress"
    id: JobId
    epoch: Number
    at: Timestamp
    done: Amount
    total: Amount | None = None


class LogLine(_Value):
    """A line that a running job logged with current_job().log(); at most 100 per attempt."""

    kind: Literal["log line"] = "log line"
    id: JobId
    epoch: Number
    at: Timestamp
    text: str = Field(max_length=MAX_LINE_CHARS)


class Heartbeat(_Value):
    """A worker is alive. `running`: (id, epoch) of running jobs; `received`: ids of jobs that it has not started."""

    kind: Literal["heartbeat"] = "heartbeat"
    at: Timestamp
    running: Running = Field(default_factory=list)
    received: list[JobId] = Field(default_factory=list, max_length=MAX_HELD, fail_fast=True)
    queues: Queues = Field(default_factory=list)
    served: list[WrittenQueue] = Field(
        default_factory=list, max_length=MAX_QUEUES, fail_fast=True, description="the queues with their weights"
    )
    queue_limits: dict[QueueName, Number] = Field(default_factory=dict, max_length=MAX_QUEUES)
    concurrency: Number = 0
    control_version: Number = 0
    done: Number = Field(default=0, description="jobs that this process has finished since its start")
    cpu_percent: Amount = 0.0
    rss_bytes: Number = 0
    version: Id = ""
    service: ServiceText = ""
    code: CodeDigest = Field(default="", description="names the jobs that it knows, which its hello has listed")
    problem: Annotated[str, Field(max_length=MAX_REASON_CHARS)] = Field(
        default="", description="why it does not take jobs, as when it may not read a queue"
    )
    busy: str = Field(
        default="",
        max_length=1_000,
        description="what keeps its jobs from running, or has just done so: a job, by name",
    )
    leaving: bool = Field(default=False, description="the last heartbeat of a clean shutdown: the lease ends at once")


class Supervised(_Value):
    """A supervisor speaks for a worker process whose heartbeats do not arrive: it lives, or it has ended.

    `running`: (id, epoch) of what it runs, or ran when it ended. `silent_since`: since when it has not answered its
    supervisor, as when a job keeps Python's GIL. `ended`: how it ended, such as "was killed by signal 9".
    """

    kind: Literal["supervised"] = "supervised"
    at: Timestamp
    running: Running = Field(default_factory=list)
    queues: Queues = Field(default_factory=list)
    silent_since: Timestamp | None = None
    ended: Annotated[str, Field(max_length=MAX_REASON_CHARS)] | None = None


JobEvent = Started | Succeeded | Failed | Returned | Interrupted | Overrun | Progress | LogLine
Event = Annotated[JobEvent | Heartbeat | Supervised, Field(discriminator="kind")]


class Bundle(_Value):
    """One message in the log: events of one worker, in the order in which they happened."""

    v: Number = 1
    worker: WorkerRef
    sent_at: Timestamp
    events: list[Event] = Field(max_length=MAX_RECORDS, fail_fast=True)


class Tick(_Value):
    """Written to the log by a coordinator once a second. Ticks measure log time and show which one is active."""

    coordinator: Id
    store: Id
    serial: Number
    sent_at: Timestamp
    host: Id = ""
    pid: Number = 0
    version: Id = ""


BUNDLE = TypeAdapter(Bundle)
TICK = TypeAdapter(Tick)


def event_json(event: BaseModel) -> bytes:
    """Return the JSON of an event. Characters that UTF-8 cannot encode (lone surrogates) are replaced."""
    serializer: Any = event.__pydantic_serializer__
    try:
        encoded: bytes = serializer.to_json(event, exclude_none=True)
    except ValueError:  # PydanticSerializationError: text that is not UTF-8
        replaced = event.model_copy(update={name: _without_surrogates(value) for name, value in event})
        encoded = replaced.__pydantic_serializer__.to_json(replaced, exclude_none=True)
    return encoded


def succeeded_json(
    job_id: str, epoch: int, *, started_at: Instant, ended_at: Instant, result: str | None, lost: str | None
) -> bytes:
    """Return the JSON of a `Succeeded` event, written by hand: every job has one (1.4 us; the model takes 2.9 us).

    `job_id` needs no escaping: ids have no characters that JSON escapes.
    """
    text = f'{{"kind":"succeeded","id":"{job_id}","epoch":{epoch},"started_at":{started_at!r},"ended_at":{ended_at!r}'
    if result is not None:
        text += f',"result":{json_string(result)}'
    if lost is not None:
        text += f',"result_lost":{json_string(lost)}'
    return (text + "}").encode("ascii")


def _without_surrogates(value: object) -> object:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode("utf-8")
    if isinstance(value, BaseModel):
        return value.model_copy(update={name: _without_surrogates(part) for name, part in value})
    return value
