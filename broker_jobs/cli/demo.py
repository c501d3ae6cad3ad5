"""The command `demo`: its options; the demo itself is imported only when it runs."""

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
            help="CSV file with the columns email, name and digest (yes or no).",
            show_default="a sample of 40",
        ),
    ] = None,
    stay: Annotated[bool, typer.Option("--stay", help="Keep running and sending digests until Ctrl-C.")] = False,
) -> None:
    """Send mail with every kind of job, for about ten seconds.

    Starts an SMTP server on this machine, sends mail to it, counts what arrives, and fails unless every mail that was
    requested arrived exactly once.
    """
    require("broker-jobs demo", "demo")
    # Imported here, so that no other command loads the mail server.
    from broker_jobs.demo.main import run  # noqa: PLC0415

    raise typer.Exit(run(url, store, subscribers, stay))
