"""The door of a process answers, says what is wrong with its port, and never holds up the end."""

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
from broker_jobs.processes.http import HttpServer
from broker_jobs.processes.program import Health


class State:
    """What the door is asked."""

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
def door(state: State) -> Iterator[HttpServer]:
    door = HttpServer("127.0.0.1", 0, expose=state.expose, health=lambda: state.health)
    door.start()
    door.start()
    yield door
    state.hang.set()
    door.stop()
    door.stop()


def get(url: str) -> tuple[int, str, str]:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.status, answer.headers["content-type"], answer.read().decode()
    except urllib.error.HTTPError as refused:
        with refused:
            return refused.code, refused.headers["content-type"], refused.read().decode()


def test_metrics_and_health_are_answered(door: HttpServer, state: State) -> None:
    assert get(f"{door.address}/metrics") == (200, "text/plain; version=0.0.4", "a 1\n")
    status, _, body = get(f"{door.address}/healthz")
    assert (status, json.loads(body)) == (200, {"ok": True, "broker": {"connected": True}})
    state.health = Health(False, {"broker": {"connected": False}})
    assert get(f"{door.address}/healthz")[0] == 503
    assert get(f"{door.address}/nothing")[0] == 404


def test_a_taken_port_is_said_with_what_to_do(door: HttpServer, state: State) -> None:
    port = int(door.address.rpartition(":")[2])
    with pytest.raises(UsageError, match=f"cannot listen on 127.0.0.1:{port} for /metrics.*--metrics-port"):
        HttpServer("127.0.0.1", port, expose=state.expose, health=lambda: state.health).start()


def test_health_is_answered_while_a_scrape_hangs_and_the_stop_does_not_wait_for_it(
    door: HttpServer, state: State
) -> None:
    state.hang.clear()
    with socket.create_connection(("127.0.0.1", int(door.address.rpartition(":")[2]))) as scrape:
        scrape.sendall(b"GET /metrics HTTP/1.1\r\nhost: a\r\n\r\n")
        assert get(f"{door.address}/healthz")[0] == 200
        started = time.monotonic()
        door.stop()
        assert time.monotonic() - started < 3.0
