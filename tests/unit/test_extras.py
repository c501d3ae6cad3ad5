"""What is used without its extra says which one to install; the lists of libraries are those of pyproject.toml."""

from __future__ import annotations

import importlib
import pickle
import re
import sys
import tomllib
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from broker_jobs import BrokerJobs, MissingExtra, UsageError
from broker_jobs.cli import main
from broker_jobs.extras import LIBRARIES, require
from broker_jobs.store import Store

PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
Without = Callable[..., None]


class _NotInstalled:
    """A finder that comes first and knows better."""

    def __init__(self, libraries: set[str]) -> None:
        self._libraries = libraries

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        if name.partition(".")[0] in self._libraries:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return None


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> Without:
    """Take libraries away, as if they had never been installed."""

    def take(*libraries: str) -> None:
        for module in [name for name in sys.modules if name.partition(".")[0] in libraries]:
            monkeypatch.delitem(sys.modules, module)
        monkeypatch.setattr(sys, "meta_path", [_NotInstalled({*libraries}), *sys.meta_path])

    return take


@pytest.fixture
def jobs() -> BrokerJobs:
    return BrokerJobs("memory://")


def _distributions(requirements: list[str]) -> set[str]:
    """The names of requirements, those of our own extras resolved."""
    found = set()
    for requirement in requirements:
        name = re.split(r"[\[>=<]", requirement)[0].strip().lower().replace("_", "-")
        if name == "broker-jobs":
            for extra in requirement.partition("[")[2].partition("]")[0].split(","):
                found |= _distributions(PROJECT["optional-dependencies"][extra])
        else:
            found.add(name)
    return found


def test_the_lists_of_libraries_are_those_of_the_extras() -> None:
    homes = packages_distributions()
    extras = PROJECT["optional-dependencies"]
    assert {*LIBRARIES} == {*extras} - {"all", "dev", "bench"}
    for extra, modules in LIBRARIES.items():
        names = {homes[module][0].lower().replace("_", "-") for module in modules}
        assert names == _distributions(extras[extra]), extra
    assert _distributions(extras["all"]) == {name for extra in LIBRARIES for name in _distributions(extras[extra])}


def test_the_error_is_a_usage_error_and_an_import_error_and_pickles() -> None:
    error = MissingExtra("the dashboard", ["dashboard"], ["jinja2"])
    assert isinstance(error, UsageError)
    assert isinstance(error, ImportError)
    assert str(error) == "the dashboard needs jinja2 (not installed); run: pip install 'broker-jobs[dashboard]'"
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_what_is_installed_is_not_refused() -> None:
    require("everything", *LIBRARIES)


@pytest.mark.parametrize(
    ("roles", "gone", "extras"),
    [
        (["worker"], ["psutil"], "worker"),
        (["coordinator"], ["sqlalchemy"], "coordinator"),
        (["worker", "coordinator", "beat"], ["sqlalchemy"], "coordinator"),
        (["worker", "coordinator", "beat"], ["psutil", "sqlalchemy"], "coordinator,worker"),
    ],
)
def test_a_part_that_is_started_says_its_extra(
    jobs: BrokerJobs, without: Without, roles: list[str], gone: list[str], extras: str
) -> None:
    without(*gone)
    with pytest.raises(MissingExtra, match=re.escape(f"pip install 'broker-jobs[{extras}]'")):
        jobs.start(roles=roles)  # type: ignore[arg-type]
    jobs.stop()


def test_with_jobs_says_the_extras_of_all_parts(jobs: BrokerJobs, without: Without) -> None:
    without("psutil", "sqlalchemy")
    with pytest.raises(MissingExtra, match=r"pip install 'broker-jobs\[coordinator,worker\]'"), jobs:
        pytest.fail("it must not start")


def test_a_beat_and_an_enqueue_need_no_extra(jobs: BrokerJobs, without: Without) -> None:
    without(*{name for names in LIBRARIES.values() for name in names})

    @jobs.job
    def hello() -> None: ...

    jobs.start(roles=["beat"])
    assert hello.enqueue().id
    jobs.stop()


def test_the_dashboard_says_its_extra(jobs: BrokerJobs, without: Without) -> None:
    without("jinja2")
    with pytest.raises(MissingExtra, match=r"jobs\.dashboard\(\) needs jinja2.*'broker-jobs\[dashboard\]'"):
        jobs.dashboard()


@pytest.mark.parametrize("scheme", ["postgresql", "postgresql+psycopg"])
def test_a_store_in_postgresql_says_its_extra(without: Without, scheme: str) -> None:
    without("psycopg")
    url = f"{scheme}://nobody@127.0.0.1:1/nothing"
    with pytest.raises(MissingExtra, match=r"pip install 'broker-jobs\[postgres\]'"):
        Store(url).open()
    program = BrokerJobs("memory://", store=url)
    with pytest.raises(MissingExtra, match=r"pip install 'broker-jobs\[postgres\]'"):
        program.start()
    program.stop()


def test_the_command_line_says_its_extra(without: Without, capsys: pytest.CaptureFixture[str]) -> None:
    without("typer")
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 2
    assert "error: the command line needs typer" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "gone", "extra"),
    [
        (["jobs", "list", "--store", "sqlite:///nothing.db"], "sqlalchemy", "coordinator"),
        (["dashboard"], "fastapi", "dashboard"),
        (["demo"], "aiosmtpd", "demo"),
    ],
)
def test_a_command_says_its_extra(  # noqa: PLR0917  # three fixtures, three parameters
    without: Without,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    gone: str,
    extra: str,
) -> None:
    without(gone)
    monkeypatch.setattr(sys, "argv", ["broker-jobs", *arguments])
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 2
    assert f"pip install 'broker-jobs[{extra}]'" in capsys.readouterr().err.replace("\n", "")


def test_the_tester_says_its_extra(without: Without, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in [name for name in sys.modules if name.startswith("broker_jobs.testing")]:
        monkeypatch.delitem(sys.modules, module)
    without("sqlalchemy")
    with pytest.raises(MissingExtra, match=r"broker_jobs\.testing needs sqlalchemy.*'broker-jobs\[testing\]'"):
        importlib.import_module("broker_jobs.testing")
