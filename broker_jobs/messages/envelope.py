"""Describes a job as it travels: one frozen, versioned value, JSON in the body of a message.

A producer in any language can write one; `schema()` gives the JSON Schema. Unknown fields are refused rather than
ignored: a field this version does not know may be a condition (a hold) that must not be overlooked, so such a message
is dead-lettered, visible and replayable.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, Literal, Self

import uuid_utils
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

WIRE_VERSION = 1
"""The major version of the envelope; another one is parked."""

MAX_DELAY_SECONDS = 315_360_000
"""Ten years of 365 days: the longest delay, as RabbitMQ refuses a longer TTL (probed on 3.10.8 and 4.0.5)."""

MAX_NUMBER = 2**53
"""What a number in JSON keeps exactly in every language, and every database holds."""
FIRST_MOMENT = datetime(1970, 1, 1, tzinfo=UTC)
LAST_MOMENT = datetime(3000, 1, 1, tzinfo=UTC)
"""Times outside are mistakes (a date that was never set), and sums with them leave every calendar."""

MAX_KEY_CHARS = 512
"""Of a unique key or a limit: with four bytes a character it still fits into an index row of PostgreSQL (2,704 bytes).

The same bound holds for all that is a key in the store: ids and names are shorter.
"""
MAX_LIMITS = 8
MAX_TAGS = 50
MAX_TAG_CHARS = 100
MAX_NAME_CHARS = 200
"""Of a job, a recurring job, an event, a program."""
MAX_BACKOFFS = 1_000
MAX_PARENTS = 1_000
MAX_RESULT_ARGS = 100
MAX_RECORDS = 5_000
"""Of one message: each record is decided by itself, and a transaction takes all records of a message."""
MAX_QUEUES = 1_000
"""A worker serves: it tells the coordinator their names with each heartbeat."""
BATCH_HOLDER = "batch:"
"""Marks batches among the things that wait, so no job's id begins with it."""
JOB_ID_RULE = '1 to 100 of the characters A-Z a-z 0-9 . _ : @ / + -, not beginning with "batch:"'


def _no_batch(id: str) -> str:
    if id.startswith(BATCH_HOLDER):
        raise ValueError('an id does not begin with "batch:", which marks batches: put another word before the colon')
    return id


Moment = Annotated[AwareDatetime, Field(ge=FIRST_MOMENT, lt=LAST_MOMENT)]
Length = Annotated[float, Field(gt=0, le=MAX_DELAY_SECONDS, allow_inf_nan=False)]
QueueName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._-]{1,100}$")]
JobId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._:@/+-]{1,100}$"), AfterValidator(_no_batch)]
JobName = Annotated[str, StringConstraints(min_length=1, max_length=MAX_NAME_CHARS, pattern=r"^[^\x00]+$")]


class Policy(BaseModel):
    """What may be done with the job when it does not succeed at once."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    retries: int = Field(default=10, ge=0, le=1_000_000, description="runs after the first; 0 runs once")
    backoff: (
        Annotated[
            tuple[Annotated[float, Field(ge=0, le=MAX_DELAY_SECONDS)], ...],
            Field(max_length=MAX_BACKOFFS, fail_fast=True),
        ]
        | None
    ) = Field(
        default=None,
        description="seconds before each retry, the last one repeated; absent: (n-1)^4 + 15 + rand(0..29)*n",
    )
    timeout: Length | None = Field(default=None, description="seconds one attempt may take")
    expires: Length | None = Field(default=None, description="seconds it may wait from created_at (or due_at)")


LimitName = Annotated[str, StringConstraints(min_length=1, max_length=MAX_KEY_CHARS, pattern=r"^[^\x00]+$")]
End = Literal["succeeded", "failed", "finished"]
"""How a parent must end for what waits for it to go on; finished: succeeded, failed or deleted."""


class Parent(BaseModel):
    """A job or batch that must end first, and how."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: JobId
    batch: bool = Field(default=False, description="the id is a batch's")
    on: End = "succeeded"


class Dependencies(BaseModel):
    """What a job waits for besides time: all of its parents, then a delay."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    parents: tuple[Parent, ...] = Field(min_length=1, max_length=MAX_PARENTS, fail_fast=True)
    delay: float | None = Field(default=None, ge=0, le=MAX_DELAY_SECONDS, description="seconds after the last parent")


class UniqueKey(BaseModel):
    """Of several jobs with one key only one is there: a later one becomes an alias of it, or replaces it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    key: LimitName
    scope: Literal["queued", "running", "window"] = Field(
        default="queued", description="until it starts, until it ends, or for some seconds from its acceptance"
    )
    seconds: float | None = Field(default=None, gt=0, le=MAX_DELAY_SECONDS, description="the window's length")
    replace: bool = Field(default=False, description="the later one replaces the earlier one while that only waits")


class LimitKey(BaseModel):
    """How many jobs with one key may run at once, or start in a time."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["concurrency", "rate", "ordered"]
    key: LimitName
    limit: int = Field(default=1, ge=1, le=1_000_000)
    per: float | None = Field(default=None, gt=0, le=MAX_DELAY_SECONDS, description="seconds, of a rate")
    window: Literal["sliding", "fixed"] = "sliding"


class ResultArgument(BaseModel):
    """An argument that is made of parents' results when the job is released."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    place: Annotated[int, Field(ge=0, le=MAX_NUMBER)] | str = Field(description="index in args, or name in kwargs")
    parents: tuple[JobId, ...] = Field(min_length=1, max_length=MAX_PARENTS, fail_fast=True)
    many: bool = Field(default=False, description="a list of all results, also of one")


class Envelope(BaseModel):
    """A job on its way. Frozen: `evolve` makes the next one."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    v: int = Field(default=WIRE_VERSION, ge=1)
    id: JobId
    job: JobName
    args: list[Any] = Field(default_factory=list)
    kwargs: dict[str, Any] = Field(default_factory=dict)
    queue: QueueName = "default"
    epoch: int = Field(
        default=1, ge=0, le=MAX_NUMBER, description="number of the release; a producer's own message is 1, held is 0"
    )
    attempt: int = Field(default=1, ge=1, le=MAX_NUMBER, description="number of the run this release is for")
    careful: bool = Field(default=False, description="confirm 'started' before the function runs")
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
                Annotated[str, StringConstraints(max_length=8_192)],
            ],
            Field(max_length=50),
        ]
        | None
    ) = None

    @field_validator("result_args")
    @classmethod
    def _places_are_there(
        cls, result_args: tuple[ResultArgument, ...], info: ValidationInfo
    ) -> tuple[ResultArgument, ...]:
        """A wrong place would only be found when the parents end, while their outcome is decided."""
        args, kwargs = info.data.get("args", ()), info.data.get("kwargs", ())
        for fill in result_args:
            if not (fill.place < len(args) if isinstance(fill.place, int) else fill.place in kwargs):
                raise ValueError(f"no argument is at {str(fill.place)[:MAX_NAME_CHARS]!r}")
        return result_args

    def evolve(self, **changes: object) -> Self:
        """The same job with some fields changed; the changes are trusted, not validated."""
        return self.model_copy(update=changes)

    def expires_at(self) -> datetime | None:
        """The instant after which it must not start any more, or None."""
        if self.policy.expires is None:
            return None
        start = self.due_at if self.due_at is not None and self.due_at > self.created_at else self.created_at
        return datetime.fromtimestamp(start.timestamp() + self.policy.expires, start.tzinfo)


def new_id() -> str:
    """A fresh job id: UUIDv7, so that ids sort by time and insert at the end of an index."""
    return str(uuid_utils.uuid7())


def looks_generated(job_id: str) -> bool:
    """Whether an id is of the form `new_id` gives (a UUIDv7), so that a first message of it may be on its way."""
    return len(job_id) == 36 and job_id[14] == "7" and job_id.count("-") == 4


def made_at(job_id: str) -> float | None:
    """When an id of that form was made, in seconds since the Unix epoch; None: it is of another form."""
    if not looks_generated(job_id):
        return None
    try:
        return int(job_id[:8] + job_id[9:13], 16) / 1_000
    except ValueError:
        return None


def schema() -> dict[str, Any]:
    """The JSON Schema of the wire format, for producers in other languages."""
    return Envelope.model_json_schema()
