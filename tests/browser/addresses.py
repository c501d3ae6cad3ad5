"""The pages of the dashboard, each by a plain word, for the system of `conftest.py`."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from tests.support.hostile import JOB, SLASHED


def pages_of(system: Any) -> dict[str, str]:
    """Every page there is, most of them full of hostile texts."""
    hostile = system.hostile
    made, batches = hostile.made, hostile.batches
    dead_letters = system.store.reader.dead_letters.oldest(1)[0].id
    return {
        "overview": "/",
        "jobs": "/jobs",
        "jobs-failed": "/jobs?state=failed&error_text=alert",
        "job-failed": f"/jobs/{made['failed'].id}",
        "job-running": f"/jobs/{made['running'].id}",
        "job-long": f"/jobs/{made['long'].id}",
        "job-edit": f"/jobs/{made['failed'].id}/edit",
        "bulk": "/jobs/bulk?state=failed&action=requeue",
        "retries": "/retries",
        "queues": "/queues",
        "recurring": "/recurring",
        "recurring-one": f"/recurring/{quote(SLASHED)}",
        "recurring-declared": "/recurring/declared/in/code",
        "recurring-choose": "/recurring-new",
        "recurring-new": f"/recurring-new?job={quote(JOB)}",
        "batches": "/batches",
        "batch": f"/batches/{batches['import'].id}",
        "workers": "/workers",
        "limits": "/limits",
        "dead": "/dead-letters",
        "dead-letter": f"/dead-letters/{quote(dead_letters)}",
        "run": "/run",
        "run-one": f"/run/{quote(JOB)}",
        "audit": "/audit",
        "not-found": "/jobs/%3Cscript%3Ealert(1)%3C%2Fscript%3E",
    }


NAMES = (
    "overview", "jobs", "jobs-failed", "job-failed", "job-running", "job-long", "job-edit", "bulk", "retries", "queues",
    "recurring", "recurring-one", "recurring-declared", "recurring-choose", "recurring-new", "batches", "batch",
    "workers", "limits", "dead", "dead-letter", "run", "run-one", "audit", "not-found",
)  # fmt: skip
"""Of `pages_of`, for tests that are made before there is a system."""
