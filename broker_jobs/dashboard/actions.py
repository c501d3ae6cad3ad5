"""Turns the actions of pages and API into commands to the coordinator, with the person's name for the audit.

Every method blocks until the coordinator has answered. It raises UsageError (refused, with the reason and what to do),
ResultTimeout (no coordinator answers) or BrokerError. Commands that programs send too are built by `producer/`; the
others are built here.
"""

from __future__ import annotations

from typing import Any

from broker_jobs.clock import as_datetime
from broker_jobs.dashboard.argument_validation import check_json
from broker_jobs.dashboard.declared_jobs import checked_remote
from broker_jobs.dashboard.queries import Queries
from broker_jobs.dashboard.schedule_actions import ScheduleActions, send_command
from broker_jobs.dashboard.views import JobsQuery
from broker_jobs.errors import ArgumentsError, OptionError, UsageError
from broker_jobs.messages.commands import (
    BulkDelete,
    BulkFail,
    BulkRequeue,
    ChangeWorker,
    DeleteBatch,
    DeleteDeadLetter,
    JobFilter,
    ReplayDeadLetter,
    RequeueJob,
    RunJob,
)
from broker_jobs.messages.priority import Priority
from broker_jobs.messages.state import State
from broker_jobs.producer.admin import Limits, Queues
from broker_jobs.producer.receipt import Receipt
from broker_jobs.producer.requests import RequestClient
from broker_jobs.producer.routing import encode_limited, scheduled_time

MAX_IDS = 1_000
"""Jobs that one command may list."""


class Actions:
    """The actions of pages and API. Their first argument, `by`, is the person or program in the audit."""

    def __init__(self, requests: RequestClient, queries: Queries) -> None:
        """Args:
        requests: sends commands to the coordinator.
        queries: for the parameters of functions and the calls of recurring jobs.
        """
        self._requests = requests
        self._queries = queries
        self.schedules = ScheduleActions(requests, queries)

    # --- jobs ---

    def delete_job(self, by: str, id: str) -> bool:
        """Delete a job; a running one is asked to stop. False: it had already ended."""
        return Receipt[Any](id, self._requests.on_behalf_of(by)).delete()

    def requeue_job(self, by: str, id: str) -> None:
        """Run an ended job again, or a waiting job now."""
        Receipt[Any](id, self._requests.on_behalf_of(by)).requeue()

    def requeue_with(self, by: str, id: str, args: list[Any], kwargs: dict[str, Any]) -> None:
        """Run a job again with other arguments.

        Raises:
            ArgumentsError: JSON cannot represent them.
        """
        check_json(args, kwargs)
        requests = self._requests.on_behalf_of(by)
        send_command(requests, lambda: RequeueJob(**requests.command_fields(), job_id=id, args=args, kwargs=kwargs))

    def reschedule_job(self, by: str, id: str, due_at: float) -> None:
        """Change the due time of a job; a past time means now."""
        Receipt[Any](id, self._requests.on_behalf_of(by)).reschedule(_datetime(due_at))

    def delete_matching(self, by: str, query: JobsQuery) -> str:
        """Delete all matching jobs by one command; without a state, those that have not ended.

        Returns:
            The id of the command, for `bulk_progress`.

        Raises:
            OptionError: the query has a filter that bulk commands do not have.
        """
        return self._bulk(BulkDelete, by, _bulk_filter(query))

    def requeue_matching(self, by: str, query: JobsQuery) -> str:
        """Requeue all matching jobs by one command; without a state, the failed ones. As `delete_matching`."""
        return self._bulk(BulkRequeue, by, _bulk_filter(query))

    def fail_held(self, by: str, which: JobsQuery | list[str]) -> str:
        """Fail those of these jobs, or of all matching ones, that no living worker knows. As `delete_matching`."""
        given = {"ids": _checked_ids(which)} if isinstance(which, list) else _bulk_filter(which)
        return self._bulk(BulkFail, by, given)

    def delete_many(self, by: str, ids: list[str]) -> str:
        """Delete these jobs in any state by one command. As `delete_matching`."""
        return self._bulk(BulkDelete, by, {"ids": _checked_ids(ids)})

    def requeue_many(self, by: str, ids: list[str]) -> str:
        """Requeue these jobs by one command; enqueued and running ones are refused. As `delete_matching`."""
        return self._bulk(BulkRequeue, by, {"ids": _checked_ids(ids)})

    def bulk_progress(self, by: str, id: str) -> dict[str, Any]:
        """The progress of a bulk command: {"done": int, "refused": int, "finished": bool}.

        Raises:
            UsageError: there is no such command.
        """
        del by
        progress = self._queries.system.bulk(id)
        if progress is None:
            raise UsageError(f"there is no bulk command {id}")
        return progress.model_dump()

    # --- queues, limits ---

    def pause_queue(self, by: str, name: str) -> None:
        """Stop starting jobs of a queue; running ones continue."""
        Queues(self._requests.on_behalf_of(by)).pause(name)

    def resume_queue(self, by: str, name: str) -> None:
        """Start jobs of a queue again."""
        Queues(self._requests.on_behalf_of(by)).resume(name)

    def set_limit(self, by: str, key: str, limit: int | None) -> None:
        """Override the limit of a key; None: use the number that its jobs were enqueued with."""
        limits = Limits(self._requests.on_behalf_of(by))
        if limit is None:
            limits.clear(key)
        else:
            limits.set(key, limit)

    def change_workers(
        self,
        by: str,
        *,
        worker: str = "",
        host: str = "",
        concurrency: int | None = None,
        queues: list[str] | None = None,
        queue_limits: dict[str, int] | None = None,
    ) -> int:
        """Change what a worker, or each worker of a host, does until it restarts. Returns how many were changed."""
        requests = self._requests.on_behalf_of(by)
        detail = send_command(
            requests,
            lambda: ChangeWorker(
                **requests.command_fields(),
                worker=worker,
                host=host,
                concurrency=concurrency,
                queues=queues,
                queue_limits=queue_limits,
            ),
        )
        return len(detail.get("workers", []))

    # --- batches ---

    def delete_batch(self, by: str, id: str) -> bool:
        """Delete all jobs of a batch that have not ended. False: the batch had already ended."""
        requests = self._requests.on_behalf_of(by)
        detail = send_command(requests, lambda: DeleteBatch(**requests.command_fields(), batch_id=id))
        return not detail.get("ended", False)

    def requeue_failures(self, by: str, batch_id: str) -> str:
        """Requeue all failed jobs of a batch by one command. Returns the id of the command."""
        return self._bulk(BulkRequeue, by, {"batch": batch_id, "state": State.FAILED})

    # --- dead letters ---

    def replay_dead_letter(self, by: str, id: str) -> None:
        """Process a dead letter again."""
        requests = self._requests.on_behalf_of(by)
        send_command(requests, lambda: ReplayDeadLetter(**requests.command_fields(), dead_letter_id=id))

    def delete_dead_letter(self, by: str, id: str) -> None:
        """Delete a dead letter permanently."""
        requests = self._requests.on_behalf_of(by)
        send_command(requests, lambda: DeleteDeadLetter(**requests.command_fields(), dead_letter_id=id))

    # --- running a job ---

    def enqueue(
        self,
        by: str,
        job: str,
        args: list[Any],
        kwargs: dict[str, Any],
        *,
        queue: str | None = None,
        priority: Priority | None = None,
        due_at: float | None = None,
    ) -> str:
        """Run a job. Returns its id.

        Raises:
            OptionError: the queue or the priority is none.
            ArgumentsError: the arguments do not match the declared parameters, or JSON cannot represent them.
            EnqueueError: the message is too large.
        """
        requests = self._requests.on_behalf_of(by)
        remote = checked_remote(requests, self._queries, job, args, kwargs, queue=queue, priority=priority)
        due = None if due_at is None else scheduled_time(_datetime(due_at), requests.now())
        envelope = remote.new_envelope(remote.bind_arguments(tuple(args), kwargs), requests.now(), due)
        body = encode_limited(envelope, requests.connection.settings.max_body)
        send_command(requests, lambda: RunJob(**requests.command_fields(), call=body.decode()))
        return envelope.id

    # --- inside ---

    def _bulk(self, kind: type[BulkDelete] | type[BulkRequeue] | type[BulkFail], by: str, given: dict[str, Any]) -> str:
        requests = self._requests.on_behalf_of(by)
        stamp = requests.command_fields()
        send_command(requests, lambda: kind(**stamp, filter=JobFilter.model_validate(given)))
        return stamp["id"]


def _datetime(instant: float) -> Any:
    try:
        return as_datetime(instant)
    except (ValueError, OverflowError, OSError):
        raise ArgumentsError(f"{instant!r} is no time: give the seconds since 1970-01-01T00:00Z") from None


def _checked_ids(ids: list[str]) -> list[str]:
    if not ids:
        raise OptionError("no job is selected: give at least one id")
    if len(ids) > MAX_IDS:
        raise OptionError(
            f"one command takes at most {MAX_IDS:_} ids, not {len(ids):_}: use a filter that matches the jobs"
        )
    return ids


def _bulk_filter(query: JobsQuery) -> dict[str, Any]:
    """The fields of the bulk filter that matches the same jobs.

    Raises:
        OptionError: no bulk filter does.
    """
    cannot = {"text": query.text, "worker": query.worker, "reason_code": query.reason_code}
    wrong = [name for name, value in cannot.items() if value is not None]
    if wrong:
        raise OptionError(
            f"bulk commands have no filter {' or '.join(wrong)}: remove it, or select the jobs one by one"
        )
    given: dict[str, Any] = {
        "state": query.state,
        "queue": query.queue,
        "job": query.job,
        "batch": query.batch,
        "recurring": query.recurring,
        "tag": query.tag,
        "unknown": query.unknown or None,
        "error_text": query.error_text,
        "created_after": None if query.created_after is None else query.created_after.timestamp(),
        "created_before": None if query.created_before is None else query.created_before.timestamp(),
    }
    return {name: value for name, value in given.items() if value is not None}
