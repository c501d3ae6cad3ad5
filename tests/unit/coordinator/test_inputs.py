"""What the coordinator reads: one event it does not understand keeps the others from nothing."""

from __future__ import annotations

import json

from broker_jobs.broker import names
from broker_jobs.broker.interface import Delivery
from broker_jobs.coordinator.inputs import Unreadable, read_log
from broker_jobs.coordinator.records import FromWorker, TimerDue
from broker_jobs.coordinator.release import looks
from broker_jobs.messages.envelope import MAX_KEY_CHARS
from broker_jobs.store.due import LINE_PREFIX


def delivery(body: dict[str, object]) -> Delivery:
    return Delivery(
        channel=1, tag=1, queue=names.LOG, body=json.dumps(body).encode(), redelivered=False, exchange=names.REPORT,
        key=names.LOG_KEY, type="events", message_id="m", reply_to=None, correlation_id=None, delivery_count=0,
    )  # fmt: skip


def started(id: str, **fields: object) -> dict[str, object]:
    return {"kind": "started", "id": id, "epoch": 1, "at": 1.0} | fields


def bundle(*events: object, **fields: object) -> Delivery:
    return delivery({"v": 1, "worker": {"id": "w"}, "sent_at": 1.0, "events": list(events)} | fields)


def test_an_event_of_a_newer_worker_waits_alone_and_the_others_are_told() -> None:
    first, strange, last = read_log(bundle(started("a"), {"kind": "paused", "id": "b"}, started("c")))
    assert isinstance(first, FromWorker)
    assert isinstance(last, FromWorker)
    assert (first.event.id, last.event.id) == ("a", "c")
    assert isinstance(strange, Unreadable)
    assert json.loads(strange.delivery.body)["events"] == [{"kind": "paused", "id": "b"}]
    assert read_log(strange.delivery) == [strange]


def test_a_standby_asks_to_look_at_jobs_and_at_lines_of_any_key() -> None:
    lines = [f"{LINE_PREFIX}{name}" for name in ("rate:" + "k" * MAX_KEY_CHARS, "concurrency:a \n é", "alone:")]
    (message,) = looks(["j", *lines])
    read = read_log(delivery({})._replace(exchange=message.exchange, type=message.type, body=message.body))
    assert read == [TimerDue(id) for id in ("j", *lines)]


def test_what_is_neither_a_job_nor_a_line_is_looked_at_by_nobody() -> None:
    body = json.dumps(["j", "#", "# rate:x", 7, "#rate:x", "a b"]).encode()
    found = read_log(delivery({})._replace(exchange=names.TICK, type="look", body=body))
    assert [one for one in found if not isinstance(one, Unreadable)] == [TimerDue("j"), TimerDue("#rate:x")]


def test_numbers_and_times_no_store_holds_are_not_taken_in() -> None:
    for wrong in (started("a", epoch=10**30), started("a", at=1e300), started("a" * 1000), started("a", epoch=-1)):
        (unread,) = read_log(bundle(wrong))
        assert isinstance(unread, Unreadable)


def test_events_of_an_unreadable_worker_stay_together() -> None:
    whole = bundle(started("a"), started("b"), worker={"id": 7})
    (unread,) = read_log(whole)
    assert isinstance(unread, Unreadable)
    assert unread.delivery == whole
