"""The HTTP server of a process answers, reports a port that is in use, and never delays the exit."""

from __future__ import annotations

import json
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest

from broker_jobs.errors import UsageError
from broker_jobs.processes.health import Health
from broker_jobs.processes.http import HttpServer


class State:
    """What the server serves."""

    def __init__(self) -> None:
        self.health = Health(True, {"broker": {"connected": True}})
        self.hang = threading.Event()
        self.hang.set()

    def expose(self) -> tuple[bytes, str]:
        self.hang.wait(10)
        return b"a 1\n", "text/plain; version=0.0.4"


@pytest.fixture
def state() -> State:
    return State()


@pytest.fixture
def server(state: State) -> Iterator[HttpServer]:
    server = HttpServer("127.0.0.1", 0, expose=state.expose, health=lambda: state.health)
    server.start()
    server.start()
    yield server
    state.hang.set()
    server.stop()
    server.stop()


def get(url: str) -> tuple[int, str, str]:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.status, answer.headers["content-type"], answer.read().decode()
    except urllib.error.HTTPError as refused:
        with refused:
            return refused.code, refused.headers["content-type"], refused.read().decode()


def test_metrics_and_health_are_answered(server: HttpServer, state: State) -> None:
    assert get(f"{server.address}/metrics") == (200, "text/plain; version=0.0.4", "a 1\n")
    status, _, body = get(f"{server.address}/healthz")
    assert (status, json.loads(body)) == (200, {"ok": True, "broker": {"connected": True}})
    state.health = Health(False, {"broker": {"connected": False}})
    assert get(f"{server.address}/healthz")[0] == 503
    assert get(f"{server.address}/nothing")[0] == 404


def test_a_port_in_use_is_an_error_that_says_what_to_do(server: HttpServer, state: State) -> None:
    port = int(server.address.rpartition(":")[2])
    with pytest.raises(UsageError, match=f"cannot listen on 127.0.0.1:{port} for /metrics.*--metrics-port"):
        HttpServer("127.0.0.1", port, expose=state.expose, health=lambda: state.health).start()


def test_health_is_answered_while_a_scrape_hangs_and_the_stop_does_not_wait_for_it(
    server: HttpServer, state: State
) -> None:
    state.hang.clear()
    with socket.create_connection(("127.0.0.1", int(server.address.rpartition(":")[2]))) as scrape:
        scrape.sendall(b"GET /metrics HTTP/1.1\r\nhost: a\r\n\r\n")
        assert get(f"{server.address}/healthz")[0] == 200
        started = time.monotonic()
        server.stop()
        assert time.monotonic() - started < 3.0
