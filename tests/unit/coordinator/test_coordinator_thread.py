"""A coordinator's own thread on the embedded exchange: what blocks it, kills it, or makes it wait."""

from __future__ import annotations

import logging
import threading
import time
from typing import Any

import pytest

from broker_jobs.broker import names
from broker_jobs.broker.interface import Delivery, Message
from broker_jobs.broker.topology import Topology
from broker_jobs.clock import LogTime, SystemClock, WallTime
from broker_jobs.coordinator import leadership, liveness, maintenance, queues, service, transactions, watch
from broker_jobs.coordinator.inputs import QueuedInput
from broker_jobs.coordinator.liveness import LOOK_TAKES_SECONDS, READ_SECONDS, Liveness
from broker_jobs.coordinator.service import Coordinator
from broker_jobs.errors import BrokerError, StoreError
from broker_jobs.messages import codec
from broker_jobs.messages.commands import PauseQueue, ReplayDeadLetter, Reply
from broker_jobs.messages.envelope import Dependencies, Parent
from broker_jobs.messages.events import Heartbeat, Returned, Started
from broker_jobs.messages.state import State
from broker_jobs.store.records import DeadLetterRow
from broker_jobs.store.row import Publication, Row
from tests.support.wait import eventually, while_it_moves
from tests.unit.coordinator.coordinator_harness import CoordinatorHarness


def _some(rows: list[DeadLetterRow]) -> list[DeadLetterRow]:
    assert rows
    return rows


def test_during_an_alarm_nothing_is_released_and_all_of_it_after(room: CoordinatorHarness) -> None:
    room.start()
    ids = [f"j{n}" for n in range(20)]
    room.hold(*(room.envelope(id, delay=0.5) for id in ids))
    eventually(lambda: all(room.row(id).state is State.SCHEDULED for id in ids))
    room.broker.block()
    time.sleep(1.5)  # that nothing is released can only be waited for
    assert {room.row(id).epoch for id in ids} == {0}
    room.broker.unblock()
    eventually(lambda: all(room.row(id).publication is Publication.PUBLISHED for id in ids))
    assert {room.row(id).epoch for id in ids} == {1}


def test_an_event_with_an_envelope_that_cannot_be_read_ends_no_coordinator(room: CoordinatorHarness) -> None:
    room.start()
    room.tell(Returned(id="bad", epoch=1, at=time.time(), reason="no queue", envelope="{not json"))
    room.hold(room.envelope())
    room.is_in(State.ENQUEUED)
    assert room.fatal == []


def test_a_job_that_is_offered_with_another_routing_key_is_a_dead_letter_that_can_be_replayed(
    room: CoordinatorHarness,
) -> None:
    room.start()
    body = codec.encode(room.envelope())
    room.publish(Message(names.OFFER, "default", body, "job", "j"))
    (kept,) = eventually(lambda: _some(room.store.reader.dead_letters.oldest()))
    assert kept.reason == (
        "jobs.v1.offer has no queue for its routing key 'default': publish with 'log'; replay it to apply it"
    )
    replay = ReplayDeadLetter(id="replay", at=time.time(), dead_letter_id=kept.id)
    room.publish(Message(names.OPERATE, names.COMMAND_KEY, replay.model_dump_json().encode(), "command"))
    room.is_in(State.ENQUEUED)
    assert room.store.reader.dead_letters.oldest() == []


def test_a_queue_that_was_deleted_is_declared_again(room: CoordinatorHarness) -> None:
    room.start()
    for id in ("first", "second"):
        room.hold(room.envelope(id, queue="shop"))
        eventually(lambda: room.broker.depth(names.work_queue("shop")) == (1, 0))
        eventually(lambda id=id: room.row(id).publication is Publication.PUBLISHED)  # type: ignore[misc]
        _delete(room, "shop")


def _delete(room: CoordinatorHarness, queue: str) -> None:
    """Delete a queue, as an operator may; the interface has no method for it."""
    server, name = room.broker._connected_server(), names.work_queue(queue)

    def delete() -> None:
        server._routes.delete(name)
        del server._queues[name]
        server._transport.delete(name)

    server.thread.call(delete, 5.0)


def test_a_command_whose_time_is_over_while_the_store_is_away_is_never_applied(
    room: CoordinatorHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The broker drops it no more: the coordinator has it. One that was applied before is answered so."""
    room.start()
    replies: dict[str, Reply] = {}

    def receive(deliveries: list[Delivery]) -> None:
        for delivery in deliveries:
            reply = Reply.model_validate_json(delivery.body)
            replies[reply.id] = reply

    reply_to, _ = room.broker.subscribe_private(receive)

    def send(id: str, queue: str, expiration: float | None) -> None:
        body = PauseQueue(id=id, at=time.time(), queue=queue, paused=True).model_dump_json().encode()
        room.publish(Message(names.OPERATE, names.COMMAND_KEY, body, "command", id, reply_to, id, expiration))

    send("done", "mail", 60.0)
    eventually(lambda: "done" in replies)
    away, tried = threading.Event(), threading.Event()
    away.set()
    apply = room.coordinator._engine.apply

    def sometimes(*args: Any, **options: Any) -> Any:
        if away.is_set():
            tried.set()
            raise StoreError("the database is gone")
        return apply(*args, **options)

    monkeypatch.setattr(room.coordinator._engine, "apply", sometimes)
    send("done", "mail", 0.5)
    send("late", "bulk", 0.5)
    send("patient", "slow", None)
    assert tried.wait(10)
    time.sleep(0.6)  # the time of the commands; no event tells its end
    replies.clear()
    away.clear()
    eventually(lambda: len(replies) == 3)
    assert (replies["late"].ok, replies["late"].expired) == (False, True)
    assert (replies["done"].ok, replies["done"].expired) == (True, False)
    assert replies["patient"].ok
    assert room.store.reader.queues.all() == {"mail": True, "slow": True}
    assert {row.id for row in room.store.reader.audit.newest()} == {"done", "patient"}


def test_a_queue_that_cannot_be_declared_now_fails_no_job(
    room: CoordinatorHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    room.start()
    away = threading.Event()
    away.set()
    apply = room.broker.apply

    def sometimes(topology: Topology, timeout: float = 10.0) -> None:
        if away.is_set():
            raise BrokerError("RabbitMQ does not answer")
        apply(topology, timeout)

    monkeypatch.setattr(room.broker, "apply", sometimes)
    room.hold(room.envelope(queue="shop"))
    eventually(lambda: room.row().epoch >= 2)
    assert room.row().state is not State.FAILED
    away.clear()
    eventually(lambda: room.broker.depth(names.work_queue("shop")) == (1, 0))


def test_a_stop_notes_what_became_of_the_last_releases(room: CoordinatorHarness) -> None:
    for n in range(10):
        if n:
            room.coordinator = Coordinator(room.broker, room.store, room.settings, SystemClock())
        room.start()
        ids = [f"j{n}-{m}" for m in range(50)]
        room.hold(*(room.envelope(id) for id in ids))
        eventually(lambda: room.store.reader.jobs.get(ids[-1]))  # noqa: B023  # called at once
        room.coordinator.stop()
        known = [row for id in ids if (row := room.store.reader.jobs.get(id)) is not None]
        assert {row.publication for row in known if row.state is State.ENQUEUED} <= {Publication.PUBLISHED}


def test_a_coordinator_stuck_in_a_batch_gives_the_log_to_another(
    room: CoordinatorHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "WATCH_EVERY_SECONDS", 0.05)
    monkeypatch.setattr(watch, "WEDGED_SECONDS", 0.5)
    room.start()
    stuck = threading.Event()
    apply = room.coordinator._engine.apply

    def hangs(*args: object, **kwargs: object) -> object:
        stuck.wait(30)
        return apply(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(room.coordinator._engine, "apply", hangs)
    try:
        eventually(lambda: room.fatal, 10)
        assert "leaving it to another coordinator" in room.fatal[0]
        eventually(lambda: room.broker.depth(names.LOG, 5.0)[1] == 0)  # type: ignore[index]
    finally:
        stuck.set()


def test_a_coordinator_that_was_idle_for_long_is_not_taken_for_stuck(
    room: CoordinatorHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "WATCH_EVERY_SECONDS", 0.05)
    monkeypatch.setattr(watch, "WEDGED_SECONDS", 1.5)
    other = Coordinator(room.broker, room.store, room.settings, SystemClock(), on_fatal=room.fatal.append)
    room.start()
    other.start()
    time.sleep(2.0)  # it stands by, without a transaction
    room.coordinator.stop()
    room.hold(*(room.envelope(f"j{n}") for n in range(2_000)))
    eventually(lambda: room.store.reader.jobs.get("j1999"))
    other.stop()
    assert room.fatal == []


def test_trouble_of_a_look_at_queues_does_not_end_the_looks(
    room: CoordinatorHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "WATCH_EVERY_SECONDS", 0.02)
    looks = []

    def breaks(queue: str, timeout: float = 10.0) -> tuple[int, int] | None:
        looks.append(queue)
        raise RuntimeError("a metric has gone wrong")

    monkeypatch.setattr(room.broker, "depth", breaks)
    room.start()
    eventually(lambda: len(looks) > 3)


def test_one_bad_record_among_thousands_costs_a_few_transactions(
    room: CoordinatorHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    room.start()
    engine, calls = room.coordinator._engine, []
    apply = engine.apply

    def picky(inputs: list[object], *args: object, **kwargs: object) -> object:
        calls.append(len(inputs))
        if any(getattr(getattr(one, "envelope", None), "id", "") == "bad" for one in inputs):
            raise RuntimeError("cannot be decided")
        return apply(inputs, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(engine, "apply", picky)
    with room.store.transaction():  # the coordinator waits; all of these meet in its next batch
        room.hold(*(room.envelope(f"j{n}") if n != 300 else room.envelope("bad") for n in range(600)))
    eventually(lambda: room.store.reader.jobs.get("j599"))
    assert [row.origin for row in room.store.reader.dead_letters.oldest()] == ["log"]
    assert len(calls) < 100


def test_what_the_log_still_holds_about_a_job_is_read_before_its_message_is_called_lost(
    room: CoordinatorHarness,
) -> None:
    judging = Liveness("c1")
    now, seconds = time.time(), 70.0  # the room is not started
    with room.store.transaction() as tx:
        row = Row(
            id="j",
            queue="default",
            state=State.ENQUEUED,
            publication=Publication.PUBLISHED,
            epoch=1,
            released_at=now - 1_000.0,
        )
        tx.jobs.save([row])
        tx.meta.log_time = 100.0

    def judged(log_now: float) -> list[str]:
        judging.dead_workers(LogTime(log_now))
        with room.store.transaction() as tx:
            return [type(record).__name__ for record in judging.judge(tx, [], WallTime(now), LogTime(log_now))]

    def look(at: float) -> None:
        judging.depth_seen("default", 0, WallTime(now + at), at)

    assert judged(100.0) == []
    look(0.0)
    look(seconds)  # the log stands still between the looks
    assert judged(100.0 + LOOK_TAKES_SECONDS + READ_SECONDS) == []
    assert judged(170.0) == []
    look(2 * seconds)
    assert judged(181.0) == []  # the log has not been read beyond this look
    assert judged(183.0) == ["ProvenLost"]


def test_a_slow_store_gets_smaller_transactions_so_that_releases_go_out(
    room: CoordinatorHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A transaction of more than ACTIVE_SECONDS ends in no release: all of it came due again, in the next such one."""
    monkeypatch.setattr(leadership, "ACTIVE_SECONDS", 0.6)
    monkeypatch.setattr(leadership, "TICK_SECONDS", 0.1)
    monkeypatch.setattr(transactions, "SLOW_SECONDS", 0.3)
    room.start()
    engine = room.coordinator._engine
    apply = engine.apply

    def slowly(inputs: list[object], *args: object, **kwargs: object) -> object:
        time.sleep(len(inputs) / 1_000)
        return apply(inputs, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(engine, "apply", slowly)
    ids = [f"j{n}" for n in range(1_500)]
    room.hold(*(room.envelope(id) for id in ids))
    while_it_moves(lambda: room.broker.depth(names.work_queue("default")), lambda depth: depth == (1_500, 0))


def test_transactions_get_smaller_where_a_job_costs_much_processor_time(
    room: CoordinatorHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The end of a job waits for the transaction before it."""
    room.start()
    engine, sizes, cost = room.coordinator._engine, list[int](), 0.0005
    apply = engine.apply

    def costly(inputs: list[object], *args: object, **kwargs: object) -> object:
        sizes.append(len(inputs))
        end = time.thread_time() + len(inputs) * cost
        while time.thread_time() < end:
            pass
        return apply(inputs, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(engine, "apply", costly)
    room.hold(*(room.envelope(f"j{n}", delay=3_600.0) for n in range(3_000)))
    eventually(lambda: room.store.reader.statistics.counts()[State.SCHEDULED] == 3_000)
    large = [size for size in sizes if size >= transactions.LEAST_INPUTS]
    assert max(large[1:]) <= 2 * transactions.BUSY_SECONDS / cost, "the first one is as large as what had come"


def test_a_coordinator_older_than_its_store_leaves_the_log_to_a_newer_one(room: CoordinatorHarness) -> None:
    room.start()
    with room.store.transaction() as tx:
        tx._connection.exec_driver_sql("UPDATE meta SET schema = 99")
    eventually(lambda: room.fatal)
    assert "upgrade this program" in room.fatal[0]
    eventually(lambda: room.broker.depth(names.LOG)[1] == 0)  # type: ignore[index]


def test_a_coordinator_looks_for_parents_that_never_came(
    room: CoordinatorHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "WATCH_EVERY_SECONDS", 0.05)
    monkeypatch.setattr(maintenance, "UNKNOWN_PARENTS_EVERY_SECONDS", 0.1)
    monkeypatch.setattr(maintenance, "NEVER_SEEN_SECONDS", 0.1)
    monkeypatch.setattr(maintenance, "DEPENDENCIES", 2)
    room.start()
    for n in range(4):  # pages before the one that is looked for
        room.hold(room.envelope(f"a{n}", due_at=None, after=Dependencies(parents=(Parent(id="later"),))))
    room.hold(room.envelope("later", delay=3_600.0))
    room.hold(room.envelope("child", due_at=None, after=Dependencies(parents=(Parent(id="typo"),))))
    assert room.is_in(State.FAILED, "child").reason.startswith("parent not known: typo")


def test_a_worker_that_leaves_is_told_of_without_alarm_and_once(
    room: CoordinatorHarness, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, liveness.__name__)
    room.start()
    room.tell(Started(id="j", epoch=1, at=time.time(), owned=True), Heartbeat(at=time.time(), leaving=True))
    room.is_in(State.SCHEDULED)
    assert [r.levelno for r in caplog.records if r.getMessage().startswith("worker w1 stopped")] == [20]
    assert room.coordinator._engine.liveness.leases.living() == []


def test_after_a_pause_nothing_is_decided_before_the_broker_has_said_what_it_took_back(
    room: CoordinatorHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that was stopped reads later than it goes on what the broker has closed meanwhile."""
    monkeypatch.setattr(service, "PAUSE_SECONDS", 0.3)
    room.start()
    consumers, inbox = room.coordinator._consumers, room.coordinator._input_queue
    wait, take, depth = inbox.wait, inbox.take, room.broker.depth
    entered, paused, goes_on, asked = (threading.Event() for _ in range(4))
    taken: list[list[str]] = []

    def stop_once(*args: float) -> None:
        entered.set()
        wait(*args)
        if inbox.log_waits() and not paused.is_set():
            paused.set()
            assert goes_on.wait(30)
            time.sleep(0.4)

    def news_comes_with_the_answer(queue: str, *args: float, **kwargs: float) -> tuple[int, int] | None:
        answer = depth(queue, *args, **kwargs)
        if paused.is_set() and not asked.is_set():
            for delivery in list(inbox._waiting[names.LOG]):
                consumers._channel_lost(names.LOG, delivery.channel)
            asked.set()
        return answer

    def note(most: int) -> list[QueuedInput]:
        pieces = take(most)
        if paused.is_set():
            read = [piece for piece in pieces if piece.delivery is not None and piece.delivery.queue == names.LOG]
            taken.append([type(piece.input).__name__ for piece in read])
        return pieces

    monkeypatch.setattr(inbox, "wait", stop_once)
    monkeypatch.setattr(inbox, "take", note)
    monkeypatch.setattr(room.broker, "depth", news_comes_with_the_answer)
    assert entered.wait(30)
    room.hold(room.envelope("j"))
    assert paused.wait(30)
    goes_on.set()
    assert asked.wait(30)
    eventually(lambda: taken)
    assert taken[0] == []
    assert room.store.reader.jobs.get("j") is None


def test_while_the_broker_does_not_answer_after_a_pause_nothing_that_is_here_is_decided(
    room: CoordinatorHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "PAUSE_SECONDS", 0.3)
    monkeypatch.setattr(queues, "PROOF_TIMEOUT_SECONDS", 0.1)
    room.start()
    inbox, asked = room.coordinator._input_queue, threading.Semaphore(0)
    wait, depth, entered, answers = inbox.wait, room.broker.depth, threading.Event(), threading.Event()

    def slow_once(*args: float) -> None:
        entered.set()
        wait(*args)
        if inbox.log_waits() and not answers.is_set():
            time.sleep(0.4)

    def no_answer(*args: object, **kwargs: object) -> object:
        asked.release()
        if not answers.is_set():
            raise BrokerError("not now")
        return depth(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(inbox, "wait", slow_once)
    monkeypatch.setattr(room.broker, "depth", no_answer)
    assert entered.wait(30)
    room.hold(room.envelope("j", delay=3_600.0))
    for _ in range(3):
        assert asked.acquire(timeout=30)
    assert room.store.reader.jobs.get("j") is None
    answers.set()
    room.is_in(State.SCHEDULED)
