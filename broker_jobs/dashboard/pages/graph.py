"""Works out the drawings that are made on the server: bars of a history, and a job among its relatives.

Pure: numbers in, coordinates and paths out; the templates write the SVG. Colours are classes, so that they follow light
and dark; what a colour says is said by a pattern and a word as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, NamedTuple

from broker_jobs.dashboard.views import Graph, JobView, Point

# --- the history as bars ---

WIDTH, HEIGHT = 720, 150
LEFT, TOP, BOTTOM = 44, 8, 20
SERIES = ("failed", "deleted", "succeeded")
"""From the ground up: what is few and matters stands on the ground line."""
LEAST = 2.0
"""Units a bar has at least, where there is something: three failures among a million must be seen."""


class Label(NamedTuple):
    """A word on an axis."""

    at: float
    text: str


class Total(NamedTuple):
    """What a row of the table says: the same as the bars, for whoever does not see them."""

    at: datetime
    until: datetime
    succeeded: int
    failed: int
    deleted: int


@dataclass(frozen=True)
class Bars:
    """A history, drawn."""

    paths: dict[str, str]
    across: list[Label]
    up: list[Label]
    totals: dict[str, int]
    table: list[Total]
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    ground: int = HEIGHT - BOTTOM


def bars_of(graph: Graph, rows: int = 24) -> Bars:
    """A history as stacked bars: one path a series, so that a week of hours is a few kilobytes.

    Args:
        graph: the numbers.
        rows: rows of the table at most; neighbouring stretches are added up.
    """
    points = graph.points
    most = nice(max((point.succeeded + point.failed + point.deleted for point in points), default=0))
    step = (WIDTH - LEFT) / max(len(points), 1)
    gap = min(2.0, step * 0.2)
    ground = HEIGHT - BOTTOM
    drawn: dict[str, list[str]] = {name: [] for name in SERIES}
    for index, point in enumerate(points):
        floor = float(ground)
        for name in SERIES:
            n = getattr(point, name)
            if n:
                high = max(n / most * (ground - TOP), LEAST)
                drawn[name].append(f"M{LEFT + index * step:.1f} {floor:.1f}v-{high:.1f}h{step - gap:.1f}v{high:.1f}z")
                floor -= high
    return Bars(
        paths={name: "".join(parts) for name, parts in drawn.items()},
        across=_across(graph, step),
        up=[Label(ground, "0"), Label(ground - (ground - TOP) / 2, short(most / 2)), Label(TOP, short(most))],
        totals={name: sum(getattr(point, name) for point in points) for name in SERIES},
        table=_table(graph, rows),
    )


def nice(most: int) -> int:
    """The round number at the top of an axis."""
    power = int(f"1{'0' * (len(str(max(most, 1))) - 1)}")
    return max(2, next(factor * power for factor in (1, 2, 5, 10) if factor * power >= most))


def short(number: float) -> str:
    """A number in few signs: 950, 1.2k, 3M."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g}{letter}"
    return f"{number:g}"


def _across(graph: Graph, step: float) -> list[Label]:
    points = graph.points
    if graph.span == "week":
        marks = [(index, f"{point.at:%a} {point.at.day}") for index, point in enumerate(points) if point.at.hour == 0]
    elif graph.span == "day":
        marks = [(index, f"{point.at:%H}:00") for index, point in enumerate(points) if point.at.hour % 3 == 0]
    else:
        marks = [(index, f"{point.at:%H:%M}") for index, point in enumerate(points) if point.at.minute % 10 == 0]
    return [Label(round(LEFT + index * step, 1), text) for index, text in marks if LEFT + index * step < WIDTH - 30]


def _table(graph: Graph, rows: int) -> list[Total]:
    points: Sequence[Point] = graph.points
    each = max(1, -(-len(points) // rows))
    found = []
    for first in range(0, len(points), each):
        part = points[first : first + each]
        after = first + each
        end = points[after].at if after < len(points) else None
        until = end or datetime.fromtimestamp(part[-1].at.timestamp() + graph.step_seconds, part[-1].at.tzinfo)
        sums = (sum(getattr(point, name) for point in part) for name in ("succeeded", "failed", "deleted"))
        found.append(Total(part[0].at, until, *sums))
    return found


# --- a job among its relatives ---

BOX_WIDTH, BOX_HEIGHT = 190, 44
COLUMN, ROW = 270, 58
MOST = 6
"""Relatives drawn on a side; the list beside the drawing has all of them."""

Kind = Literal["job", "batch", "more", "this"]


@dataclass(frozen=True)
class PlotArea:
    """A job or batch in the drawing."""

    kind: Kind
    id: str
    title: str
    state: str
    note: str
    x: float
    y: float


@dataclass(frozen=True)
class SeriesLine:
    """What leads from one box to another; `dashed`: nothing waits for it."""

    path: str
    dashed: bool


@dataclass(frozen=True)
class Series:
    """A job among its relatives, drawn: what it waited for to the left, what waits for it to the right."""

    boxes: list[PlotArea]
    lines: list[SeriesLine]
    width: int
    height: int


def family_of(job: JobView, maker: JobView | None = None) -> Series | None:
    """A job among its relatives, or None where it has none; maker: the job that made it."""
    before = [
        _Layout(
            "batch" if near.is_batch else "job",
            near.id,
            near.title,
            near.state,
            _note(near.on, near.unsatisfied),
            False,
        )
        for near in job.parents
    ]
    if maker is not None:
        before.append(_Layout("job", maker.id, maker.job, maker.state.value, "made this one", True))
    if job.stands_for and all(plan.id != job.stands_for for plan in before):
        before.append(_Layout("job", job.stands_for, job.stands_for, "", "this is its duplicate", True))
    if job.batch:
        before.append(_Layout("batch", job.batch, job.batch, "", "this is part of it", True))
    after = [
        _Layout(
            "batch" if near.is_batch else "job",
            near.id,
            near.title,
            near.state,
            _note(near.on, near.unsatisfied),
            False,
        )
        for near in job.children
    ]
    if not before and not after:
        return None
    before, after = _cut(before), _cut(after)
    height = max(len(before), len(after), 1) * ROW
    middle = (height - BOX_HEIGHT) / 2
    columns = [bool(before), True, bool(after)]
    here = COLUMN if before else 0
    boxes = [PlotArea("this", job.id, job.job or job.id, job.state.value, "this job", here + 2, middle)]
    lines = []
    for plans, x in ((before, 0), (after, here + COLUMN)):
        top = (height - len(plans) * ROW) / 2 + (ROW - BOX_HEIGHT) / 2
        for index, plan in enumerate(plans):
            y = top + index * ROW
            boxes.append(PlotArea(plan.kind, plan.id, plan.title or plan.id, plan.state, plan.note, x + 2, y))
            start, end = ((x, y), (here, middle)) if x < here else ((here, middle), (x, y))
            lines.append(SeriesLine(_curve(start, end), plan.dashed))
    return Series(boxes, lines, sum(columns) * COLUMN - (COLUMN - BOX_WIDTH) + 4, int(height))


class _Layout(NamedTuple):
    kind: Kind
    id: str
    title: str
    state: str
    note: str
    dashed: bool


def _note(on: str, unsatisfied: bool) -> str:
    text = {"succeeded": "if it succeeds", "failed": "if it fails", "finished": "when it has ended"}[on]
    return f"{text}: did not" if unsatisfied else text


def _cut(plans: list[_Layout]) -> list[_Layout]:
    if len(plans) <= MOST:
        return plans
    return [*plans[: MOST - 1], _Layout("more", "", f"{len(plans) - MOST + 1} more", "", "in the list below", True)]


def _curve(start: tuple[float, float], end: tuple[float, float]) -> str:
    x1, y1 = start[0] + 2 + BOX_WIDTH, start[1] + BOX_HEIGHT / 2
    x2, y2 = end[0] + 2, end[1] + BOX_HEIGHT / 2
    half = (x1 + x2) / 2
    return f"M{x1:g} {y1:g}C{half:g} {y1:g} {half:g} {y2:g} {x2 - 6:g} {y2:g}"
