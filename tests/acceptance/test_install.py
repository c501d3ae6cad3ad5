"""Installs the package for real, with no extra and with each, and does there what that is for.

The wheel is built once. One environment has the base package alone; that of an extra is a copy of it with the extra on
top. What an environment has not got is found out by using it.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from broker_jobs.extras import LIBRARIES
from tests.support.rabbitmq import Vhost
from tests.support.wait import eventually

ROOT = Path(__file__).parents[2]
SECONDS = 100
HIDDEN = {"PYTHONPATH", *(name for name in os.environ if name.startswith("BROKER_JOBS_"))}

pytestmark = [pytest.mark.acceptance, pytest.mark.slow]

APP = """
from pathlib import Path
from broker_jobs import BrokerJobs

jobs = BrokerJobs()


@jobs.job
def write(text: str) -> str:
    Path("written.txt").write_text(text)
    return text
"""

ENQUEUE = """
from app import jobs, write

print(write.enqueue("by a worker").id)
jobs.stop()
"""

WORK = """
import time
from pathlib import Path
from app import jobs

jobs.start(roles=["worker"])
Path("started.txt").touch()
deadline = time.monotonic() + 60
while not Path("written.txt").exists() and time.monotonic() < deadline:
    time.sleep(0.02)
jobs.stop()
print(Path("written.txt").read_text())
"""

COORDINATE = """
import time
from app import jobs, write

jobs.start(roles=["coordinator"])
receipt = write.enqueue("x")
for _ in range(600):  # its queue is declared when the job comes back from it
    if (state := write.receipt(receipt.id).state()) == "enqueued":
        break
    time.sleep(0.1)
print(state)
jobs.stop()
"""

DASHBOARD = """
import urllib.request
from app import jobs
from broker_jobs.dashboard.server import DashboardServer
from broker_jobs.store import Store

jobs.configure({"store": "sqlite:///store.db", "dashboard_port": 0})
store = Store("sqlite:///store.db")
store.open()
store.close()
with DashboardServer(jobs.dashboard(local=True), jobs.settings) as server:
    print(urllib.request.urlopen(server.address, timeout=30).status)
    print(urllib.request.urlopen(server.address + "api/v1/jobs", timeout=30).status)
jobs.stop()
"""

TESTING = """
from app import jobs, write
from broker_jobs.testing import Tester

with Tester(jobs) as tester:
    receipt = write.enqueue("x")
    tester.run()
    print(receipt.result())
"""

POSTGRES = """
import os
from broker_jobs.store import Store

store = Store(os.environ["STORE"])
store.open()
print(store.reader.statistics.counts() is not None)
store.close()
"""

ERROR = """
from app import jobs
from broker_jobs import MissingExtra

try:
    {statement}
except MissingExtra as error:
    print(error)
else:
    raise SystemExit("no error")
finally:
    jobs.stop()
"""


class Environment:
    """A virtual environment and a folder with app.py in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.python = folder / "bin" / "python"

    def install(self, *requirements: str) -> None:
        """Install into it, with the pip of this test run."""
        _run(sys.executable, "-m", "pip", "--python", str(self.python), "install", "-q", "--no-compile", *requirements)

    def run(self, program: str, **environment: str) -> str:
        """Run a program in it; what it prints."""
        (self.folder / "app.py").write_text(APP)
        return _run(str(self.python), "-c", program, cwd=self.folder, **environment)

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run our command line in it."""
        return subprocess.run(
            [self.python, "-m", "broker_jobs.cli", *arguments],
            cwd=self.folder,
            env={name: value for name, value in os.environ.items() if name not in HIDDEN},
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )

    def packages(self) -> dict[str, float]:
        """Each installed distribution but pip's own, and its size in MB."""
        listing = _run(
            str(self.python),
            "-c",
            "import importlib.metadata as m, json; print(json.dumps({d.name: sum(f.locate().stat().st_size"
            " for f in d.files or () if f.locate().is_file()) / 1e6 for d in m.distributions()}))",
        )
        found: dict[str, float] = json.loads(listing)
        return found


def _run(*command: str, cwd: Path | None = None, **environment: str) -> str:
    done = subprocess.run(
        command,
        cwd=cwd,
        env={name: value for name, value in os.environ.items() if name not in HIDDEN} | environment,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout.strip()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    _run(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(folder), str(ROOT))
    (wheel,) = folder.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def base(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """An environment with the package alone."""
    folder = tmp_path_factory.mktemp("base")
    _run(sys.executable, "-m", "venv", "--without-pip", str(folder))
    environment = Environment(folder)
    environment.install(str(wheel))
    return environment


@pytest.fixture
def with_extra(base: Environment, wheel: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Environment:
    """An environment with one extra."""
    folder = tmp_path / "extra"
    shutil.copytree(base.folder, folder, symlinks=True)
    environment = Environment(folder)
    environment.install(f"{wheel}[{request.param}]")
    return environment


def extra(name: str) -> pytest.MarkDecorator:
    """The extra that a test's environment has."""
    return pytest.mark.parametrize("with_extra", [name], indirect=True)


def test_a_producer_needs_few_packages(base: Environment) -> None:
    packages = base.packages()
    assert "SQLAlchemy" not in packages
    assert len(packages) <= 20, packages
    assert sum(packages.values()) < 40, packages


@pytest.mark.rabbitmq
def test_the_package_alone_enqueues_to_rabbitmq(base: Environment, vhost: Vhost) -> None:
    assert len(base.run(ENQUEUE, BROKER_JOBS_URL=vhost.url)) == 36


@pytest.mark.parametrize(
    ("statement", "extras"),
    [
        ("jobs.start()", "coordinator,worker"),
        ("with jobs: pass", "coordinator,worker"),
        ("jobs.start(roles=['worker'])", "worker"),
        ("jobs.start(roles=['coordinator'])", "coordinator"),
        (
            "jobs.configure({'store': 'postgresql://a:b@c/d'}); jobs.start(roles=['coordinator'])",
            "coordinator,postgres",
        ),
        ("jobs.dashboard(local=True)", "dashboard"),
        ("import broker_jobs.testing", "testing"),
    ],
)
def test_the_package_alone_says_what_the_rest_needs(base: Environment, statement: str, extras: str) -> None:
    program = ERROR.format(statement=statement)
    assert f"pip install 'broker-jobs[{extras}]'" in base.run(program)


def test_the_script_of_the_package_alone_says_its_extra(base: Environment) -> None:
    done = subprocess.run(
        [base.folder / "bin" / "broker-jobs", "--help"], capture_output=True, text=True, timeout=SECONDS, check=False
    )
    assert done.returncode == 2
    assert done.stderr == (
        "error: the command line needs rich, typer (not installed); run: pip install 'broker-jobs[cli]'\n"
    )


@pytest.mark.rabbitmq
@extra("worker")
def test_a_worker_runs_what_the_package_alone_has_enqueued(
    base: Environment, with_extra: Environment, vhost: Vhost
) -> None:
    with ThreadPoolExecutor(1) as aside:
        working = aside.submit(with_extra.run, WORK, BROKER_JOBS_URL=vhost.url)
        started = with_extra.folder / "started.txt"
        eventually(lambda: working.done() or started.exists(), 60, "a worker")  # it makes its queue
        base.run(ENQUEUE, BROKER_JOBS_URL=vhost.url)
        assert working.result() == "by a worker"


@pytest.mark.rabbitmq
@extra("coordinator")
def test_a_coordinator_answers(with_extra: Environment, vhost: Vhost) -> None:
    said = with_extra.run(COORDINATE, BROKER_JOBS_URL=vhost.url, BROKER_JOBS_STORE="sqlite:///store.db")
    assert said == "enqueued"


@extra("dashboard")
def test_a_dashboard_shows_its_pages_and_its_api(with_extra: Environment) -> None:
    assert with_extra.run(DASHBOARD).split() == ["200", "200"]


@pytest.mark.postgres
@extra("postgres")
def test_a_store_in_postgresql_opens(with_extra: Environment, postgres_url: str) -> None:
    assert with_extra.run(POSTGRES, STORE=postgres_url) == "True"


@extra("testing")
def test_a_tester_runs_jobs(with_extra: Environment) -> None:
    assert with_extra.run(TESTING) == "x"


@extra("cli")
def test_the_command_line_says_what_its_commands_need(with_extra: Environment) -> None:
    assert with_extra.command("--help").returncode == 0
    for arguments, needed in {
        ("run", "app:jobs"): "coordinator,worker",
        ("worker", "app:jobs", "--url", "amqp://a:b@127.0.0.1:1/"): "worker",
        ("worker", "app:jobs", "--url", "amqp://a:b@127.0.0.1:1/", "--processes", "2"): "worker",
        ("jobs", "list"): "coordinator",
        ("jobs", "list", "--store", "postgresql://a:b@c/d"): "coordinator,postgres",
        ("dashboard",): "dashboard",
        ("demo",): "demo",
    }.items():
        (with_extra.folder / "app.py").write_text(APP)
        done = with_extra.command(*arguments)
        assert done.returncode == 2, done
        assert f"pip install 'broker-jobs[{needed}]'" in done.stderr, done
        assert done.stderr.startswith("error: "), done


@extra("all")
def test_all_is_all(with_extra: Environment) -> None:
    libraries = sorted({library for names in LIBRARIES.values() for library in names})
    assert with_extra.run(f"import {', '.join(libraries)}, broker_jobs.demo.main; print('ok')") == "ok"
    assert "broker-jobs" in with_extra.command("--version").stdout
    _run(sys.executable, "-m", "pip", "--python", str(with_extra.python), "check")
