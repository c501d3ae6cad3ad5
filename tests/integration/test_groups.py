"""Groups: a module declares its jobs in a group of its own, and a program includes it."""

import copy
import importlib
import pickle
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from broker_jobs import BrokerJobs, DefinitionError, Jobs, OptionError, UsageError
from broker_jobs.testing import Tester
from tests.support import grouped_jobs
from tests.support.wait import eventually


@pytest.fixture(params=["memory", pytest.param("rabbitmq", marks=pytest.mark.rabbitmq)])
def jobs(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[BrokerJobs]:
    url = "memory://" if request.param == "memory" else request.getfixturevalue("vhost").url
    program = BrokerJobs(url, store=f"sqlite:///{tmp_path / 'store.db'}", service="tests")
    yield program
    program.stop(0)


@pytest.fixture
def group() -> ModuleType:
    """The module of the group, imported anew: a group belongs to one program."""
    return importlib.reload(grouped_jobs)


def test_a_group_works_once_a_program_includes_it(jobs: BrokerJobs, group: ModuleType) -> None:
    with pytest.raises(UsageError, match=r"no program includes: write jobs.include\(…\)"):
        group.welcome.enqueue(1)
    assert group.welcome(1) == "welcome 1"
    jobs.include(group.mail)
    jobs.include(group.mail)  # twice is once
    with jobs:
        assert group.welcome.enqueue(1).result(timeout=120) == "welcome 1"
        assert group.seen == ["mail begins", "mail ends"]
        assert group.newsletter.using(queue="mail").enqueue(2).result(timeout=120) == "newsletter 2"
        group.seen.clear()
        assert group.nested.enqueue().result(timeout=120) == "nested"
        assert group.seen == ["inner tests.support.grouped_jobs.nested", "mail begins", "mail ends"]
        jobs.publish("user.registered", 7)
        eventually(lambda: "greet 7" in group.seen)
        assert jobs.recurring.trigger("welcome-all").result(timeout=120) == "welcome 0"
        assert group.mail.recurring.trigger("welcome-all").result(timeout=120) == "welcome 0"


def test_defaults_count_where_a_job_says_nothing(jobs: BrokerJobs, group: ModuleType) -> None:
    jobs.include(group.mail)
    options = {name: jobs.registry.get(name).options for name in ("welcome", "newsletter", "greet")}  # type: ignore[union-attr]
    assert {name: (each.queue, each.policy.retries, each.tags) for name, each in options.items()} == {
        "welcome": ("mail", 0, ("mail",)),
        "newsletter": ("bulk", 2, ("mail",)),
        "greet": ("mail", 0, ("mail",)),
    }


def test_what_a_group_declares_after_it_was_included_counts(group: ModuleType) -> None:
    jobs = BrokerJobs("memory://")
    jobs.include(group.late)
    group.late.include(Jobs())
    seen: list[str] = []

    @group.late.job  # type: ignore[untyped-decorator]
    def added() -> str:
        return "added"

    @group.late.on_enqueue  # type: ignore[untyped-decorator]
    def enqueued(job: Any) -> None:
        seen.append(job.name)

    with Tester(jobs) as tester:
        receipt = added.enqueue()
        tester.run()
        assert receipt.result() == "added"
    assert seen == ["added"]


def test_a_group_belongs_to_one_program(group: ModuleType) -> None:
    first, second = BrokerJobs("memory://"), BrokerJobs("memory://")
    first.include(group.mail)
    with pytest.raises(DefinitionError, match="belongs to one"):
        second.include(group.mail)
    with pytest.raises(DefinitionError, match="belongs to one"):
        second.include(group.inner)
    with pytest.raises(DefinitionError, match="include itself"):
        group.inner.include(group.mail) if group.mail.members.parent is None else group.late.include(group.late)
    with pytest.raises(DefinitionError, match=r"include\(\) takes a group"):
        second.include(first)


def test_a_name_is_taken_once(group: ModuleType) -> None:
    jobs = BrokerJobs("memory://")

    @jobs.job
    def welcome() -> None: ...

    with pytest.raises(DefinitionError, match="two jobs are named 'welcome'"):
        jobs.include(group.mail)
    other = BrokerJobs("memory://")
    other.recurring("welcome-all", "* * * * *", other.job(name="x")(lambda_free))
    with pytest.raises(DefinitionError, match="recurring 'welcome-all' is declared twice"):
        other.include(group.mail)


def lambda_free() -> None: ...


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "x"}, "belongs to one function"),
        ({"quee": "x"}, "did you mean 'queue'"),
        ({"retries": -1}, "retries must be"),
        ({"names": "path"}, "names must be 'function' or 'module'"),
    ],
)
def test_defaults_are_checked_where_they_are_written(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        Jobs(**options)


# ---- names


def test_jobs_are_named_by_module_and_function() -> None:
    jobs = BrokerJobs("memory://", names="module")
    plain: Any = jobs.job(lambda_free)
    assert plain.name == f"{__name__}.lambda_free"
    assert jobs.job(name="mine")(lambda_free).name == "mine"


PROGRAM = """
from broker_jobs import BrokerJobs

jobs = BrokerJobs("memory://", names="module")


@jobs.job
def welcome() -> str:
    return "welcome"


if __name__ == "__main__":
    print(welcome.name)
    with jobs:
        print(welcome.enqueue().result(timeout=60))
"""


@pytest.mark.parametrize("command", [["shop/mail.py"], ["-m", "shop.mail"]])
def test_the_main_module_has_the_name_by_which_others_import_it(command: list[str], tmp_path: Path) -> None:
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "mail.py").write_text(PROGRAM)
    done = subprocess.run(
        [sys.executable, *command], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=True
    )
    module = "shop.mail" if command[0] == "-m" else "mail"
    assert done.stdout.splitlines() == [f"{module}.welcome", "welcome"]


# ---- a job is pickled and copied as a function is


def test_a_job_is_pickled_by_its_place(group: ModuleType) -> None:
    assert pickle.loads(pickle.dumps(group.welcome)) is group.welcome
    assert pickle.loads(pickle.dumps(group.newsletter)) is group.newsletter
    assert copy.deepcopy({"job": group.welcome})["job"] is group.welcome
    assert copy.copy(group.welcome) is group.welcome
    with_options = group.welcome.using(queue="slow")
    assert copy.deepcopy(with_options) is with_options
    with pytest.raises(TypeError, match=r"cannot be pickled: pickle welcome as it was decorated"):
        pickle.dumps(with_options)


def test_a_pool_of_processes_runs_a_job_as_a_function() -> None:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        assert list(pool.map(grouped_jobs.welcome, [1, 2])) == ["welcome 1", "welcome 2"]
