"""Describes control messages: what the coordinator sends to workers and beats."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class Fence(BaseModel):
    """A fencing token: no run of this job with an epoch up to and including `epoch` may start."""

    model_config = ConfigDict(frozen=True)

    id: str
    epoch: int


class Control(BaseModel):
    """A snapshot, which answers a worker's hello, or a change, which is broadcast to all. Fences only grow."""

    model_config = ConfigDict(frozen=True)

    version: int
    snapshot: bool = False
    fences: list[Fence] = Field(default_factory=list)
    paused: list[str] | None = Field(default=None, description="all paused queues; null: unchanged")
    cancel: list[str] = Field(default_factory=list, description="ids of running jobs to cancel")
    schedules_changed: bool = Field(default=False, description="a beat reads the schedules again")
    store: str | None = Field(
        default=None, description="the active coordinator's store; a coordinator with another store stops"
    )
