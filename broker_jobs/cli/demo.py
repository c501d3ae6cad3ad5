"""The demo's door: its options are its own and are passed on as they are."""

from __future__ import annotations

import importlib

import typer

PASS_THROUGH = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


def demo(context: typer.Context) -> None:
    """Run a mail room with every kind of job."""
    # Loaded when it is asked for: its mail server should cost no other command its start.
    raise typer.Exit(importlib.import_module("broker_jobs.demo.main").run(list(context.args)))
