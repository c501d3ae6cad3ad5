"""Holds the lines of one transaction: places, turns and slots.

Rows and entries are read once a transaction and written once. What the lines mean is decided in `limits.py`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from broker_jobs.clock import Instant
from broker_jobs.coordinator.cascade import Cascade, Kind
from broker_jobs.coordinator.conditions.rates import Rates
from broker_jobs.coordinator.conditions.waiting_jobs import WaitingJobs
from broker_jobs.messages.envelope import LimitKey
from broker_jobs.store.lines import LimitLineRow, LineEntry, LineStore, Stage

HOLDS = (Stage.TURN, Stage.SLOT)


class Lines:
    """The lines of one transaction.

    Args:
        store: reads and writes them.
        cascade: takes the lines that get free capacity.
        now: wall time.
        until: what is due by then is due now.
        loaded: jobs that may have something here: it is read with that of the first one that is asked for.
    """

    def __init__(self, store: LineStore, cascade: Cascade, *, now: Instant, until: Instant, loaded: set[str]) -> None:
        self._store = store
        self._loaded = loaded
        self._cascade = cascade
        self.rates = Rates(store, cascade, now=now, until=until)
        """The starts of those lines that are rates."""
        self._now = now
        self._lines: dict[str, LimitLineRow | None] = {}
        self._entries: dict[tuple[str, str], LineEntry] = {}
        self._of_job: dict[str, dict[str, LineEntry]] = {}
        self._learned: set[str] = set()
        """Jobs of which all entries are here; of others some may be, from the heads of lines."""
        self.waiting = WaitingJobs(store, self._entries, self._know_again)
        """The jobs that wait in them, in their order."""
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
        wanted += [id for id in self._loaded if id not in self._learned and id not in wanted]
        self._loaded.clear()
        self._learned.update(wanted)
        for id in wanted:
            self._of_job.setdefault(id, {})
        found = self._store.entries_of(wanted)
        for entry in found:
            self._know_again(entry)
        self._read_lines({entry.key for entry in found})

    def is_new(self, job_id: str) -> None:
        """A job that was never seen has nothing in lines."""
        self._learned.add(job_id)
        self._of_job.setdefault(job_id, {})

    def of(self, job_id: str) -> dict[str, LineEntry]:
        """What a job has in lines, by key."""
        if job_id not in self._learned:
            self.learn([job_id])
        return self._of_job[job_id]

    def line(self, key: str) -> LimitLineRow | None:
        """The line of a key, if there is one."""
        if key not in self._lines:
            self._read_lines({key})
        return self._lines[key]

    def accepted(self, key: str, kind: str, limit: LimitKey | None = None) -> LimitLineRow:
        """The line of a key, made where there is none. The limit of the job that was accepted last counts."""
        line = self.line(key)
        code = 1 if limit is None else limit.limit
        if line is None:
            line = self._lines[key] = LimitLineRow(key, kind)
        if line.rank == 0:
            line.rank = code
        span, fixed = (None, False) if limit is None else (limit.per, limit.window == "fixed")
        if (line.limit_code, line.span, line.fixed) != (code, span, fixed):
            grew = line.limit_code and code > line.limit_code
            line.limit_code, line.span, line.fixed = code, span, fixed
            self._changed_lines.add(key)
            if grew:
                self._cascade.add(Kind.CALL, key)
        return line

    def set_limit(self, key: str, kind: str, limit: int | None) -> bool:
        """The limit that a person sets; None: what jobs carry counts again. Whether there is such a line now."""
        line = self.line(key)
        if line is None:
            if limit is None:
                return False
            line = self._lines[key] = LimitLineRow(key, kind)
        line.limit_set = limit
        self._changed_lines.add(key)
        return True

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

    def _know_again(self, entry: LineEntry) -> LineEntry | None:
        """An entry that was read, as it is now; None: its job has left the line."""
        return None if (entry.key, entry.job_id) in self._dropped else self._know(entry)

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
                self.waiting.add(entry)
        if before in HOLDS and stage not in HOLDS:
            self._cascade.add(Kind.CALL, key)

    def waiting_page(self, key: str, after: int, limit: int) -> tuple[list[LineEntry], int | None]:
        """Jobs that wait in a line behind a place, a page, as they are now; and its last place if there may be more."""
        page = self._store.waiting(key, after, limit)
        last = page[-1].place if len(page) == limit else None
        found = map(self._know_again, page)
        return [entry for entry in found if entry is not None and entry.stage is Stage.WAITS], last

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
        if line.kind != "rate":
            return self._now if line.taken + line.turns < line.capacity else None
        return self.rates.next_start(line, line.turns)

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
        """Write all that has changed, once, at the end; (key, moment) of the lines that are to be called then."""
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
            next_at = None if self.waiting.head(key) is None else self.moment(line)
            if next_at is not None:
                next_at = max(next_at, self._now)
                timers.append((key, next_at))
            if line.next_at != next_at:
                line.next_at = next_at
                self._changed_lines.add(key)
        self.rates.write(self._existing)
        self._store.save((), (), self._changed.values(), self._dropped)
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
