"""Reads jobs: the page of jobs that a query selects, and everything about one job."""

from __future__ import annotations

import functools
import json
from datetime import datetime
from typing import Any, Literal, cast

from broker_jobs.clock import Instant, as_datetime
from broker_jobs.dashboard.queries import call_source
from broker_jobs.dashboard.queries.job_summary import (
    error_summary,
    job_summary,
    masked_call,
    read_envelope,
    read_error,
    summary_fields,
)
from broker_jobs.dashboard.queries.query_context import QueryContext, argument_view, optional_datetime
from broker_jobs.dashboard.queries.traceback_parser import parse_traceback
from broker_jobs.dashboard.views import (
    AttemptView,
    End,
    Ended,
    ErrorView,
    JobsPage,
    JobsQuery,
    JobSummary,
    JobView,
    LogLineView,
    RelationView,
    StateChange,
)
from broker_jobs.messages.state import State
from broker_jobs.store import Publication, Reason, RelationRow, Row, SearchQuery
from broker_jobs.store.records import AttemptRow, DependencyRow

JobAction = Literal["requeue", "run_now", "delete", "cancel", "reschedule", "edit"]
MAX_RELATIONS = 100
"""Parents and children shown of one job."""
MAX_LOG_LINES = 1_000
"""Log lines shown of one job: the last ones."""


class JobQueries:
    """Queries about jobs."""

    def __init__(self, context: QueryContext) -> None:
        self._reader = context.reader
        self._masking = context.masking
        self._clock = context.clock
        self._retention = context.retention
        self._functions = context.functions

    def page(self, query: JobsQuery) -> JobsPage:
        """A page of the jobs that a query selects.

        Raises:
            UsageError: the cursor belongs to another query, or the state cannot be sorted this way.
        """
        found = self._reader.jobs.search(_search(query), functools.partial(self._contains, query.text or ""))
        return JobsPage(
            jobs=self.summaries(found.rows),
            next=found.next,
            total=found.total,
            scanned=found.looked_at,
            complete=found.complete,
        )

    def exists(self, id: str) -> bool:
        """Whether the store has a job of this id."""
        return self._reader.jobs.get(id) is not None

    def get(self, id: str) -> JobView | None:
        """Everything about one job, or None."""
        row = self._reader.jobs.get(id)
        if row is None:
            return None
        now = self._clock.now()
        function = self._functions.get(row.job)
        envelope = read_envelope(row.envelope)
        call = masked_call(envelope, row.queue, function, self._masking)
        dependencies = self._reader.dependencies.of(id)
        return JobView(
            **summary_fields(row, function, self._masking, now),
            arguments=[argument_view(each) for each in (*call.args, *call.kwargs)],
            code=call_source.code(row.job, *call) if row.job else "",
            doc="" if function is None else function.doc,
            result=None if row.result is None else self._masking.text(row.result),
            result_lost=row.result_lost,
            result_until=optional_datetime(row.result_until),
            failure=_failure(row.error),
            history=_history(row),
            attempts=[_attempt(each) for each in self._reader.attempts.of(id)],
            log_lines=[
                LogLineView(at=as_datetime(line.at), attempt=line.attempt, text=line.text)
                for line in self._reader.log_lines.of(id, MAX_LOG_LINES)
            ],
            parents=[relation_view(each) for each in self._reader.relations.parents(id, limit=MAX_RELATIONS)],
            children=[relation_view(each) for each in self._reader.relations.children(id, limit=MAX_RELATIONS)],
            waits_for=_waits_for(row, dependencies, self._reader.limits.waited_for(id), now),
            alias_of=self._reader.jobs.root_of(row).id if row.is_alias else None,
            created_by=row.parent,
            crashes=row.crashes,
            epoch=row.epoch,
            ran_on=row.ran_on,
            ran_host=row.ran_host or None,
            actions=possible_actions(row),
            expires_at=self._expires_at(row),
        )

    def raw_arguments(self, id: str) -> tuple[list[object], dict[str, object]] | None:
        """A job's arguments unmasked, to restore hidden values in edited ones; never shown. None: not known."""
        row = self._reader.jobs.get(id)
        envelope = read_envelope("" if row is None else row.envelope)
        if not envelope:
            return None
        return list(envelope.get("args") or []), dict(envelope.get("kwargs") or {})

    def masked_arguments(self, id: str) -> tuple[list[object], dict[str, object]] | None:
        """A job's arguments, hidden values masked. None: not known."""
        row = self._reader.jobs.get(id)
        envelope = read_envelope("" if row is None else row.envelope)
        if row is None or not envelope:
            return None
        return self.mask_call(row.job, envelope.get("args"), envelope.get("kwargs"))

    def mask_call(self, job: str, args: object, kwargs: object) -> tuple[list[Any], dict[str, Any]]:
        """The arguments of a call, hidden values masked; empty where they are no arguments."""
        call = masked_call({"args": args, "kwargs": kwargs}, "", self._functions.get(job), self._masking)
        return [each.value for each in call.args], {each.name: each.value for each in call.kwargs}

    def summaries(self, rows: list[Row]) -> list[JobSummary]:
        """The rows as list entries."""
        now, functions = self._clock.now(), self._functions.by_name()
        return [job_summary(row, functions.get(row.job), self._masking, now) for row in rows]

    def _contains(self, text: str, job: str, queue: str, envelope: str) -> bool:
        """Whether the masked call contains a text. A search in the raw call would reveal hidden values."""
        call = masked_call(read_envelope(envelope), queue, self._functions.get(job), self._masking)
        shown = [[each.value for each in call.args], {each.name: each.value for each in call.kwargs}]
        return json.dumps(text, ensure_ascii=False)[1:-1].casefold() in json.dumps(shown, ensure_ascii=False).casefold()

    def _expires_at(self, row: Row) -> datetime | None:
        if row.keep_until is not None:
            return optional_datetime(row.keep_until)
        seconds = self._retention.get(row.state.value)
        if not row.state.is_final or seconds is None:
            return None
        return optional_datetime(row.changed_at + seconds)


def relation_view(row: RelationRow) -> RelationView:
    """A job or batch at the other end of a continuation."""
    on = cast("End", row.on)
    return RelationView(
        id=row.id, is_batch=row.is_batch, title=row.title, state=row.state, on=on, unsatisfied=row.unsatisfied
    )


def _search(query: JobsQuery) -> SearchQuery:
    return SearchQuery(
        states=() if query.state is None else (query.state,),
        retries=query.reason_code == "retry",
        unknown=bool(query.unknown),
        queue=query.queue,
        job=query.job,
        text=query.text or None,
        error_text=query.error_text or None,
        tag=query.tag,
        batch=query.batch,
        recurring=query.recurring,
        owner=query.worker,
        created_after=None if query.created_after is None else query.created_after.timestamp(),
        created_before=None if query.created_before is None else query.created_before.timestamp(),
        sort=query.sort,
        limit=query.limit,
        cursor=query.cursor,
    )


def possible_actions(row: Row) -> list[JobAction]:
    """The actions that a job's state allows; the coordinator decides again when it applies one."""
    actions: list[JobAction] = []
    match row.state:
        case State.AWAITING:
            actions = ["run_now", "delete"]
        case State.SCHEDULED:
            actions = ["run_now", "reschedule", "delete"]
        case State.ENQUEUED:
            actions = ["reschedule", "delete"]
        case State.PROCESSING:
            actions = ["cancel"]
        case State.SUCCEEDED | State.FAILED:
            actions = ["requeue", "reschedule", "delete"]
        case State.DELETED:
            actions = ["requeue", "reschedule"]
    at_rest = row.state not in (State.ENQUEUED, State.PROCESSING) and row.publication is Publication.NONE
    if at_rest and row.envelope and row.reason_code not in (Reason.ALIAS, Reason.RETURNED, Reason.REPEAT):
        actions.append("edit")
    return actions


def _failure(text: str | None) -> ErrorView | None:
    error = read_error(text)
    if error is None:
        return None
    kind, message, traceback = error
    chain = parse_traceback(traceback)
    return ErrorView(
        type=kind, message=message, traceback=traceback, frames=chain[-1].frames if chain else [], chain=chain
    )


def _attempt(row: AttemptRow) -> AttemptView:
    return AttemptView(
        attempt=row.attempt,
        ended=cast("Ended", row.ended),
        started_at=optional_datetime(row.started_at),
        ended_at=as_datetime(row.ended_at),
        worker=row.worker or None,
        host=row.host or None,
        release=row.release or None,
        reason=row.reason,
        error=error_summary(row.error),
        fingerprint=row.fingerprint,
    )


def _history(row: Row) -> list[StateChange]:
    changes: list[StateChange] = []
    before: Instant | None = None
    for at, state, reason in row.history:
        if state in list(State):
            after = None if before is None else max(0.0, at - before)
            changes.append(StateChange(at=as_datetime(at), state=State(state), reason=reason, after_seconds=after))
            before = at
    return changes


def _waits_for(row: Row, dependencies: list[DependencyRow], slots: list[str], now: Instant) -> list[str]:
    """What a job that has not started waits for, in words."""
    words = [_slot_words(*key.partition(":")[::2]) for key in slots]
    for dependency in dependencies:
        what = {"job": "job", "batch": "batch"}.get(dependency.kind)
        if what is None:
            words.append("the commit of its batch")
        elif dependency.unsatisfied:
            words.append(f"{what} {dependency.target}, which did not end as {dependency.on_end}")
        else:
            words.append(f"{what} {dependency.target} to be {dependency.on_end}")
    match row.state:
        case State.AWAITING if not words:
            words.append(row.reason or "something other than time")
        case State.SCHEDULED if row.due_at is not None and row.due_at > now:
            words.append(f"its time, {as_datetime(row.due_at):%Y-%m-%d %H:%M:%S} UTC")
        case State.ENQUEUED:
            words.append(f"a free worker of queue {row.queue}")
        case _:
            pass
    return words


def _slot_words(kind: str, key: str) -> str:
    match kind:
        case "ordered":
            return f"its turn in the order of {key!r}"
        case "rate":
            return f"the rate limit {key!r}"
        case _:
            return f"a slot of the {kind} limit {key!r}"
