"""Shows what the store keeps as the dashboard shows it: masked, unless a person asks for all of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from broker_jobs.clock import SystemClock
from broker_jobs.dashboard.masking import Masking
from broker_jobs.settings import Settings

if TYPE_CHECKING:
    from broker_jobs.dashboard.lookup import Lookup
    from broker_jobs.store import Reader

Unmasked = Annotated[bool, typer.Option("--unmasked", help="Show what is masked too.")]


def body_of(lookup: Lookup, body: bytes, *, unmasked: bool) -> str:
    """A message or call that the store keeps, as text."""
    return body.decode(errors="replace") if unmasked else lookup.body(body)


def lookup_of(reader: Reader, settings: Settings, *, unmasked: bool) -> Lookup:
    """What the dashboard looks through; masked as there."""
    from broker_jobs.dashboard.lookup import Lookup  # noqa: PLC0415 - it reads the store: see cli/reach.py

    masking = Masking((), types=False) if unmasked else Masking(settings.mask)
    keep = {"succeeded": settings.keep_succeeded, "failed": settings.keep_failed, "deleted": settings.keep_deleted}
    return Lookup(reader, masking, SystemClock(), keep)
