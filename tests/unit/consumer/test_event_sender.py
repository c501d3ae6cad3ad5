"""Events reach the log in order, once each in what is confirmed, whatever becomes of the publishes."""

import json
import logging
import threading
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker_jobs.clock import ManualClock
from broker_jobs.consumer.event_sender import DeliveryTag, EventSender
from broker_jobs.messages.events import (
    BUNDLE,
    FLUSH_BYTES,
    ErrorInfo,
    Failed,
    LogLine,
    Returned,
    Succeeded,
    WorkerRef,
    event_json,
    succeeded_json,
)


class Line:
    """A log whose publishes the test ends."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.settled: list[DeliveryTag] = []
        self.bodies: list[bytes] = []
        self.open: list[Callable[[str | None], None]] = []
        self.confirmed: list[bytes] = []
        self.event_sender = EventSender(self._send, WorkerRef(id="w"), self.clock, acknowledge=self.settled.extend)

    def _send(self, body: bytes, ended: Callable[[str | None], None]) -> None:
        self.bodies.append(body)
        self.open.append(ended)

    def confirm(self) -> None:
        self.confirmed.append(self.bodies[-1])
        self.open.pop(0)(None)

    def fail(self) -> None:
        self.open.pop(0)("lost")
        self.clock.advance(1)
        self.event_sender.repeat_failed()

    def ids(self) -> list[str]:
        return [event.id for body in self.confirmed for event in BUNDLE.validate_json(body).events]  # type: ignore[union-attr]


def succeeded(job_id: str) -> bytes:
    return succeeded_json(job_id, 1, started_at=1.5, ended_at=2.5, result="null", lost=None)


def test_an_event_leaves_at_once_when_nothing_is_in_flight() -> None:
    line = Line()
    line.event_sender.put(succeeded("a"))
    assert len(line.bodies) == 1


def test_events_gather_while_a_confirm_is_awaited() -> None:
    line = Line()
    for name in "abcd":
        line.event_sender.put(succeeded(name))
    assert len(line.bodies) == 1
    line.confirm()
    assert len(line.bodies) == 2
    line.confirm()
    assert line.ids() == ["a", "b", "c", "d"]
    assert line.event_sender.waiting == 0


def test_nothing_is_acknowledged_before_its_confirm() -> None:
    line = Line()
    line.event_sender.put(succeeded("a"), DeliveryTag(1, 1))
    line.event_sender.put(succeeded("b"), DeliveryTag(1, 2))
    assert line.settled == []
    line.confirm()
    assert line.settled == [DeliveryTag(1, 1)]
    line.confirm()
    assert line.settled == [DeliveryTag(1, 1), DeliveryTag(1, 2)]


def test_a_failed_publish_is_repeated_before_anything_behind_it() -> None:
    line = Line()
    for name in "abc":
        line.event_sender.put(succeeded(name), DeliveryTag(1, ord(name)))
    line.fail()
    line.fail()
    assert line.settled == []
    line.confirm()
    line.confirm()
    assert line.ids() == ["a", "b", "c"]


def test_a_failed_publish_rests_before_it_is_repeated() -> None:
    line = Line()
    line.event_sender.put(succeeded("a"))
    line.open.pop(0)("blocked")
    line.event_sender.repeat_failed()
    assert len(line.bodies) == 1
    line.clock.advance(1)
    line.event_sender.repeat_failed()
    assert len(line.bodies) == 2


def test_that_events_are_not_confirmed_is_said_once_until_they_are_again(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    line = Line()
    line.event_sender.put(succeeded("a"))
    for _ in range(3):
        line.fail()
    line.confirm()
    assert [record.getMessage() for record in caplog.records] == [
        "1 events are not confirmed (lost); they are sent again until they are",
        "events are confirmed again after 3 failed publishes",
    ]


def test_a_message_is_closed_at_its_size() -> None:
    line = Line()
    line.event_sender.put(succeeded("first"))
    text = "x" * (FLUSH_BYTES // 4)
    for number in range(10):
        line.event_sender.put(event_json(Returned(id=str(number), epoch=1, at=1.0, reason="pause", envelope=text)))
    for _ in range(4):
        line.confirm()
    assert max(len(body) for body in line.bodies) < FLUSH_BYTES + FLUSH_BYTES // 2
    assert line.ids() == ["first", *map(str, range(10))]


def test_what_follows_a_confirm_may_fail_and_the_rest_goes_on() -> None:
    line = Line()

    def broken() -> None:
        raise ValueError

    line.event_sender.put(succeeded("a"), broken)
    line.event_sender.put(succeeded("b"), DeliveryTag(1, 2))
    line.confirm()
    line.confirm()
    assert line.settled == [DeliveryTag(1, 2)]


def test_a_send_that_confirms_at_once_does_not_nest() -> None:
    settled: list[DeliveryTag] = []
    depth = 0
    deepest = 0

    def send(body: bytes, ended: Callable[[str | None], None]) -> None:
        nonlocal depth, deepest
        depth += 1
        deepest = max(depth, deepest)
        for event in json.loads(body)["events"]:
            if int(event["id"]) < 2_000:  # each brings the next, as a busy thread would
                event_sender.put(succeeded(str(int(event["id"]) + 1)), DeliveryTag(1, 1))
        ended(None)
        depth -= 1

    event_sender = EventSender(send, WorkerRef(id="w"), ManualClock(), acknowledge=settled.extend)
    event_sender.put(succeeded("0"))
    assert len(settled) == 2_000
    assert deepest < 10


def test_many_threads_lose_nothing() -> None:
    seen: list[str] = []
    answers: list[Callable[[str | None], None]] = []
    wake = threading.Event()

    def send(body: bytes, ended: Callable[[str | None], None]) -> None:
        seen.extend(event["id"] for event in json.loads(body)["events"])
        answers.append(ended)
        wake.set()

    event_sender = EventSender(send, WorkerRef(id="w"), ManualClock(), acknowledge=lambda _: None)
    stop = threading.Event()

    def confirm() -> None:
        while not stop.is_set() or answers:
            wake.wait(0.01)
            wake.clear()
            while answers:
                answers.pop(0)(None)

    def put(start: int) -> None:
        for number in range(start, start + 500):
            event_sender.put(succeeded(str(number)))

    confirmer = threading.Thread(target=confirm)
    confirmer.start()
    putters = [threading.Thread(target=put, args=(1_000 * n,)) for n in range(4)]
    for thread in putters:
        thread.start()
    for thread in putters:
        thread.join()
    stop.set()
    confirmer.join()
    assert sorted(map(int, seen)) == sorted(1_000 * n + k for n in range(4) for k in range(500))


IDS = st.from_regex(r"\A[A-Za-z0-9._:@/+-]{1,100}\Z")
TIMES = st.floats(0, 4e9, allow_nan=False)


@given(IDS, st.integers(0, 2**40), st.tuples(TIMES, TIMES), st.none() | st.text(), st.none() | st.text())
def test_the_json_by_hand_is_that_of_the_model(
    job_id: str, epoch: int, times: tuple[float, float], result: str | None, lost: str | None
) -> None:
    started_at, ended_at = times
    by_hand = succeeded_json(job_id, epoch, started_at=started_at, ended_at=ended_at, result=result, lost=lost)
    assert Succeeded.model_validate_json(by_hand) == Succeeded(
        id=job_id, epoch=epoch, started_at=started_at, ended_at=ended_at, result=result, result_lost=lost
    )


@given(st.text(), st.text())
def test_any_text_can_be_told(message: str, envelope: str) -> None:
    event = Failed(
        id="a", epoch=1, started_at=1, ended_at=2, error=ErrorInfo(type="E", message=message), envelope=envelope
    )
    back: Any = json.loads(event_json(event))
    assert back["error"]["message"].encode() == message.encode("utf-8", "replace")


def test_lone_surrogates_do_not_stop_an_event() -> None:
    event = LogLine.model_construct(id="a", epoch=1, at=1.0, text="a\ud800b")
    assert json.loads(event_json(event))["text"] == "a?b"
