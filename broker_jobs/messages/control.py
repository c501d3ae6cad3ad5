"""Describes control messages: what the coordinator sends to workers and beats."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class Fence(BaseModel):
    """A fencing token: no run of this job with an epoch up to and including `epoch` may start."""

    model_config = ConfigDict(frozen=True)

    id: str
    epoch: int


class WorkerChange(BaseModel):
    """What workers do otherwise than they were started, until they restart. None: as before."""

    model_config = ConfigDict(frozen=True)

    id: str = Field(description="of the last command that changed it; a change that comes again is applied once")
    workers: list[str]
    concurrency: int | None = None
    queues: list[str] | None = Field(default=None, description="as they are written: mail, or with a weight mail:3")
    queue_limits: dict[str, int] | None = None


class Control(BaseModel):
    """A snapshot, which answers a worker's hello, or a change, which is broadcast to all. Fences only grow."""

    model_config = ConfigDict(frozen=True)

    version: int
    snapshot: bool = False
    fences: list[Fence] = Field(default_factory=list)
    paused: list[str] | None = Field(default=None, description="all paused queues; null: unchanged")
    cancel: list[str] = Field(default_factory=list, description="ids of running jobs to cancel")
    changes: list[WorkerChange] = Field(default_factory=list)
    untold: list[str] = Field(
        default_factory=list, description="workers that say hello again: their jobs are not known"
    )
    schedules_changed: bool = Field(default=False, description="a beat reads the schedules again")
    store: str | None = Field(
        default=None, description="the active coordinator's store; a coordinator with another store stops"
    )
