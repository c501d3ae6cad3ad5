"""The dashboard in other programs: below a prefix of FastAPI, Starlette and Django, and in Flask by WSGI."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import flask
import psutil
import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.testclient import TestClient
from werkzeug.middleware.dispatcher import DispatcherMiddleware
from werkzeug.test import Client

from broker_jobs import BrokerJobs, Role
from tests.support.leftovers import collected
from tests.unit.dashboard.conftest import LOCAL, client_of


@pytest.fixture(scope="module")
def jobs() -> Iterator[BrokerJobs]:
    """A system on memory, store included."""
    made = BrokerJobs("memory://", store="sqlite://")

    @made.job
    def greet(name: str) -> str:
        return f"hello {name}"

    with made:
        assert greet.enqueue("Ann").result(timeout=120) == "hello Ann"
        yield made


def mounted_in_starlette(dashboard: Any) -> Any:
    return Starlette(routes=[Mount("/admin/jobs", app=dashboard)])


def mounted_in_fastapi(dashboard: Any) -> Any:
    app = FastAPI()
    app.mount("/admin/jobs", dashboard)
    return app


def beside_django(dashboard: Any) -> Any:
    """As one writes an asgi.py: a path of Django's is ours, and all else Django's."""

    async def application(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and scope["path"].startswith("/admin/jobs/"):
            await dashboard({**scope, "root_path": "/admin/jobs"}, receive, send)
        else:
            raise AssertionError("Django's own")

    return application


@pytest.mark.parametrize("mount", [mounted_in_starlette, mounted_in_fastapi, beside_django])
def test_below_a_prefix_every_link_form_and_file_is_below_it(jobs: BrokerJobs, mount: Callable[[Any], Any]) -> None:
    client = client_of(mount(jobs.dashboard(local=True)))
    page = client.get("/admin/jobs/jobs")
    assert page.status_code == 200
    assert "greet" in page.text
    links = re.findall(r'(?:href|src|action|data-live-url)="(/[^"]*)"', page.text)
    assert len(links) > 15
    assert [link for link in links if not link.startswith("/admin/jobs/")] == []
    for link in {link for link in links if not link.endswith("/live")}:  # that one has no end
        assert client.get(link.replace("&amp;", "&")).status_code in {200, 405}


@pytest.mark.parametrize("mount", [mounted_in_starlette, mounted_in_fastapi, beside_django])
def test_below_a_prefix_a_form_acts_and_comes_back(jobs: BrokerJobs, mount: Callable[[Any], Any]) -> None:
    client = client_of(mount(jobs.dashboard(local=True)))
    page = client.get("/admin/jobs/queues").text
    (token,) = set(re.findall(r'name="csrf" value="(\w+)"', page))
    for action in ("pause", "resume"):
        form = {"csrf": token, "back": "/admin/jobs/queues"}
        answer = client.post(f"/admin/jobs/queues/default/{action}", data=form)
        assert (answer.status_code, answer.headers["location"]) == (303, "/admin/jobs/queues")
    assert 'role="status"' in client.get("/admin/jobs/queues").text


def test_the_cookies_are_for_its_own_path(jobs: BrokerJobs) -> None:
    client = client_of(mounted_in_starlette(jobs.dashboard(local=True)))
    assert "Path=/admin/jobs/;" in client.get("/admin/jobs/queues").headers["set-cookie"]


def test_in_a_program_others_can_reach_it_stays_this_machines(jobs: BrokerJobs) -> None:
    app = mounted_in_fastapi(jobs.dashboard(local=True))
    assert client_of(app, peer="192.0.2.7", base_url="http://shop.example").get("/admin/jobs/").status_code == 403
    opened = mounted_in_fastapi(jobs.dashboard(authorize=lambda _request: Role.VIEWER))
    assert client_of(opened, peer="192.0.2.7", base_url="http://shop.example").get("/admin/jobs/").status_code == 200


@pytest.fixture
def web(jobs: BrokerJobs) -> Client:
    app = flask.Flask(__name__)
    app.wsgi_app = DispatcherMiddleware(app.wsgi_app, {"/admin/jobs": jobs.dashboard(local=True).wsgi})  # type: ignore[method-assign]
    return app.test_client()


def test_in_flask_pages_and_forms_work(web: Client) -> None:
    page = web.get("/admin/jobs/queues", base_url=LOCAL)
    assert page.status_code == 200
    links = re.findall(r'(?:href|src)="(/[^"]*)"', page.text)
    assert links
    assert [link for link in links if not link.startswith("/admin/jobs/")] == []
    (token,) = set(re.findall(r'name="csrf" value="(\w+)"', page.text))
    form = {"csrf": token, "back": "/admin/jobs/queues"}
    answer = web.post("/admin/jobs/queues/default/pause", base_url=LOCAL, data=form)
    assert (answer.status_code, answer.headers["location"]) == (303, "/admin/jobs/queues")
    form["csrf"] = "x"
    assert web.post("/admin/jobs/queues/default/resume", base_url=LOCAL, data=form).status_code == 403
    form["csrf"] = token
    assert web.post("/admin/jobs/queues/default/resume", base_url=LOCAL, data=form).status_code == 303


def test_in_flask_a_page_is_told_to_look_by_itself(web: Client) -> None:
    assert web.get("/admin/jobs/live", base_url=LOCAL).status_code == 204


def test_in_flask_an_answer_that_is_not_read_to_its_end_leaves_nothing_behind(web: Client) -> None:
    collected()
    for path in ("queues", "live", "nowhere"):
        web.get(f"/admin/jobs/{path}", base_url=LOCAL).close()
    assert collected() == []


def test_in_flask_nobody_else_comes_in(web: Client) -> None:
    for given in ({"REMOTE_ADDR": "192.0.2.7"}, {"HTTP_HOST": "evil.example"}):
        assert web.get("/admin/jobs/queues", base_url=LOCAL, environ_overrides=given).status_code == 403


def test_without_a_coordinator_in_memory_it_says_what_to_do_and_serves_when_there_is_one() -> None:
    jobs = BrokerJobs("memory://", store="sqlite://")
    client: TestClient = client_of(jobs.dashboard(local=True))
    page = client.get("/queues")
    assert page.status_code == 503
    assert "memory:// works inside one process" in page.text
    for _ in range(2):  # and again after it was stopped and started
        with jobs:
            assert client.get("/queues").status_code == 200
        assert client.get("/queues").status_code == 503


def test_a_store_that_is_not_there_yet_is_waited_for(tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path / 'store.db'}"
    shown = BrokerJobs("memory://", store=store)
    client = client_of(shown.dashboard(local=True))
    page = client.get("/queues")
    assert page.status_code == 503
    assert "There is no store at" in page.text
    assert not (tmp_path / "store.db").exists()
    with BrokerJobs("memory://", store=store):
        assert client.get("/queues").status_code == 200
    shown.stop()


def test_a_stopped_program_holds_no_store_open_until_its_dashboard_is_asked_again(tmp_path: Path) -> None:
    file = tmp_path / "store.db"
    jobs = BrokerJobs("memory://", store=f"sqlite:///{file}")

    def is_open() -> bool:
        return str(file) in {opened.path for opened in psutil.Process().open_files()}

    client = client_of(jobs.dashboard(local=True))
    with jobs:
        assert client.get("/queues").status_code == 200
    assert not is_open()
    assert client.get("/queues").status_code == 200
    assert is_open()
    jobs.stop()
    assert not is_open()


def test_a_program_that_shows_no_dashboard_loads_no_web_framework() -> None:
    code = "import sys, broker_jobs as b; b.BrokerJobs(); print({'starlette', 'jinja2', 'fastapi'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
