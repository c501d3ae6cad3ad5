"""Gathers the pages: each module is one, with its list of routes."""

from __future__ import annotations

from starlette.routing import Route

from broker_jobs.dashboard.pages import (
    audit,
    batches,
    dead_letters,
    jobs,
    limits,
    login,
    overview,
    queues,
    recurring,
    retries,
    run,
    workers,
)


def routes() -> list[Route]:
    """The routes of every page."""
    return [
        *audit.ROUTES,
        *batches.ROUTES,
        *jobs.ROUTES,
        *limits.ROUTES,
        *login.ROUTES,
        *overview.ROUTES,
        *dead_letters.ROUTES,
        *queues.ROUTES,
        *recurring.ROUTES,
        *retries.ROUTES,
        *run.ROUTES,
        *workers.ROUTES,
    ]
