"""Prints rows as a table: in colour on a terminal, plain elsewhere."""

from __future__ import annotations

import sys

from rich.console import Console
from rich.table import Table

from benchmarks.figure import Figure, Row, ratios

PLAIN_WIDTH = 150


def show(row: Row) -> None:
    """Print one row of the benchmark."""
    console = Console(width=None if sys.stdout.isatty() else PLAIN_WIDTH, highlight=False)
    table = Table(title=row.title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    for header in ("measure", "of", "median", "min to max", "x bare pika", "x best peer", ""):
        table.add_column(header, justify="left" if header in {"measure", "of", ""} else "right", no_wrap=bool(header))
    measure = ""
    for figure in row.figures:
        ratio_to_bare, ratio_to_peer = ratios(figure, row.figures)
        low, high = figure.spread
        table.add_row(
            figure.measure if figure.measure != measure else "",
            figure.name,
            f"{shown(figure.median)} {figure.unit}",
            f"{shown(low)} to {shown(high)}" if len(figure.values) > 1 else "",
            _ratio(ratio_to_bare),
            _ratio(ratio_to_peer),
            figure.note,
            style=_style(figure),
        )
        measure = figure.measure
    console.print(table)
    console.print()


def shown(value: float) -> str:
    """A number with three significant digits."""
    if value != value:  # noqa: PLR0124  # NaN
        return "-"
    if abs(value) >= 100 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.2f}" if abs(value) < 10 else f"{value:.1f}"


def _ratio(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _style(figure: Figure) -> str:
    return "bold" if figure.library == "ours" else "dim" if figure.library == "bare" else ""
