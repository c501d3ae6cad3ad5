"""The command `subscriptions list`: which jobs a published event enqueues."""

from __future__ import annotations

import dataclasses

import typer

from broker_jobs.cli.connections import body_text, open_reader, queries_of
from broker_jobs.cli.options import AsJson, StoreUrl, Unmasked, Url, load_settings
from broker_jobs.cli.output import print_json, print_table

app = typer.Typer(help="List which jobs an event enqueues.", no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def subscriptions() -> None:
    """List which jobs an event enqueues."""


@app.command("list")
def list_subscriptions(
    unmasked: Unmasked = False, url: Url = None, store: StoreUrl = None, as_json: AsJson = False
) -> None:
    """List the subscriptions that programs declare: event, job, program."""
    settings = load_settings(url=url, store=store)
    with open_reader(settings) as reader:
        queries = queries_of(reader, settings, unmasked=unmasked)
        rows = [
            dataclasses.replace(row, call=body_text(queries, row.call.encode(), unmasked=unmasked))
            for row in reader.declarations.subscriptions()
        ]
    if as_json:
        print_json([dataclasses.asdict(row) for row in rows])
        return
    print_table(("event", "job", "service"), [(r.event, r.job, r.service) for r in rows], empty="no subscriptions")
