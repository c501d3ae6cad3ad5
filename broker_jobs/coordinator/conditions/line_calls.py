"""Calls the lines of limits: who may go next in a line that has capacity again, or whose number a person has set."""

from __future__ import annotations

from broker_jobs.clock import Instant
from broker_jobs.coordinator.cascade import Cascade, Kind
from broker_jobs.coordinator.conditions.lines import Lines
from broker_jobs.coordinator.rows import Rows
from broker_jobs.coordinator.state_machine.steps import waiting
from broker_jobs.store.lines import LimitLineRow, Stage
from broker_jobs.store.row import WaitReason


class LineCalls:
    """Calls of lines, in one transaction."""

    def __init__(self, rows: Rows, cascade: Cascade, lines: Lines) -> None:
        self._rows = rows
        self._cascade = cascade
        self._lines = lines

    def call_later(self, key: str) -> None:
        """A line is to be called when something may be released."""
        if self._lines.waiting.head(key) is not None:
            self._lines.call_later(key)

    def called(self, key: str) -> None:
        """A line is called."""
        self._lines.called(key)

    def call_overlaps(self) -> None:
        """A run is open no more: the one that waits for it is called, in a line of their recurring job."""
        keys = {overlap_key(recurring) for recurring in self._rows.runs_over()}
        if keys:
            for key in self._lines.that_exist(keys):
                self._cascade.add(Kind.CALL, key)

    def first_to_ask(self, key: str) -> str | None:
        """The job that is to be asked next in a line, if it could go on from there."""
        line = self._lines.line(key)
        head = None if line is None else self._lines.waiting.head(key)
        if line is None or head is None:
            return None
        moment = self.next_moment(line)
        return head.job_id if moment is not None and moment <= self._rows.at.until else None

    def first_to_go(self, key: str) -> list[str]:
        """The jobs that will probably be asked when a line is called, so that they are loaded together."""
        line = self._lines.line(key)
        if line is None:
            return []
        return self._lines.waiting.first(key, max(1, line.capacity - line.taken - line.turns))

    def next_moment(self, line: LimitLineRow) -> Instant | None:
        """When a line has capacity for one more turn."""
        return None if self.runs_outside(line) else self._lines.moment(line)

    def runs_outside(self, line: LimitLineRow) -> bool:
        """Whether runs of a recurring job are open that stand in no line, as its overlap was another one then.

        All in the line are open runs, so the numbers tell.
        """
        if line.kind != "overlap":
            return False
        runs = self._rows.open_runs(line.key.partition(":")[2])
        return runs > self._lines.count(line.key, runs)

    def step_aside(self, id: str, key: str) -> None:
        """Let the first of a line, which was asked, go out of the way of the next: it waits for something else.

        It keeps its places and asks for nothing.
        """
        entry = self._lines.of(id).get(key)
        if entry is None or entry.stage is not Stage.WAITS:
            return
        row = self._rows.get(id)
        if row is None or not row.is_waiting:
            self._lines.move(entry, None)
            return
        for one in list(self._lines.of(id).values()):
            if one.stage in (Stage.WAITS, Stage.TURN):  # a turn that it kept would keep others waiting
                self._lines.move(one, Stage.PLACE)
        self._rows.put(waiting(row, row.waits & ~WaitReason.LINE, self._rows.at, row.reason))

    def set_limit(self, key: str, limit: int | None) -> None:
        """A person sets the number of a concurrency or rate limit, closes it with 0, or clears it with None."""
        for kind in ("concurrency", "rate"):
            name = f"{kind}:{key}"
            if not self._lines.set_limit(name, kind, limit):
                continue
            if limit == 0:
                self._cascade.add(Kind.CLOSE, name)
            self._cascade.add(Kind.CALL, name)

    def close_page(self, key: str, after: int, limit: int) -> tuple[list[str], int | None]:
        """A line was closed: jobs that wait in it give back their turns elsewhere, a page. (jobs, the last place)."""
        line = self._lines.line(key)
        if line is None or line.capacity > 0:
            return [], None
        page, last = self._lines.waiting_page(key, after, limit)
        for entry in page:
            for other in list(self._lines.of(entry.job_id).values()):
                if other.stage is Stage.TURN:
                    self._lines.move(other, Stage.PLACE)
        return [entry.job_id for entry in page], last


def overlap_key(recurring: str | None) -> str:
    """The key of the line of the runs of a recurring job."""
    return f"overlap:{recurring}"
