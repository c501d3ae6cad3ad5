"""Names everything that can go wrong, by what a caller does about it.

BrokerJobsError
├── UsageError              yours: mend the call; nothing was published
│   ├── ArgumentsError      of enqueue, schedule, bind         (also a TypeError)
│   ├── OptionError         of job, using, settings            (also a ValueError)
│   ├── DefinitionError     where the function is written      (also a TypeError)
│   └── MissingExtra        a part is used that is not installed (also an ImportError)
├── EnqueueError            the broker's: not sent; try again
│   ├── EnqueueUnknown      no confirm came: repeat with the same id
│   ├── BatchUnknown        no confirm came for the end of a batch: open it again
│   └── EnqueueManyError    of many, some were not sent
├── BrokerError             the broker's: unreachable; waiting may mend it
│   └── BrokerRefused       it answered: wrong password, no such vhost, no permission, a queue of another shape
├── StoreError              the store's: unreachable, newer schema, another installation's
├── JobFailed               the job's: out of result()
├── JobDeleted              the job was deleted: out of result()
└── ResultTimeout           not ended in time                  (also a TimeoutError)

Retry, GiveUp               raised by a job, not errors of ours

The errors that carry receipts or a batch are in `producer/errors.py`, because this file imports nothing of ours.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import Any


class BrokerJobsError(Exception):
    """The root: everything this library raises on purpose."""


class UsageError(BrokerJobsError):
    """The call is wrong; nothing was published. The message says what to write."""


class ArgumentsError(UsageError, TypeError):
    """The arguments of enqueue, schedule, bind or after do not fit."""


class OptionError(UsageError, ValueError):
    """An option of job, using or the settings is unknown or out of range."""


class DefinitionError(UsageError, TypeError):
    """The function cannot be a job as it is written."""


class MissingExtra(UsageError, ImportError):
    """A part of broker_jobs is used whose libraries are not installed. The message is the command to run.

    `extras` are the missing ones: `pip install 'broker-jobs[coordinator]'`.
    """

    def __init__(self, what: str, extras: Sequence[str], libraries: Sequence[str]) -> None:
        self.what = what
        self.extras = tuple(extras)
        self.libraries = tuple(libraries)
        super().__init__(
            f"{what} needs {', '.join(self.libraries)}, not installed here: "
            f"pip install 'broker-jobs[{','.join(self.extras)}]'"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.what, self.extras, self.libraries)


class EnqueueError(BrokerJobsError):
    """The job was not enqueued: refused, unreachable, blocked or too large. Enqueue again when it is mended."""


class BrokerError(BrokerJobsError):
    """RabbitMQ cannot be used as asked: unreachable, wrong password, no permission, a queue of another shape."""


class BrokerRefused(BrokerError):
    """RabbitMQ answered and refused (403, 406, no such vhost, wrong password): a person must mend it."""


class StoreError(BrokerJobsError):
    """The store cannot be used: unreachable, of a newer schema, or of another installation."""


class JobFailed(BrokerJobsError):
    """The job ended as failed. The remote traceback is a note of this exception."""


class JobDeleted(BrokerJobsError):
    """The job was deleted and has no result."""


class ResultTimeout(BrokerJobsError, TimeoutError):
    """The job did not end, or nobody answered, in the time given."""


class Retry(Exception):  # a verb a job says, not an error
    """Raised by a job: run me again later; counts as a retry.

    Args:
        after: how long to wait, seconds or timedelta; None takes the job's back-off.
        reason: what the dashboard shows.
    """

    def __init__(self, after: float | timedelta | None = None, reason: str = "") -> None:
        super().__init__(reason or "the job asked to be run again")
        if isinstance(after, timedelta):
            after = after.total_seconds()
        self.after = None if after is None else float(after)
        self.reason = reason


class GiveUp(Exception):  # a verb a job says, not an error
    """Raised by a job: I have failed and must not be retried."""


def nearest(name: str, known: Iterable[object]) -> str:
    """`; did you mean 'queue'?` where something near is known, else an empty string. For messages of errors."""
    import difflib  # noqa: PLC0415  # only who has made a mistake pays for it

    close = difflib.get_close_matches(name, [str(k) for k in known], n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else ""
