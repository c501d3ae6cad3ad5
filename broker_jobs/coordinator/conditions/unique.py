"""Decides which job has a unique key; a later one becomes its alias, or replaces it."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum, auto

from broker_jobs.coordinator.cascade import Cascade
from broker_jobs.coordinator.rows import Rows
from broker_jobs.coordinator.state_machine.steps import entered, waiting
from broker_jobs.messages.envelope import Envelope, UniqueKey, new_id
from broker_jobs.messages.state import State
from broker_jobs.store.row import Conditions, Publication, Reason, Row, WaitReason
from broker_jobs.store.unique_keys import UniqueKeyRow


class Answer(Enum):
    """What the condition says to a job that asks for its key."""

    PASS = auto()
    ALIAS = auto()
    """Another job stands for it: it has ended."""
    CIRCLE = auto()
    """The job that has the key waits for this one: it cannot wait for that."""


class UniqueKeyRules:
    """Unique keys, in one transaction.

    Args:
        rows: the jobs.
        cascade: takes what follows.
        waits_for: whether one job waits for another, by way of parents, batches and aliases.
        asks_for: whether a job that is being admitted, with its envelope, would wait for another one.
    """

    def __init__(
        self,
        rows: Rows,
        cascade: Cascade,
        *,
        waits_for: Callable[[Row, Row], bool],
        asks_for: Callable[[Row, Envelope, Row], bool],
    ) -> None:
        self._rows = rows
        self._cascade = cascade
        self._waits_for = waits_for
        self._asks_for = asks_for
        self._keys: dict[str, UniqueKeyRow | None] = {}
        self.replaced: list[str] = []
        """Jobs whose place a later one took: they are to leave."""

    # ---- asking

    def admit(self, row: Row, envelope: Envelope) -> Answer:
        """A job is accepted: it takes its key, or another job has it."""
        unique = envelope.unique
        if unique is None:
            return Answer.PASS
        key = self._valid(unique.key)
        holder = None if key is None or key.job_id == row.id else self._row(key.job_id)
        if key is None or holder is None:
            self._take(row, unique, None)
            return Answer.PASS
        if holder.state is State.DELETED and not self._rows.is_clear(holder):
            self._take(row, unique, holder.id)
            self._rows.put(waiting(row, row.waits | WaitReason.UNIQUE, self._rows.at, _waits_until_clear(holder)))
            return Answer.PASS
        if holder.state.is_final and key.scope != "window":  # a store that was restored may keep it
            self._take(row, unique, None)
            return Answer.PASS
        if unique.replace and self._may_be_replaced(holder) and not self._asks_for(row, envelope, holder):
            self._replace(holder, row, unique, key)
            return Answer.PASS
        if self._waits_for(holder, row):
            return Answer.CIRCLE
        self._become_alias(row, holder)
        return Answer.ALIAS

    def taken_by_another(self, row: Row, envelope: Envelope) -> str | None:
        """The job that has the key of a job which comes back, if that is another one."""
        if envelope.unique is None:
            return None
        key = self._valid(envelope.unique.key)
        return None if key is None or key.job_id == row.id or self._row(key.job_id) is None else key.job_id

    def _valid(self, key: str) -> UniqueKeyRow | None:
        """The row of a key, unless its window is over."""
        if key not in self._keys:
            self._keys[key] = self._rows.tx.unique_keys.of(key)
        row = self._keys[key]
        if row is not None and row.until is not None and row.until <= self._rows.at.now and row.after is None:
            self._drop(key)
            return None
        return row

    def _row(self, id: str) -> Row | None:
        self._rows.see([id])
        return self._rows.get(id)

    def _may_be_replaced(self, holder: Row) -> bool:
        never_released = not holder.conditions & Conditions.RELEASED and holder.publication is Publication.NONE
        return holder.is_waiting and never_released and self._rows.is_clear(holder)

    # ---- taking

    def _take(self, row: Row, unique: UniqueKey, after: str | None) -> None:
        until = None if unique.scope != "window" else self._rows.at.now + (unique.seconds or 0.0)
        self._save(UniqueKeyRow(unique.key, row.id, unique.scope, until, after))

    def _become_alias(self, row: Row, root: Row) -> None:
        group = self._group_of(root)
        self._rows.put(
            entered(
                row, State.DELETED, self._rows.at.now, f"duplicate of {root.id}", reason_code=Reason.ALIAS,
                alias_group=group,
            )
        )  # fmt: skip
        self._cascade.tell(row.id)

    def _replace(self, holder: Row, row: Row, unique: UniqueKey, key: UniqueKeyRow) -> None:
        """The newcomer stands for the holder from now on, and for its aliases."""
        group = self._group_of(holder)
        holder = self._rows[holder.id]
        waits = row.waits | (holder.waits & WaitReason.UNIQUE)
        self._rows.tx.unique_keys.save_group(group, row.id)
        self._rows.put(
            entered(
                holder, State.DELETED, self._rows.at.now, f"replaced by {row.id}", reason_code=Reason.ALIAS,
                alias_group=group,
            )
        )  # fmt: skip
        self.replaced.append(holder.id)
        self._rows.put(waiting(row.evolve(alias_group=group), waits, self._rows.at, holder.reason))
        self._take(row, unique, key.after)

    def _group_of(self, root: Row) -> str:
        if root.alias_group is not None:
            return root.alias_group
        group = new_id()
        self._rows.tx.unique_keys.save_group(group, root.id)
        self._rows.put(root.evolve(alias_group=group))
        return group

    # ---- leaving

    def started(self, row: Row) -> None:
        """A job runs, or has run: a key that lasts until the start is free.

        Its worker has the start confirmed before the function runs, so a job that is enqueued after the start is read
        behind it, and is no duplicate.
        """
        key = self._own(row)
        if key is not None and key.scope == "queued":
            self._drop(key.key)

    def leave(self, row: Row) -> None:
        """A job has ended: its key is free when nothing of it may be running any more; a window stays."""
        key = self._own(row)
        if key is None or not row.state.is_final:
            return
        if key.after is not None:  # the one before it has the key back until it is clear
            self._save(UniqueKeyRow(key.key, key.after, "running"))
        elif self._rows.is_clear(row) and (key.scope != "window" or row.state is State.DELETED):
            self._drop(key.key)

    def cleared(self, row: Row) -> None:
        """Nothing of a job may be running any more: the job that waits for its key goes on."""
        if not row.conditions & Conditions.UNIQUE:
            return
        for key in self._rows.tx.unique_keys.waiting_for(row.id):
            self._save(UniqueKeyRow(key.key, key.job_id, key.scope, key.until))
            holder = self._row(key.job_id)
            if holder is not None and holder.waits & WaitReason.UNIQUE:
                waits = holder.waits & ~WaitReason.UNIQUE
                self._rows.put(waiting(holder, waits, self._rows.at, "its unique key is free"))
                self._cascade.walk(holder.id)

    def _own(self, row: Row) -> UniqueKeyRow | None:
        """The key that a job has."""
        envelope = self._rows.envelope(row) if row.conditions & Conditions.UNIQUE else None
        if envelope is None or envelope.unique is None:
            return None
        key = self._valid(envelope.unique.key)
        return key if key is not None and key.job_id == row.id else None

    def _save(self, key: UniqueKeyRow) -> None:
        self._keys[key.key] = key
        self._rows.tx.unique_keys.save(key)

    def _drop(self, key: str) -> None:
        self._keys[key] = None
        self._rows.tx.unique_keys.drop(key)


def _waits_until_clear(holder: Row) -> str:
    return f"waits until {holder.id}, which had its unique key and was deleted, runs nowhere any more"
