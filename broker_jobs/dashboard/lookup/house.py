"""Looks up what is no job: queues, workers, coordinators and beats, limits, parked messages, and who did what."""

from __future__ import annotations

from typing import Any

from broker_jobs.clock import as_datetime
from broker_jobs.dashboard.lookup.jobs import JobLookup
from broker_jobs.dashboard.lookup.known import moment, named_of
from broker_jobs.dashboard.masking import read_json
from broker_jobs.dashboard.views import (
    AuditLine,
    AuditPage,
    BulkView,
    FunctionView,
    LimitView,
    ParkedLine,
    ParkedPage,
    ParkedView,
    PartView,
    QueueView,
    WorkerView,
)
from broker_jobs.job.state import State
from broker_jobs.store import AuditRow, ParkedRow, WorkerRow

SILENT_SECONDS = 15.0
"""Three heartbeats of a worker."""
RATE_SECONDS = 300.0
MOST_IN_FLIGHT = 1_000
MOST_BODY_CHARS = 1_000_000


class HouseLookup(JobLookup):
    """What is asked about the rest of the house."""

    def queues(self) -> list[QueueView]:
        """Every known queue, by name."""
        now = self._clock.now()
        paused, counts = self._reader.queues(), self._reader.counts_by_queue()
        living = [worker for worker in self._reader.workers() if not _is_silent(worker, now)]
        views = []
        for name in sorted({*paused, *counts}):
            of_states = counts.get(name, {})
            oldest = self._reader.oldest(name)
            views.append(
                QueueView(
                    name=name,
                    paused=paused.get(name, False),
                    enqueued=of_states.get(State.ENQUEUED, 0),
                    processing=of_states.get(State.PROCESSING, 0),
                    scheduled=of_states.get(State.SCHEDULED, 0),
                    failed=of_states.get(State.FAILED, 0),
                    oldest_seconds=None if oldest is None else max(0.0, now - oldest),
                    ended_per_minute=0.0,
                    workers=sum(name in worker.queues for worker in living),
                )
            )
        return views

    def workers(self) -> list[WorkerView]:
        """All workers known, by host and slot."""
        now = self._clock.now()
        running = self._reader.jobs(state=State.PROCESSING, limit=MOST_IN_FLIGHT)
        lines = self._lines(running)
        return [
            WorkerView(
                id=row.id, host=row.host, pid=row.pid, slot=row.slot, queues=list(row.queues),
                concurrency=row.concurrency, running=row.running, done=row.done, cpu_percent=row.cpu_percent,
                rss_bytes=row.rss_bytes, version=row.version, started_at=moment(row.started_at or None),
                seen_at=as_datetime(row.seen_at), silent=_is_silent(row, now), lost=row.lost,
                jobs=[line for line in lines if line.worker == row.id],
            )
            for row in self._reader.workers()
        ]  # fmt: skip

    def parts(self) -> list[PartView]:
        """Coordinators and beats as they were last seen."""
        return []

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

    def parked(self, *, cursor: str | None = None, limit: int = 50) -> ParkedPage:
        """A page of parked messages, the oldest first."""
        del cursor
        rows = self._reader.parked(limit)
        return ParkedPage(parked=[_parked_line(row) for row in rows], next=None, total=self._reader.parked_count())

    def parked_message(self, id: str) -> ParkedView | None:
        """One parked message with its body; None: it is not there any more."""
        row = next((each for each in self._reader.parked(10_000) if each.id == id), None)
        if row is None:
            return None
        return ParkedView(
            **_parked_line(row).model_dump(),
            body=self._body(row.body),
            exchange=row.exchange,
            key=row.key,
            message_id=row.message_id,
        )

    def audit(
        self, *, by: str | None = None, text: str | None = None, cursor: str | None = None, limit: int = 100
    ) -> AuditPage:
        """A page of what was commanded, the newest first."""
        del by, text, cursor
        return AuditPage(audit=[self._audit_line(row) for row in self._reader.audit(limit)], next=None)

    def bulk(self, id: str) -> BulkView | None:
        """How far a command about many jobs has come; None: no such command is known."""
        row = next((each for each in self._reader.audit(1_000) if each.id == id), None)
        if row is None or not row.kind.startswith("bulk "):
            return None
        detail = read_json(row.detail).get("detail", {})
        return BulkView(**{name: detail.get(name, 0) for name in BulkView.model_fields})

    def _audit_line(self, row: AuditRow) -> AuditLine:
        return AuditLine(
            id=row.id, at=as_datetime(row.at), by=row.by, kind=row.kind, subject=self._masking.text(row.subject),
            detail=self._masking.text(row.detail),
        )  # fmt: skip

    def _body(self, body: bytes) -> str:
        """A message's body as text, masked where it is JSON, also in envelopes inside it."""
        declared = self._declared()
        text = body.decode("utf-8", "backslashreplace")
        return self._masking.text(text, lambda value: self._envelope(value, declared))[:MOST_BODY_CHARS]

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


def _is_silent(worker: WorkerRow, now: float) -> bool:
    return worker.lost or now - worker.seen_at > SILENT_SECONDS


def _parked_line(row: ParkedRow) -> ParkedLine:
    return ParkedLine(
        id=row.id, at=as_datetime(row.at), origin=row.origin, reason=row.reason, size=len(row.body), type=row.type
    )
