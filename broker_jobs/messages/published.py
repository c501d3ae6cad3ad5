"""Describes a published event: each subscription to its name gets one job.

The publisher does not know the subscribers. The event goes through the coordinator's log, so a subscriber that is down
gets its job later. A new subscription gets only later events.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, TypeAdapter

from broker_jobs.messages.envelope import MAX_NAME_CHARS, JobId, Moment

EventName = Annotated[str, StringConstraints(min_length=1, max_length=MAX_NAME_CHARS, pattern=r"^[^\x00]+$")]


class PublishedEvent(BaseModel):
    """One event, and the arguments of the jobs made for it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    v: Literal[1] = 1
    id: JobId
    event: EventName
    created_at: Moment
    args: list[Any] = Field(default_factory=list)
    kwargs: dict[str, Any] = Field(default_factory=dict)


PUBLISHED = TypeAdapter(PublishedEvent)
