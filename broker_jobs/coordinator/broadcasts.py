"""Gathers what a transaction tells the workers: new fences, cancels and pauses, or all of them if some were missed."""

from __future__ import annotations

from broker_jobs.coordinator.rows import Rows
from broker_jobs.messages.commands import Hello
from broker_jobs.messages.control import Control, Fence, WorkerChange
from broker_jobs.store.write import Transaction

MOST_FENCES = 5_000
"""In one message: RabbitMQ 4 refuses those over 16 MiB, and closes the channel over them."""


class Broadcasts:
    """What is new for the workers. A version in it is repeated by their heartbeats: a lost broadcast is sent again."""

    def __init__(self, tx: Transaction) -> None:
        self._tx = tx
        self._schedules_before = tx.meta.schedules_version
        self._for_hellos: tuple[dict[str, object], list[bytes]] | None = None
        self.fences: list[Fence] = []
        self.cancel: list[str] = []
        """Running jobs that are to stop."""
        self.pauses_changed = False
        self.changes: list[WorkerChange] = []
        """What workers are to do otherwise than they were started."""
        self.untold: list[str] = []
        """Workers whose jobs are not known: they say hello again."""
        self.missed = False
        """Whether a worker has missed a broadcast: all of it is sent again."""

    def controls(self, *, all_of_it: bool) -> list[Control]:
        """What is broadcast, in order; an empty list if nothing is new.

        Args:
            all_of_it: everything workers must know, and not only what is new.
        """
        schedules_changed = self._tx.meta.schedules_version != self._schedules_before
        if self.fences or self.cancel or self.pauses_changed or self.changes:
            self._tx.meta.control_version += 1
        elif not schedules_changed and not all_of_it and not self.untold:
            return []
        if all_of_it:
            before, snapshot = self._snapshot()
            news = {"schedules_changed": schedules_changed, "untold": self.untold}
            return [*before, snapshot.model_copy(update=news)]
        return [
            Control(
                version=self._tx.meta.control_version,
                fences=self.fences,
                paused=self._tx.queues.paused() if self.pauses_changed else None,
                cancel=self.cancel,
                changes=self.changes,
                untold=self.untold,
                schedules_changed=schedules_changed,
            )
        ]

    def for_hello(self, hello: Hello, rows: Rows) -> tuple[dict[str, object], list[bytes]]:
        """What a worker that says hello is answered, and what it is sent before that.

        Args:
            hello: of the worker.
            rows: the jobs it runs, as far as they are known.
        """
        if self._for_hellos is None:  # made once a batch: after an outage every worker says hello at once
            before, snapshot = self._snapshot()
            bodies = [control.model_dump_json(exclude_none=True).encode() for control in before]
            self._for_hellos = snapshot.model_dump(mode="json"), bodies
        detail, bodies = self._for_hellos
        return detail | {"cancel": _not_its_own(hello, detail["cancel"], rows)}, bodies

    def _snapshot(self) -> tuple[list[Control], Control]:
        """All that workers must know, and the messages before it, with the fences that one message does not hold.

        What goes before has no version: who has heard only that has not heard all.
        """
        fences = [Fence(id=id, epoch=epoch) for id, epoch in self._tx.in_flight.fences()]
        before = [
            Control(version=0, fences=fences[start : start + MOST_FENCES])
            for start in range(0, len(fences) - MOST_FENCES, MOST_FENCES)
        ]
        return before, Control(
            version=self._tx.meta.control_version,
            snapshot=True,
            fences=fences[len(before) * MOST_FENCES :],
            paused=self._tx.queues.paused(),
            cancel=self._tx.in_flight.cancels(),
            changes=[WorkerChange.model_validate_json(each) for each in self._tx.processes.changes().values()],
        )


def _not_its_own(hello: Hello, asked: object, rows: Rows) -> list[str]:
    """The jobs that a worker must stop: those that were asked to, and those that run elsewhere or have ended."""
    runs = [(id, epoch, row) for id, epoch in hello.running if (row := rows.get(id)) is not None]
    others = [id for id, epoch, row in runs if row.state.is_final or epoch < row.epoch]
    return [*(asked if isinstance(asked, list) else ()), *others]
