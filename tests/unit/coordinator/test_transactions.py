"""An error of the data is not an outage: one record fails, alone and visibly. An outage is not an error of the data."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from broker_jobs.broker.factory import broker_for
from broker_jobs.errors import UsageError
from broker_jobs.messages.commands import ReplayDeadLetter, Reply
from broker_jobs.messages.envelope import Dependencies, Parent
from broker_jobs.messages.events import Succeeded
from broker_jobs.messages.state import State
from broker_jobs.producer.connection import Connection
from broker_jobs.producer.requests import RequestClient
from tests.support.wait import eventually
from tests.unit.coordinator.coordinator_harness import CoordinatorHarness

REFUSE = "CREATE TRIGGER refuse BEFORE {change} WHEN {when} BEGIN SELECT json('refused'); END"
"""The store answers, and refuses one row, with an error that tells nothing of values: malformed JSON."""


def change(room: CoordinatorHarness, statement: str) -> None:
    """Change the store, as another program would."""
    with room.store.transaction() as tx:
        tx._connection.exec_driver_sql(statement)


@contextmanager
def requests_of(room: CoordinatorHarness) -> Iterator[RequestClient]:
    """Commands as the command line sends them."""
    connection = Connection(lambda: room.settings, lambda settings: broker_for(settings, "command line"))
    requests = RequestClient(connection)
    yield requests
    requests.close()
    connection.close()


def test_a_record_that_the_store_refuses_is_a_dead_letter_and_its_neighbours_are_stored(
    room: CoordinatorHarness,
) -> None:
    change(room, REFUSE.format(change="INSERT ON jobs", when="NEW.id = 'bad'"))
    room.start()
    with room.store.transaction():  # the coordinator waits; all of these meet in its next transaction
        room.hold(*(room.envelope("bad" if n == 300 else f"j{n}") for n in range(600)))
    eventually(lambda: room.store.reader.jobs.get("j599"), 30)
    (dead_letter,) = eventually(room.store.reader.dead_letters.oldest, 30)
    assert "malformed JSON" in dead_letter.reason
    assert json.loads(dead_letter.body)["id"] == "bad"
    assert room.store.reader.statistics.counts()[State.ENQUEUED] == 599
    eventually(lambda: room.coordinator.healthy() == (True, "active"))


def test_a_table_that_is_missing_is_an_outage_and_no_record_pays_for_it(room: CoordinatorHarness) -> None:
    room.start()
    change(room, "ALTER TABLE jobs RENAME TO elsewhere")
    room.hold(room.envelope("a"), room.envelope("b"))
    eventually(lambda: not room.coordinator.healthy()[0], 15)
    assert room.coordinator.healthy()[1].startswith("the store does not answer: ")
    assert "no such table" in room.coordinator.healthy()[1]
    change(room, "ALTER TABLE elsewhere RENAME TO jobs")
    room.is_in(State.ENQUEUED, "a", 20)
    room.is_in(State.ENQUEUED, "b")
    assert room.store.reader.dead_letters.oldest() == []
    eventually(lambda: room.coordinator.healthy() == (True, "active"))


def test_a_job_fails_with_the_reason_if_the_coordinators_own_record_of_it_raises_again(
    room: CoordinatorHarness,
) -> None:
    change(room, REFUSE.format(change="UPDATE ON jobs", when="NEW.id = 'bad' AND NEW.publication = 1"))
    room.start()
    room.hold(room.envelope("bad", delay=1.0), room.envelope("good", delay=1.0))
    room.is_in(State.ENQUEUED, "good", 20)
    row = room.is_in(State.FAILED, "bad", 20)
    assert "malformed JSON" in row.reason
    assert room.store.reader.dead_letters.oldest() == []
    eventually(lambda: room.coordinator.healthy() == (True, "active"))


def test_a_work_item_that_raises_is_a_dead_letter_and_all_else_goes_on(room: CoordinatorHarness) -> None:
    change(room, REFUSE.format(change="DELETE ON dependencies", when="OLD.target = 'parent'"))
    room.start()
    after = Dependencies(parents=(Parent(id="parent"),))
    room.hold(room.envelope("parent"), room.envelope("child", due_at=None, after=after))
    room.is_in(State.AWAITING, "child")
    epoch = room.is_in(State.ENQUEUED, "parent").epoch
    room.tell(Succeeded(id="parent", epoch=epoch, started_at=1.0, ended_at=2.0, result=None))
    room.is_in(State.SUCCEEDED, "parent", 20)
    (dead_letter,) = eventually(room.store.reader.dead_letters.oldest, 20)
    assert dead_letter.origin == "work"
    assert "work item job parent" in dead_letter.reason
    assert "malformed JSON" in dead_letter.reason
    room.hold(room.envelope("later"))
    room.is_in(State.ENQUEUED, "later")
    assert room.row("child").state is State.AWAITING
    assert len(room.store.reader.dead_letters.oldest()) == 1


def test_a_work_item_that_raised_is_replayed_when_its_cause_is_gone_and_kept_while_it_is_not(
    room: CoordinatorHarness,
) -> None:
    change(room, REFUSE.format(change="DELETE ON dependencies", when="OLD.target = 'parent'"))
    room.start()
    after = Dependencies(parents=(Parent(id="parent"),))
    room.hold(room.envelope("parent"), room.envelope("child", due_at=None, after=after))
    epoch = room.is_in(State.ENQUEUED, "parent", 20).epoch
    room.is_in(State.AWAITING, "child")
    room.tell(Succeeded(id="parent", epoch=epoch, started_at=1.0, ended_at=2.0, result=None))
    (dead_letter,) = eventually(room.store.reader.dead_letters.oldest, 20)
    with requests_of(room) as requests:

        def replay() -> Reply:
            return requests.command(ReplayDeadLetter(**requests.command_fields(), dead_letter_id=dead_letter.id))

        with pytest.raises(UsageError, match=r"it still cannot be carried out, and is kept .*malformed JSON"):
            replay()
        assert [row.id for row in room.store.reader.dead_letters.oldest()] == [dead_letter.id]
        change(room, "DROP TRIGGER refuse")
        assert replay().ok
    room.is_in(State.ENQUEUED, "child", 20)
    assert room.store.reader.dead_letters.oldest() == []
