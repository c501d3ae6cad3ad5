"""Decides which job goes next under its limits: overlap, ordered, alone, rate and concurrency, asked in one order.

In each line a job gets a turn if there is capacity and no other waits before it. It keeps the turns of the lines that
are asked before the one it waits in, and nothing behind it. The order is the same for all jobs, so no two wait for each
other. Narrow lines come first, and moments before slots: a job that waits keeps no job out of a wider line. Turns
become slots at the release, all or none.
"""

from __future__ import annotations

from typing import NamedTuple

from broker_jobs.clock import Instant
from broker_jobs.coordinator.cascade import Cascade, Kind
from broker_jobs.coordinator.conditions.line_calls import LineCalls, overlap_key
from broker_jobs.coordinator.conditions.lines import Lines
from broker_jobs.coordinator.rows import Rows
from broker_jobs.coordinator.state_machine.steps import waiting
from broker_jobs.messages.envelope import Envelope, LimitKey
from broker_jobs.store.lines import LimitLineRow, LineEntry, Stage
from broker_jobs.store.row import Conditions, Row, WaitReason

RUNS_ALONE_FROM = 2
"""A job whose worker died so often runs alone among its kind, so that its neighbours are not blamed."""
ALONE = "alone:"
"""The key of the line of such jobs."""
HELD = ("ordered", "overlap")
"""The kinds whose slot a job keeps from its first release until it is gone."""


class AskedLine(NamedTuple):
    """A line that a job needs a slot or a start of."""

    key: str
    kind: str
    limit: LimitKey | None


class LimitRules:
    """Limits, in one transaction."""

    def __init__(self, rows: Rows, cascade: Cascade, lines: Lines, calls: LineCalls) -> None:
        self._rows = rows
        self._cascade = cascade
        self._lines = lines
        self._calls = calls
        self._asked: tuple[str, list[LimitLineRow]] = ("", [])
        """The job that was asked last, and its lines: if it may go, it is released next."""

    # ---- acceptance

    def admit(self, row: Row, envelope: Envelope, *, overlap: bool) -> Row:
        """A job is accepted, or comes back: it takes its places in overlap and ordered lines."""
        if row.id not in self._rows.old:
            self._lines.is_new(row.id)
        wanted = [AskedLine(overlap_key(row.recurring), "overlap", None)] if overlap and row.recurring else []
        for limit in envelope.limits:
            one = _wanted(limit)
            self._lines.accepted(one.key, one.kind, limit)
            if one.kind == "ordered":
                wanted.append(one)
        for one in wanted:
            self._lines.accepted(one.key, one.kind, one.limit)
            if one.key not in self._lines.of(row.id):
                self._lines.put(one.key, row.id, Stage.PLACE)
        return self._in_lines(row) if wanted or envelope.limits else row

    def _in_lines(self, row: Row) -> Row:
        """Note that a job may have something in lines."""
        if not row.conditions & Conditions.LINES:
            row = row.evolve(conditions=row.conditions | Conditions.LINES)
            self._rows.put(row)
        return row

    # ---- asking

    def walk(self, row: Row, envelope: Envelope) -> Instant | None:
        """When a job that waits for nothing else may start, with turns in all of its lines; None: it waits in one."""
        sequence = self._sequence(row, envelope)
        self._asked = (row.id, sequence)
        if not sequence:
            return max(self._rows.at.now, row.due_at or 0.0)
        row = self._in_lines(row)
        entries = self._lines.of(row.id)
        for line in sequence:
            if line.capacity <= 0 and not _has(entries.get(line.key), Stage.SLOT):
                self._give_back_turns(row, sequence)
                self._stand(row, line)
                return None
        for line in sequence:
            entry = entries.get(line.key) or self._lines.put(line.key, row.id, Stage.PLACE)
            if entry.stage in (Stage.TURN, Stage.SLOT):
                continue
            head = self._lines.waiting.head(line.key)
            is_first = head is None or head.place >= entry.place
            moment = self._calls.next_moment(line) if is_first else None
            if moment is None or moment > self._rows.at.until:
                self._stand(row, line)
                return None
            self._lines.move(entry, Stage.TURN)
        return self._moment(row, sequence)

    def stand_by(self, row: Row, envelope: Envelope) -> bool:
        """Nothing may be released now: a job that needs a turn waits in a line, which is called when something may.

        Whether it waits there.
        """
        sequence = self._sequence(row, envelope)
        entries = self._lines.of(row.id)
        waits_in = next((entry.key for entry in entries.values() if entry.stage is Stage.WAITS), None)
        if waits_in is None:
            line = next((line for line in sequence if not _has(entries.get(line.key), Stage.SLOT)), None)
            if line is None:
                return False
            self._stand(self._in_lines(row), line)
            waits_in = line.key
        self._lines.call_later(waits_in)
        return True

    def _moment(self, row: Row, sequence: list[LimitLineRow]) -> Instant | None:
        """When a job may start that has all its turns: each is checked against the limit of now."""
        at = max(self._rows.at.now, row.due_at or 0.0)
        for place, line in enumerate(sequence):
            entry = self._lines.of(row.id)[line.key]
            if entry.stage is not Stage.TURN:
                continue
            moment: Instant | None = at
            if line.kind == "rate":
                moment = self._lines.rates.start_moment(line)
            elif line.taken >= line.capacity or self._calls.runs_outside(line):
                moment = None
            if moment is None or moment > self._rows.at.until:
                self._give_back_turns(row, sequence[place + 1 :])
                self._stand(row, line)
                return None
            at = max(at, moment)
        return at

    def release(self, row: Row, envelope: Envelope, at: Instant) -> None:
        """A job is released at a moment: its turns become slots, and starts of its rates."""
        asked, sequence = self._asked
        for line in sequence if asked == row.id else self._sequence(row, envelope):
            entry = self._lines.of(row.id)[line.key]
            if line.kind == "rate":
                self._lines.rates.start(line, row.id, row.epoch, at)
                self._lines.move(entry, None)
            elif entry.stage is Stage.TURN:
                self._lines.move(entry, Stage.SLOT)

    def _sequence(self, row: Row, envelope: Envelope) -> list[LimitLineRow]:
        """The lines of a job in the order in which they are asked."""
        lines: dict[str, list[LimitLineRow]] = {"ordered": [], "rate": [], "concurrency": []}
        for limit in envelope.limits:
            key, kind, _ = _wanted(limit)
            line = self._lines.line(key)
            if line is None or not line.limit_code:  # it had no entries when the job came, or a person made it
                line = self._lines.accepted(key, kind, limit)
            lines[kind].append(line)
        first: list[LimitLineRow] = []
        if row.recurring and row.conditions & Conditions.LINES:
            key = overlap_key(row.recurring)
            if key in self._lines.of(row.id):
                first.append(self._lines.line(key) or self._lines.accepted(key, "overlap"))
        first += sorted(lines["ordered"], key=lambda line: line.key)
        if row.crashes >= RUNS_ALONE_FROM:
            first.append(self._lines.accepted(ALONE, "alone"))
        first += sorted(lines["rate"], key=lambda line: line.key)
        slots = sorted(lines["concurrency"], key=lambda line: (line.rank, line.key))
        return list({line.key: line for line in [*first, *slots]}.values())

    def _stand(self, row: Row, line: LimitLineRow) -> None:
        """A job waits in this line, and in no other."""
        entries = self._lines.of(row.id)
        for entry in list(entries.values()):
            if entry.stage is Stage.WAITS and entry.key != line.key:
                self._lines.move(entry, Stage.PLACE)
                self._cascade.add(Kind.CALL, entry.key)
        here = entries.get(line.key)
        if here is None:
            self._lines.put(line.key, row.id, Stage.WAITS)
        else:
            self._lines.move(here, Stage.WAITS)
        row = self._rows[row.id]
        reason = _reason(line)
        if row.waits & WaitReason.LINE and row.reason != reason:
            self._rows.put(row.evolve(reason=reason))
        else:
            self._rows.put(waiting(row, row.waits | WaitReason.LINE, self._rows.at, reason))

    def _give_back_turns(self, row: Row, lines: list[LimitLineRow]) -> None:
        entries = self._lines.of(row.id)
        for line in lines:
            if _has(entries.get(line.key), Stage.TURN):
                self._lines.move(entries[line.key], Stage.PLACE)

    # ---- giving back

    def leave(self, row: Row) -> None:
        """A job does not wait any more: what it has because it waits goes back, slots stay while it may be running."""
        if not row.conditions & Conditions.LINES:
            return
        clear = self._rows.is_clear(row)
        for entry in list(self._lines.of(row.id).values()):
            if entry.stage is not Stage.SLOT or clear:
                self._lines.move(entry, None)

    def cleared(self, row: Row, *, keeps_place: bool) -> None:
        """Nothing of a job may be running any more: it gives back the slots that are not kept until its end."""
        if not row.conditions & Conditions.LINES:
            return
        for entry in list(self._lines.of(row.id).values()):
            if entry.stage is not Stage.SLOT:
                continue
            kind = entry.key.partition(":")[0]
            if kind not in HELD:
                self._lines.move(entry, Stage.PLACE if keeps_place and kind == "concurrency" else None)
            elif row.gives_back:
                self._lines.move(entry, Stage.PLACE)

    def runs_after_all(self, row: Row) -> None:
        """A report came of a job that was to be released again: it runs, and waits for nothing."""
        if row.conditions & Conditions.LINES:
            for entry in list(self._lines.of(row.id).values()):
                if entry.stage is not Stage.SLOT:
                    self._lines.move(entry, None)

    def rescheduled(self, row: Row) -> Row:
        """A person gave a job another time: it keeps its places of ordered lines, and nothing else that waits."""
        if not row.conditions & Conditions.LINES:
            return row
        clear = self._rows.is_clear(row)
        for entry in list(self._lines.of(row.id).values()):
            if entry.key.partition(":")[0] in HELD:
                if entry.stage is not Stage.SLOT or clear:
                    self._lines.move(entry, Stage.PLACE)
            elif entry.stage is not Stage.SLOT:
                self._lines.move(entry, None)
        row = waiting(row, row.waits & ~WaitReason.LINE, self._rows.at, row.reason)
        self._rows.put(row)
        return row


def _has(entry: LineEntry | None, stage: Stage) -> bool:
    return entry is not None and entry.stage is stage


def _wanted(limit: LimitKey) -> AskedLine:
    return AskedLine(f"{limit.kind}:{limit.key}", limit.kind, limit)


def _reason(line: LimitLineRow) -> str:
    name = line.key.partition(":")[2]
    if line.capacity <= 0:
        return f"waits: the limit {name!r} is 0"
    match line.kind:
        case "overlap":
            return "waits for the run before it"
        case "ordered":
            return f"waits for its turn of {name!r}"
        case "alone":
            return "waits to run alone: its worker died twice"
        case "rate":
            return f"waits for the rate of {name!r}"
        case _:
            return f"waits for one of {line.capacity} slots of {name!r}"
