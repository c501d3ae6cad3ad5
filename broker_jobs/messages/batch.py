"""Describes how a batch travels to the coordinator: numbered chunks of held jobs, and the commit that counts them.

A batch is atomic: its jobs are held until the commit of their submission is there and all chunks it counts. Each
`with` is one submission. Chunks may come twice, in any order, on several connections, and before or after the commit.
A sub-batch's submission opens with the submission of its parent it was made in.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from broker_jobs.messages.envelope import MAX_NAME_CHARS, MAX_PARENTS, MAX_RECORDS, JobId, Parent
from broker_jobs.messages.events import MAX_ENVELOPE_CHARS, Moment, Number

CHUNK_BYTES = 128 * 1024
CHUNK_JOBS = 500
"""A chunk is closed at so many bytes or jobs."""


class _BatchMessage(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    v: Literal[1] = 1
    batch: JobId
    submission: JobId
    created_at: Moment


class Chunk(_BatchMessage):
    """Some jobs of a submission: their envelopes as JSON text, epoch 0, each naming the batch."""

    number: Number
    jobs: list[Annotated[str, Field(max_length=MAX_ENVELOPE_CHARS)]] = Field(
        min_length=1, max_length=MAX_RECORDS, fail_fast=True
    )


class BatchCommit(_BatchMessage):
    """The end of a submission: it opens when `chunks` chunks are there. `parents`: what the batch waits for first.

    One that is given up never opens: its jobs are deleted, those that come later too.
    """

    chunks: Number
    title: str = Field(default="", max_length=MAX_NAME_CHARS)
    parent: JobId | None = Field(default=None, description="the batch this one is part of")
    parent_submission: JobId | None = None
    batches: list[JobId] = Field(
        default_factory=list,
        max_length=MAX_RECORDS,
        fail_fast=True,
        description="sub-batches made in this submission",
    )
    parents: tuple[Parent, ...] = Field(default=(), max_length=MAX_PARENTS, fail_fast=True)
    abandoned: Literal[True] | None = Field(default=None, description="its block raised: nothing of it starts")


CHUNK = TypeAdapter(Chunk)
COMMIT = TypeAdapter(BatchCommit)
