"""Collects the routes of all pages. Each module is one page or a few similar ones."""

from __future__ import annotations

from starlette.routing import Route

from broker_jobs.dashboard.pages import audit, batches, bulk, dead_letters, job, jobs, login, recurring, run, system


def routes() -> list[Route]:
    """The routes of every page. Those of one job come last, as the id of a job may contain slashes."""
    return [
        *system.ROUTES,
        *jobs.ROUTES,
        *bulk.ROUTES,
        *recurring.ROUTES,
        *batches.ROUTES,
        *dead_letters.ROUTES,
        *run.ROUTES,
        *audit.ROUTES,
        *login.ROUTES,
        *job.ROUTES,
    ]
