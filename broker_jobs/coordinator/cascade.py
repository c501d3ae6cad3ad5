"""Queues what follows from the decisions of a transaction: an end frees children, a free slot lets the next job go.

Every effect is a task, and a task may add others. They are done in their order up to a bound on jobs; the rest is kept
as work items, which the next transactions take up. So a transaction ends, whatever it touches.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import StrEnum

from broker_jobs.store.records import WorkItemRow

PAGE = 400
"""Jobs that the tasks of one transaction may touch, beside those that its inputs name."""


class Kind(StrEnum):
    """What is to be done, and what the target of the task is."""

    WALK = "walk"
    """May this job go now? Never kept: a job that may go is found by its time."""
    CALL = "call"
    """A line has free capacity: its first jobs are asked."""
    CLOSE = "close"
    """A line was closed: the jobs that wait in it give back what they keep elsewhere."""
    JOB = "job"
    """A job has ended, or is open again: what depends on it is told."""
    BATCH = "batch"
    """A batch has ended, or is open again: what depends on it is told."""
    GROUP = "group"
    """The root of a group has ended, is open again, or is another job: its aliases are told."""
    OPEN = "open"
    """A batch submission is accepted, open or abandoned: its members are told."""
    DELETE_MEMBERS = "delete members"
    """A batch was deleted: its members are."""
    KNOWN = "known"
    """A worker knows a kind of job of a queue: those that were held go on."""
    BULK_DELETE = "bulk delete"
    BULK_REQUEUE = "bulk requeue"
    BULK_FAIL = "bulk fail"


COMMANDED = frozenset({Kind.BULK_DELETE, Kind.BULK_REQUEUE, Kind.BULK_FAIL})
"""What jobs wait for goes before what people command."""


@dataclass(frozen=True, slots=True)
class Task:
    """One effect. `state` is what its kind needs to know: how far it has come, or why it is done."""

    kind: Kind
    target: str
    state: str = ""

    @property
    def item(self) -> WorkItemRow:
        """The row that keeps it."""
        return WorkItemRow(self.kind.value, self.target, self.state)


def task_of(row: WorkItemRow) -> Task:
    """The task that a row keeps."""
    return Task(Kind(row.kind), row.target, row.outcome)


class Cascade:
    """The tasks of one transaction, each (kind, target) once; a newer state replaces an older one."""

    def __init__(self) -> None:
        self.budget = PAGE
        self._walks: deque[str] = deque()
        self._walking: set[str] = set()
        self._tasks: dict[tuple[Kind, str], Task] = {}
        self._ended: dict[str, None] = {}
        self._kept: dict[tuple[Kind, str], Task] = {}
        self.done: dict[tuple[Kind, str], Task] = {}
        """Kept tasks that were taken up and are over."""

    def walk(self, id: str) -> None:
        """Ask soon whether a job may go now."""
        if id not in self._walking:
            self._walking.add(id)
            self._walks.append(id)

    def tell(self, id: str) -> None:
        """A job has ended, or is open again: ask whether anything depends on it."""
        self._ended[id] = None

    def told(self) -> list[str]:
        """The jobs of `tell`, once."""
        ended = list(self._ended)
        self._ended.clear()
        return ended

    def add(self, kind: Kind, target: str, state: str = "") -> None:
        """Something is to be done."""
        self._tasks[kind, target] = Task(kind, target, state)

    def keep(self, task: Task) -> None:
        """The rest of a task is for the next transactions."""
        self._kept[task.kind, task.target] = task

    def take_up(self, task: Task) -> None:
        """A kept task is taken up, unless there is a newer one of its target."""
        self.done[task.kind, task.target] = task
        self._tasks.setdefault((task.kind, task.target), task)

    def next(self) -> Task | None:
        """The next task; None: there is none, or the budget is used up."""
        if self._walks:  # each is named by an input or by another task, which paid for it
            id = self._walks.popleft()
            self._walking.discard(id)
            return Task(Kind.WALK, id)
        if self.budget <= 0 or not self._tasks:
            return None
        key = next((key for key in self._tasks if key[0] not in COMMANDED), next(iter(self._tasks)))
        return self._tasks.pop(key)

    @property
    def is_idle(self) -> bool:
        """Whether nothing is left that this transaction may do."""
        return not self._walks and not self._ended and (not self._tasks or self.budget <= 0)

    def left(self) -> list[Task]:
        """What is to be kept for the next transactions."""
        return list((self._kept | self._tasks).values())
