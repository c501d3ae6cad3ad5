"""Puts other arguments into a job that a person runs again, or says why that cannot be. Pure.

The envelope is kept but for its arguments: a unique key and the keys of limits stay as they were when it was enqueued.
"""

from __future__ import annotations

from pydantic_core import PydanticSerializationError

from broker_jobs.messages import codec
from broker_jobs.messages.commands import RequeueJob
from broker_jobs.messages.state import State
from broker_jobs.store.row import Publication, Reason, Row


def changes_arguments(command: RequeueJob) -> bool:
    """Whether a requeue brings arguments."""
    return command.args is not None or command.kwargs is not None


def refusal(row: Row, log_now: float) -> str | None:
    """Why the arguments of a job cannot be changed now, and what to do; None: they can.

    Whatever may still run with the arguments it has must not be shown with others.
    """
    if row.is_alias:
        return "it is a duplicate: requeue the job that it stands for"
    if not row.envelope:
        return "its arguments are not known: enqueue it anew"
    if row.state is State.PROCESSING:
        return "it is running: delete it first, then requeue it"
    if row.state is State.ENQUEUED:
        return "it is already on its way: delete it first, then requeue it"
    if row.publication is not Publication.NONE:
        return "a message with its old arguments is still out: ask again when a worker has handed it back"
    waits = not row.state.is_final and row.reason_code in (
        Reason.RETURNED,
        Reason.REPEAT,
    )  # it goes when its grace is over
    if waits or (row.grace_until is not None and row.grace_until > log_now):
        return "it is not known yet whether somebody runs it: ask again in ten seconds"
    return None


def edited(row: Row, command: RequeueJob, max_body: int) -> Row | str:
    """The job with other arguments, or why they cannot be.

    Args:
        row: of a job whose envelope is known.
        command: what is not given in it stays; what is given replaces parents' results that would have come there.
        max_body: bytes a message may have.
    """
    envelope = codec.decode(row.envelope)
    args = envelope.args if command.args is None else command.args
    kwargs = envelope.kwargs if command.kwargs is None else command.kwargs
    given = {int: command.args is not None, str: command.kwargs is not None}
    result_args = tuple(result_arg for result_arg in envelope.result_args if not given[type(result_arg.place)])
    try:
        body = codec.encode(envelope.evolve(args=args, kwargs=kwargs, result_args=result_args))
    except PydanticSerializationError as error:
        return f"its arguments cannot be sent as JSON: {error}"
    if len(body) > max_body:
        return (
            f"its message would have {len(body):_} bytes, the limit is {max_body:_} (BROKER_JOBS_MAX_BODY of the "
            "coordinator); store the data elsewhere and pass a reference"
        )
    return row.evolve(envelope=body.decode())
