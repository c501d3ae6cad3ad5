"""The commands about recurring jobs: list reads the store, the others ask the coordinator."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import typer

from broker_jobs.cli.options import AsJson, StoreUrl, Url, settings_of
from broker_jobs.cli.reach import asking, reading
from broker_jobs.cli.show import moment, print_json, print_table

app = typer.Typer(help="List, trigger, pause and remove recurring jobs.", no_args_is_help=True, rich_markup_mode=None)

Name = Annotated[str, typer.Argument(metavar="NAME", show_default=False)]


@app.command("list")
def list_recurring(url: Url = None, store: StoreUrl = None, as_json: AsJson = False) -> None:
    """List recurring jobs."""
    with reading(settings_of(url=url, store=store)) as reader:
        schedules = reader.schedules()
    if as_json:
        print_json([dataclasses.asdict(schedule) for schedule in schedules])
        return
    print_table(
        ("name", "cron", "tz", "paused", "last planned", "last job", "misfire", "overlap", "origin"),
        [
            (
                s.name,
                s.cron,
                s.tz,
                "paused" if s.paused else "",
                moment(s.last_planned_at),
                s.last_job_id,
                s.misfire,
                s.overlap,
                s.origin or "put at run time",
            )
            for s in schedules
        ],
        empty="no recurring jobs",
    )


@app.command("trigger")
def trigger(name: Name, url: Url = None) -> None:
    """Run one now, beside its schedule; prints the id of the job."""
    with asking(settings_of(url=url)) as jobs:
        typer.echo(jobs.recurring.trigger(name).id)


@app.command("pause")
def pause(name: Name, url: Url = None) -> None:
    """Let its times pass until it is resumed."""
    with asking(settings_of(url=url)) as jobs:
        jobs.recurring.pause(name)
    typer.echo(f"{name}\tpaused")


@app.command("resume")
def resume(name: Name, url: Url = None) -> None:
    """Fire again at its times."""
    with asking(settings_of(url=url)) as jobs:
        jobs.recurring.resume(name)
    typer.echo(f"{name}\tresumed")


@app.command("remove")
def remove(name: Name, url: Url = None) -> None:
    """Remove it. One that code declares comes back with the next start of its beat."""
    with asking(settings_of(url=url)) as jobs:
        jobs.recurring.remove(name)
    typer.echo(f"{name}\tremoved")
