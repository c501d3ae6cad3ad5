"""Commands about limits: list reads the store, set and clear go to the coordinator."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated

import typer

from broker_jobs.cli.connections import open_reader, open_request_client
from broker_jobs.cli.options import AsJson, StoreUrl, Url, load_settings
from broker_jobs.cli.output import print_json, print_table
from broker_jobs.messages.commands import SetLimit
from broker_jobs.messages.envelope import new_id

if TYPE_CHECKING:
    from broker_jobs.store.records import LimitRow

app = typer.Typer(
    help="List the limits of jobs, and change them at run time.", no_args_is_help=True, rich_markup_mode=None
)

Key = Annotated[str, typer.Argument(metavar="KEY", help="Key of the limit, as jobs name it.", show_default=False)]


@app.command("list")
def list_limits(url: Url = None, store: StoreUrl = None, as_json: AsJson = False) -> None:
    """List the limits in use or set: how many jobs are allowed, how many run, how many wait."""
    with open_reader(load_settings(url=url, store=store)) as reader:
        limits = reader.limits.all()
    if as_json:
        print_json([dataclasses.asdict(limit) for limit in limits])
        return
    print_table(
        ("kind", "key", "limit", "in use", "waiting", "override"),
        [
            (*_kind_and_name(limit.key), _allowed(limit), limit.taken, limit.waiting, "set" if limit.is_set else "")
            for limit in limits
        ],
        empty="no limits",
    )


@app.command("set")
def set_limit(
    key: Key,
    number: Annotated[
        int,
        typer.Argument(
            metavar="NUMBER",
            min=0,
            max=1_000_000,
            help="Jobs at once; of a rate: starts in its period. 0 holds all jobs of the key back.",
            show_default=False,
        ),
    ],
    url: Url = None,
) -> None:
    """Override the number of a limit, until it is cleared; the number in the code is ignored."""
    _set(key, number, url)
    typer.echo(f"{key}\t{number}")


@app.command("clear")
def clear(key: Key, url: Url = None) -> None:
    """Remove an override: the number in the code applies again."""
    _set(key, None, url)
    typer.echo(f"{key}\tcleared")


def _set(key: str, number: int | None, url: str | None) -> None:
    with open_request_client(load_settings(url=url)) as requests:
        requests.command(SetLimit(id=new_id(), at=requests.now(), by=requests.by, key=key, limit=number))


def _allowed(limit: LimitRow) -> str:
    """How many jobs are allowed: 5, or 100 in 60 s."""
    if limit.most is None:
        return ""
    return str(limit.most) if limit.per is None else f"{limit.most} in {limit.per:g} s"


def _kind_and_name(key: str) -> tuple[str, str]:
    kind, _, name = key.partition(":")
    return kind, name
