"""Defines the exceptions of this library, in families by what the caller can do about them.

BrokerJobsError
├── UsageError              the call is wrong, nothing was published: correct it
│   ├── ArgumentsError      arguments of enqueue, schedule, bind        (also a TypeError)
│   ├── OptionError         options of job and using, settings          (also a ValueError)
│   ├── DefinitionError     the function cannot be a job as written     (also a TypeError)
│   └── MissingExtra        libraries are not installed                 (also an ImportError)
├── EnqueueError            not sent: enqueue again later
│   ├── EnqueueUnknown      no confirm: repeat with the same id
│   ├── BatchUnknown        no confirm of a batch's commit: open the batch again
│   └── EnqueueManyError    some of many jobs were not sent
├── BrokerError             RabbitMQ is unreachable: try again later
│   └── BrokerRefused       RabbitMQ refused: wrong password, no such vhost, no permission, other queue arguments
├── StoreError              the store is unreachable, has a newer schema, or belongs to another installation
├── JobFailed               result() of a failed job
├── JobDeleted              result() of a deleted job
└── ResultTimeout           the job has not ended in time               (also a TimeoutError)

Retry and GiveUp are raised by jobs and are not BrokerJobsErrors.

This file imports nothing of this package. The errors that carry receipts or a batch are in `producer/errors.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import Any


class BrokerJobsError(Exception):
    """Base of all exceptions that this library raises on purpose."""


class UsageError(BrokerJobsError):
    """The call is wrong and nothing was published. The message says what to write instead."""


class ArgumentsError(UsageError, TypeError):
    """The arguments of enqueue, schedule, bind or after do not fit the function."""


class OptionError(UsageError, ValueError):
    """An option of job, using or the settings is unknown or out of range."""


class DefinitionError(UsageError, TypeError):
    """The function cannot be a job as written."""


class MissingExtra(UsageError, ImportError):
    """Libraries of an extra are not installed. The message has the command: `pip install 'broker-jobs[coordinator]'`.

    `extras`: the names of the missing extras.
    """

    def __init__(self, what: str, extras: Sequence[str], libraries: Sequence[str]) -> None:
        self.what = what
        self.extras = tuple(extras)
        self.libraries = tuple(libraries)
        super().__init__(
            f"{what} needs {', '.join(self.libraries)} (not installed); run: "
            f"pip install 'broker-jobs[{','.join(self.extras)}]'"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.what, self.extras, self.libraries)


class EnqueueError(BrokerJobsError):
    """The job was not enqueued: it is too large, or RabbitMQ refuses it, blocks or is unreachable."""


class BrokerError(BrokerJobsError):
    """RabbitMQ is unreachable, or it refused (see `BrokerRefused`)."""


class BrokerRefused(BrokerError):
    """RabbitMQ refused: 403, 406, no such vhost, wrong password. Trying again does not help."""


class StoreError(BrokerJobsError):
    """The store is unreachable, has a newer schema, or belongs to another installation."""


class JobFailed(BrokerJobsError):
    """The job failed. The traceback of the worker is a note of this exception."""


class JobDeleted(BrokerJobsError):
    """The job was deleted and has no result."""


class ResultTimeout(BrokerJobsError, TimeoutError):
    """The job did not end in the given time, or no coordinator answered."""


class Retry(Exception):  # control flow of a job, not an error
    """Raise it in a job to run the job again later. It counts as a retry.

    Args:
        after: how long to wait, in seconds or as a timedelta; None: the job's backoff.
        reason: shown on the dashboard.
    """

    def __init__(self, after: float | timedelta | None = None, reason: str = "") -> None:
        super().__init__(reason or "the job asked for a retry")
        if isinstance(after, timedelta):
            after = after.total_seconds()
        self.after = None if after is None else float(after)
        self.reason = reason


class GiveUp(Exception):  # control flow of a job, not an error
    """Raise it in a job to fail it without a retry."""


def nearest(name: str, known: Iterable[object]) -> str:
    """Return `; did you mean 'queue'?` if `known` has a similar name, else an empty string. For error messages."""
    import difflib  # noqa: PLC0415  # imported only when there is an error to report

    close = difflib.get_close_matches(name, [str(k) for k in known], n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else ""


def mask(url: str) -> str:
    """Return an address without its password, for messages and logs."""
    from urllib.parse import urlsplit  # noqa: PLC0415  # as above

    parts = urlsplit(url)
    if parts.password is None:
        return url
    return url.replace(f":{parts.password}@", ":***@", 1)
