"""Collects the dependencies of a job: its parents, how they must end, and the results it takes. Pure.

Separate from job.py and batch.py: both can wait, and both can be waited for.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import ClassVar, get_args

from broker_jobs.errors import ArgumentsError, nearest
from broker_jobs.messages.envelope import MAX_PARENTS, MAX_RESULT_ARGS, Dependencies, End, Parent, ResultArgument

ENDS: tuple[str, ...] = get_args(End)


class DependencyTarget:
    """Something a job can wait for, by its id: a receipt or a batch."""

    is_batch: ClassVar[bool] = False
    id: str


def parents_of(given: Iterable[object], on: object, job: str, method: str = "after") -> tuple[Parent, ...]:
    """The parents that `job.after(*given, on=on)` names.

    Raises:
        ArgumentsError: one is no receipt and no batch, or `on` is unknown.
    """
    if on not in ENDS:
        guess = nearest(on, ENDS) if isinstance(on, str) else ""
        raise ArgumentsError(f"on must be 'succeeded', 'failed' or 'finished', not {on!r}{guess}")
    return tuple(_parent(each, on, job, method) for each in given)  # type: ignore[arg-type]  # checked above


def join_parents(first: tuple[Parent, ...], more: Iterable[Parent]) -> tuple[Parent, ...]:
    """All parents, each condition once.

    Raises:
        ArgumentsError: a parent would have to succeed and to fail, or there are more than 1,000.
    """
    ends: dict[tuple[str, bool], dict[str, Parent]] = {}
    for parent in (*first, *more):
        ends.setdefault((parent.id, parent.batch), {})[parent.on] = parent
    for (parent_id, _), named in ends.items():
        if "succeeded" in named and "failed" in named:
            raise ArgumentsError(f"{parent_id} cannot both succeed and fail: wait for it with one on=")
    parents = tuple(parent for named in ends.values() for parent in named.values())
    if len(parents) > MAX_PARENTS:
        raise ArgumentsError(
            f"at most {MAX_PARENTS:_} jobs can be waited for, not {len(parents):_}; put them into a batch and wait "
            "for that"
        )
    return parents


def dependencies_of(
    named: tuple[Parent, ...], result_args: Sequence[ResultArgument], delay: float | None
) -> Dependencies | None:
    """The dependencies of a job: the parents it names, and those whose results it takes. None: it waits for none.

    Raises:
        ArgumentsError: it takes the result of a parent that may end without one, or it has too many parents.
    """
    if not named and not result_args:
        return None
    if len(result_args) > MAX_RESULT_ARGS:
        raise ArgumentsError(
            f"at most {MAX_RESULT_ARGS} arguments can be results, not {len(result_args)}; use results_of([…])"
        )
    ends = {parent.id: parent.on for parent in named if not parent.batch}
    taken = dict.fromkeys(parent_id for result_arg in result_args for parent_id in result_arg.parents)
    for parent_id in taken:
        match ends.get(parent_id, "succeeded"):
            case "failed":
                raise ArgumentsError('a failed job has no result; to take its result wait for it with on="succeeded"')
            case "finished":
                raise ArgumentsError(
                    'a job that has finished may have failed and have no result; wait for it with on="succeeded"'
                )
            case "succeeded":
                pass
    parents = join_parents(named, (Parent(id=parent_id) for parent_id in taken))
    return Dependencies(parents=parents, delay=delay or None)


def _parent(given: object, on: End, job: str, method: str) -> Parent:
    match given:
        case DependencyTarget():
            return Parent(id=given.id, batch=given.is_batch, on=on)
        case timedelta() if method == "after":
            hint = f"to wait for time write {job}.schedule({_length(given)}, …)"
        case datetime() if method == "after":
            hint = f"to wait for time write {job}.schedule(when, …)"
        case str() if method == "after":
            hint = f'for a job known by its id write {job}.after(jobs.receipt("{given}"))'
        case str():
            hint = f'for a job known by its id write jobs.receipt("{given}")'
        case _:
            hint = f"not {given!r}"
            return _refuse(f"{method}() waits for a receipt or a batch, {hint}")
    return _refuse(f"{method}() waits for a receipt or a batch; {hint}")


def _refuse(text: str) -> Parent:
    raise ArgumentsError(text)


def _length(length: timedelta) -> str:
    """A timedelta as one writes it."""
    for unit, seconds in (("days", 86_400), ("hours", 3_600), ("minutes", 60)):
        number = length.total_seconds() / seconds
        if number == int(number) and number:
            return f"timedelta({unit}={int(number)})"
    return f"timedelta(seconds={length.total_seconds():g})"
