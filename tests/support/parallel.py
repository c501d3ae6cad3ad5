"""Spreads a test run over several processes: which tests stay together, in which order they go out, how many at once.

Each process has servers of its own, started by the first test that asks for them. Most tests that talk to a server
wait for it most of the time, so there are more processes than processors.
"""

import os
import re
from collections.abc import Iterable

import pytest
from xdist.scheduler import LoadScopeScheduling
from xdist.workermanage import WorkerController

PROCESSES_PER_CPU = 2
MOST_PROCESSES = 8
TOGETHER = {
    "tests/browser": r"tests/browser/",  # one browser, and one system that is filled once
    # Two nodes of a kind that no other test uses, each for all of its tests.
    "tests/deploy": r"tests/deploy/test_(compose|metric_names|nginx|rabbitmq_roles|systemd)\.py"
    r"|tests/deploy/test_kubernetes\.py::test_keda_asks",
    "tests/deploy/test_tls.py": r"tests/deploy/test_tls\.py",
    # What is built and installed once for all of a file's tests.
    "tests/acceptance/test_install.py": r"tests/acceptance/test_install\.py",
    "tests/acceptance/test_distribution.py": r"tests/acceptance/test_distribution\.py",
    # One system, or one dashboard, that is asked many times.
    "tests/acceptance/test_masked_commands.py": r"tests/acceptance/test_masked_commands\.py",
    "tests/acceptance/test_dashboard_access.py": r"tests/acceptance/test_dashboard_access\.py",
}
"""Tests that share what is expensive to make: name of the group -> how the ids of its tests begin."""
BY_PLACE = (
    r"(tests/acceptance/(?:conditions/\w+|test_bounds)\.py)::.*[\[-](memory|rabbitmq(?:\+\w+)?|sqlite|postgresql)[\]-]"
)
"""Tests of a file that share one running program for each place, which is a part of their ids."""
APART = (
    r"tests/(acceptance|conformance|integration|storm|api)/|tests/test_docs\.py"
    r"|tests/unit/coordinator/test_(model|recurring)\.py"
)
"""Tests that go out one by one, as they share nothing but servers or take long; all others, file by file."""
WAITING = r"tests/(acceptance|browser|conformance|deploy|integration|storm)|tests/test_docs\.py"
"""Tests that mostly wait; the others mostly compute."""
LONG = (
    # These sleep for up to two minutes each, while others work.
    r"tests/acceptance/test_(frozen_broker|store_outages)|tests/storm",
    r"tests/(browser|deploy)|tests/acceptance/(conditions/|test_(install|distribution|bounds\.py\[))",
    r"tests/integration/test_(never_lost|rabbit_outages|bad_waits|coordinators)|tests/api/test_usage",
    r"tests/acceptance|tests/unit/coordinator|tests/unit/dashboard/test_api_schema",
    r"tests/integration/test_(bad_input|worker|support|enqueue|limits|metrics)|tests/test_docs",
    r"tests/integration|tests/unit/dashboard",
)
"""What takes longest, first: what starts last must be short, or one process works on while the others have ended."""


def processes(config: pytest.Config) -> int:
    """How many processes run the tests that a command line asks for; 0 for this one alone.

    Files and tests asked for by name run in this process: several others cost more to start than they save, and hide
    what a test prints.
    """
    if config.getoption("capture") == "no" or all(_is_file(given) for given in config.args):
        return 0
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(PROCESSES_PER_CPU * cpus, MOST_PROCESSES)


def _is_file(given: str) -> bool:
    return given.partition("::")[0].endswith(".py")


def group_of(nodeid: str) -> str:
    """The name of the group of tests that a test runs with, in one process and one after the other."""
    for name, pattern in TOGETHER.items():
        if re.match(pattern, nodeid):
            return name
    if place := re.match(BY_PLACE, nodeid):
        return "{}[{}]".format(*place.groups())
    return nodeid if re.match(APART, nodeid) else nodeid.partition("::")[0]


def order(groups: Iterable[str]) -> list[str]:
    """The groups in the order in which they go out: long ones first, and those that compute among those that wait."""
    by_length = sorted(groups, key=_length)
    waiting = [group for group in by_length if re.match(WAITING, group)]
    computing = [group for group in by_length if not re.match(WAITING, group)]
    if not computing or not waiting:
        return by_length
    few, many = sorted((waiting, computing), key=len)
    step = -(-len(many) // len(few))  # so many of the one for each of the other
    mixed: list[str] = []
    for number, group in enumerate(few):
        mixed += [*many[number * step : (number + 1) * step], group]
    return mixed


def _length(group: str) -> int:
    return next((place for place, pattern in enumerate(LONG) if re.match(pattern, group)), len(LONG))


class Spread(LoadScopeScheduling):  # type: ignore[misc]  # it ships no types
    """Gives each process its next group as soon as it has begun the last test it knows of."""

    collection: list[str] | None

    def schedule(self) -> None:
        """Begin, or let a process that takes the place of another one join."""
        if self.collection is None:
            if not self._check_nodes_have_same_collection():
                return
            self.collection = list(next(iter(self.registered_collections.values())))
            groups: dict[str, dict[str, bool]] = {}
            for nodeid in self.collection:
                groups.setdefault(group_of(nodeid), {})[nodeid] = False
            self.workqueue.update((group, groups[group]) for group in order(groups))
            for node in self.nodes:
                if self.workqueue:
                    self._assign_work_unit(node)
        for node in self.nodes:
            self._reschedule(node)

    def remove_node(self, node: WorkerController) -> str | None:
        """Take back what a process that is gone has not run, but for the test that ended it, which is returned."""
        groups = self.assigned_work.pop(node)
        left = {group: [test for test, done in tests.items() if not done] for group, tests in groups.items()}
        crashed: str | None = next((test for tests in left.values() for test in tests), None)
        for group, tests in left.items():
            if again := dict.fromkeys((test for test in tests if test != crashed), False):
                self.workqueue[group] = again
        for other in self.nodes:
            self._reschedule(other)
        return crashed

    def _split_scope(self, nodeid: str) -> str:
        return group_of(nodeid)

    def _reschedule(self, node: WorkerController) -> None:
        # A process runs a test only when it knows the next one, or that there is none.
        while self.workqueue and not node.shutting_down and self._pending_of(self.assigned_work[node]) < 2:
            self._assign_work_unit(node)
        if not self.workqueue:
            node.shutdown()
