"""Shows the audit: every command that was applied or refused, newest first, with its author."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from broker_jobs.dashboard.context import context, url
from broker_jobs.dashboard.pages.handlers import search_text
from broker_jobs.dashboard.pages.rendering import render
from broker_jobs.dashboard.views import AuditEntry

DESCRIPTIONS = {
    "delete": "deleted a job",
    "requeue": "requeued a job",
    "reschedule": "rescheduled a job",
    "bulk delete": "deleted jobs",
    "bulk requeue": "requeued jobs",
    "bulk fail": "failed jobs that no worker knew",
    "batch delete": "deleted a batch",
    "recurring put": "added or changed a recurring job",
    "recurring declare": "declared the recurring jobs of a program",
    "recurring remove": "removed a recurring job",
    "recurring pause": "paused or resumed a recurring job",
    "recurring trigger": "ran a recurring job",
    "queue pause": "paused or resumed a queue",
    "dead letter replay": "replayed a dead letter",
    "dead letter delete": "deleted a dead letter",
    "limit set": "set a limit",
    "worker change": "changed workers",
    "subscriptions declare": "declared the subscriptions of a program",
    "store accept": "accepted a restored store",
}
"""Kind of command -> description; an unknown kind is shown as it is."""
_PAUSES = {"queue pause": "queue", "recurring pause": "recurring job"}
_PAGES = {
    "delete": ("job", "id"),
    "requeue": ("job", "id"),
    "reschedule": ("job", "id"),
    "batch delete": ("batch", "id"),
    "recurring put": ("recurring_one", "name"),
    "recurring pause": ("recurring_one", "name"),
    "recurring trigger": ("recurring_one", "name"),
    "queue pause": ("jobs", "queue"),
    "limit set": ("limits", ""),
    "worker change": ("workers", ""),
}
"""Kind of command -> route of its subject's page, and the parameter that takes the subject."""


class AuditText(NamedTuple):
    """An entry of the audit in words."""

    what: str
    detail: str
    refused: bool


def audit_text(entry: AuditEntry) -> AuditText:
    """The description of an entry, derived from the coordinator's answer."""
    try:
        answer = json.loads(entry.detail)
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        return AuditText(DESCRIPTIONS.get(entry.kind, entry.kind), entry.detail, refused=False)
    detail = answer.get("detail")
    facts = detail if isinstance(detail, dict) else {}
    what = DESCRIPTIONS.get(entry.kind, entry.kind)
    if "paused" in facts and entry.kind in _PAUSES:
        what = f"{'paused' if facts['paused'] else 'resumed'} a {_PAUSES[entry.kind]}"
    if not answer.get("ok", True):
        return AuditText(what, str(answer.get("refused") or ""), refused=True)
    return AuditText(what, "; ".join(_facts(entry.kind, facts)), refused=False)


def _facts(kind: str, facts: dict[str, Any]) -> Iterator[str]:
    """The details of an answer that are worth showing."""
    match kind:
        case "delete" if facts.get("ended"):
            yield "it had already ended"
        case "limit set":
            number = facts.get("limit")
            yield f"to {number}" if number is not None else "override removed"
        case "worker change":
            yield from _worker_facts(facts)
        case "bulk delete" | "bulk requeue" | "bulk fail":
            yield f"{facts.get('done', 0)} done"
            if facts.get("refused"):
                yield f"{facts['refused']} refused"
            if not facts.get("finished", True):
                yield "not finished"
        case "recurring put" if "cron" in facts:
            yield f"{facts['cron']} {facts.get('tz', '')}".strip()
        case "recurring trigger" if "job" in facts:
            yield f"job {facts['job']}"
        case "requeue" if facts.get("arguments"):
            yield "with new arguments"
        case _:
            pass


def _worker_facts(facts: dict[str, Any]) -> Iterator[str]:
    if facts.get("concurrency"):
        yield f"{facts['concurrency']} jobs at once"
    if facts.get("queues"):
        yield f"queues {','.join(facts['queues'])}"
    if facts.get("queue_limits") is not None:
        limits = ",".join(f"{queue}={limit}" for queue, limit in facts["queue_limits"].items())
        yield f"limits {limits}" if limits else "no limits of queues"


def page(request: Request) -> Response:
    """A page of the audit, filtered by author and by text."""
    it, cursor = context(request), request.query_params.get("cursor")
    by, text = search_text(request, "by"), search_text(request, "text")
    found = it.queries.system.audit(by=by or None, text=text or None, cursor=cursor, limit=it.page_size)
    entries = [(entry, audit_text(entry), _page_of(request, entry)) for entry in found.audit]
    return render(request, "audit.html", entries=entries, next=found.next, by=by, text=text)


def _page_of(request: Request, entry: AuditEntry) -> str | None:
    """The address of the subject's page, or None."""
    if entry.kind not in _PAGES or not entry.subject:
        return None
    route, part = _PAGES[entry.kind]
    given: dict[str, Any] = {part: entry.subject} if part else {}
    return url(request, route, **given)


ROUTES = [Route("/audit", page, name="audit")]
