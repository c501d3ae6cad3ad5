"""Computes the charts of the pages: the bars of a history, and the graph of a job's relations. Pure.

The input is numbers, the output coordinates and paths; the templates write the SVG. Colours are CSS classes, so that
they follow the theme; each colour also has a pattern and a word.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, NamedTuple

from broker_jobs.dashboard.views import History, HistoryPoint, JobView

# --- the history as bars ---

WIDTH, HEIGHT = 720, 150
LEFT, TOP, BOTTOM = 44, 8, 20
SERIES = ("failed", "deleted", "succeeded")
"""From the bottom up: the rare and important series is on the base line."""
MIN_BAR_HEIGHT = 2.0
"""Height of a small bar: three failures among a million jobs must be visible."""


class AxisLabel(NamedTuple):
    """A label of an axis."""

    at: float
    text: str


class HistoryRow(NamedTuple):
    """A row of the table below the bars, with the same numbers."""

    at: datetime
    until: datetime
    succeeded: int
    failed: int
    deleted: int


@dataclass(frozen=True)
class BarChart:
    """A history as stacked bars."""

    paths: dict[str, str]
    x_labels: list[AxisLabel]
    y_labels: list[AxisLabel]
    totals: dict[str, int]
    table: list[HistoryRow]
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    baseline: int = HEIGHT - BOTTOM


def bar_chart(history: History, rows: int = 24) -> BarChart:
    """A history as stacked bars. One path per series, so that a week by hours has a few kilobytes.

    Args:
        history: the numbers.
        rows: at most this many rows in the table; neighbouring intervals are summed.
    """
    points = history.points
    top = round_up(max((point.succeeded + point.failed + point.deleted for point in points), default=0))
    step = (WIDTH - LEFT) / max(len(points), 1)
    gap = min(2.0, step * 0.2)
    baseline = HEIGHT - BOTTOM
    drawn: dict[str, list[str]] = {name: [] for name in SERIES}
    for index, point in enumerate(points):
        floor = float(baseline)
        for name in SERIES:
            n = getattr(point, name)
            if n:
                high = max(n / top * (baseline - TOP), MIN_BAR_HEIGHT)
                drawn[name].append(f"M{LEFT + index * step:.1f} {floor:.1f}v-{high:.1f}h{step - gap:.1f}v{high:.1f}z")
                floor -= high
    return BarChart(
        paths={name: "".join(parts) for name, parts in drawn.items()},
        x_labels=_x_labels(history, step),
        y_labels=[
            AxisLabel(baseline, "0"),
            AxisLabel(baseline - (baseline - TOP) / 2, axis_number(top / 2)),
            AxisLabel(TOP, axis_number(top)),
        ],
        totals={name: sum(getattr(point, name) for point in points) for name in SERIES},
        table=_table(history, rows),
    )


def round_up(most: int) -> int:
    """The next round number, for the top of an axis."""
    power = int(f"1{'0' * (len(str(max(most, 1))) - 1)}")
    return max(2, next(factor * power for factor in (1, 2, 5, 10) if factor * power >= most))


def axis_number(number: float) -> str:
    """A short number: 950, 1.2k, 3M."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g}{letter}"
    return f"{number:g}"


def _x_labels(history: History, step: float) -> list[AxisLabel]:
    points = history.points
    if history.span == "week":
        marks = [(index, f"{point.at:%a} {point.at.day}") for index, point in enumerate(points) if point.at.hour == 0]
    elif history.span == "day":
        marks = [(index, f"{point.at:%H}:00") for index, point in enumerate(points) if point.at.hour % 3 == 0]
    else:
        marks = [(index, f"{point.at:%H:%M}") for index, point in enumerate(points) if point.at.minute % 10 == 0]
    return [AxisLabel(round(LEFT + index * step, 1), text) for index, text in marks if LEFT + index * step < WIDTH - 30]


def _table(history: History, rows: int) -> list[HistoryRow]:
    points: Sequence[HistoryPoint] = history.points
    each = max(1, -(-len(points) // rows))
    found = []
    for first in range(0, len(points), each):
        part = points[first : first + each]
        after = first + each
        end = points[after].at if after < len(points) else None
        until = end or datetime.fromtimestamp(part[-1].at.timestamp() + history.step_seconds, part[-1].at.tzinfo)
        sums = (sum(getattr(point, name) for point in part) for name in ("succeeded", "failed", "deleted"))
        found.append(HistoryRow(part[0].at, until, *sums))
    return found


# --- the relations of a job ---

BOX_WIDTH, BOX_HEIGHT = 190, 44
COLUMN, ROW = 270, 58
MAX_PER_SIDE = 6
"""Relations drawn on each side; the list below the graph has all of them."""

Kind = Literal["job", "batch", "more", "this"]


@dataclass(frozen=True)
class GraphNode:
    """A job or batch in the graph."""

    kind: Kind
    id: str
    title: str
    state: str
    note: str
    x: float
    y: float


@dataclass(frozen=True)
class GraphEdge:
    """The line from one node to another; `dashed`: neither waits for the other."""

    path: str
    dashed: bool


@dataclass(frozen=True)
class RelationGraph:
    """The relations of a job: what it waited for on the left, what waits for it on the right."""

    nodes: list[GraphNode]
    edges: list[GraphEdge]
    width: int
    height: int


def relation_graph(job: JobView, creator: JobView | None = None) -> RelationGraph | None:
    """The relations of a job, or None where it has none; creator: the job that enqueued it."""
    before = [
        _Planned(
            "batch" if related.is_batch else "job",
            related.id,
            related.title,
            related.state,
            _note(related.on, related.unsatisfied),
            False,
        )
        for related in job.parents
    ]
    if creator is not None:
        before.append(_Planned("job", creator.id, creator.job, creator.state.value, "enqueued this job", True))
    if job.alias_of and all(plan.id != job.alias_of for plan in before):
        before.append(_Planned("job", job.alias_of, job.alias_of, "", "has this duplicate", True))
    if job.batch:
        before.append(_Planned("batch", job.batch, job.batch, "", "contains this job", True))
    after = [
        _Planned(
            "batch" if related.is_batch else "job",
            related.id,
            related.title,
            related.state,
            _note(related.on, related.unsatisfied),
            False,
        )
        for related in job.children
    ]
    if not before and not after:
        return None
    before, after = _cut(before), _cut(after)
    height = max(len(before), len(after), 1) * ROW
    middle = (height - BOX_HEIGHT) / 2
    columns = [bool(before), True, bool(after)]
    here = COLUMN if before else 0
    nodes = [GraphNode("this", job.id, job.job or job.id, job.state.value, "this job", here + 2, middle)]
    edges = []
    for plans, x in ((before, 0), (after, here + COLUMN)):
        top = (height - len(plans) * ROW) / 2 + (ROW - BOX_HEIGHT) / 2
        for index, plan in enumerate(plans):
            y = top + index * ROW
            nodes.append(GraphNode(plan.kind, plan.id, plan.title or plan.id, plan.state, plan.note, x + 2, y))
            start, end = ((x, y), (here, middle)) if x < here else ((here, middle), (x, y))
            edges.append(GraphEdge(_curve(start, end), plan.dashed))
    return RelationGraph(nodes, edges, sum(columns) * COLUMN - (COLUMN - BOX_WIDTH) + 4, int(height))


class _Planned(NamedTuple):
    kind: Kind
    id: str
    title: str
    state: str
    note: str
    dashed: bool


def _note(on: str, unsatisfied: bool) -> str:
    text = {"succeeded": "on success", "failed": "on failure", "finished": "on end"}[on]
    return f"{text}: unsatisfied" if unsatisfied else text


def _cut(plans: list[_Planned]) -> list[_Planned]:
    if len(plans) <= MAX_PER_SIDE:
        return plans
    return [
        *plans[: MAX_PER_SIDE - 1],
        _Planned("more", "", f"{len(plans) - MAX_PER_SIDE + 1} more", "", "see the list below", True),
    ]


def _curve(start: tuple[float, float], end: tuple[float, float]) -> str:
    x1, y1 = start[0] + 2 + BOX_WIDTH, start[1] + BOX_HEIGHT / 2
    x2, y2 = end[0] + 2, end[1] + BOX_HEIGHT / 2
    half = (x1 + x2) / 2
    return f"M{x1:g} {y1:g}C{half:g} {y1:g} {half:g} {y2:g} {x2 - 6:g} {y2:g}"
