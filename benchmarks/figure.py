"""Holds measured values, and computes medians, spreads, percentiles and ratios. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any, Literal

LibraryKind = Literal["ours", "bare", "peer"]


@dataclass(frozen=True)
class Figure:
    """One measure of one library: one value per round."""

    measure: str
    """The measure; figures of the same measure are compared."""
    name: str
    library: LibraryKind
    unit: str
    values: tuple[float, ...]
    less_is_better: bool = False
    compared: bool = True
    """Whether ratios make sense: not for a maximum of few values, nor where only broker_jobs has it."""
    note: str = ""

    @property
    def median(self) -> float:
        """The median of the rounds."""
        return median(self.values)

    @property
    def spread(self) -> tuple[float, float]:
        """The worst and the best round."""
        return min(self.values), max(self.values)


@dataclass
class Row:
    """The figures of one row of the benchmark."""

    title: str
    figures: list[Figure] = field(default_factory=list)

    def add(self, *figures: Figure) -> None:
        """Add figures."""
        self.figures.extend(figures)


def percentile(values: Sequence[float], percent: float) -> float:
    """The value that `percent` of all values do not exceed (nearest rank); NaN if there are none."""
    if not values:
        return math.nan
    ordered = sorted(values)
    return ordered[max(0, math.ceil(percent / 100 * len(ordered)) - 1)]


def ratio(figure: Figure, reference: Figure | None) -> float | None:
    """How many times as good as the reference (0.5: half as good), less or more being better; None: not compared."""
    if reference is None or not figure.compared or not figure.median or not reference.median:
        return None
    return reference.median / figure.median if figure.less_is_better else figure.median / reference.median


def best(figures: Iterable[Figure], library: LibraryKind) -> Figure | None:
    """The best figure of a kind of library."""
    found = [figure for figure in figures if figure.library == library]
    if not found:
        return None
    return (min if found[0].less_is_better else max)(found, key=lambda figure: figure.median)


def ratios(figure: Figure, figures: Iterable[Figure]) -> tuple[float | None, float | None]:
    """The ratio to bare pika (its first figure of the measure), and that of ours to the best peer."""
    same = [other for other in figures if other.measure == figure.measure]
    bare = next((other for other in same if other.library == "bare"), None)
    ratio_to_bare = None if figure is bare else ratio(figure, bare)
    return ratio_to_bare, ratio(figure, best(same, "peer")) if figure.library == "ours" else None


def as_json(row: Row) -> dict[str, Any]:
    """A row as JSON."""
    figures = []
    for figure in row.figures:
        ratio_to_bare, ratio_to_peer = ratios(figure, row.figures)
        figures.append(
            asdict(figure)
            | {"median": figure.median, "ratio_to_bare": ratio_to_bare, "ratio_to_best_peer": ratio_to_peer}
        )
    return {"title": row.title, "figures": figures}
