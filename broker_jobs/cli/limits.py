"""The commands about limits: list reads the store, set and clear ask the coordinator."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated

import typer

from broker_jobs.cli.connections import commanding, reading
from broker_jobs.cli.options import AsJson, StoreUrl, Url, settings_of
from broker_jobs.cli.output import print_json, print_table
from broker_jobs.messages.commands import SetLimit
from broker_jobs.messages.envelope import new_id

if TYPE_CHECKING:
    from broker_jobs.store.records import LimitRow

app = typer.Typer(
    help="List the limits of jobs, and change them while they run.", no_args_is_help=True, rich_markup_mode=None
)

Key = Annotated[str, typer.Argument(metavar="KEY", help="As jobs name it.", show_default=False)]


@app.command("list")
def list_limits(url: Url = None, store: StoreUrl = None, as_json: AsJson = False) -> None:
    """List limits that are used, waited for or set: how many may, how many do, how many wait."""
    with reading(settings_of(url=url, store=store)) as reader:
        limits = reader.limits()
    if as_json:
        print_json([dataclasses.asdict(limit) for limit in limits])
        return
    print_table(
        ("kind", "key", "most", "taken", "waiting", "set"),
        [
            (*_named(limit.key), _number(limit), limit.taken, limit.waiting, "set" if limit.is_set else "")
            for limit in limits
        ],
        empty="no limits",
    )


@app.command("set")
def set_limit(
    key: Key,
    most: Annotated[int, typer.Argument(metavar="NUMBER", min=1, max=1_000_000, show_default=False)],
    url: Url = None,
) -> None:
    """Set how many may run at once, or start in a rate's time, whatever their program says. Kept until cleared."""
    _set(key, most, url)
    typer.echo(f"{key}\t{most}")


@app.command("clear")
def clear(key: Key, url: Url = None) -> None:
    """Let what jobs are enqueued with count again."""
    _set(key, None, url)
    typer.echo(f"{key}\tcleared")


def _set(key: str, most: int | None, url: str | None) -> None:
    with commanding(settings_of(url=url)) as requests:
        requests.command(SetLimit(id=new_id(), at=requests.now(), by=requests.by, key=key, limit=most))


def _number(limit: LimitRow) -> str:
    """How many may: 5, or 100 in 60 s."""
    if limit.most is None:
        return ""
    return str(limit.most) if limit.per is None else f"{limit.most} in {limit.per:g} s"


def _named(key: str) -> tuple[str, str]:
    kind, _, name = key.partition(":")
    return kind, name
