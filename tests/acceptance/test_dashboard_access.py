"""A dashboard without a login: refused where others reach it, and where it is meant only for plainly local requests."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

import flask
import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.testclient import TestClient
from werkzeug.middleware.dispatcher import DispatcherMiddleware
from werkzeug.test import Client

from broker_jobs import BrokerJobs, Role, UsageError
from tests.acceptance.conftest import Terminal
from tests.support.process import Lodging

BELOW = "/admin/jobs"
PATHS = (
    *(
        "/",
        "/jobs",
        "/jobs/x",
        "/queues",
        "/workers",
        "/recurring",
        "/batches",
        "/limits",
        "/dead-letters",
        "/audit",
        "/run",
    ),
    *("/retries", "/live", "/healthz", "/login", "/metrics", "/nothing", "/static/style.css", "/api/v1/jobs"),
    *("/api/v1/queues", "/api/v1/openapi.json", "//jobs", "/static/../jobs", "/%6aobs"),
)
ELSEWHERE: list[dict[str, str]] = [
    {"host": "jobs.example.com"},
    {"host": "localhost.example.com"},
    {"host": "127.0.0.1.example.com"},
    {"host": "127.0.0.1@example.com"},
    {"host": "127.0.0.1:80@example.com"},
    {"host": "127.0.0.1:x"},
    {"host": "[::1].example.com"},
    {"host": "[::1"},
    {"host": "user@localhost"},
    {"host": "127.1"},
    {"host": "localhost."},
    {"host": "0.0.0.0"},
    {"host": "localhost, jobs.example.com"},
    {"host": ""},
    {"x-forwarded-for": "192.0.2.7"},
    {"x-forwarded-for": "127.0.0.1"},
    {"x-forwarded-for": ""},
    {"x-forwarded-host": "localhost"},
    {"x-forwarded": "for=192.0.2.7"},
    {"forwarded": "for=127.0.0.1"},
    {"x-real-ip": "127.0.0.1"},
    {"x-client-ip": "192.0.2.7"},
    {"x-original-host": "jobs.example.com"},
    {"x-envoy-external-address": "192.0.2.7"},
    {"true-client-ip": "192.0.2.7"},
    {"cf-connecting-ip": "192.0.2.7"},
    {"cf-ray": "1"},
    {"cdn-loop": "cloudflare"},
    {"via": "1.1 proxy"},
    {"origin": "https://jobs.example.com"},
    {"origin": "null"},
    {"referer": "https://jobs.example.com/queues"},
    {"referer": "https://jobs.example.com/queues", "sec-fetch-site": "same-origin"},
]
HERE: list[dict[str, str]] = [
    {},
    {"host": "127.0.0.1"},
    {"host": "127.0.0.1:8700"},
    {"host": "127.9.9.9:1"},
    {"host": "LOCALHOST:8700"},
    {"host": "[::1]:8700"},
    {"referer": "http://127.0.0.1:8700/jobs", "sec-fetch-site": "same-origin"},
    {"referer": "https://mail.example.com/", "sec-fetch-site": "cross-site"},  # a link in a mail
]

# --- mounted: a way in has to be said ---


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TOKEN", "USER", "PASSWORD"):
        monkeypatch.delenv(f"BROKER_JOBS_DASHBOARD_{name}", raising=False)


@pytest.mark.parametrize("given", [{}, {"read_only": True}, {"authorize": None}, {"local": False}, {"title": "shop"}])
def test_mounted_without_a_way_in_it_is_refused_and_says_what_to_write(given: dict[str, Any]) -> None:
    with pytest.raises(UsageError) as refused:
        BrokerJobs("memory://").dashboard(**given)
    for way in ("authorize=", "BROKER_JOBS_DASHBOARD_TOKEN", "BROKER_JOBS_DASHBOARD_PASSWORD", "local=True"):
        assert way in str(refused.value)


def test_each_way_in_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = BrokerJobs("memory://")
    jobs.dashboard(local=True)
    jobs.dashboard(authorize=lambda _request: Role.VIEWER)
    monkeypatch.setenv("BROKER_JOBS_DASHBOARD_TOKEN", "secret")
    jobs.dashboard()
    monkeypatch.delenv("BROKER_JOBS_DASHBOARD_TOKEN")
    monkeypatch.setenv("BROKER_JOBS_DASHBOARD_USER", "ann")
    with pytest.raises(UsageError, match="belong together"):
        jobs.dashboard()
    monkeypatch.setenv("BROKER_JOBS_DASHBOARD_PASSWORD", "secret")
    jobs.dashboard()


def test_two_ways_that_contradict_are_refused() -> None:
    with pytest.raises(UsageError, match="leave local out"):
        BrokerJobs("memory://").dashboard(authorize=lambda _request: Role.VIEWER, local=True)


def test_a_login_that_is_gone_by_the_first_request_opens_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BROKER_JOBS_DASHBOARD_TOKEN", "secret")
    shown = BrokerJobs("memory://", store="sqlite://").dashboard()
    monkeypatch.delenv("BROKER_JOBS_DASHBOARD_TOKEN")
    client = TestClient(shown, base_url="http://localhost", client=("127.0.0.1", 1))
    assert client.get("/queues").status_code == 403


def test_a_login_counts_more_than_being_local(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BROKER_JOBS_DASHBOARD_TOKEN", "secret")
    shown = BrokerJobs("memory://", store="sqlite://").dashboard(local=True)
    client = TestClient(shown, base_url="http://localhost", client=("127.0.0.1", 1))
    assert client.get("/api/v1/queues").status_code == 401


# --- mounted for this machine ---


@pytest.fixture(scope="module")
def jobs() -> Iterator[BrokerJobs]:
    made = BrokerJobs("memory://", store="sqlite://")

    @made.job
    def greet(name: str) -> str:
        return f"hello {name}"

    with made:
        greet.enqueue("Ann").result(timeout=120)
        yield made


def in_starlette(jobs: BrokerJobs) -> Any:
    return Starlette(routes=[Mount(BELOW, app=jobs.dashboard(local=True))])


def in_fastapi(jobs: BrokerJobs) -> Any:
    app = FastAPI()
    app.mount(BELOW, jobs.dashboard(local=True))
    return app


def beside_django(jobs: BrokerJobs) -> Any:
    dashboard = jobs.dashboard(local=True)

    async def application(scope: Any, receive: Any, send: Any) -> None:
        await dashboard({**scope, "root_path": BELOW}, receive, send)

    return application


Ask = Callable[[str, str, str | None, dict[str, str]], int]


def by_asgi(app: Any) -> Ask:
    def ask(method: str, path: str, peer: str | None, headers: dict[str, str]) -> int:
        async def seen(scope: Any, receive: Any, send: Any) -> None:
            await app({**scope, "client": None if peer is None else (peer, 1)}, receive, send)

        client = TestClient(seen, base_url="http://localhost", follow_redirects=False)
        return client.request(method, BELOW + path, headers=headers).status_code

    return ask


def by_wsgi(jobs: BrokerJobs) -> Ask:
    app = flask.Flask(__name__)
    app.wsgi_app = DispatcherMiddleware(app.wsgi_app, {BELOW: jobs.dashboard(local=True).wsgi})  # type: ignore[method-assign]

    def ask(method: str, path: str, peer: str | None, headers: dict[str, str]) -> int:
        given = {"HTTP_" + name.upper().replace("-", "_"): value for name, value in headers.items()}
        given["REMOTE_ADDR"] = peer or ""
        client = Client(app)
        return client.open(
            BELOW + path, base_url="http://localhost", method=method, environ_overrides=given
        ).status_code

    return ask


MOUNTED: dict[str, Callable[[BrokerJobs], Ask]] = {
    "starlette": lambda jobs: by_asgi(in_starlette(jobs)),
    "fastapi": lambda jobs: by_asgi(in_fastapi(jobs)),
    "django": lambda jobs: by_asgi(beside_django(jobs)),
    "flask": by_wsgi,
}


@pytest.fixture(scope="module", params=sorted(MOUNTED))
def ask(request: pytest.FixtureRequest, jobs: BrokerJobs) -> Ask:
    return MOUNTED[request.param](jobs)


@pytest.mark.parametrize("headers", HERE, ids=str)
def test_what_is_plainly_local_is_served(ask: Ask, headers: dict[str, str]) -> None:
    for peer in ("127.0.0.1", "127.3.4.5", "::1", "::ffff:127.0.0.1"):
        assert ask("GET", "/api/v1/queues", peer, headers) == 200
    assert ask("GET", "/queues", "127.0.0.1", headers) == 200


@pytest.mark.parametrize("headers", ELSEWHERE, ids=str)
def test_what_is_not_plainly_local_is_refused_and_does_nothing(
    ask: Ask, jobs: BrokerJobs, headers: dict[str, str]
) -> None:
    assert ask("GET", "/api/v1/queues", "127.0.0.1", headers) == 403
    assert ask("POST", "/api/v1/queues/default/pause", "127.0.0.1", headers) == 403
    assert ask("POST", "/queues/default/pause", "127.0.0.1", headers) == 403
    here = TestClient(jobs.dashboard(local=True), base_url="http://localhost", client=("127.0.0.1", 1))
    assert [queue["paused"] for queue in here.get("/api/v1/queues").json()] == [False]


@pytest.mark.parametrize("path", PATHS)
def test_every_address_is_refused_by_every_method(ask: Ask, path: str) -> None:
    for method in ("GET", "HEAD", "OPTIONS", "POST", "PUT", "DELETE"):
        assert ask(method, path, "192.0.2.7", {}) == 403
        assert ask(method, path, "127.0.0.1", {"x-forwarded-for": "192.0.2.7"}) == 403


@pytest.mark.parametrize("peer", [None, "", "192.0.2.7", "10.0.0.1", "fe80::1", "::ffff:192.0.2.7", "localhost"])
def test_another_or_an_unknown_peer_is_refused(ask: Ask, peer: str | None) -> None:
    assert ask("GET", "/api/v1/queues", peer, {}) == 403
    assert ask("POST", "/api/v1/queues/default/pause", peer, {}) == 403


# --- alone ---


@pytest.fixture(scope="module")
def alone() -> Iterator[str]:
    """The address of a dashboard that `broker-jobs run` serves, on the memory of its process."""
    lodging = Lodging("dashboard")
    try:
        terminal = Terminal(lodging)
        running = terminal.start("run", "app:jobs", "--dashboard-port", "0")
        running.said("dashboard on http")
        running.said("the dashboard has no login")
        yield next(word for word in running.log.split() if word.startswith("http://127.0.0.1:") and word.endswith("/"))
    finally:
        lodging.close()


def spoken(address: str, lines: list[str], body: str = "") -> int:
    """The status of what is answered to a request, written byte by byte."""
    at = urlsplit(address)
    assert at.port is not None
    with socket.create_connection((at.hostname or "", at.port), timeout=30) as connection:
        connection.sendall("\r\n".join([*lines, "connection: close", "", body]).encode())
        with connection.makefile("rb") as answer:
            return int(answer.readline().split()[1])


def test_alone_it_serves_this_machine(alone: str) -> None:
    for host in (urlsplit(alone).netloc, "localhost", "[::1]:8700"):
        assert spoken(alone, ["GET /api/v1/queues HTTP/1.1", f"host: {host}"]) == 200
        assert spoken(alone, ["GET /live HTTP/1.1", f"host: {host}"]) == 200


@pytest.mark.parametrize(
    "lines",
    [[f"{name}: {value}" for name, value in ({"host": "localhost"} | headers).items()] for headers in ELSEWHERE]
    + [["host: localhost", "host: jobs.example.com"], ["host: localhost", "host: localhost"], []],
    ids=str,
)
@pytest.mark.parametrize("request_line", ["GET /jobs", "GET /live", "GET /healthz", "GET /api/v1/jobs", "POST /login"])
def test_alone_it_refuses_what_is_not_plainly_local(alone: str, lines: list[str], request_line: str) -> None:
    assert spoken(alone, [f"{request_line} HTTP/1.1", *lines]) in {400, 403}


def test_alone_it_refuses_what_names_another_host_in_its_address(alone: str) -> None:
    assert spoken(alone, ["GET http://jobs.example.com/jobs HTTP/1.1", "host: jobs.example.com"]) in {400, 403, 404}


def test_alone_it_runs_nothing_for_others(alone: str) -> None:
    body = json.dumps({"job": "hello", "args": ["x"]})
    head = ["content-type: application/json", f"content-length: {len(body)}"]
    assert spoken(alone, ["POST /api/v1/jobs HTTP/1.1", "host: jobs.example.com", *head], body) == 403
    assert spoken(alone, ["POST /api/v1/jobs HTTP/1.1", "host: localhost", "via: 1.1 x", *head], body) == 403
    assert spoken(alone, ["POST /api/v1/jobs HTTP/1.1", "host: localhost", *head], body) == 201


class Proxy(BaseHTTPRequestHandler):
    """A proxy on this machine that adds no header of its own; `keeps_host`: as it came, else the address behind it."""

    protocol_version = "HTTP/1.1"
    behind = ""
    keeps_host = True

    def do_GET(self) -> None:
        given = {name: value for name, value in self.headers.items() if name.lower() != "connection"}
        given["Host"] = given["Host"] if self.keeps_host else self.behind
        connection = HTTPConnection(self.behind, timeout=30)
        connection.request(self.command, self.path, headers=given)
        answer = connection.getresponse()
        body = answer.read()
        connection.close()
        self.send_response(answer.status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET  # noqa: N815 - the name that the base class looks for

    def log_message(self, *given: object) -> None:
        del given


@pytest.mark.parametrize(
    ("keeps_host", "headers"),
    [
        (True, {}),
        (False, {"Origin": "http://jobs.example.com"}),
        (False, {"Referer": "http://jobs.example.com/queues"}),  # a browser's second page
        (False, {"Referer": "http://jobs.example.com/queues", "Sec-Fetch-Site": "same-origin"}),
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_alone_behind_a_proxy_that_adds_no_header_a_browser_is_refused(
    alone: str, keeps_host: bool, headers: dict[str, str], method: str
) -> None:
    made = type("Made", (Proxy,), {"behind": urlsplit(alone).netloc, "keeps_host": keeps_host})
    with ThreadingHTTPServer(("127.0.0.1", 0), made) as proxy:
        thread = threading.Thread(target=proxy.serve_forever, daemon=True)
        thread.start()
        connection = HTTPConnection("127.0.0.1", proxy.server_address[1], timeout=30)
        path = "/api/v1/queues" + ("/default/pause" if method == "POST" else "")
        connection.request(method, path, headers={"Host": "jobs.example.com"} | headers)
        status = connection.getresponse().status
        connection.close()
        proxy.shutdown()
        thread.join()
    assert status == 403
