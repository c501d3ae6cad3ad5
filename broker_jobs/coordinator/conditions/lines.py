"""Holds the lines of one transaction: places, turns and slots, and the starts that a rate counts.

Rows and entries are read once a transaction and written once. What the lines mean is decided in `limits.py`.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable

from broker_jobs.clock import Instant
from broker_jobs.coordinator.cascade import Cascade, Kind
from broker_jobs.messages.envelope import LimitKey
from broker_jobs.store.lines import LimitLineRow, LineEntry, LineStore, Stage

HEADS = 100
"""Waiting entries that are read at once."""
STARTS = 100
"""Starts of a rate that are read at once."""
FORGOTTEN_PER_START = 2
SHORTEST_SPAN = 0.001
"""Seconds. A rate of a shorter span is one of this: a clock does not tell such spans apart, so that none would end."""
HOLDS = (Stage.TURN, Stage.SLOT)


class _Waiting:
    """The jobs that wait in one line, in their order, as far as they were read."""

    def __init__(self) -> None:
        self.heap: list[tuple[int, str]] = []
        self.read_to = 0
        self.all_read = False


class Lines:
    """The lines of one transaction.

    Args:
        store: reads and writes them.
        cascade: takes the lines that get free capacity.
        now: wall time.
        until: what is due by then is due now.
    """

    def __init__(self, store: LineStore, cascade: Cascade, *, now: Instant, until: Instant) -> None:
        self._store = store
        self._cascade = cascade
        self._now = now
        self._until = until
        self._lines: dict[str, LimitLineRow | None] = {}
        self._entries: dict[tuple[str, str], LineEntry] = {}
        self._of_job: dict[str, dict[str, LineEntry]] = {}
        self._learned: set[str] = set()
        """Jobs of which all entries are here; of others some may be, from the heads of lines."""
        self._waiting: dict[str, _Waiting] = {}
        self._starts: dict[str, _Starts] = {}
        self._new_starts: list[tuple[str, Instant, str, int]] = []
        self._changed_lines: set[str] = set()
        self._changed: dict[tuple[str, str], LineEntry] = {}
        self._dropped: set[tuple[str, str]] = set()
        self._more: Counter[str] = Counter()
        """Entries of each line beyond those that are stored."""
        self._call_later: set[str] = set()

    # ---- reading

    def learn(self, job_ids: Iterable[str]) -> None:
        """Read what these jobs have in lines."""
        wanted = [id for id in job_ids if id not in self._learned]
        if not wanted:
            return
        self._learned.update(wanted)
        for id in wanted:
            self._of_job.setdefault(id, {})
        found = self._store.entries_of(wanted)
        for entry in found:
            if (entry.key, entry.job_id) not in self._dropped:
                self._know(entry)
        self._read_lines({entry.key for entry in found})

    def of(self, job_id: str) -> dict[str, LineEntry]:
        """What a job has in lines, by key."""
        self.learn([job_id])
        return self._of_job[job_id]

    def line(self, key: str) -> LimitLineRow | None:
        """The line of a key, if there is one."""
        self._read_lines({key})
        return self._lines[key]

    def accepted(self, key: str, kind: str, limit: LimitKey | None = None) -> LimitLineRow:
        """The line of a key, made where there is none. The limit of the job that was accepted last counts."""
        line = self.line(key)
        code = 1 if limit is None else limit.limit
        if line is None:
            line = self._lines[key] = LimitLineRow(key, kind)
            self._changed_lines.add(key)
        if line.rank == 0:
            line.rank = code
            self._changed_lines.add(key)
        span, fixed = (None, False) if limit is None else (limit.per, limit.window == "fixed")
        if (line.limit_code, line.span, line.fixed) != (code, span, fixed):
            grew = line.limit_code and code > line.limit_code
            line.limit_code, line.span, line.fixed = code, span, fixed
            self._changed_lines.add(key)
            if grew:
                self._cascade.add(Kind.CALL, key)
        return line

    def made(self, key: str, kind: str) -> LimitLineRow:
        """A line that no job was accepted for yet."""
        line = self._lines[key] = LimitLineRow(key, kind)
        self._changed_lines.add(key)
        return line

    def set_limit(self, line: LimitLineRow, limit: int | None) -> None:
        """The limit that a person sets; None: what jobs carry counts again."""
        line.limit_set = limit
        self._changed_lines.add(line.key)

    def _read_lines(self, keys: set[str]) -> None:
        unread = [key for key in keys if key not in self._lines]
        if unread:
            self._lines.update(dict.fromkeys(unread))
            self._lines.update((line.key, line) for line in self._store.lines(unread))

    def _know(self, entry: LineEntry) -> LineEntry:
        known = self._entries.get((entry.key, entry.job_id))
        if known is not None:
            return known
        self._entries[entry.key, entry.job_id] = entry
        self._of_job.setdefault(entry.job_id, {})[entry.key] = entry
        return entry

    # ---- places

    def put(self, key: str, job_id: str, stage: Stage) -> LineEntry:
        """A place at the end of a line."""
        line = self._existing(key)
        line.tail += 1
        self._more[key] += 1
        self._changed_lines.add(key)
        entry = LineEntry(key, job_id, line.tail, Stage.PLACE)
        self.of(job_id)
        self._entries[key, job_id] = entry
        self._of_job[job_id][key] = entry
        self._dropped.discard((key, job_id))
        self._changed[key, job_id] = entry
        if stage is not Stage.PLACE:
            self.move(entry, stage)
        return entry

    def move(self, entry: LineEntry, stage: Stage | None) -> None:
        """Another stage at the same place; None: the job leaves the line."""
        key, job_id, before = entry.key, entry.job_id, entry.stage
        if stage is before:
            return
        line = self._existing(key)
        line.taken += (stage is Stage.SLOT) - (before is Stage.SLOT)
        line.turns += (stage is Stage.TURN) - (before is Stage.TURN)
        self._changed_lines.add(key)
        if stage is None:
            self._more[key] -= 1
            del self._entries[key, job_id]
            del self._of_job[job_id][key]
            self._changed.pop((key, job_id), None)
            self._dropped.add((key, job_id))
        else:
            entry.stage = stage
            self._changed[key, job_id] = entry
            if stage is Stage.WAITS:
                heapq.heappush(self._waiting.setdefault(key, _Waiting()).heap, (entry.place, job_id))
        if before in HOLDS and stage not in HOLDS:
            self._cascade.add(Kind.CALL, key)
        elif before is Stage.WAITS and line.kind == "rate":
            self._cascade.add(Kind.CALL, key)  # the next one of a rate is to know its moment

    def head(self, key: str) -> LineEntry | None:
        """The first that waits in a line."""
        waiting = self._waiting.setdefault(key, _Waiting())
        while True:
            while waiting.heap:
                place, job_id = waiting.heap[0]
                entry = self._entries.get((key, job_id))
                if entry is not None and entry.stage is Stage.WAITS and entry.place == place:
                    break
                heapq.heappop(waiting.heap)
            if waiting.all_read or (waiting.heap and waiting.heap[0][0] <= waiting.read_to):
                return self._entries[key, waiting.heap[0][1]] if waiting.heap else None
            self._read_waiting(key, waiting)

    def _read_waiting(self, key: str, waiting: _Waiting) -> None:
        page = self._store.waiting(key, waiting.read_to, HEADS)
        waiting.all_read = len(page) < HEADS
        if page:
            waiting.read_to = page[-1].place
        for entry in page:
            if (key, entry.job_id) in self._dropped:
                continue
            known = self._know(entry)
            if known.stage is Stage.WAITS:
                heapq.heappush(waiting.heap, (known.place, known.job_id))

    def waiting_page(self, key: str, after: int, limit: int) -> tuple[list[LineEntry], int | None]:
        """Jobs that wait in a line behind a place, a page, as they are now; and its last place if there may be more."""
        page = self._store.waiting(key, after, limit)
        last = page[-1].place if len(page) == limit else None
        found = [self._know(entry) for entry in page if (key, entry.job_id) not in self._dropped]
        return [entry for entry in found if entry.stage is Stage.WAITS], last

    def count(self, key: str, limit: int) -> int:
        """How many jobs stand in a line; more than a limit may count as any number above it."""
        return self._store.count(key, max(0, limit + 1 - self._more[key])) + self._more[key]

    def that_exist(self, keys: set[str]) -> list[str]:
        """Those of these keys that have a line."""
        self._read_lines(keys)
        return [key for key in keys if self._lines[key] is not None]

    def _existing(self, key: str) -> LimitLineRow:
        line = self.line(key)
        if line is None:  # an entry without its line: only of a store that was changed by hand
            line = self._lines[key] = LimitLineRow(key, key.partition(":")[0], limit_code=1, rank=1)
        return line

    # ---- capacity

    def moment(self, line: LimitLineRow) -> Instant | None:
        """When a line has capacity for one more turn: now, or for a rate a moment ahead; None: not before something
        is given back."""
        if line.capacity <= 0:
            return None
        if line.kind != "rate":
            return self._now if line.taken + line.turns < line.capacity else None
        return self._next_start(line, line.turns)

    def start_moment(self, line: LimitLineRow) -> Instant | None:
        """When a job that has a turn of a rate may start."""
        return self._next_start(line, 0) if line.capacity > 0 else None

    def _next_start(self, line: LimitLineRow, kept: int) -> Instant | None:
        if line.capacity <= kept:
            return None
        starts = self._starts.get(line.key)
        if starts is None:
            starts = self._starts[line.key] = _Starts(self._store, line.key, now=self._now, until=self._until)
        span = max(line.span or 1.0, SHORTEST_SPAN)
        if line.fixed:
            return starts.fixed(line.capacity - kept, span)
        blocking = starts.latest(line.capacity - kept - 1)
        return self._now if blocking is None else max(self._now, blocking + span)

    def start(self, line: LimitLineRow, job_id: str, epoch: int, at: Instant) -> None:
        """A job starts under a rate."""
        self._next_start(line, 0)
        self._starts[line.key].add(at)
        self._new_starts.append((line.key, at, job_id, epoch))

    def give_back_start(self, job_id: str, epoch: int) -> None:
        """The release of a job was certainly not published: it was no start."""
        for key in self._store.give_back_start(job_id, epoch):
            if key in self._starts:
                self._starts[key].read_again()
            self._cascade.add(Kind.CALL, key)

    # ---- calling

    def call_later(self, key: str) -> None:
        """A line is to be called, and nothing may be released now: it is due, so that it is called when something may.

        No turn is kept meanwhile: nobody would give it back if the clock were set before the job's time then.
        """
        self._call_later.add(key)

    def called(self, key: str) -> None:
        """A line is called."""
        line = self.line(key)
        if line is not None and line.kind != "rate" and line.next_at is not None:
            line.next_at = None
            self._changed_lines.add(key)

    # ---- writing

    def write(self) -> list[tuple[str, Instant]]:
        """Write all that has changed; (key, moment) of the lines that are to be called then."""
        timers: list[tuple[str, Instant]] = []
        for key in self._call_later:
            line = self._existing(key)
            if line.kind != "rate":
                timers.append((key, self._now))
                if line.next_at is None or line.next_at > self._now:
                    line.next_at = self._now
                    self._changed_lines.add(key)
        for key in {key for key, line in self._lines.items() if line is not None and line.kind == "rate"}:
            line = self._existing(key)
            next_at = None if self.head(key) is None else self.moment(line)
            if next_at is not None:
                next_at = max(next_at, self._now)
                timers.append((key, next_at))
            if line.next_at != next_at:
                line.next_at = next_at
                self._changed_lines.add(key)
        self._store.add_starts(self._new_starts)
        for key in {key for key, *_ in self._new_starts}:
            forget = self._now - 2 * (self._existing(key).span or 1.0)
            self._store.forget_starts(key, forget, FORGOTTEN_PER_START * len(self._new_starts))
        self._store.save((), (), self._changed.values(), self._dropped)
        self._changed.clear()
        self._dropped.clear()
        self._more.clear()
        empty = {key for key in self._changed_lines if self._is_empty(self._existing(key))}
        lines = [self._existing(key) for key in self._changed_lines - empty]
        self._store.save(lines, empty, (), ())
        return timers

    def _is_empty(self, line: LimitLineRow) -> bool:
        """Whether nothing is left that a line's row is for."""
        if line.taken or line.turns or line.limit_set is not None or self._store.has_entries(line.key):
            return False
        if line.kind != "rate":
            return True
        span = line.span or 1.0
        latest = self._store.latest_starts(line.key, 0, 1)
        return not latest or latest[0] < self._now - 2 * span


class _Starts:
    """The starts of one rate, the latest first, as far as they are asked for."""

    def __init__(self, store: LineStore, key: str, *, now: Instant, until: Instant) -> None:
        self._store = store
        self._key = key
        self._now = now
        self._until = until
        self._new: list[Instant] = []
        self._page: dict[int, list[Instant]] = {}
        latest = store.latest_starts(key, 0, 1)
        if latest and latest[0] > until:
            store.bring_back_starts(key, until, now)

    def add(self, at: Instant) -> None:
        """One more start, the latest."""
        self._new.append(at)

    def read_again(self) -> None:
        """The stored starts have changed."""
        self._page.clear()

    def latest(self, n: int) -> Instant | None:
        """The start with so many later ones; None: there is none."""
        if n < len(self._new):
            return sorted(self._new, reverse=True)[n]
        n -= len(self._new)
        number, place = divmod(n, STARTS)
        if number not in self._page:
            self._page[number] = self._store.latest_starts(self._key, number * STARTS, STARTS)
        page = self._page[number]
        return page[place] if place < len(page) else None

    def fixed(self, most: int, span: float) -> Instant:
        """The first moment from now on whose window has fewer than `most` starts."""
        moment, number = self._now, window_of(self._now, span)
        while True:
            window, end = number * span, (number + 1) * span
            new = sum(1 for at in self._new if window <= at < end)
            if new + self._store.starts_since(self._key, window) < most:
                return moment
            moment, number = end, number + 1


def window_of(moment: Instant, span: float) -> int:
    """The number of the window that a moment is in: it begins at the number times the span.

    A quotient alone may be one too low at a window's begin, which is rounded: the window after it would be itself.
    """
    number = int(moment // span)
    while (number + 1) * span <= moment:
        number += 1
    while number * span > moment:
        number -= 1
    return number
