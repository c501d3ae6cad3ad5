"""Who did what, and when: every command that was applied or refused, newest first."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from broker_jobs.dashboard.pages.frame import context, show, sought, url
from broker_jobs.dashboard.views import AuditLine

WORDS = {
    "delete": "deleted a job",
    "requeue": "requeued a job",
    "reschedule": "gave a job another time",
    "bulk delete": "deleted jobs",
    "bulk requeue": "requeued jobs",
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
    "subscriptions declare": "declared the subscriptions of a program",
    "store accept": "accepted a restored store",
}
"""What each kind of command is called here; one that is not named says its kind."""
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
}
"""Where the subject of a command is shown: route, and what of it the subject is."""


class AuditText(NamedTuple):
    """A line of the audit in words."""

    what: str
    detail: str
    refused: bool


def audit_text(line: AuditLine) -> AuditText:
    """What was done, from what the coordinator answered."""
    try:
        answer = json.loads(line.detail)
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        return AuditText(WORDS.get(line.kind, line.kind), line.detail, refused=False)
    detail = answer.get("detail")
    facts = detail if isinstance(detail, dict) else {}
    what = WORDS.get(line.kind, line.kind)
    if "paused" in facts and line.kind in _PAUSES:
        what = f"{'paused' if facts['paused'] else 'resumed'} a {_PAUSES[line.kind]}"
    if not answer.get("ok", True):
        return AuditText(what, str(answer.get("refused") or ""), refused=True)
    return AuditText(what, "; ".join(_facts(line.kind, facts)), refused=False)


def _facts(kind: str, facts: dict[str, Any]) -> Iterator[str]:
    """What is worth saying of an answer."""
    match kind:
        case "delete" if facts.get("ended"):
            yield "it had ended already"
        case "limit set":
            number = facts.get("limit")
            yield f"to {number}" if number is not None else "unset"
        case "bulk delete" | "bulk requeue":
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
            yield "with other arguments"
        case _:
            pass


def page(request: Request) -> Response:
    """A page of the audit, filtered by who and by text."""
    it, asked = context(request), request.query_params
    by, text = sought(request, "by"), sought(request, "text")
    found = it.queries.audit(by=by or None, text=text or None, cursor=asked.get("cursor"), limit=it.page_size)
    lines = [(line, audit_text(line), _page_of(request, line)) for line in found.audit]
    return show(request, "audit.html", lines=lines, next=found.next, by=by, text=text)


def _page_of(request: Request, line: AuditLine) -> str | None:
    """The page of what a command was about, where there is one."""
    if line.kind not in _PAGES or not line.subject:
        return None
    route, part = _PAGES[line.kind]
    given: dict[str, Any] = {part: line.subject} if part else {}
    return url(request, route, **given)


ROUTES = [Route("/audit", page, name="audit")]
