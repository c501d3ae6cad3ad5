"""Puts the job into each log record that is made inside it: `job_id`, `job_name`, `job_attempt` and `job_queue`.

By the factory of records, as a filter would see only the records of its own logger or handler. A field that the caller
passes itself, in `extra`, is the caller's.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from typing import Any

from broker_jobs.messages.envelope import Envelope
from broker_jobs.producer.current_job import current_job


def job_fields(envelope: Envelope) -> dict[str, object]:
    """The fields of a job's records; also the `extra` of what the worker itself says of the job."""
    return {
        "job_id": envelope.id,
        "job_name": envelope.job,
        "job_attempt": envelope.attempt,
        "job_queue": envelope.queue,
    }


class JobRecordFactory:
    """Makes records as the factory before it did, with the fields of the job that runs in this thread or task."""

    def __init__(self, make: Callable[..., logging.LogRecord]) -> None:
        self._make = make

    def __call__(self, *args: Any, **kwargs: Any) -> logging.LogRecord:
        """Make a record."""
        record = self._make(*args, **kwargs)
        fields = current_job().log_fields
        if fields:
            # Logger.makeRecord, which called this, refuses an `extra` with a key that the record has already.
            given = sys._getframe(1).f_locals.get("extra") or {}  # noqa: SLF001
            for name, value in fields.items():
                if name not in given:
                    setattr(record, name, value)
        return record


def install() -> None:
    """Let records carry their job from now on. A second call does nothing."""
    make = logging.getLogRecordFactory()
    if not isinstance(make, JobRecordFactory):
        logging.setLogRecordFactory(JobRecordFactory(make))
