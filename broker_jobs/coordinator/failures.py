"""Names what can go wrong in a transaction, beside an outage of the store, and describes it for people."""

from __future__ import annotations

import json
import traceback

from broker_jobs.store.records import WorkItemRow

WORK = "work"
"""The origin of a dead letter that is a work item."""
MOST_REASON_CHARS = 500
MOST_TRACEBACK_CHARS = 4_000


class NotStoredError(Exception):
    """The store could not be written before this coordinator had to stop: nothing may be acknowledged."""


class ConsequenceError(Exception):
    """What follows from the records of a transaction raised."""


class WorkItemError(ConsequenceError):
    """A work item, or an effect that would be kept as one, raised, and would raise again in every transaction.

    The transaction is rolled back, the item becomes a dead letter in one of its own, and the first is repeated with the
    item in `Engine.skipped_items`, where it is dropped. The code that carries out an item looks at `skipped_items`, and
    raises this from the error: `raise WorkItemError(item) from error`.
    """

    def __init__(self, item: WorkItemRow) -> None:
        super().__init__(f"work item {item.kind} {item.target}")
        self.item = item


class ToldTogetherError(ConsequenceError):
    """One of several jobs raised that were told together of an end: nobody knows which.

    The transaction is rolled back, and repeated with `Engine.tells_together` off, where each is told alone.
    """


def body_of(item: WorkItemRow) -> bytes:
    """A work item as the body of a dead letter."""
    return json.dumps({"kind": item.kind, "target": item.target, "outcome": item.outcome}).encode()


def item_of(body: bytes) -> WorkItemRow:
    """The work item in the body of a dead letter."""
    return WorkItemRow(**json.loads(body))


def sentence(error: BaseException) -> str:
    """What an error says, on one line; of a database's error its own words, without the statement and its values."""
    return " ".join(str(getattr(error, "orig", None) or error).split())


def description(error: BaseException) -> str:
    """The kind of an error, what it says, and the end of its traceback."""
    trace = "".join(traceback.format_tb(error.__traceback__))
    return f"{type(error).__name__}: {sentence(error)}"[:MOST_REASON_CHARS] + "\n" + trace[-MOST_TRACEBACK_CHARS:]
