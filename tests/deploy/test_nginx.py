"""nginx with the shipped file before a real dashboard: it passes everything on, and holds nothing back."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator

import httpx
import pytest

from tests.acceptance.conftest import TERM
from tests.conftest import made
from tests.deploy.stage import BIN, Stage
from tests.deploy.test_compose import services
from tests.support.process import Lodging, ServerMissingError, accepts_connections, end_of, free_port
from tests.support.shipped import ROOT
from tests.support.wait import eventually

SHIPPED = ROOT / "deploy" / "nginx" / "broker-jobs.conf"

MAIN = """\
daemon off;
{user}
pid {folder}/nginx.pid;
error_log stderr info;
events {{ }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    include {folder}/broker-jobs.conf;
}}
"""


def program() -> str:
    """nginx's path."""

    def find() -> str:
        if (found := shutil.which("nginx", path="/usr/sbin:/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")) is None:
            raise ServerMissingError("nginx is not installed; on Debian: sudo apt-get install nginx-light")
        return found

    return made(find)


class Nginx:
    """nginx with the shipped file: only ports, certificates and the host's name are ours."""

    def __init__(self, upstream: int) -> None:
        self._program = program()
        self._lodging = Lodging("nginx")
        self.folder = self._lodging.folder
        self.port, self.tls_port = free_port(), free_port()
        self._certificate()
        text = SHIPPED.read_text()
        for there, ours in {
            r"    listen \[::\].*\n": "",
            r"listen 80;": f"listen 127.0.0.1:{self.port};",
            r"listen 443 ": f"listen 127.0.0.1:{self.tls_port} ",
            r"127\.0\.0\.1:8700": f"127.0.0.1:{upstream}",
            r"/etc/nginx/tls/": f"{self.folder}/",
        }.items():
            text, replaced = re.subn(there, ours, text)
            assert replaced, there
        (self.folder / "broker-jobs.conf").write_text(text)
        user = "user root;" if os.geteuid() == 0 else ""
        (self.folder / "nginx.conf").write_text(MAIN.format(folder=self.folder, user=user))
        self.command = [self._program, "-p", str(self.folder), "-c", str(self.folder / "nginx.conf")]

    def start(self) -> None:
        """Start it and wait until it listens."""
        log = self.folder / "log"
        process = self._lodging.start(self.command, log=log)

        def up() -> bool:
            assert process.poll() is None, end_of(log)
            return accepts_connections(self.tls_port)

        eventually(up, 20, "nginx listens")

    def close(self) -> None:
        """End it."""
        self._lodging.close()

    def _certificate(self) -> None:
        key, certificate = self.folder / "jobs.key", self.folder / "jobs.pem"
        words = [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-subj",
            "/CN=jobs.example.com",
            "-days",
            "1",
        ]
        files = ["-keyout", str(key), "-out", str(certificate)]
        subprocess.run([*words, *files], check=True, capture_output=True)


@pytest.fixture
def unstarted() -> Iterator[Nginx]:
    nginx = Nginx(free_port())
    yield nginx
    nginx.close()


def test_nginx_takes_the_file(unstarted: Nginx) -> None:
    done = subprocess.run([*unstarted.command, "-t"], capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode == 0, done.stderr
    assert "[warn]" not in done.stderr


@pytest.mark.rabbitmq
@pytest.mark.postgres
@pytest.mark.acceptance
@pytest.mark.slow
def test_the_dashboard_is_used_through_nginx(stage: Stage) -> None:
    environment = services()["dashboard"]["environment"]
    coordinator = stage.start([str(BIN / "broker-jobs"), "coordinator"], services()["coordinator"]["environment"])
    coordinator.healthy()
    # It may look at the store, and change nothing there.
    stage.sql((ROOT / "deploy" / "postgres" / "dashboard.sql").read_text())
    environment["BROKER_JOBS_STORE"] = environment["BROKER_JOBS_STORE"].replace("//broker_jobs:", "//dashboard:")
    board = stage.start(
        [str(BIN / "broker-jobs"), "dashboard", "tasks:jobs", "--host", "127.0.0.1", "--port", "8700"],
        environment | {"BROKER_JOBS_DASHBOARD_PATH": "/jobs"},
        dashboard=True,
    )
    board.healthy()
    nginx = Nginx(board.port)
    jobs = stage.producer()
    try:
        jobs.remote("greet").enqueue("nobody runs it")
        nginx.start()
        tour(nginx)
    finally:
        jobs.stop()
        nginx.close()
    board.running.signal(TERM)
    assert board.running.exit_code() == 0


def tour(nginx: Nginx) -> None:
    origin = f"https://jobs.example.com:{nginx.tls_port}"
    # httpx knows no --resolve: the name is said in the header, as a browser would.
    headers = {"host": origin.partition("//")[2]}
    with httpx.Client(base_url=f"https://127.0.0.1:{nginx.tls_port}", headers=headers, verify=False, timeout=30) as web:
        plain = httpx.get(f"http://127.0.0.1:{nginx.port}/jobs/", headers={"host": "jobs.example.com"})
        assert (plain.status_code, plain.headers["location"]) == (301, "https://jobs.example.com/jobs/")
        assert web.get("/jobs").status_code == 301
        assert web.get("/jobs/healthz").status_code == 404

        sent_away = web.get("/jobs/")
        assert sent_away.status_code == 303
        assert sent_away.headers["location"].startswith("/jobs/login")
        form = {"user": "admin", "password": "change-me", "next": "/jobs/"}
        assert web.post("/jobs/login", data=form, headers={"origin": "https://evil.example.com"}).status_code == 403
        login = web.post("/jobs/login", data=form, headers={"origin": origin})
        assert login.status_code == 303, login.text
        cookie = login.headers["set-cookie"]
        assert "Secure" in cookie, "the dashboard knows that it is behind TLS"
        assert "Path=/jobs/" in cookie
        web.headers["cookie"] = cookie.partition(";")[0]

        def queues() -> httpx.Response:
            page = web.get("/jobs/queues")
            assert "/jobs/queues/default/" in page.text
            return page

        page = eventually(queues, 60, "the queue is on its page")
        assert page.status_code == 200
        addresses = re.findall(r'(?:href|src|action)="(/[^"]*)"', page.text)
        assert addresses
        assert [address for address in addresses if not address.startswith("/jobs/")] == []
        for asset in {address for address in addresses if "/static/" in address}:
            assert web.get(asset).status_code == 200

        # A form of ours acts, with the rights that the dashboard's user has on RabbitMQ.
        fields = {"csrf": re.findall(r'name="csrf" value="([^"]+)"', page.text)[-1], "back": "/jobs/queues"}
        paused = web.post("/jobs/queues/default/pause", data=fields, headers={"origin": origin})
        assert paused.status_code == 303, paused.text
        eventually(lambda: "/jobs/queues/default/resume" in web.get("/jobs/queues").text, 60, "it is paused")

        # The first event is here within a second or two: nothing waits for a buffer to fill.
        asked = time.monotonic()
        with web.stream("GET", "/jobs/live") as stream:
            assert stream.headers["content-type"].startswith("text/event-stream")
            for line in stream.iter_lines():
                if line.startswith("data:"):
                    break
        assert time.monotonic() - asked < 30
