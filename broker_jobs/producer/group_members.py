"""Holds what a group of jobs declares, and passes it on to the program that includes the group."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from broker_jobs.errors import DefinitionError, UsageError
from broker_jobs.function.hooks import Hooks, OnEnqueue
from broker_jobs.function.registry import Function, Registry
from broker_jobs.producer.pubsub import Subscriptions
from broker_jobs.producer.recurring import Recurring
from broker_jobs.producer.requests import RequestClient


@dataclass(frozen=True)
class Root:
    """The program at the root of groups: its request client, its jobs, and what is called for declarations."""

    requests: RequestClient
    registry: Registry
    on_function: Callable[[Function], None]
    on_recurring: Callable[[], None]
    on_subscription: Callable[[], None]


class GroupMembers:
    """The members of a group: functions, hooks, subscriptions, recurring jobs and other groups. A `JobSource`."""

    def __init__(self, root: Root | None = None) -> None:
        """`root`: the program, if these are its own members; None: those of a group."""
        self.hooks = Hooks() if root is None else root.registry.hooks
        self.subscriptions = Subscriptions(self, self._subscribed)
        self.recurring = Recurring(self, self._recurring_declared)
        self.root = root
        self.parent: GroupMembers | None = None
        self._functions: list[Function] = []
        self._groups: list[GroupMembers] = []

    @property
    def requests(self) -> RequestClient:
        """The request client of the program.

        Raises:
            UsageError: no program includes this group.
        """
        return self._program().requests

    @property
    def enqueue_hooks(self) -> Sequence[OnEnqueue]:
        """What is called for each job that is enqueued, the program's first."""
        if self.parent is None:
            return self.hooks.on_enqueue
        return [*self.parent.enqueue_hooks, *self.hooks.on_enqueue]

    def add(self, function: Function) -> None:
        """Add a function of this group itself. Raises DefinitionError: its name is taken."""
        self.register(function, ())
        self._functions.append(function)

    def register(self, function: Function, inside: tuple[Hooks, ...]) -> None:
        """Tell the program of a function; `inside`: the hooks of the groups in this one that it is in."""
        if self.root is not None:
            self.root.registry.add(replace(function, groups=inside))
            self.root.on_function(function)
        elif self.parent is not None:
            self.parent.register(function, (self.hooks, *inside))

    def include(self, group: GroupMembers) -> None:
        """Include a group. Twice is once.

        Raises:
            DefinitionError: it belongs to another one, holds this one, or has a name that is taken.
        """
        if group.parent is self:
            return
        if group.parent is not None:
            raise DefinitionError("the group is included already, by another program or group; it belongs to one")
        if group in self.path():
            raise DefinitionError("a group cannot include itself")
        self.recurring.include(group.recurring)
        self.subscriptions.include(group.subscriptions)
        for function, inside in group.functions():
            self.register(function, inside)
        group.parent = self
        self._groups.append(group)
        self.adopt(group.all_hooks())
        self._subscribed()
        if group.recurring.is_declared:
            self._recurring_declared()

    def functions(self) -> Iterator[tuple[Function, tuple[Hooks, ...]]]:
        """The functions of this group and of those in it, each with the hooks of its groups, the outermost first."""
        for function in self._functions:
            yield function, (self.hooks,)
        for group in self._groups:
            for function, inside in group.functions():
                yield function, (self.hooks, *inside)

    def all_hooks(self) -> list[Hooks]:
        """The hooks of this group and of those in it."""
        return [self.hooks, *(hooks for group in self._groups for hooks in group.all_hooks())]

    def adopt(self, hooks: list[Hooks]) -> None:
        """Tell the program of the hooks of groups."""
        if self.root is not None:
            self.root.registry.groups.extend(hooks)
        elif self.parent is not None:
            self.parent.adopt(hooks)

    def path(self) -> list[GroupMembers]:
        """This group and those that it is in."""
        return [self] if self.parent is None else [self, *self.parent.path()]

    def _program(self) -> Root:
        root = self.path()[-1].root
        if root is None:
            raise UsageError(
                "these jobs are in a group (Jobs) that no program includes: write jobs.include(…) where the program is "
                "created, and import that module before you enqueue"
            )
        return root

    def _recurring_declared(self) -> None:
        if (root := self.path()[-1].root) is not None:
            root.on_recurring()

    def _subscribed(self) -> None:
        if (root := self.path()[-1].root) is not None:
            root.on_subscription()
