"""Prints results: a table on a terminal, tab-separated lines for grep and cut, JSON for programs."""

from __future__ import annotations

import contextlib
import json
import math
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from broker_jobs.clock import Instant
from broker_jobs.logs import mask_passwords

STATE_STYLES = {
    "succeeded": "green",
    "failed": "red",
    "deleted": "dim",
    "processing": "cyan",
    "scheduled": "yellow",
    "awaiting": "magenta",
}


def print_error(message: str) -> None:
    """One line `error: …` on stderr, red where it is a terminal. Passwords are masked."""
    line = " ".join(mask_passwords(message).split("\n"))
    typer.secho(f"error: {line}", err=True, fg=typer.colors.RED if sys.stderr.isatty() else None)


def print_json(value: object) -> None:
    """Indented JSON on stdout."""
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False, default=str))


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]], *, empty: str = "nothing") -> None:
    """Print rows on stdout. Piped, that is a header and one line per row, separated by tabs, nothing cut off."""
    texts = [[_text(cell) for cell in row] for row in rows]
    if not sys.stdout.isatty():
        for line in ([c.lower() for c in columns], *texts):
            typer.echo("\t".join(line))
        return
    if not rows:
        typer.echo(empty)
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold" if column in {"id", "reason"} else "ellipsis", no_wrap=column == "id")
    for line in texts:
        table.add_row(*(Text(cell, style=STATE_STYLES.get(cell, "")) for cell in line))
    Console().print(table)


def print_pairs(pairs: Sequence[tuple[str, object]]) -> None:
    """Print one name and its value per line."""
    width = max(len(name) for name, _ in pairs)
    for name, value in pairs:
        typer.echo(f"{name:<{width}}  {_text(value)}")


def moment(instant: Instant | None) -> str:
    """Format an instant: UTC to the second; empty for None."""
    return "" if instant is None else datetime.fromtimestamp(instant, UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def read_moment(text: str) -> float | datetime:
    """Parse seconds from now ("90", "5m", "2h", "7d") or an aware instant ("2027-01-01T09:00+03:00").

    Raises:
        typer.BadParameter: it is neither.
    """
    units = {"s": 1, "m": 60, "h": 3600, "d": 86400}
    number, unit = (text[:-1], units[text[-1]]) if text[-1:] in units else (text, 1)
    with contextlib.suppress(ValueError):
        if math.isfinite(seconds := float(number) * unit):
            return seconds
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(
            f"{text!r} is not a time; write 30s, 5m, 2h, 7d, or an instant such as 2027-01-01T09:00+03:00"
        ) from None
    if at.tzinfo is None:
        raise typer.BadParameter(f"{text!r} has no time zone; add Z or +03:00")
    return at


def _text(cell: Any) -> str:
    if cell is None:
        return ""
    return str(cell).replace("\t", " ").replace("\n", " ")
