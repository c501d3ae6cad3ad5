"""Turns what a person may do into commands with their name in them, which stands in the audit table.

Every method blocks until the coordinator has answered, and raises UsageError (refused: the reason and what to do),
ResultTimeout (no coordinator answers), BrokerError. The commands are made by what a program uses too (`producer/`);
what only a person does is made here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

from pydantic import ValidationError

from broker_jobs.clock import as_datetime
from broker_jobs.dashboard.argument_validation import check_arguments, check_json
from broker_jobs.dashboard.queries import Queries
from broker_jobs.dashboard.views import JobsQuery
from broker_jobs.errors import ArgumentsError, OptionError, UsageError
from broker_jobs.function.options import JobOptions, job_options
from broker_jobs.messages.commands import (
    BulkDelete,
    BulkRequeue,
    Command,
    DeleteBatch,
    DeleteDeadLetter,
    JobFilter,
    Misfire,
    Overlap,
    PutRecurring,
    ReplayDeadLetter,
    RequeueJob,
    RunJob,
    Schedule,
)
from broker_jobs.messages.state import State
from broker_jobs.producer.admin import Limits, Queues
from broker_jobs.producer.receipt import Receipt
from broker_jobs.producer.recurring import Recurring, RecurringOptions
from broker_jobs.producer.remote import RemoteJob
from broker_jobs.producer.requests import RequestClient
from broker_jobs.producer.routing import encode_limited, scheduled_time

MOST_IDS = 1_000
"""Jobs one command may name."""


class Actions:
    """What can be done from pages and API; the same methods serve both."""

    def __init__(self, requests: RequestClient, queries: Queries) -> None:
        """Args:
        asker: asks the coordinator.
        lookup: knows what functions take, and how recurring jobs are called now.
        """
        self._requests = requests
        self._queries = queries

    # --- jobs ---

    def delete_job(self, who: str, id: str) -> bool:
        """Delete a job, or ask one that runs to stop. False: it had already ended."""
        return Receipt[Any](id, self._requests.on_behalf_of(who)).delete()

    def requeue_job(self, who: str, id: str) -> None:
        """Run a job again; a scheduled one now."""
        Receipt[Any](id, self._requests.on_behalf_of(who)).requeue()

    def requeue_with(self, who: str, id: str, args: list[Any], kwargs: dict[str, Any]) -> None:
        """Run a job again with other arguments.

        Raises:
            ArgumentsError: they are no JSON.
        """
        check_json(args, kwargs)
        requests = self._requests.on_behalf_of(who)
        self._ask(requests, lambda: RequeueJob(**requests.command_fields(), job_id=id, args=args, kwargs=kwargs))

    def reschedule_job(self, who: str, id: str, due_at: float) -> None:
        """Give a job another time; a past one means now."""
        Receipt[Any](id, self._requests.on_behalf_of(who)).reschedule(_moment(due_at))

    def delete_matching(self, who: str, query: JobsQuery) -> str:
        """Delete all jobs that match now, by one command; without a state those that have not ended.

        Returns:
            The command's id, for `bulk`.

        Raises:
            OptionError: the query has a filter that no command has.
        """
        return self._bulk(BulkDelete, who, _filter(query))

    def requeue_matching(self, who: str, query: JobsQuery) -> str:
        """Run all jobs again that match now, by one command; without a state the failed ones. As `delete_matching`."""
        return self._bulk(BulkRequeue, who, _filter(query))

    def delete_many(self, who: str, ids: list[str]) -> str:
        """Delete these jobs, whatever their state, by one command. As `delete_matching`."""
        return self._bulk(BulkDelete, who, {"ids": _few(ids)})

    def requeue_many(self, who: str, ids: list[str]) -> str:
        """Run these jobs again, or now, by one command; those on their way are refused. As `delete_matching`."""
        return self._bulk(BulkRequeue, who, {"ids": _few(ids)})

    def bulk(self, who: str, id: str) -> dict[str, Any]:
        """How far a command about many jobs has come: {"done": int, "refused": int, "finished": bool}.

        Raises:
            UsageError: no such command is known.
        """
        del who
        progress = self._queries.bulk(id)
        if progress is None:
            raise UsageError(f"no command {id} about many jobs is known")
        return progress.model_dump()

    # --- queues, limits ---

    def pause_queue(self, who: str, name: str) -> None:
        """Have no more jobs of a queue started."""
        Queues(self._requests.on_behalf_of(who)).pause(name)

    def resume_queue(self, who: str, name: str) -> None:
        """Have jobs of a queue started again."""
        Queues(self._requests.on_behalf_of(who)).resume(name)

    def set_limit(self, who: str, key: str, limit: int | None) -> None:
        """Have this number count for a key; None: the one its jobs are enqueued with."""
        limits = Limits(self._requests.on_behalf_of(who))
        if limit is None:
            limits.clear(key)
        else:
            limits.set(key, limit)

    # --- recurring jobs ---

    def put_schedule(
        self,
        who: str,
        name: str,
        cron: str,
        *,
        tz: str,
        misfire: str,
        overlap: str,
        job: str,
        args: list[Any],
        kwargs: dict[str, Any],
        queue: str | None = None,
    ) -> None:
        """Add a recurring job, or replace the one of this name; `change_schedule` keeps the call."""
        requests = self._requests.on_behalf_of(who)
        call = self._remote(requests, job, args, kwargs, queue).bind(*args, **kwargs)
        options = cast("RecurringOptions", {"tz": tz, "misfire": misfire, "overlap": overlap})
        self._recurring(requests).put(name, cron, call, **options)

    def change_schedule(self, who: str, name: str, cron: str, *, tz: str, misfire: str, overlap: str) -> None:
        """Give a recurring job other times; one that code declares has its own again when that program starts anew."""
        row = self._queries.schedule_row(name)
        if row is None:
            raise UsageError(f"no recurring job is named {name!r}")
        requests = self._requests.on_behalf_of(who)

        def make() -> PutRecurring:
            schedule = Schedule(
                name=name, cron=cron, tz=tz, misfire=cast("Misfire", misfire), overlap=cast("Overlap", overlap),
                call=row.call, origin=row.origin,
            )  # fmt: skip
            return PutRecurring(**requests.command_fields(), schedule=schedule)

        self._ask(requests, make)

    def pause_schedule(self, who: str, name: str) -> None:
        """Plan no more times of it."""
        self._recurring(self._requests.on_behalf_of(who)).pause(name)

    def resume_schedule(self, who: str, name: str) -> None:
        """Plan its times again."""
        self._recurring(self._requests.on_behalf_of(who)).resume(name)

    def trigger_schedule(self, who: str, name: str) -> str:
        """Run it now, beside its schedule; the id of the job it makes."""
        return self._recurring(self._requests.on_behalf_of(who)).trigger(name).id

    def remove_schedule(self, who: str, name: str) -> None:
        """Forget it; its jobs stay."""
        self._recurring(self._requests.on_behalf_of(who)).remove(name)

    # --- batches ---

    def delete_batch(self, who: str, id: str) -> bool:
        """Delete all jobs of a batch that have not ended. False: it had already ended."""
        requests = self._requests.on_behalf_of(who)
        detail = self._ask(requests, lambda: DeleteBatch(**requests.command_fields(), batch_id=id))
        return not detail.get("ended", False)

    def requeue_failures(self, who: str, batch_id: str) -> str:
        """Run all failed jobs of a batch again, by one command; returns its id."""
        return self._bulk(BulkRequeue, who, {"batch": batch_id, "state": State.FAILED})

    # --- dead letters ---

    def replay_dead_letter(self, who: str, id: str) -> None:
        """Decide a dead letter again."""
        requests = self._requests.on_behalf_of(who)
        self._ask(requests, lambda: ReplayDeadLetter(**requests.command_fields(), dead_letter_id=id))

    def delete_dead_letter(self, who: str, id: str) -> None:
        """Forget a dead letter for good."""
        requests = self._requests.on_behalf_of(who)
        self._ask(requests, lambda: DeleteDeadLetter(**requests.command_fields(), dead_letter_id=id))

    # --- running a job ---

    def enqueue(
        self,
        who: str,
        job: str,
        args: list[Any],
        kwargs: dict[str, Any],
        *,
        queue: str | None = None,
        due_at: float | None = None,
    ) -> str:
        """Run a job as from its form; returns its id.

        Raises:
            ArgumentsError: the arguments do not fit what its program declared, or are no JSON.
            EnqueueError: it is too large.
        """
        requests = self._requests.on_behalf_of(who)
        remote = self._remote(requests, job, args, kwargs, queue)
        scheduled = None if due_at is None else scheduled_time(_moment(due_at), requests.now())
        envelope = remote.new_envelope(remote.bind_arguments(tuple(args), kwargs), requests.now(), scheduled)
        body = encode_limited(envelope, requests.connection.settings.max_body)
        self._ask(requests, lambda: RunJob(**requests.command_fields(), call=body.decode()))
        return envelope.id

    # --- inside ---

    def _remote(
        self, requests: RequestClient, job: str, args: list[Any], kwargs: dict[str, Any], queue: str | None
    ) -> RemoteJob:
        """The job of this name as another program enqueues it, its arguments checked."""
        check_json(args, kwargs)
        function = self._queries.function(job)
        if function is not None:
            check_arguments(function, args, kwargs)
        wanted = queue or (function.queue if function is not None else None)
        options: JobOptions = {"name": job} if wanted is None else {"name": job, "queue": wanted}
        chosen = job_options(options)
        if function is not None:  # as its code says: a job that must not be tried again is not
            chosen = replace(chosen, policy=function.policy, tags=tuple(function.tags))
        return RemoteJob(job, chosen, requests)

    def _bulk(self, kind: type[BulkDelete] | type[BulkRequeue], who: str, given: dict[str, Any]) -> str:
        requests = self._requests.on_behalf_of(who)
        stamp = requests.command_fields()
        self._ask(requests, lambda: kind(**stamp, filter=JobFilter.model_validate(given)))
        return stamp["id"]

    def _ask(self, requests: RequestClient, make: Callable[[], Command]) -> dict[str, Any]:
        """Have a command carried out; what does not fit into one is the caller's mistake."""
        try:
            command = make()
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False, include_input=False)[0]
            where = ".".join(str(part) for part in first["loc"]) or "command"
            raise OptionError(f"{where}: {first['msg'].removeprefix('Value error, ')}") from None
        return requests.command(command).detail

    def _recurring(self, requests: RequestClient) -> Recurring:
        return Recurring(requests, _declares_nothing)


def _declares_nothing() -> None:
    """A person's recurring jobs are put, never declared."""


def _moment(instant: float) -> Any:
    try:
        return as_datetime(instant)
    except (ValueError, OverflowError, OSError):
        raise ArgumentsError(f"{instant!r} is no instant: seconds since 1970-01-01T00:00Z") from None


def _few(ids: list[str]) -> list[str]:
    if not ids:
        raise OptionError("choose jobs first: no id was given")
    if len(ids) > MOST_IDS:
        raise OptionError(
            f"one command names at most {MOST_IDS:_} jobs, not {len(ids):_}; use a filter that means them"
        )
    return ids


def _filter(query: JobsQuery) -> dict[str, Any]:
    """The fields of the filter that means the same jobs.

    Raises:
        OptionError: there is none.
    """
    cannot = {"text": query.text, "worker": query.worker, "why": query.why}
    wrong = [name for name, value in cannot.items() if value is not None]
    if wrong:
        raise OptionError(
            f"all that match cannot be meant by {' and '.join(wrong)}: take that filter away, or choose jobs one by one"
        )
    given: dict[str, Any] = {
        "state": query.state,
        "queue": query.queue,
        "job": query.job,
        "batch": query.batch,
        "recurring": query.recurring,
        "tag": query.tag,
        "error_text": query.error_text,
        "created_after": None if query.created_after is None else query.created_after.timestamp(),
        "created_before": None if query.created_before is None else query.created_before.timestamp(),
    }
    return {name: value for name, value in given.items() if value is not None}
