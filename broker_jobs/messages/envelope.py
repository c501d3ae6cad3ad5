"""Describes the envelope of a job: a frozen, versioned value, sent as JSON in the body of a message.

Producers in any language can write one: `schema()` returns the JSON Schema. Unknown fields are refused and not ignored,
as a field that this version does not know may be a condition. A message with one becomes a dead letter, which can be
read and replayed.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationInfo,
    field_validator,
)

from broker_jobs.messages.new_id import new_id as new_id  # also exported from here
from broker_jobs.messages.priority import NORMAL, Priority

WIRE_VERSION = 1
"""The major version of the envelope. A message of another version becomes a dead letter."""

MAX_DELAY_SECONDS = 315_360_000
"""The longest delay: ten years of 365 days. RabbitMQ refuses a longer TTL (probed on 3.10.8 and 4.0.5)."""

MAX_NUMBER = 2**53
"""The largest integer that JSON keeps exactly in every language and that every database stores."""
FIRST_MOMENT = datetime(1970, 1, 1, tzinfo=UTC)
LAST_MOMENT = datetime(3000, 1, 1, tzinfo=UTC)
"""Times outside this range are mistakes, such as a date that was never set, and arithmetic on them overflows.

Both ends count: a float rounds the last microsecond of 2999 up to the first one of 3000.
"""

MAX_KEY_CHARS = 512
"""Length of a unique key or a limit key. At four bytes a character it fits into a PostgreSQL index row (2,704 bytes).

Ids and names are shorter, so everything that is a key in the store fits.
"""
MAX_LIMITS = 8
MAX_TAGS = 50
MAX_TAG_CHARS = 100
MAX_TRACE = 50
MAX_TRACE_CHARS = 8_192
MAX_NAME_CHARS = 200
"""Length of the name of a job, a recurring job, an event or a program."""
MAX_PARAMETER_CHARS = 1_000
"""Length of the name of a parameter."""
MAX_BACKOFFS = 1_000
MAX_PARENTS = 1_000
MAX_RESULT_ARGS = 100
MAX_RECORDS = 5_000
"""Records in one message: one transaction applies all records of a message."""
MAX_QUEUES = 1_000
"""Queues of one worker: each heartbeat lists their names."""
BATCH_PREFIX = "batch:"
"""Marks the id of a batch where ids of jobs and batches share a column. No job id may begin with it."""
JOB_ID_RULE = '1 to 100 of the characters A-Z a-z 0-9 . _ : @ / + -, not beginning with "batch:"'


def _without_batch_prefix(id: str) -> str:
    if id.startswith(BATCH_PREFIX):
        raise ValueError('an id must not begin with "batch:", which marks batches; write another prefix')
    return id


Moment = Annotated[AwareDatetime, Field(ge=FIRST_MOMENT, le=LAST_MOMENT)]
Duration = Annotated[float, Field(gt=0, le=MAX_DELAY_SECONDS, allow_inf_nan=False)]
QueueName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._-]{1,100}$")]
JobId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._:@/+-]{1,100}$"), AfterValidator(_without_batch_prefix)]
JobName = Annotated[str, StringConstraints(min_length=1, max_length=MAX_NAME_CHARS, pattern=r"^[^\x00]+$")]


MAX_FACTOR = 1_000


class Growth(BaseModel):
    """Pauses that grow: before the n-th retry min(cap, first * factor^(n-1)), less a random part of up to `jitter`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    first: Duration = Field(description="seconds before the first retry")
    factor: float = Field(default=2.0, ge=1, le=MAX_FACTOR, description="each pause is so many times the one before")
    cap: Duration = Field(description="the longest pause, in seconds")
    jitter: float = Field(default=0.0, ge=0, le=1, description="the largest part of a pause that chance takes away")


class Policy(BaseModel):
    """Retries, timeout, expiry and retention of a job."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    retries: int = Field(default=10, ge=0, le=1_000_000, description="runs after the first; 0: it runs once")
    backoff: (
        Annotated[
            tuple[Annotated[float, Field(ge=0, le=MAX_DELAY_SECONDS)], ...],
            Field(max_length=MAX_BACKOFFS, fail_fast=True),
        ]
        | Growth
        | None
    ) = Field(
        default=None,
        description="seconds before each retry, the last value repeats; or how the pauses grow; absent: "
        "(n-1)^4 + 15 + rand(0..29)*n, at most a day",
    )
    timeout: Duration | None = Field(default=None, description="seconds that one attempt may take")
    expires: Duration | None = Field(
        default=None, description="seconds after created_at or due_at (the later one) within which it must start"
    )
    keep: Duration | None = Field(
        default=None, description="seconds that it is kept after its end; absent: as the coordinator's settings say"
    )
    keep_result: Duration | None = Field(
        default=None, description="seconds that its result is kept after its end; absent: as long as the job"
    )

    @property
    def has_own_retention(self) -> bool:
        """Whether it, or its result, is kept for another time than the settings say."""
        return self.keep is not None or self.keep_result is not None


LimitName = Annotated[str, StringConstraints(min_length=1, max_length=MAX_KEY_CHARS, pattern=r"^[^\x00]+$")]
End = Literal["succeeded", "failed", "finished"]
"""How a parent must end so that the job may run; finished: succeeded, failed or deleted."""


class Parent(BaseModel):
    """A job or batch that must end before this job runs, and how it must end."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: JobId
    batch: bool = Field(default=False, description="the id is that of a batch")
    on: End = "succeeded"


class Dependencies(BaseModel):
    """The dependencies of a job: it waits for all parents, then for the delay."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    parents: tuple[Parent, ...] = Field(min_length=1, max_length=MAX_PARENTS, fail_fast=True)
    delay: float | None = Field(default=None, ge=0, le=MAX_DELAY_SECONDS, description="seconds after the last parent")


class UniqueKey(BaseModel):
    """Allows one job with this key at a time. A later one becomes an alias of the first, or replaces it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    key: LimitName
    scope: Literal["queued", "running", "window"] = Field(
        default="queued", description="how long the key is taken: until the job starts, until it ends, or for `seconds`"
    )
    seconds: float | None = Field(default=None, gt=0, le=MAX_DELAY_SECONDS, description="length of the window")
    replace: bool = Field(default=False, description="a later job replaces the earlier one while that has not started")


class LimitKey(BaseModel):
    """Limits how many jobs with this key run at once, or start in a period."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["concurrency", "rate", "ordered"]
    key: LimitName
    limit: int = Field(default=1, ge=1, le=1_000_000)
    per: float | None = Field(default=None, gt=0, le=MAX_DELAY_SECONDS, description="period of a rate, in seconds")
    window: Literal["sliding", "fixed"] = "sliding"


class ResultArgument(BaseModel):
    """An argument whose value is the result of a parent. The coordinator inserts it when it releases the job."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    place: Annotated[int, Field(ge=0, le=MAX_NUMBER)] | Annotated[str, Field(max_length=MAX_PARAMETER_CHARS)] = Field(
        description="index in args or name in kwargs"
    )
    parents: tuple[JobId, ...] = Field(min_length=1, max_length=MAX_PARENTS, fail_fast=True)
    many: bool = Field(default=False, description="the value is a list of all results, also of a single one")


class Envelope(BaseModel):
    """A job as it is sent. Frozen: `evolve` returns a changed copy."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    v: int = Field(default=WIRE_VERSION, ge=1, le=MAX_NUMBER)
    id: JobId
    job: JobName
    args: list[Any] = Field(default_factory=list)
    kwargs: dict[str, Any] = Field(default_factory=dict)
    queue: QueueName = "default"
    priority: Priority = Field(
        default=NORMAL, description="within its queue, high starts before normal before low; see the routing key"
    )
    epoch: int = Field(
        default=1,
        ge=0,
        le=MAX_NUMBER,
        description="number of the release: 1 if the producer releases it, 0 if the coordinator is to",
    )
    attempt: int = Field(default=1, ge=1, le=MAX_NUMBER, description="number of the run that this release is for")
    careful: bool = Field(default=False, description="the started event is confirmed before the function runs")
    created_at: Moment
    due_at: Moment | None = None
    parent: JobId | None = None
    batch: JobId | None = None
    recurring: Annotated[str, StringConstraints(max_length=MAX_NAME_CHARS, pattern=r"^[^\x00]*$")] | None = None
    after: Dependencies | None = None
    result_args: tuple[ResultArgument, ...] = Field(default=(), max_length=MAX_RESULT_ARGS, fail_fast=True)
    unique: UniqueKey | None = None
    limits: tuple[LimitKey, ...] = Field(default=(), max_length=MAX_LIMITS, fail_fast=True)
    policy: Policy = Field(default_factory=Policy)
    tags: tuple[Annotated[str, StringConstraints(max_length=MAX_TAG_CHARS, pattern=r"^[^\x00]*$")], ...] = Field(
        default=(), max_length=MAX_TAGS, fail_fast=True
    )
    trace: (
        Annotated[
            dict[
                Annotated[str, StringConstraints(max_length=MAX_NAME_CHARS)],
                Annotated[str, StringConstraints(max_length=MAX_TRACE_CHARS)],
            ],
            Field(max_length=MAX_TRACE),
        ]
        | None
    ) = None

    @field_validator("result_args")
    @classmethod
    def _arguments_exist(
        cls, result_args: tuple[ResultArgument, ...], info: ValidationInfo
    ) -> tuple[ResultArgument, ...]:
        """Check it here: otherwise the error would appear only when the parents end."""
        args, kwargs = info.data.get("args", ()), info.data.get("kwargs", ())
        for result_arg in result_args:
            place = result_arg.place
            if not (place < len(args) if isinstance(place, int) else place in kwargs):
                raise ValueError(f"there is no argument {str(place)[:MAX_NAME_CHARS]!r}")
        return result_args

    def evolve(self, **changes: object) -> Self:
        """Return a copy with some fields changed. The new values are not validated."""
        return self.model_copy(update=changes)

    @property
    def has_conditions(self) -> bool:
        """Whether the coordinator has to release it: only that asks keys, limits, parents, batches and results."""
        return bool(
            self.after is not None
            or self.unique is not None
            or self.limits
            or self.result_args
            or self.batch is not None
        )

    def expires_at(self) -> datetime | None:
        """The instant after which the job must not start, or None."""
        if self.policy.expires is None:
            return None
        start = self.due_at if self.due_at is not None and self.due_at > self.created_at else self.created_at
        return datetime.fromtimestamp(start.timestamp() + self.policy.expires, start.tzinfo)


def is_generated_id(job_id: str) -> bool:
    """Whether an id has the form of `new_id` (a UUIDv7). Its first message may still be on its way."""
    return len(job_id) == 36 and job_id[14] == "7" and job_id.count("-") == 4


def id_created_at(job_id: str) -> float | None:
    """When `new_id` made this id, in seconds since the Unix epoch. None for an id of another form."""
    if not is_generated_id(job_id):
        return None
    try:
        return int(job_id[:8] + job_id[9:13], 16) / 1_000
    except ValueError:
        return None


def schema() -> dict[str, Any]:
    """Return the JSON Schema of the envelope, for producers in other languages."""
    return Envelope.model_json_schema()
