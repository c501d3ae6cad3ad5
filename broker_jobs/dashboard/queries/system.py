"""Reads queues, workers, coordinators and beats, limits, dead letters and the audit."""

from __future__ import annotations

import json
from typing import Any, Literal, cast

from broker_jobs.clock import as_datetime
from broker_jobs.dashboard.masking import read_json
from broker_jobs.dashboard.queries.jobs import JobQueries
from broker_jobs.dashboard.queries.query_context import QueryContext, optional_datetime, parameter_names
from broker_jobs.dashboard.views import (
    AuditEntry,
    AuditPage,
    BulkView,
    ComponentView,
    DeadLetterEntry,
    DeadLettersPage,
    DeadLetterView,
    FunctionView,
    LimitView,
    QueueView,
    WorkerView,
)
from broker_jobs.messages.state import State
from broker_jobs.store import AuditRow, WorkerRow

SILENT_SECONDS = 15.0
"""Three heartbeats of a worker."""
COMPONENT_SILENT_SECONDS = 30.0
"""Coordinators and beats send heartbeats less often than workers."""
MAX_RUNNING_JOBS = 10
"""Running jobs shown of each worker."""
MAX_BODY_CHARS = 1_000_000


class SystemQueries:
    """Queries about everything that is not a job, batch or recurring job."""

    def __init__(self, context: QueryContext, jobs: JobQueries) -> None:
        self._reader = context.reader
        self._masking = context.masking
        self._clock = context.clock
        self._functions = context.functions
        self._jobs = jobs

    def queues(self) -> list[QueueView]:
        """Every known queue, by name."""
        now = self._clock.now()
        alive = [worker for worker in self._reader.processes.workers() if not is_silent(worker, now)]
        return [
            QueueView(
                name=row.name,
                paused=row.paused,
                enqueued=row.counts.get(State.ENQUEUED, 0),
                enqueued_high=row.waiting["high"],
                enqueued_low=row.waiting["low"],
                processing=row.counts.get(State.PROCESSING, 0),
                scheduled=row.counts.get(State.SCHEDULED, 0),
                failed=row.counts.get(State.FAILED, 0),
                oldest_seconds=None if row.oldest is None else max(0.0, now - row.oldest),
                ended_per_minute=row.ended_per_minute,
                workers=sum(row.name in worker.queues for worker in alive),
            )
            for row in self._reader.queues.rows(now)
        ]

    def workers(self, *, with_jobs: bool = True) -> list[WorkerView]:
        """All known workers, by host and slot, with their running jobs unless these are not needed."""
        running = self._reader.jobs.running_by_worker(MAX_RUNNING_JOBS) if with_jobs else {}
        now = self._clock.now()
        return [
            WorkerView(
                id=row.id, host=row.host, pid=row.pid, slot=row.slot, queues=list(row.queues),
                concurrency=row.concurrency, running=row.running, done=row.done, cpu_percent=row.cpu_percent,
                rss_bytes=row.rss_bytes, version=row.version, service=row.service,
                started_at=optional_datetime(row.started_at or None),
                seen_at=as_datetime(row.seen_at), silent=is_silent(row, now), lost=row.lost,
                served=list(row.served or row.queues), queue_limits=row.queue_limits,
                busy_since=optional_datetime(row.silent_since), problem=row.problem, busy=row.busy,
                jobs=self._jobs.summaries(running.get(row.id, [])),
            )
            for row in self._reader.processes.workers()
        ]  # fmt: skip

    def components(self) -> list[ComponentView]:
        """Coordinators and beats, as of their last heartbeat."""
        now = self._clock.now()
        return [
            ComponentView(
                kind=cast("Literal['coordinator', 'beat']", row.kind), id=row.id, host=row.host, pid=row.pid,
                version=row.version, active=row.active, seen_at=as_datetime(row.seen_at),
                silent=now - row.seen_at > COMPONENT_SILENT_SECONDS,
            )
            for row in self._reader.processes.components()
        ]  # fmt: skip

    def limits(self) -> list[LimitView]:
        """Limits that jobs use or wait for, and limits set by a person."""
        views = []
        for row in self._reader.limits.all():
            kind, _, key = row.key.partition(":")
            views.append(
                LimitView(
                    kind=kind,  # type: ignore[arg-type]  # one of the kinds
                    key=key,
                    limit=row.most,
                    taken=row.taken,
                    waiting=row.waiting,
                    is_set=row.is_set,
                )
            )
        return views

    def dead_letters(self, *, cursor: str | None = None, limit: int = 50) -> DeadLettersPage:
        """A page of dead letters, newest first. Raises UsageError: the cursor belongs to another query."""
        found = self._reader.dead_letters.page(cursor=cursor, limit=limit)
        return DeadLettersPage(
            dead_letters=[
                DeadLetterEntry(
                    id=row.id, at=as_datetime(row.at), origin=row.origin, reason=row.reason, size=row.size,
                    type=row.type,
                )
                for row in found.dead_letters
            ],
            next=found.next,
            total=self._reader.dead_letters.count(),
        )  # fmt: skip

    def dead_letter(self, id: str) -> DeadLetterView | None:
        """One dead letter with its body, or None."""
        row = self._reader.dead_letters.get(id)
        if row is None:
            return None
        return DeadLetterView(
            id=row.id,
            at=as_datetime(row.at),
            origin=row.origin,
            reason=row.reason,
            size=len(row.body),
            type=row.type,
            body=self.mask_body(row.body)[:MAX_BODY_CHARS],
            exchange=row.exchange,
            key=row.key,
            message_id=row.message_id,
            user_id=row.user_id,
        )

    def audit(
        self, *, by: str | None = None, text: str | None = None, cursor: str | None = None, limit: int = 100
    ) -> AuditPage:
        """A page of the commands that were applied or refused, newest first.

        Args:
            by: the person or program, in full.
            text: part of the person, kind or subject.
            cursor: from the previous page.
            limit: at most this many.

        Raises:
            UsageError: the cursor belongs to another query.
        """
        found = self._reader.audit.page(by=by or None, text=text or None, cursor=cursor, limit=limit)
        return AuditPage(audit=[self._audit_entry(row) for row in found.audit], next=found.next)

    def bulk(self, id: str) -> BulkView | None:
        """The progress of a bulk command, or None."""
        row = self._reader.audit.get(id)
        if row is None or not row.kind.startswith("bulk "):
            return None
        detail = read_json(row.detail).get("detail", {})
        return BulkView(**{name: detail.get(name, 0) for name in BulkView.model_fields})

    def _audit_entry(self, row: AuditRow) -> AuditEntry:
        return AuditEntry(
            id=row.id, at=as_datetime(row.at), by=row.by, user_id=row.user_id, kind=row.kind,
            subject=self._masking.text(row.subject),
            detail=self._masking.text(row.detail),
        )  # fmt: skip

    def mask_body(self, body: bytes) -> str:
        """A message's body as text, masked also inside envelopes; text that is no JSON is cut at a hidden name."""
        functions = self._functions.by_name()
        text = body.decode(json.detect_encoding(body), "backslashreplace")
        return self._masking.message(text, lambda value: self._mask_envelope(value, functions))

    def _mask_envelope(self, value: dict[str, Any], functions: dict[str, FunctionView]) -> dict[str, Any]:
        """A JSON object with its call masked: only the function gives positional arguments their names."""
        args, kwargs = value.get("args"), value.get("kwargs")
        if not isinstance(args, list) and not isinstance(kwargs, dict):
            return value
        names = parameter_names(functions.get(str(value.get("job", ""))))
        positional, named = self._masking.arguments(
            args if isinstance(args, list) else [], kwargs if isinstance(kwargs, dict) else {}, names
        )
        shown = dict(value)
        if isinstance(args, list):
            shown["args"] = [each.value for each in positional]
        if isinstance(kwargs, dict):
            shown["kwargs"] = {each.name: each.value for each in named}
        return shown


def is_silent(worker: WorkerRow, now: float) -> bool:
    """Whether a worker has missed three heartbeats, or is lost."""
    return worker.lost or now - worker.seen_at > SILENT_SECONDS
