"""The demo's door: its options are its own and are passed on as they are."""

from __future__ import annotations

import typer

from broker_jobs.demo.main import run

PASS_THROUGH = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


def demo(context: typer.Context) -> None:
    """Run a mail room with every kind of job: the first thing to look at."""
    raise typer.Exit(run(list(context.args)))
