"""Looks jobs up: a page of those a query means, and all that is known of one."""

from __future__ import annotations

import functools
import json
from typing import Any, Literal, cast

from broker_jobs.clock import Instant, as_datetime
from broker_jobs.dashboard import call_source
from broker_jobs.dashboard.queries.base import BaseQueries, argument, moment
from broker_jobs.dashboard.queries.job_line import called, job_line, line_fields, read_envelope, read_error
from broker_jobs.dashboard.traceback_parser import errors_of
from broker_jobs.dashboard.views import (
    End,
    ErrorView,
    JobLine,
    JobsPage,
    JobsQuery,
    JobView,
    LogLineView,
    Relative,
    Step,
)
from broker_jobs.messages.state import State
from broker_jobs.store import LogLineRow, Publication, Reason, RelationRow, Row, SearchQuery
from broker_jobs.store.records import DependencyRow

Can = Literal["requeue", "run_now", "delete", "cancel", "reschedule", "edit"]
MOST_RELATIVES = 100
"""Parents and children that are shown of one job."""
MOST_LINES = 1_000
"""The last lines a job wrote that are shown."""


class JobQueries(BaseQueries):
    """What is asked about jobs."""

    def jobs(self, query: JobsQuery) -> JobsPage:
        """A page of the jobs that a query means.

        Raises:
            UsageError: the cursor is of another query, or the sort does not go with the state.
        """
        found = self._reader.search(_search(query), functools.partial(self._says, query.text or ""))
        return JobsPage(
            jobs=self._lines(found.rows),
            next=found.next,
            total=found.total,
            looked_at=found.looked_at,
            complete=found.complete,
        )

    def knows(self, id: str) -> bool:
        """Whether a job of this id is known."""
        return self._reader.job(id) is not None

    def job(self, id: str) -> JobView | None:
        """All that is known of one job; None: it is not known."""
        row = self._reader.job(id)
        if row is None:
            return None
        now = self._clock.now()
        function = self.function(row.job)
        envelope = read_envelope(row.envelope)
        call = called(envelope, row.queue, function, self._masking)
        alias = row.reason_code == Reason.ALIAS
        dependencies = self._reader.dependencies(id)
        return JobView(
            **line_fields(row, function, self._masking, now),
            arguments=[argument(each) for each in (*call.args, *call.kwargs)],
            code=call_source.code(row.job, *call) if row.job else "",
            doc="" if function is None else function.doc,
            result=None if row.result is None else self._masking.text(row.result),
            result_lost=row.result_lost,
            failure=_failure(row.error),
            steps=_steps(row),
            lines=[
                LogLineView(at=as_datetime(x.at), attempt=x.attempt, text=x.text)
                for x in self._reader.lines(id, MOST_LINES)
            ],
            parents=[relative(each) for each in self._reader.parents(id, limit=MOST_RELATIVES)],
            children=[relative(each) for each in self._reader.children(id, limit=MOST_RELATIVES)],
            waits_for=_waits_for(row, dependencies, self._reader.slots_waited_for(id), now),
            stands_for=row.parent if alias else None,
            made_by=None if alias else row.parent,
            crashes=row.crashes,
            epoch=row.epoch,
            can=possible(row),
            deleted_on=self._deleted_on(row),
        )

    def raw_arguments(self, id: str) -> tuple[list[object], dict[str, object]] | None:
        """Unmasked, to put back what is hidden in what a person has edited; never shown. None: they are not known."""
        row = self._reader.job(id)
        envelope = read_envelope("" if row is None else row.envelope)
        if not envelope:
            return None
        return list(envelope.get("args") or []), dict(envelope.get("kwargs") or {})

    def shown_arguments(self, id: str) -> tuple[list[object], dict[str, object]] | None:
        """The same as they may be shown, with a mark for what is hidden."""
        row = self._reader.job(id)
        envelope = read_envelope("" if row is None else row.envelope)
        if row is None or not envelope:
            return None
        return self.shown_call(row.job, envelope.get("args"), envelope.get("kwargs"))

    def shown_call(self, job: str, args: object, kwargs: object) -> tuple[list[Any], dict[str, Any]]:
        """The arguments of a call as they may be shown; empty where they are none."""
        call = called({"args": args, "kwargs": kwargs}, "", self.function(job), self._masking)
        return [each.value for each in call.args], {each.name: each.value for each in call.kwargs}

    def _lines(self, rows: list[Row]) -> list[JobLine]:
        now, declared = self._clock.now(), self._declared()
        return [job_line(row, declared.get(row.job), self._masking, now) for row in rows]

    def _says(self, text: str, job: str, queue: str, envelope: str) -> bool:
        """Whether what is shown of a call has a text: who may not see a value must not find it out by searching."""
        call = called(read_envelope(envelope), queue, self.function(job), self._masking)
        shown = [[each.value for each in call.args], {each.name: each.value for each in call.kwargs}]
        return json.dumps(text, ensure_ascii=False)[1:-1].casefold() in json.dumps(shown, ensure_ascii=False).casefold()

    def _deleted_on(self, row: Row) -> Any:
        seconds = self._keep.get(row.state.value)
        if not row.state.is_final or seconds is None:
            return None
        return moment((row.ended_at if row.ended_at is not None else row.changed_at) + seconds)


def _line(row: LogLineRow) -> LogLineView:
    return LogLineView(at=as_datetime(row.at), attempt=row.attempt, text=row.text)


def relative(row: RelationRow) -> Relative:
    """A job or batch at the other end of a continuation."""
    on = cast("End", row.on)
    return Relative(
        id=row.id, is_batch=row.is_batch, title=row.title, state=row.state, on=on, unsatisfied=row.unsatisfied
    )


def _search(query: JobsQuery) -> SearchQuery:
    return SearchQuery(
        states=() if query.state is None else (query.state,),
        retries=query.why == "retry",
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


def possible(row: Row) -> list[Can]:
    """What may be done with a job as it stands; the coordinator decides when it is asked."""
    can: list[Can] = []
    match row.state:
        case State.AWAITING:
            can = ["run_now", "delete"]
        case State.SCHEDULED:
            can = ["run_now", "reschedule", "delete"]
        case State.ENQUEUED:
            can = ["reschedule", "delete"]
        case State.PROCESSING:
            can = ["cancel"]
        case State.SUCCEEDED | State.FAILED:
            can = ["requeue", "reschedule", "delete"]
        case State.DELETED:
            can = ["requeue", "reschedule"]
    settled = row.state not in (State.ENQUEUED, State.PROCESSING) and row.publication is Publication.NONE
    if settled and row.envelope and row.reason_code not in (Reason.ALIAS, Reason.RETURNED, Reason.REPEAT):
        can.append("edit")
    return can


def _failure(text: str | None) -> ErrorView | None:
    error = read_error(text)
    if error is None:
        return None
    kind, message, traceback = error
    chain = errors_of(traceback)
    return ErrorView(
        type=kind, message=message, traceback=traceback, frames=chain[-1].frames if chain else [], chain=chain
    )


def _steps(row: Row) -> list[Step]:
    steps: list[Step] = []
    before: Instant | None = None
    for at, state, reason in row.history:
        if state in list(State):
            after = None if before is None else max(0.0, at - before)
            steps.append(Step(at=as_datetime(at), state=State(state), reason=reason, after_seconds=after))
            before = at
    return steps


def _waits_for(row: Row, dependencies: list[DependencyRow], slots: list[str], now: Instant) -> list[str]:
    """In words, what a job that has not started waits for."""
    words = [_slot_words(*key.partition(":")[::2]) for key in slots]
    for dependency in dependencies:
        what = {"job": "job", "batch": "batch"}.get(dependency.kind)
        if what is None:
            words.append("the end of the block that fills its batch")
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
            return f"its turn of {key!r}"
        case "rate":
            return f"its moment of the rate {key!r}"
        case _:
            return f"a slot of {kind} {key!r}"
