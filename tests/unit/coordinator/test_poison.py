"""A message that ends its coordinator is set aside, alone and unread; dead letters have a retention and a budget."""

from __future__ import annotations

from typing import Any

import pytest

from broker_jobs.broker import names
from broker_jobs.broker.interface import Message
from broker_jobs.clock import SystemClock
from broker_jobs.coordinator.inputs import Input
from broker_jobs.coordinator.records import WaitingCopy
from broker_jobs.coordinator.service import Coordinator
from broker_jobs.messages.state import State
from tests.support.wait import eventually
from tests.unit.coordinator.coordinator_harness import CoordinatorHarness


class Killed(BaseException):
    """What ends a coordinator in the middle of a transaction."""


def kills(inputs: list[Input]) -> bool:
    return any(isinstance(one, WaitingCopy) and one.envelope.id == "poison" for one in inputs)


def crash(room: CoordinatorHarness, times: int) -> list[list[str]]:
    """Let coordinators come and be ended by the message, and return what each had in hand then, by job."""
    hands: list[list[str]] = []
    for _ in range(times):
        room.coordinator = Coordinator(room.broker, room.store, room.settings, SystemClock())
        apply = room.coordinator._engine.apply

        def dying(inputs: Any, *args: Any, **options: Any) -> Any:
            if kills(inputs):
                hands.append([one.envelope.id for one in inputs if isinstance(one, WaitingCopy)])
                raise Killed
            return apply(inputs, *args, **options)  # noqa: B023  # used before the next round

        room.coordinator._engine.apply = dying  # type: ignore[method-assign]
        room.coordinator.start()
        thread = room.coordinator._thread
        assert thread is not None
        thread.join(30)
        assert not thread.is_alive()
        room.coordinator.stop()
    return hands


def marks(room: CoordinatorHarness) -> list[Any]:
    """The marks of suspects that are kept."""
    with room.store.transaction() as tx:
        return list(tx._connection.exec_driver_sql("SELECT * FROM poison_marks").all())


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_message_that_ends_its_coordinator_is_decided_alone_then_set_aside_and_its_neighbours_are_decided(
    room: CoordinatorHarness,
) -> None:
    room.start()
    room.coordinator.stop()
    far = 3_600.0
    room.hold(*(room.envelope(id, far) for id in ("a", "b", "poison", "c", "d")))
    hands = crash(room, 4)
    assert "poison" in hands[0]
    assert len(hands[0]) > 1
    assert hands[2] == hands[3] == ["poison"], "from its third delivery it is decided alone"
    assert room.store.reader.dead_letters.oldest() == [], "a count alone condemns nothing"
    room.coordinator = Coordinator(room.broker, room.store, room.settings, SystemClock())
    room.start()
    (dead,) = eventually(room.store.reader.dead_letters.oldest)
    assert b'"poison"' in dead.body
    assert "twice a coordinator ended while" in dead.reason
    for id in ("a", "b", "c", "d"):
        eventually(lambda id=id: room.store.reader.jobs.get(id))  # type: ignore[misc]
        assert room.row(id).state is State.SCHEDULED
    assert room.store.reader.jobs.get("poison") is None


def test_a_message_that_was_only_near_a_crash_is_decided_however_often_it_comes(room: CoordinatorHarness) -> None:
    room.start()
    room.coordinator.stop()
    room.hold(room.envelope("a", 3_600.0))
    for _ in range(4):  # consumers that go, as those of coordinators that were killed for another reason
        consumer = room.broker.subscribe([names.LOG], lambda _: None, prefetch=10)
        eventually(lambda: room.broker.depth(names.LOG) == (0, 1))
        consumer.close()
        eventually(lambda: room.broker.depth(names.LOG) == (room.broker.depth(names.LOG)[0], 0))  # type: ignore[index]
    for _ in range(2):  # the mark of the first time is gone
        room.coordinator = Coordinator(room.broker, room.store, room.settings, SystemClock())
        room.start()
        eventually(lambda: room.store.reader.jobs.get("a"))
        room.coordinator.stop()
    assert room.store.reader.dead_letters.oldest() == []


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_message_that_a_coordinator_had_alone_when_it_was_killed_is_decided_and_then_no_suspect_any_more(
    room: CoordinatorHarness,
) -> None:
    room.start()
    room.coordinator.stop()
    room.hold(room.envelope("poison", 3_600.0))
    assert crash(room, 3) == [["poison"]] * 3  # the third had it alone, and was killed by something else
    room.coordinator = Coordinator(room.broker, room.store, room.settings, SystemClock())
    room.start()
    assert eventually(lambda: room.row("poison")).state is State.SCHEDULED
    assert room.store.reader.dead_letters.oldest() == []
    eventually(lambda: marks(room) == [])  # ticks of those that were killed may be suspects too


def test_dead_letters_beyond_their_budget_go_the_oldest_first(room: CoordinatorHarness) -> None:
    room.settings = room.settings.model_copy(update={"max_dead_letters": 5})
    room.coordinator = Coordinator(room.broker, room.store, room.settings, SystemClock())
    room.start()
    for n in range(20):
        room.publish(Message(names.OFFER, names.LOG_KEY, b"garbage %d" % n, "job"))
        eventually(lambda n=n: b"garbage %d" % n in {row.body for row in room.store.reader.dead_letters.oldest()})  # type: ignore[misc]
    eventually(lambda: room.store.reader.dead_letters.count() == 5)
    assert {row.body for row in room.store.reader.dead_letters.oldest()} == {b"garbage %d" % n for n in range(15, 20)}


@pytest.mark.parametrize(
    ("budget", "left"),
    [
        ({}, ["a", "b", "c", "d"]),
        ({"before": 3.0}, ["c", "d"]),
        ({"most": 1}, ["d"]),
        ({"most_bytes": 250}, ["c", "d"]),
        ({"before": 2.0, "most": 2}, ["c", "d"]),
        ({"most": 0, "limit": 3}, ["d"]),
    ],
)
def test_dead_letters_have_a_retention_and_a_budget_of_count_and_bytes(
    room: CoordinatorHarness, budget: dict[str, Any], left: list[str]
) -> None:
    with room.store.transaction() as tx:
        for at, id in enumerate("abcd", start=1):
            tx.dead_letters.add(id, at=float(at), origin="log", reason="r", body=b"x" * 100)
    with room.store.transaction() as tx:
        removed = tx.dead_letters.purge(**({"before": 0.0, "most": 10, "most_bytes": 10_000, "limit": 100} | budget))
    assert [row.id for row in room.store.reader.dead_letters.oldest()] == left
    assert removed == 4 - len(left)
