"""Lets a job take the results of its parents: `resize.enqueue(result_of(image), 100)`.

The job waits for them to succeed, `after` need not be said; the coordinator fills the results in when it releases it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar, cast

from broker_jobs.errors import ArgumentsError
from broker_jobs.function.pending import Pending
from broker_jobs.messages.envelope import MAX_PARENTS
from broker_jobs.producer.dependencies import DependencyTarget
from broker_jobs.producer.receipt import Receipt

R = TypeVar("R")


def result_of(parent: Receipt[R], /) -> R:
    """The result of a job to come, as an argument of another; every other use of it raises TypeError.

    Raises:
        ArgumentsError: `parent` is no receipt.
    """
    _check(parent, "result_of")
    return cast("R", Pending((parent.id,), parent.title, many=False))


def results_of(parents: Iterable[Receipt[R]], /) -> list[R]:
    """The results of several jobs to come, in their order, as one argument of another.

    Raises:
        ArgumentsError: something is no receipt, or there are over 1,000: enqueue jobs that sum up some of them each.
    """
    if isinstance(parents, DependencyTarget | str) or not isinstance(parents, Iterable):
        raise ArgumentsError(f"results_of() takes receipts: write results_of([…]), not results_of({parents!r})")
    receipts = list(parents)
    for receipt in receipts:
        _check(receipt, "results_of")
    if len(receipts) > MAX_PARENTS:
        raise ArgumentsError(f"results_of() takes at most {MAX_PARENTS:_} receipts, not {len(receipts):_}")
    if not receipts:
        return []
    more = f" and {len(receipts) - 1} more" if len(receipts) > 1 else ""
    return cast("list[R]", Pending(tuple(receipt.id for receipt in receipts), receipts[0].title + more, many=True))


def _check(parent: Any, function: str) -> None:
    if isinstance(parent, Receipt):
        return
    if isinstance(parent, DependencyTarget):
        hint = "a batch has no result; take those of its jobs"
    elif isinstance(parent, list | tuple):
        hint = "for several write results_of([…])"
    elif isinstance(parent, str):
        hint = f'for a job known by its id write {function}(jobs.receipt("{parent}"))'
    else:
        hint = f"what enqueue() returns, not {parent!r}"
    raise ArgumentsError(f"{function}() takes a receipt; {hint}")
