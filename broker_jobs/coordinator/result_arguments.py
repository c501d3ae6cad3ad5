"""Puts parents' results into the arguments of a job that is about to be released. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping

from pydantic_core import PydanticSerializationError

from broker_jobs.messages import codec
from broker_jobs.messages.envelope import Envelope, ResultArgument
from broker_jobs.messages.state import State
from broker_jobs.store.row import Row

MAX_RESULTS_BYTES = 8 * 1024 * 1024
"""Of the results that one job takes: a release with more may be refused by the broker (4.x: over 16 MiB)."""


class MissingResultError(Exception):
    """A parent's result is not there or cannot travel on; the text says which and why."""


def parents_of(envelope: Envelope) -> list[str]:
    """The jobs whose results a job takes."""
    return [parent for result_arg in envelope.result_args for parent in result_arg.parents]


def with_results(row: Row, envelope: Envelope, parents: Mapping[str, Row]) -> Row:
    """The job with the results in its arguments; it can be retried when its parents are long forgotten.

    Raises:
        MissingResultError: a parent is not known, has no result, or its result was lost; all results together are too
            large, or too deep for a reader.
    """
    _check_size(envelope, parents)
    args, kwargs = list(envelope.args), dict(envelope.kwargs)
    for result_arg in envelope.result_args:
        value = _value(result_arg, parents)
        if isinstance(result_arg.place, int):
            args[result_arg.place] = value
        else:
            kwargs[result_arg.place] = value
    whole: Envelope = envelope.evolve(args=args, kwargs=kwargs, result_args=())
    try:
        body = codec.encode(whole)
        codec.decode(body)
    except (PydanticSerializationError, codec.Undecodable) as error:  # lists in lists: a reader goes 200 levels deep
        raise MissingResultError(f"the results it takes cannot travel on as its arguments: {error}") from None
    return row.evolve(envelope=body.decode())


def _check_size(envelope: Envelope, parents: Mapping[str, Row]) -> None:
    size = sum(len(parents[id].result or "") for id in parents_of(envelope) if id in parents)
    if size > MAX_RESULTS_BYTES:
        raise MissingResultError(
            f"the results it takes have {size:_} characters, the limit is {MAX_RESULTS_BYTES:_}: let its parents "
            "return references"
        )


def _value(result_arg: ResultArgument, parents: Mapping[str, Row]) -> object:
    results = [_result(parents.get(id), id) for id in result_arg.parents]
    return results if result_arg.many else results[0]


def _result(parent: Row | None, id: str) -> object:
    if parent is None:
        raise MissingResultError(f"the result of {id} is not known any more")
    if parent.state is not State.SUCCEEDED and parent.result is None:  # one deleted after it had succeeded has it still
        raise MissingResultError(f"{parent.job} {id} has no result: it is {parent.state.value}")
    if parent.result is None:
        raise MissingResultError(f"the result of {parent.job} {id} was not kept: {parent.result_lost or 'none came'}")
    try:
        return json.loads(parent.result)
    except (ValueError, RecursionError):  # of a foreign worker: it fails this job, not the outcome of its parent
        raise MissingResultError(f"the result of {parent.job} {id} is no JSON") from None
