"""Describes a batch submission: numbered chunks of jobs, and a commit that counts them.

A batch is atomic: its jobs wait until the coordinator has the commit of their submission and all chunks that it counts.
Each `with` block is one submission. Chunks may arrive twice, in any order, on several connections, before or after the
commit. The submission of a sub-batch starts together with the submission of the parent batch in which it was made.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from broker_jobs.messages.envelope import MAX_NAME_CHARS, MAX_PARENTS, MAX_RECORDS, JobId, Parent
from broker_jobs.messages.events import MAX_ENVELOPE_CHARS, Number, Timestamp

CHUNK_BYTES = 128 * 1024
CHUNK_JOBS = 500
"""A chunk is sent when it has this many bytes or jobs."""


class _BatchMessage(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    v: Literal[1] = 1
    batch: JobId
    submission: JobId
    created_at: Timestamp


class Chunk(_BatchMessage):
    """Some jobs of a submission: their envelopes as JSON text, each with epoch 0 and the id of the batch."""

    number: Number
    jobs: list[Annotated[str, Field(max_length=MAX_ENVELOPE_CHARS)]] = Field(
        min_length=1, max_length=MAX_RECORDS, fail_fast=True
    )


class BatchCommit(_BatchMessage):
    """The end of a submission: its jobs may start when `chunks` chunks have arrived.

    `parents`: the jobs and batches that the batch waits for first. An abandoned submission never starts: its jobs are
    deleted, also those that arrive later.
    """

    chunks: Number
    title: str = Field(default="", max_length=MAX_NAME_CHARS)
    parent: JobId | None = Field(default=None, description="the batch that this one is part of")
    parent_submission: JobId | None = Field(
        default=None, description="the submission of the parent batch that this one starts with"
    )
    batches: list[JobId] = Field(
        default_factory=list,
        max_length=MAX_RECORDS,
        fail_fast=True,
        description="ids of the sub-batches made in this submission",
    )
    parents: tuple[Parent, ...] = Field(default=(), max_length=MAX_PARENTS, fail_fast=True)
    abandoned: Literal[True] | None = Field(
        default=None, description="its block raised an error: none of its jobs starts"
    )


CHUNK = TypeAdapter(Chunk)
COMMIT = TypeAdapter(BatchCommit)
