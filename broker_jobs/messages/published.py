"""Describes an event that somebody published: every subscription to its name gets a job for it.

The publisher knows no subscriber. The event goes through the coordinator's log like everything else, so a subscriber
that is down gets its job later; one that subscribes later gets later events.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, TypeAdapter

from broker_jobs.messages.envelope import MAX_NAME_CHARS, JobId, Moment

EventName = Annotated[str, StringConstraints(min_length=1, max_length=MAX_NAME_CHARS, pattern=r"^[^\x00]+$")]


class PublishedEvent(BaseModel):
    """One event, with the arguments its subscribers' jobs are called with."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    v: Literal[1] = 1
    id: JobId
    event: EventName
    created_at: Moment
    args: list[Any] = Field(default_factory=list)
    kwargs: dict[str, Any] = Field(default_factory=dict)


PUBLISHED = TypeAdapter(PublishedEvent)
