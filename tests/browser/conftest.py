"""A live system on RabbitMQ, its dashboard as a process of its own, and a real browser in front of it."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from broker_jobs import BrokerJobs
from broker_jobs.dashboard.role import Role, Visitor
from broker_jobs.dashboard.server import DashboardServer
from broker_jobs.store import Store
from tests.support.hostile import Hostile, fill, hostile
from tests.support.process import Lodging, end_of, free_port
from tests.support.rabbitmq import Broker
from tests.support.wait import eventually

Theme = Literal["light", "dark"]
WIDE, PHONE = (1280, 900), (390, 844)
MARKS = [
    pytest.mark.browser,
    pytest.mark.rabbitmq,
    # Playwright runs an event loop in this thread, which nobody else waits for.
    pytest.mark.filterwarnings("ignore:.*blocks the event loop:RuntimeWarning"),
]
"""Of every test here."""
PROGRAMS = ("chromium", "chromium-browser", "google-chrome")


def _chromium() -> str:
    found = next((path for name in PROGRAMS if (path := shutil.which(name))), None)
    if found is None:
        missing = "Chromium is not installed; on Debian: sudo apt-get install chromium"
        if os.environ.get("CI") == "true":
            pytest.fail(f"in CI no server may be missing: {missing}", pytrace=False)
        pytest.skip(missing)
    return found


@pytest.fixture(scope="package")
def chromium() -> Iterator[Any]:
    """The browser."""
    program = _chromium()
    # Here: each process of a test run reads this file, and one of them has a browser.
    playwright = pytest.importorskip("playwright.sync_api", reason="install playwright (pip install '.[dev]')")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@dataclass
class System:
    """The hostile program with worker, coordinator and beat in this process, on RabbitMQ."""

    hostile: Hostile
    store: Store
    url: str
    store_url: str
    lodging: Lodging

    @contextmanager
    def dashboard(self, **environment: str) -> Iterator[str]:
        """The address of a dashboard, a process of its own, as a user starts it."""
        port = free_port()
        log = self.lodging.folder / f"dashboard-{port}.log"
        command = [sys.executable, "-m", "broker_jobs.cli", "dashboard", "--port", str(port)]
        given = {"BROKER_JOBS_URL": self.url, "BROKER_JOBS_STORE": self.store_url} | environment
        root = str(Path(__file__).parents[2])
        process = self.lodging.start(command, log=log, env=os.environ | {"PYTHONPATH": root} | given)
        address = f"http://127.0.0.1:{port}"
        try:
            eventually(lambda: _listens(address) or process.poll() is not None, what="the dashboard", timeout=60)
            assert process.poll() is None, end_of(log)
            yield address
        finally:
            self.lodging.kill(process)

    @contextmanager
    def dashboard_for(self, role: Role) -> Iterator[str]:
        """The address of a dashboard in this process, whose own login says that everybody has this role."""
        program = BrokerJobs(self.url, store=self.store_url)
        shown = program.dashboard(authorize=lambda _: Visitor(role, "somebody"))
        with DashboardServer(shown, program.settings, port=0) as server:
            yield server.address.rstrip("/")
        program.stop()


def _listens(address: str) -> bool:
    import httpx

    try:
        return bool(httpx.get(f"{address}/healthz", timeout=30).is_success)
    except httpx.HTTPError:
        return False


@pytest.fixture(scope="package")
def system(broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """A full system: everything there is, each with hostile texts; shared by all tests, each acts on its own things."""
    vhost = broker.vhost()
    store_url = f"sqlite:///{tmp_path_factory.mktemp('browser') / 'store.db'}"
    made = hostile(vhost.url, store_url)
    lodging = Lodging("browser")
    store = Store(store_url)
    try:
        fill(made)
        store.open()
        yield System(made, store, vhost.url, store_url, lodging)
    finally:
        made.gate.set()
        made.program.stop(5)
        store.close()
        lodging.close()
        vhost.delete()


@pytest.fixture(scope="package")
def address(system: System) -> Iterator[str]:
    """The dashboard of somebody on this machine, who may do everything."""
    with system.dashboard() as address:
        yield address


@dataclass
class Watched:
    """What went wrong in a browser's pages: none of it may."""

    alerts: list[str] = field(default_factory=list)
    received: int = 0
    """Bytes that came over the network, headers included."""


@pytest.fixture
def opened(chromium: Any) -> Iterator[Callable[..., Any]]:
    """Opens a page of a fresh session: opened(theme="dark", size=PHONE); each is watched for whatever goes wrong."""
    contexts: list[Any] = []
    watched = Watched()

    def open_page(*, theme: Theme = "light", size: tuple[int, int] = WIDE, script: bool = True) -> Any:
        context = chromium.new_context(
            color_scheme=theme,
            viewport={"width": size[0], "height": size[1]},
            java_script_enabled=script,
            reduced_motion="reduce",
        )
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(15_000)
        watch(page, watched)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert watched.alerts == []


def watch(page: Any, watched: Watched) -> None:
    """Note dialogs (a script of a hostile text would open one), errors, refusals of the policy, and failed requests."""

    def dialog(shown: Any) -> None:
        watched.alerts.append(f"a dialog: {shown.message}")
        shown.dismiss()

    def said(message: Any) -> None:
        if message.type in {"error", "warning"} and "status of 4" not in message.text:
            watched.alerts.append(f"console: {message.text} at {page.url}")

    page.on("dialog", dialog)
    page.on("console", said)
    page.on("pageerror", lambda error: watched.alerts.append(f"an error: {error} at {page.url}"))
    page.on("response", lambda answer: _answered(answer, watched))


def _answered(answer: Any, watched: Watched) -> None:
    if answer.status >= 500:
        watched.alerts.append(f"{answer.status} of {answer.url}")
