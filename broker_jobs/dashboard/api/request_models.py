"""Defines the parameters and bodies of requests, and the roles that may send them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import Depends, Path, Query, Request
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, model_validator

from broker_jobs.dashboard.auth import require_role, visitor_of
from broker_jobs.dashboard.context import RequestContext
from broker_jobs.dashboard.role import Role
from broker_jobs.dashboard.views import View
from broker_jobs.messages.envelope import FIRST_MOMENT, LAST_MOMENT, MAX_KEY_CHARS, JobId, JobName, QueueName
from broker_jobs.messages.priority import Priority
from broker_jobs.messages.state import State

PLAIN = r"^[^\x00-\x1f\x7f]+$"
"""No control characters."""


def _get_context(request: Request) -> RequestContext:
    found: RequestContext = request.app.state.get_context()
    return found


def _visitor_with(role: Role) -> Callable[[Request], str]:
    def visitor(request: Request) -> str:
        require_role(request, role)
        return visitor_of(request).name

    return visitor


Context = Annotated[RequestContext, Depends(_get_context)]
"""Queries and actions."""
Operator = Annotated[str, Depends(_visitor_with(Role.OPERATOR))]
"""Name of an operator, for the audit."""
Admin = Annotated[str, Depends(_visitor_with(Role.ADMIN))]
"""Name of an administrator, for the audit."""

JobIdPath = Annotated[str, Path(description="id of a job or batch", pattern=r"^[A-Za-z0-9._:@/+-]{1,100}$")]
DeadLetterIdPath = Annotated[str, Path(description="id of a dead letter", min_length=1, max_length=200, pattern=PLAIN)]
QueuePath = Annotated[str, Path(description="name of a queue", pattern=r"^[A-Za-z0-9._-]{1,100}$")]
NamePath = Annotated[str, Path(min_length=1, max_length=200, pattern=PLAIN)]
Cursor = Annotated[str | None, Query(description="`next` of the previous page", max_length=2_000)]
Limit = Annotated[int, Query(ge=1, le=500, description="at most this many")]
Text = Annotated[str | None, Query(max_length=1_000, description="part of the text, case-insensitive")]
Instant = Annotated[AwareDatetime, Field(ge=FIRST_MOMENT, le=LAST_MOMENT)]


class RequestBody(BaseModel):
    """Base of all bodies; refuses unknown fields."""

    model_config = ConfigDict(extra="forbid")


class RunJobBody(RequestBody):
    """A job to run."""

    job: JobName
    args: list[Any] = Field(default_factory=list)
    kwargs: dict[str, Any] = Field(default_factory=dict)
    queue: QueueName | None = Field(default=None, description="null: the declared queue of the job, or `default`")
    priority: Priority | None = Field(default=None, description="null: the declared priority of the job, or `normal`")
    due_at: Instant | None = Field(default=None, description="null: now")


class RequeueBody(RequestBody):
    """New arguments of a requeued job."""

    args: list[Any] | None = Field(
        default=None, description="null: the previous arguments; give args and kwargs together"
    )
    kwargs: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _both(self) -> RequeueBody:
        if (self.args is None) != (self.kwargs is None):
            raise ValueError("args and kwargs belong together: give both or none")
        return self


class RescheduleBody(RequestBody):
    """The new due time of a job."""

    due_at: Instant


def _without_null(schema: dict[str, Any]) -> None:
    for name, each in schema["properties"].items():
        given = [choice for choice in each.pop("anyOf", []) if choice != {"type": "null"}]
        schema["properties"][name] = {key: value for key, value in each.items() if key != "default"} | given[0]


class FilterBody(RequestBody):
    """Selects jobs: every given field must match; without fields, all jobs of the default states.

    Null is refused, since an unset variable of a script would select all jobs.
    """

    model_config = ConfigDict(extra="forbid", json_schema_extra=_without_null)

    state: State | None = None
    queue: QueueName | None = None
    job: JobName | None = None
    error_text: str | None = Field(default=None, min_length=1, max_length=1_000, pattern=r"^[^\x00]+$")
    tag: str | None = Field(default=None, min_length=1, max_length=100, pattern=PLAIN)
    batch: JobId | None = None
    recurring: str | None = Field(default=None, min_length=1, max_length=200, pattern=PLAIN)
    created_after: Instant | None = None
    created_before: Instant | None = None
    unknown: bool | None = Field(default=None, description="true: only jobs that no living worker knows")

    @model_validator(mode="after")
    def _refuse_null(self) -> FilterBody:
        for name in sorted(self.model_fields_set):
            if getattr(self, name) is None:
                raise ValueError(f"{name} is null: omit it to match any value")
        return self


class BulkBody(RequestBody):
    """Jobs by id, or by filter."""

    ids: list[JobId] | None = Field(default=None, min_length=1, max_length=1_000)
    matching: FilterBody | None = Field(
        default=None,
        description="without a state, delete applies to jobs that have not ended, and requeue to failed ones",
    )

    @model_validator(mode="after")
    def _one_of_both(self) -> BulkBody:
        if (self.ids is None) == (self.matching is None):
            raise ValueError("give either ids or matching")
        return self


class ScheduleBody(RequestBody):
    """The schedule of a recurring job."""

    cron: str = Field(min_length=1, max_length=200, examples=["0 9 * * MON"])
    tz: str = Field(default="UTC", min_length=1, max_length=100)
    misfire: Literal["skip", "once", "all"] = "once"
    overlap: Literal["allow", "skip", "queue"] = "allow"


class RecurringBody(ScheduleBody):
    """A recurring job."""

    job: JobName
    args: list[Any] = Field(default_factory=list)
    kwargs: dict[str, Any] = Field(default_factory=dict)
    queue: QueueName | None = Field(default=None, description="null: the declared queue of the job, or `default`")
    priority: Priority | None = Field(default=None, description="null: the declared priority of the job, or `normal`")


class SetLimitBody(RequestBody):
    """The override of a limit."""

    key: str = Field(min_length=1, max_length=MAX_KEY_CHARS, pattern=r"^[^\x00]+$")
    limit: int | None = Field(
        ge=0, le=1_000_000, description="0: its jobs are held back; null: the number that they are enqueued with"
    )


class ChangeWorkersBody(RequestBody):
    """The workers, and what they do from now on."""

    worker: str = Field(default="", max_length=300, description="the id of one worker")
    host: str = Field(default="", max_length=300, description="all workers of this host")
    concurrency: int | None = Field(default=None, ge=1, le=10_000, description="null: as before")
    queues: list[str] | None = Field(
        default=None, min_length=1, max_length=1_000, description="mail, or with a weight mail:3; null: as before"
    )
    queue_limits: dict[QueueName, Annotated[int, Field(ge=1, le=10_000)]] | None = Field(
        default=None,
        max_length=1_000,
        description="jobs of a queue at once; {}: no limits; null: as before",
    )


class ChangedWorkers(View):
    """How many workers were changed."""

    changed: int


class Created(View):
    """The id of the job or command."""

    id: str


class DeleteResult(View):
    """The result of a delete."""

    had_ended: bool = Field(description="the job or batch had already ended")


class ArgumentsView(View):
    """The arguments of a job, hidden values masked."""

    args: list[Any]
    kwargs: dict[str, Any]


class CronPreviewView(View):
    """The next times of a cron expression."""

    times: list[datetime]
