"""Offers the demo: its options, and nothing of it before it is asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from broker_jobs.cli.options import StoreUrl, Url
from broker_jobs.extras import require


def demo(
    *,
    url: Url = None,
    store: StoreUrl = None,
    subscribers: Annotated[
        Path | None,
        typer.Option(
            "--subscribers",
            metavar="FILE",
            help="CSV with the columns email, name and digest (yes or no).",
            show_default="a sample",
        ),
    ] = None,
    stay: Annotated[bool, typer.Option("--stay", help="Go on with digests until Ctrl-C.")] = False,
) -> None:
    """Run a mail room with every kind of job.

    Sends mail over SMTP to a server of its own, counts what arrives, and fails unless that is what was asked.
    """
    require("broker-jobs demo", "demo")
    # Its mail server should cost no other command its start.
    from broker_jobs.demo.main import run  # noqa: PLC0415

    raise typer.Exit(run(url, store, subscribers, stay))
