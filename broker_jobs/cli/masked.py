"""Shows what the store keeps as the dashboard shows it: masked, unless a person asks for all of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from broker_jobs.clock import SystemClock
from broker_jobs.dashboard.masking import Masking
from broker_jobs.settings import Settings

if TYPE_CHECKING:
    from broker_jobs.dashboard.queries import Queries
    from broker_jobs.store import Reader

Unmasked = Annotated[bool, typer.Option("--unmasked", help="Show what is masked too.")]


def body_of(queries: Queries, body: bytes, *, unmasked: bool) -> str:
    """A message or call that the store keeps, as text."""
    return body.decode(errors="replace") if unmasked else queries.body(body)


def queries_of(reader: Reader, settings: Settings, *, unmasked: bool) -> Queries:
    """What the dashboard looks through; masked as there."""
    from broker_jobs.dashboard.queries import Queries  # noqa: PLC0415 - it reads the store: see cli/connections.py

    masking = Masking((), types=False) if unmasked else Masking(settings.mask)
    keep = {"succeeded": settings.keep_succeeded, "failed": settings.keep_failed, "deleted": settings.keep_deleted}
    return Queries(reader, masking, SystemClock(), keep)
