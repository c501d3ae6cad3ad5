"""Open pages are told of changes; nothing is read while nobody listens, and streams end when the server does."""

from __future__ import annotations

import asyncio
import json
import signal
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from broker_jobs.clock import SystemClock
from broker_jobs.dashboard import sse as module
from broker_jobs.dashboard.app import build_app
from broker_jobs.dashboard.auth import Authentication
from broker_jobs.dashboard.credentials import Credentials
from broker_jobs.dashboard.sse import EventStreams, server_is_stopping
from broker_jobs.errors import StoreError
from tests.support.wait import eventually
from tests.unit.dashboard.conftest import client_of
from tests.unit.dashboard.contexts import FakeQueries, context_of


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "READ_SECONDS", 0.02)


@pytest.fixture
def queries() -> FakeQueries:
    return FakeQueries()


@pytest.fixture
def live(queries: FakeQueries) -> Iterator[EventStreams]:
    made = EventStreams(queries.live_counts)
    yield made
    made.close()
    eventually(lambda: made._thread is None)


async def first(events: AsyncIterator[str], wanted: str) -> str:
    """The first event with this in it."""
    async with asyncio.timeout(10):
        async for event in events:
            if wanted in event:
                return event
    raise AssertionError(f"no {wanted!r} came")


async def looked_three_times(queries: FakeQueries) -> None:
    """Wait until it was looked again, whatever was seen."""
    before = queries.reads
    await asyncio.to_thread(eventually, lambda: queries.reads >= before + 3)


def opened(live: EventStreams) -> AsyncIterator[str]:
    listener = live.join()
    assert listener is not None
    return module._events(live, listener)


def test_nothing_is_read_while_nobody_listens(live: EventStreams, queries: FakeQueries) -> None:
    assert queries.reads == 0

    async def listen() -> None:
        events = opened(live)
        await first(events, "event: counts")
        await events.aclose()  # type: ignore[attr-defined]

    asyncio.run(listen())
    eventually(lambda: live._thread is None)
    looked = queries.reads
    assert looked >= 1
    threading.Event().wait(0.2)  # ten looks, if there were any
    assert queries.reads == looked


def test_a_pulse_comes_at_once_and_then_when_something_has_changed(live: EventStreams, queries: FakeQueries) -> None:
    async def listen() -> None:
        events = opened(live)
        pulse = await first(events, "event: counts")
        assert json.loads(pulse.partition("data: ")[2])["serial"] == 1
        assert "id: 1\n" in pulse
        await looked_three_times(queries)
        queries.serial = 2
        assert "id: 2\n" in await first(events, "event: counts")
        second = opened(live)
        assert "id: 2\n" in await first(second, "event: counts")  # who comes later is told what there is
        for each in (events, second):
            await each.aclose()  # type: ignore[attr-defined]

    asyncio.run(listen())
    assert live.listeners == 0


def test_two_pages_cost_the_reads_of_one(live: EventStreams, queries: FakeQueries) -> None:
    async def listen() -> int:
        pages = [opened(live) for _ in range(20)]
        for page in pages:
            await first(page, "event: counts")
        threads = [t for t in threading.enumerate() if t.name == "dashboard live"]
        for page in pages:
            await page.aclose()  # type: ignore[attr-defined]
        return len(threads)

    assert asyncio.run(listen()) == 1


def test_a_silent_stream_says_that_it_is_there(live: EventStreams, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KEEP_ALIVE_SECONDS", 0.05)

    async def listen() -> None:
        events = opened(live)
        await first(events, "event: counts")
        await first(events, ": keep-alive\n\n")
        await events.aclose()  # type: ignore[attr-defined]

    asyncio.run(listen())


def test_a_store_that_is_away_ends_no_stream(live: EventStreams, queries: FakeQueries) -> None:
    async def listen() -> None:
        events = opened(live)
        await first(events, "id: 1\n")
        queries.alert = StoreError("away")
        await looked_three_times(queries)
        queries.alert, queries.serial = None, 2
        await first(events, "id: 2\n")
        await events.aclose()  # type: ignore[attr-defined]

    asyncio.run(listen())


def test_the_end_ends_every_stream_and_takes_no_more(live: EventStreams) -> None:
    async def listen() -> None:
        events = opened(live)
        await first(events, "event: counts")
        live.close()
        async with asyncio.timeout(10):
            assert [event async for event in events] == []
        assert live.join() is None

    asyncio.run(listen())


def test_there_is_an_end_to_how_many_listen(live: EventStreams, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_LISTENERS", 2)

    async def listen() -> None:
        assert live.join() is not None
        assert live.join() is not None
        assert live.join() is None

    asyncio.run(listen())
    app = build_app(
        context_of(), Authentication(Credentials(), local=True, key=lambda: b"k", clock=SystemClock()), streams=live
    )
    assert client_of(app).get("/live").status_code == 503


def test_whoever_may_not_come_in_hears_nothing() -> None:
    app = build_app(context_of(), Authentication(Credentials(token="t"), key=lambda: b"k", clock=SystemClock()))
    answer = client_of(app).get("/live")
    assert answer.status_code == 401
    assert "counts" not in answer.text


def test_a_server_that_was_told_to_end_is_seen_in_its_handler_of_signals() -> None:
    class Server:
        should_exit = False

        def handle_exit(self, *_: Any) -> None:
            self.should_exit = True

    server = Server()
    before = signal.signal(signal.SIGTERM, server.handle_exit)
    try:
        assert not server_is_stopping()
        server.should_exit = True
        assert server_is_stopping()
    finally:
        signal.signal(signal.SIGTERM, before)
