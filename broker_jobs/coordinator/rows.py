"""Holds the jobs of one transaction: as they were loaded, and as they are now."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from broker_jobs.coordinator.state_machine.context import Context
from broker_jobs.messages import codec
from broker_jobs.messages.envelope import Envelope
from broker_jobs.store.row import Conditions, Publication, Row
from broker_jobs.store.write import Transaction

SMALL_CHARS = 4_096
"""Envelopes up to this length are kept decoded for the rest of a transaction."""
LEAST_KEEP_SECONDS = 60.0
"""A job is kept so long whatever it says: a record of it that the broker delivers again must find it ended."""
MOST_ALIASES = 10
"""An alias names its group and never another alias; a store that says otherwise must not hold us."""


class Rows:
    """The jobs of one transaction. Nothing else knows what has changed, and nothing else writes them.

    Args:
        tx: the transaction.
        at: when and by which coordinator is decided; replaced when a tick moves the log time.
    """

    def __init__(self, tx: Transaction, at: Context) -> None:
        self.tx = tx
        self.at = at
        self.old: dict[str, Row] = {}
        """As they were loaded."""
        self.new_runs: Counter[str] = Counter()
        """Runs of recurring jobs that became open in this transaction, or (below 0) are open no more."""
        self.loaded_in_lines: set[str] = set()
        """Jobs that were loaded and may have something in lines, which is asked of all of them at once."""
        self._runs_over: set[str] = set()
        self._now: dict[str, Row] = {}
        self._written: dict[str, Row] = {}
        self._envelopes: dict[str, tuple[str, Envelope]] = {}

    def see(self, ids: Iterable[str]) -> None:
        """Load jobs that are not here yet; one that is not known stays unknown."""
        wanted = [id for id in ids if id not in self._now]
        if wanted:
            found = self.tx.jobs.load(wanted)
            self.old.update(found)
            self._now.update(found)
            self.loaded_in_lines.update(id for id, row in found.items() if row.conditions & Conditions.LINES)

    def get(self, id: str) -> Row | None:
        """A job as it is now, if it was loaded or made here."""
        return self._now.get(id)

    def __getitem__(self, id: str) -> Row:
        return self._now[id]

    def __contains__(self, id: str) -> bool:
        return id in self._now

    def put(self, row: Row) -> None:
        """A job is this now."""
        before = self._now.get(row.id)
        if row.conditions & Conditions.KEPT:
            self._set_retention(before, row)
        if row.recurring:
            change = self._is_open(row) - (before is not None and self._is_open(before))
            self.new_runs[row.recurring] += change
            if change < 0:
                self._runs_over.add(row.recurring)
        self._now[row.id] = row

    def _set_retention(self, before: Row | None, row: Row) -> None:
        """A job that says for itself how long it is kept has ended, or goes on after its end."""
        if before is not None and before.state is row.state and before.conditions & Conditions.KEPT:
            return
        envelope = self.envelope(row) if row.state.is_final else None
        keep, keep_result = (None, None) if envelope is None else (envelope.policy.keep, envelope.policy.keep_result)
        row.keep_until = None if keep is None else row.changed_at + max(keep, LEAST_KEEP_SECONDS)
        row.result_until = None if keep_result is None or row.result is None else row.changed_at + keep_result

    def open_runs(self, recurring: str) -> int:
        """How many runs of a recurring job are neither gone nor duplicates."""
        return self.tx.schedules.open_runs(recurring) + self.new_runs[recurring]

    def runs_over(self) -> set[str]:
        """The recurring jobs of which a run is open no more, once."""
        over, self._runs_over = self._runs_over, set()
        return over

    def _is_open(self, row: Row) -> bool:
        """Whether a run is neither gone nor an alias."""
        return not row.is_alias and not (row.state.is_final and self.is_clear(row))

    def changed(self) -> list[tuple[Row | None, Row]]:
        """(as it was loaded, as it is now) of each job that is another one now."""
        return [(self.old.get(id), row) for id, row in self._now.items() if row is not self.old.get(id)]

    def write(self, rows: Iterable[Row] | None = None) -> None:
        """Write what has changed since it was last written: queries see it then."""
        wanted = [row for _, row in self.changed()] if rows is None else list(rows)
        unwritten = [row for row in wanted if self._written.get(row.id) is not row]
        stored = {row.id: self._written.get(row.id) or self.old.get(row.id) for row in unwritten}
        self.tx.jobs.save(unwritten, stored)
        self._written.update((row.id, row) for row in unwritten)

    def envelope(self, row: Row) -> Envelope | None:
        """What a job's envelope says; None: it was never seen."""
        known = self._envelopes.get(row.id)
        if known is not None and known[0] is row.envelope:
            return known[1]
        if not row.envelope:
            return None
        envelope = codec.decode(row.envelope)
        if len(row.envelope) <= SMALL_CHARS:
            self._envelopes[row.id] = (row.envelope, envelope)
        return envelope

    def know(self, envelope: Envelope, text: str) -> None:
        """What the text of an envelope says, which was decoded already."""
        if len(text) <= SMALL_CHARS:
            self._envelopes[envelope.id] = (text, envelope)

    # ---- aliases

    def root(self, row: Row) -> Row:
        """The job that stands for an alias; any other job itself."""
        for _ in range(MOST_ALIASES):
            if not row.is_alias or row.alias_group is None:
                return row
            id = self.tx.unique_keys.root_of(row.alias_group)
            if id is None or id == row.id:
                return row
            self.see([id])
            found = self.get(id)
            if found is None:
                return row
            row = found
        return row

    def end_of(self, id: str) -> str | None:
        """How a job ended, as it is shown: an alias ends with its root. None: it has not, or it is not known."""
        row = self.get(id)
        if row is None:
            return None
        shown = self.root(row)
        return shown.state.value if shown.state.is_final else None

    def is_clear(self, row: Row) -> bool:
        """Whether nothing of a job may be running, and what it had for that was given back.

        A grace that has ended counts until `Admission.grace_over` has drawn its consequences.
        """
        return row.publication is Publication.NONE and row.grace_until is None
