"""Looks up what is no job: queues, workers, coordinators and beats, limits, dead letters, and who did what."""

from __future__ import annotations

import json
from typing import Any, Literal, cast

from broker_jobs.clock import as_datetime
from broker_jobs.dashboard.masking import read_json
from broker_jobs.dashboard.queries.base import moment, named_of
from broker_jobs.dashboard.queries.jobs import JobQueries
from broker_jobs.dashboard.views import (
    AuditLine,
    AuditPage,
    BulkView,
    ComponentView,
    DeadLetterLine,
    DeadLettersPage,
    DeadLetterView,
    FunctionView,
    LimitView,
    QueueView,
    WorkerView,
)
from broker_jobs.messages.state import State
from broker_jobs.store import AuditRow, Row, WorkerRow

SILENT_SECONDS = 15.0
"""Three heartbeats of a worker."""
COMPONENT_SILENT_SECONDS = 30.0
"""Coordinators and beats tell of themselves less often than workers."""
MOST_IN_FLIGHT = 10
"""Jobs that are shown of each worker."""
MOST_BODY_CHARS = 1_000_000


class SystemQueries(JobQueries):
    """What is asked about the rest of the house."""

    def queues(self) -> list[QueueView]:
        """Every known queue, by name."""
        now = self._clock.now()
        living = [worker for worker in self._reader.workers() if not is_silent(worker, now)]
        return [
            QueueView(
                name=row.name,
                paused=row.paused,
                enqueued=row.counts.get(State.ENQUEUED, 0),
                processing=row.counts.get(State.PROCESSING, 0),
                scheduled=row.counts.get(State.SCHEDULED, 0),
                failed=row.counts.get(State.FAILED, 0),
                oldest_seconds=None if row.oldest is None else max(0.0, now - row.oldest),
                ended_per_minute=row.ended_per_minute,
                workers=sum(row.name in worker.queues for worker in living),
            )
            for row in self._reader.queue_rows(now)
        ]

    def workers(self) -> list[WorkerView]:
        """All workers known, by host and slot, with what they run."""
        return self._workers(self._reader.running_by_worker(MOST_IN_FLIGHT))

    def _workers(self, running: dict[str, list[Row]]) -> list[WorkerView]:
        now = self._clock.now()
        return [
            WorkerView(
                id=row.id, host=row.host, pid=row.pid, slot=row.slot, queues=list(row.queues),
                concurrency=row.concurrency, running=row.running, done=row.done, cpu_percent=row.cpu_percent,
                rss_bytes=row.rss_bytes, version=row.version, started_at=moment(row.started_at or None),
                seen_at=as_datetime(row.seen_at), silent=is_silent(row, now), lost=row.lost,
                jobs=self._lines(running.get(row.id, [])),
            )
            for row in self._reader.workers()
        ]  # fmt: skip

    def components(self) -> list[ComponentView]:
        """Coordinators and beats as they were last seen."""
        now = self._clock.now()
        return [
            ComponentView(
                kind=cast("Literal['coordinator', 'beat']", row.kind), id=row.id, host=row.host, pid=row.pid,
                version=row.version, active=row.active, seen_at=as_datetime(row.seen_at),
                silent=now - row.seen_at > COMPONENT_SILENT_SECONDS,
            )
            for row in self._reader.components()
        ]  # fmt: skip

    def limits(self) -> list[LimitView]:
        """Limits that jobs use or wait for, and those a person has set."""
        views = []
        for row in self._reader.limits():
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
        """A page of dead letters, the newest first. Raises UsageError: the cursor is none."""
        found = self._reader.dead_letters_page(cursor=cursor, limit=limit)
        return DeadLettersPage(
            dead_letters=[
                DeadLetterLine(
                    id=row.id, at=as_datetime(row.at), origin=row.origin, reason=row.reason, size=row.size,
                    type=row.type,
                )
                for row in found.dead_letters
            ],
            next=found.next,
            total=self._reader.dead_letter_count(),
        )  # fmt: skip

    def dead_letter(self, id: str) -> DeadLetterView | None:
        """One dead letter with its body; None: it is not there any more."""
        row = self._reader.dead_letter(id)
        if row is None:
            return None
        return DeadLetterView(
            id=row.id,
            at=as_datetime(row.at),
            origin=row.origin,
            reason=row.reason,
            size=len(row.body),
            type=row.type,
            body=self.body(row.body)[:MOST_BODY_CHARS],
            exchange=row.exchange,
            key=row.key,
            message_id=row.message_id,
        )

    def audit(
        self, *, by: str | None = None, text: str | None = None, cursor: str | None = None, limit: int = 100
    ) -> AuditPage:
        """A page of what was commanded, the newest first.

        Args:
            by: who did it, whole.
            text: part of who, of the kind or the subject.
            cursor: of the page before.
            limit: at most so many.

        Raises:
            UsageError: the cursor is of another query.
        """
        found = self._reader.audit_page(by=by or None, text=text or None, cursor=cursor, limit=limit)
        return AuditPage(audit=[self._audit_line(row) for row in found.audit], next=found.next)

    def bulk(self, id: str) -> BulkView | None:
        """How far a command about many jobs has come; None: no such command is known."""
        row = self._reader.command(id)
        if row is None or not row.kind.startswith("bulk "):
            return None
        detail = read_json(row.detail).get("detail", {})
        return BulkView(**{name: detail.get(name, 0) for name in BulkView.model_fields})

    def _audit_line(self, row: AuditRow) -> AuditLine:
        return AuditLine(
            id=row.id, at=as_datetime(row.at), by=row.by, kind=row.kind, subject=self._masking.text(row.subject),
            detail=self._masking.text(row.detail),
        )  # fmt: skip

    def body(self, body: bytes) -> str:
        """A message's body as text, masked, also in envelopes inside it; of one that is no JSON what may be shown."""
        declared = self._declared()
        text = body.decode(json.detect_encoding(body), "backslashreplace")
        return self._masking.message(text, lambda value: self._envelope(value, declared))

    def _envelope(self, value: dict[str, Any], declared: dict[str, FunctionView]) -> dict[str, Any]:
        """A JSON object as it may be shown; the positional arguments of a call have names only here."""
        args, kwargs = value.get("args"), value.get("kwargs")
        if not isinstance(args, list) and not isinstance(kwargs, dict):
            return value
        named = named_of(declared.get(str(value.get("job", ""))))
        given, more = self._masking.arguments(
            args if isinstance(args, list) else [], kwargs if isinstance(kwargs, dict) else {}, named
        )
        shown = dict(value)
        if isinstance(args, list):
            shown["args"] = [each.value for each in given]
        if isinstance(kwargs, dict):
            shown["kwargs"] = {each.name: each.value for each in more}
        return shown


def is_silent(worker: WorkerRow, now: float) -> bool:
    return worker.lost or now - worker.seen_at > SILENT_SECONDS
