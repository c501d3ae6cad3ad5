"""Describes what requests may hold: parameters of paths and queries, bodies, and who may send them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import Depends, Path, Query, Request
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, model_validator

from broker_jobs.dashboard.auth import demand, visitor_of
from broker_jobs.dashboard.context import RequestContext
from broker_jobs.dashboard.role import Role
from broker_jobs.dashboard.views import View
from broker_jobs.messages.envelope import FIRST_MOMENT, LAST_MOMENT, MAX_KEY_CHARS, JobId, JobName, QueueName
from broker_jobs.messages.state import State

PLAIN = r"^[^\x00-\x1f\x7f]+$"
"""A name: no control characters."""


def _context(request: Request) -> RequestContext:
    found: RequestContext = request.app.state.find_desk()
    return found


def _acts(role: Role) -> Callable[[Request], str]:
    def who(request: Request) -> str:
        demand(request, role)
        return visitor_of(request).name

    return who


InContext = Annotated[RequestContext, Depends(_context)]
"""Where to look and to act."""
Operator = Annotated[str, Depends(_acts(Role.OPERATOR))]
"""Who acts on jobs, queues, batches and recurring jobs; for the audit."""
Admin = Annotated[str, Depends(_acts(Role.ADMIN))]
"""Who may do everything."""

JobIdPath = Annotated[str, Path(description="of a job or batch", pattern=r"^[A-Za-z0-9._:@/+-]{1,100}$")]
DeadLetterIdPath = Annotated[str, Path(description="of a dead letter", min_length=1, max_length=200, pattern=PLAIN)]
QueuePath = Annotated[str, Path(description="of a queue", pattern=r"^[A-Za-z0-9._-]{1,100}$")]
NamePath = Annotated[str, Path(min_length=1, max_length=200, pattern=PLAIN)]
Cursor = Annotated[str | None, Query(description="from the page before; opaque", max_length=2_000)]
Limit = Annotated[int, Query(ge=1, le=500, description="at most so many")]
Text = Annotated[str | None, Query(max_length=1_000, description="part of it, in capitals or not")]
When = Annotated[AwareDatetime, Field(ge=FIRST_MOMENT, lt=LAST_MOMENT)]


class RequestBody(BaseModel):
    """A body; what it does not know it refuses."""

    model_config = ConfigDict(extra="forbid")


class RunBody(RequestBody):
    """A job to be run."""

    job: JobName
    args: list[Any] = Field(default_factory=list)
    kwargs: dict[str, Any] = Field(default_factory=dict)
    queue: QueueName | None = Field(default=None, description="none: the one its program declared, or default")
    due_at: When | None = Field(default=None, description="none: now")


class RequeueBody(RequestBody):
    """How a job is run again."""

    args: list[Any] | None = Field(default=None, description="none: as before; with kwargs or not at all")
    kwargs: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _both(self) -> RequeueBody:
        if (self.args is None) != (self.kwargs is None):
            raise ValueError("args and kwargs go together: give both, or none")
        return self


class RescheduleBody(RequestBody):
    """When a job is to run."""

    due_at: When


def _without_null(schema: dict[str, Any]) -> None:
    for name, each in schema["properties"].items():
        given = [choice for choice in each.pop("anyOf", []) if choice != {"type": "null"}]
        schema["properties"][name] = {key: value for key, value in each.items() if key != "default"} | given[0]


class FilterBody(RequestBody):
    """Which jobs: all that is given must be so; without any, all of the usual states.

    A null is refused: it is a variable of a script that was not set, and would mean all jobs.
    """

    model_config = ConfigDict(extra="forbid", json_schema_extra=_without_null)

    state: State | None = None
    queue: QueueName | None = None
    job: JobName | None = None
    error_text: str | None = Field(default=None, min_length=1, max_length=1_000, pattern=r"^[^\x00]+$")
    tag: str | None = Field(default=None, min_length=1, max_length=100, pattern=PLAIN)
    batch: JobId | None = None
    recurring: str | None = Field(default=None, min_length=1, max_length=200, pattern=PLAIN)
    created_after: When | None = None
    created_before: When | None = None

    @model_validator(mode="after")
    def _given(self) -> FilterBody:
        for name in sorted(self.model_fields_set):
            if getattr(self, name) is None:
                raise ValueError(f"{name} is null: leave it out where any will do")
        return self


class BulkBody(RequestBody):
    """Jobs by their ids, or by what they have in common."""

    ids: list[JobId] | None = Field(default=None, min_length=1, max_length=1_000)
    matching: FilterBody | None = Field(
        default=None, description="without a state: delete means all not ended, requeue failed"
    )

    @model_validator(mode="after")
    def _one_of_them(self) -> BulkBody:
        if (self.ids is None) == (self.matching is None):
            raise ValueError("give ids or matching, one of them")
        return self


class CronBody(RequestBody):
    """When a recurring job runs."""

    cron: str = Field(min_length=1, max_length=200, examples=["0 9 * * MON"])
    tz: str = Field(default="UTC", min_length=1, max_length=100)
    misfire: Literal["skip", "once", "all"] = "once"
    overlap: Literal["allow", "skip", "queue"] = "allow"


class RecurringBody(CronBody):
    """A recurring job."""

    job: JobName
    args: list[Any] = Field(default_factory=list)
    kwargs: dict[str, Any] = Field(default_factory=dict)
    queue: QueueName | None = Field(default=None, description="none: the one its program declared, or default")


class SetLimitBody(RequestBody):
    """The number of a limit."""

    key: str = Field(min_length=1, max_length=MAX_KEY_CHARS, pattern=r"^[^\x00]+$")
    limit: int | None = Field(ge=1, le=1_000_000, description="none: what its jobs are enqueued with")


class CreatedId(View):
    """What was made."""

    id: str


class EndedBefore(View):
    """What became of a delete."""

    ended_before: bool = Field(description="it had already ended")


class ArgumentsView(View):
    """What a job was called with, masked."""

    args: list[Any]
    kwargs: dict[str, Any]


class PlannedTimes(View):
    """The next times of a cron expression."""

    times: list[datetime]
