"""Holds what was measured and what follows from it: medians, spreads, percentiles, ratios. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any, Literal

Side = Literal["ours", "bare", "peer"]


@dataclass(frozen=True)
class Figure:
    """One measured thing of one library: a value a round."""

    measure: str
    """What was measured; figures of the same measure are compared."""
    name: str
    side: Side
    unit: str
    values: tuple[float, ...]
    less_is_better: bool = False
    compared: bool = True
    """Whether ratios make sense: not for a maximum of few, nor where only we have it."""
    note: str = ""

    @property
    def median(self) -> float:
        """The middle of the rounds."""
        return median(self.values)

    @property
    def spread(self) -> tuple[float, float]:
        """The worst and the best round."""
        return min(self.values), max(self.values)


@dataclass
class Row:
    """What one row of the benchmark found."""

    title: str
    figures: list[Figure] = field(default_factory=list)

    def add(self, *figures: Figure) -> None:
        """Keep figures."""
        self.figures.extend(figures)


def percentile(values: Sequence[float], percent: float) -> float:
    """The value that `percent` of all do not exceed (nearest rank); NaN of none."""
    if not values:
        return math.nan
    ordered = sorted(values)
    return ordered[max(0, math.ceil(percent / 100 * len(ordered)) - 1)]


def ratio(figure: Figure, reference: Figure | None) -> float | None:
    """How many times as good as the reference (0.5: half as good), whichever way is better; None: not compared."""
    if reference is None or not figure.compared or not figure.median or not reference.median:
        return None
    return reference.median / figure.median if figure.less_is_better else figure.median / reference.median


def best(figures: Iterable[Figure], side: Side) -> Figure | None:
    """The best figure of a side."""
    found = [figure for figure in figures if figure.side == side]
    if not found:
        return None
    return (min if found[0].less_is_better else max)(found, key=lambda figure: figure.median)


def ratios(figure: Figure, figures: Iterable[Figure]) -> tuple[float | None, float | None]:
    """A figure beside bare pika (the first named of its measure), and ours beside the best peer."""
    same = [other for other in figures if other.measure == figure.measure]
    bare = next((other for other in same if other.side == "bare"), None)
    beside_bare = None if figure is bare else ratio(figure, bare)
    return beside_bare, ratio(figure, best(same, "peer")) if figure.side == "ours" else None


def as_json(row: Row) -> dict[str, Any]:
    """A row for a file."""
    figures = []
    for figure in row.figures:
        beside_bare, beside_peer = ratios(figure, row.figures)
        figures.append(
            asdict(figure) | {"median": figure.median, "beside_bare": beside_bare, "beside_best_peer": beside_peer}
        )
    return {"title": row.title, "figures": figures}
