"""Says whether the processes of a pool are healthy, from what they last reported. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from broker_jobs.processes.child import ChildProcess
from broker_jobs.processes.health import Health

SILENT_SECONDS = 15.0
"""A child that has not reported for this long is not healthy, unless it runs a job: that may keep Python's GIL."""
STARTING_SECONDS = 15.0
"""A child that was started in the place of one that leaves may take this long before it counts as unhealthy."""
SHOWN_RUNS = 10


class SlotState(NamedTuple):
    """One slot of a pool: its number, its child if it has one, whether that replaces one that left, and how the last
    one ended."""

    number: int
    child: ChildProcess | None
    recycled: bool
    ended: str


def health_of(slots: Sequence[SlotState], leaving: Sequence[ChildProcess], role: str = "worker") -> Health:
    """The health of a pool.

    Args:
        slots: of the pool.
        leaving: children that take no more jobs.
        role: what the children run, for the reasons.
    """
    reasons: list[str] = []
    shown: list[dict[str, Any]] = []
    for number, child, recycled, ended in slots:
        found = _reasons(child, recycled=recycled, ended=ended)
        pid = child.process.pid if child is not None and child.process.is_alive() else None
        reasons += [f"{role} process {pid if pid is not None else f'of slot {number}'}: {reason}" for reason in found]
        shown.append({"slot": number, "pid": pid, "ok": not found, **_details(child)})
    components: dict[str, Any] = {"processes": shown}
    if leaving:
        components["leaving"] = [
            {"pid": child.process.pid, "reason": child.leaving.reason if child.leaving else "", **_details(child)}
            for child in leaving
        ]
    return Health(not reasons, components, tuple(reasons))


def _reasons(child: ChildProcess | None, *, recycled: bool, ended: str) -> list[str]:
    if child is None or not child.process.is_alive():
        return [f"it has ended ({ended or 'just now'}) and is started again; see the log"]
    ready = child.report is not None and child.report.health.ok
    if recycled and not ready and child.lived_seconds <= STARTING_SECONDS:
        return []
    if child.report is None:
        return [f"it has not started yet, after {child.lived_seconds:.0f} s"]
    if child.silent_seconds > SILENT_SECONDS:
        runs = child.board.runs()
        if not runs:
            return [f"it has not answered for {child.silent_seconds:.0f} s and runs no job"]
        return []  # it is busy, and a probe that fails would have it killed for that
    return list(child.report.health.reasons) or ([] if ready else ["it is not healthy"])


def _details(child: ChildProcess | None) -> dict[str, Any]:
    if child is None:
        return {}
    details: dict[str, Any] = dict(child.report.health.components) if child.report is not None else {}
    if child.silent_seconds > SILENT_SECONDS:
        details["silent_since"] = _shown(child.silent_since)
        details["runs"] = [{"id": run.id, "since": _shown(run.started_at)} for run in child.board.runs()[:SHOWN_RUNS]]
    return details


def _shown(instant: float) -> str:
    return datetime.fromtimestamp(instant, UTC).isoformat(timespec="seconds")
