"""What waits to be decided is taken in its order, and acknowledged when it has been; the newest mark is kept."""

from __future__ import annotations

from sqlalchemy import select

from broker_jobs.broker import names
from broker_jobs.broker.interface import Delivery, Message
from broker_jobs.coordinator import release
from broker_jobs.coordinator.held_copies import HOLD_SECONDS, MOST_HELD, MOST_HELD_BYTES
from broker_jobs.coordinator.input_queue import InputQueue
from broker_jobs.coordinator.inputs import CheckpointRead, CommandReceived
from broker_jobs.coordinator.named_jobs import named
from broker_jobs.messages.batch import CHUNK, Chunk
from broker_jobs.messages.commands import AcceptStore, GetJob
from broker_jobs.messages.envelope import LimitKey
from broker_jobs.messages.events import Tick, event_json
from broker_jobs.store import schema
from tests.unit.coordinator.engine_harness import EngineHarness


class Subscribed:
    """Keeps what was acknowledged."""

    def __init__(self) -> None:
        self.acked: list[tuple[int, int, bool]] = []

    def ack(self, channel: int, tag: int, *, multiple: bool = False) -> None:
        self.acked.append((channel, tag, multiple))


def delivery(message: Message, tag: int, channel: int = 1) -> Delivery:
    return Delivery(
        channel=channel, tag=tag, queue=names.COMMAND, body=message.body, redelivered=False, exchange=message.exchange,
        key=message.key, type=message.type, message_id=message.message_id, reply_to=None, correlation_id=None,
        delivery_count=0,
    )  # fmt: skip


def mark(serial: int) -> Message:
    tick = Tick(coordinator="c", store="s", serial=serial, sent_at=1.0).model_dump_json().encode()
    return release.checkpoint(Message(names.TICK, names.LOG_KEY, tick, "tick"))


def command() -> Message:
    body = AcceptStore(id="a", at=1.0).model_dump_json().encode()
    return Message(names.OPERATE, names.COMMAND_KEY, body, "command")


def settled(inbox: InputQueue, *deliveries: Delivery) -> list[tuple[int, int, bool]]:
    """Take these and acknowledge what may be."""
    subscribed = Subscribed()
    inbox.put(names.COMMAND, list(deliveries))
    inbox.wait(0)
    assert len(inbox.take()) == len(deliveries)
    inbox.acknowledge({names.COMMAND: subscribed})  # type: ignore[dict-item]
    return subscribed.acked


def test_the_newest_mark_is_kept_and_all_else_is_acknowledged() -> None:
    inbox = InputQueue()
    assert settled(inbox, delivery(mark(1), 1), delivery(command(), 2)) == [(1, 2, False)]
    assert settled(inbox, delivery(command(), 3)) == [(1, 3, False)]
    assert settled(inbox, delivery(mark(2), 4), delivery(mark(3), 5)) == [(1, 1, False), (1, 4, False)]


def test_a_mark_of_a_lost_channel_is_not_acknowledged_on_another() -> None:
    inbox = InputQueue()
    settled(inbox, delivery(mark(1), 1))
    inbox.lost(names.COMMAND, 1)
    assert settled(inbox, delivery(mark(1), 1, channel=2)) == []


def test_a_mark_and_a_command_are_read_apart() -> None:
    inbox = InputQueue()
    inbox.put(names.COMMAND, [delivery(mark(7), 1), delivery(command(), 2)])
    inbox.wait(0)
    marked, asked = (piece.input for piece in inbox.take())
    assert isinstance(marked, CheckpointRead)
    assert marked.tick.serial == 7
    assert isinstance(asked, CommandReceived)


def test_a_store_that_is_behind_a_mark_releases_nothing() -> None:
    harness = EngineHarness()
    meta = harness.store.reader.meta()
    tick = Tick(coordinator="gone", store=meta.store_id, serial=meta.serial + 100, sent_at=harness.now - 5.0)
    effects = harness.apply(harness.held(), CheckpointRead(tick))
    assert (effects.went_back, effects.releases) == (meta.serial + 100, [])


def test_a_mark_of_the_past_of_another_store_or_of_an_accepted_one_stops_nothing() -> None:
    harness = EngineHarness()
    meta = harness.store.reader.meta()
    ahead = meta.serial + 100
    marks = [
        Tick(coordinator="gone", store="another", serial=ahead, sent_at=harness.now),
        Tick(coordinator="gone", store=meta.store_id, serial=meta.serial, sent_at=harness.now),
    ]
    effects = harness.apply(harness.held(), *map(CheckpointRead, marks))
    assert (effects.went_back, len(effects.releases), effects.foreign) == (None, 1, None)
    with harness.store.transaction() as tx:
        tx.accept_restored()
    late = Tick(coordinator="gone", store=meta.store_id, serial=ahead, sent_at=harness.now)
    assert harness.apply(CheckpointRead(late)).went_back is None


def test_a_batch_of_many_is_read_in_several_transactions() -> None:
    harness = EngineHarness()
    body = harness.body("j", epoch=0, batch="b")
    inbox = InputQueue()
    for number in range(5):
        chunk = Chunk(submission="a", batch="b", number=number, jobs=[body] * 1_500, created_at=harness.now)
        message = Message(names.OFFER, names.LOG_KEY, CHUNK.dump_json(chunk), "chunk")
        inbox.put(names.LOG, [delivery(message, number)._replace(queue=names.LOG)])
    inbox.wait(0)
    assert [len(inbox.take()) for _ in range(3)] == [3, 2, 0]


# ---- copies that are held


class Log:
    """An input queue that reads the log, what it acknowledges, and a clock."""

    def __init__(self) -> None:
        self.now = 100.0
        self.inbox = InputQueue(monotonic=lambda: self.now)
        self.subscribed = Subscribed()
        self.tag = 0
        self.harness = EngineHarness()

    def copy(self, id: str, channel: int = 1, **fields: object) -> None:
        self.arrive(Message(names.SUBMIT, "default", self.harness.body(id, **fields).encode(), "job"), channel)

    def events(self, *ids: str, channel: int = 1) -> None:
        told = [event_json(self.harness.succeeded(id).event).decode() for id in ids]
        body = f'{{"v":1,"worker":{{"id":"w"}},"sent_at":1.0,"events":[{",".join(told)}]}}'.encode()
        self.arrive(Message(names.REPORT, names.LOG_KEY, body, "events"), channel)

    def tick(self) -> None:
        self.arrive(Message(names.TICK, names.LOG_KEY, mark(1).body, "tick"))

    def arrive(self, message: Message, channel: int = 1) -> None:
        self.tag += 1
        self.inbox.put(names.LOG, [delivery(message, self.tag, channel)._replace(queue=names.LOG)])

    def decided(self) -> list[str]:
        """What is decided now, by job, and acknowledged."""
        self.inbox.wait(0)
        pieces = self.inbox.take()
        self.inbox.acknowledge({names.LOG: self.subscribed})  # type: ignore[dict-item]
        return [named(piece.input)[0] if named(piece.input) else "tick" for piece in pieces]

    @property
    def acked(self) -> list[tuple[int, int]]:
        assert all(multiple for _, _, multiple in self.subscribed.acked)
        return [(channel, tag) for channel, tag, _ in self.subscribed.acked]


def test_a_copy_is_held_until_its_success_and_decided_with_it() -> None:
    log = Log()
    log.copy("a")
    log.copy("b")
    assert (log.decided(), log.acked) == ([], [])
    log.events("b")
    assert (log.decided(), log.acked) == (["b", "b"], [])  # the copy of a comes before it
    log.events("a")
    assert (log.decided(), log.acked) == (["a", "a"], [(1, 4)])


def test_a_copy_is_held_for_a_quarter_of_a_second() -> None:
    log = Log()
    log.copy("a")
    assert log.decided() == []
    log.now += 0.2
    log.copy("b")
    assert (log.decided(), log.inbox.held_until()) == ([], 100.25)
    log.now = 100.25
    assert (log.decided(), log.acked) == (["a"], [(1, 1)])
    log.now += HOLD_SECONDS
    assert (log.decided(), log.acked, log.inbox.held_until()) == (["b"], [(1, 1), (1, 2)], None)
    assert (log.decided(), log.acked) == ([], [(1, 1), (1, 2)])


def test_what_must_see_all_jobs_comes_behind_the_copies() -> None:
    log = Log()
    log.copy("a")
    assert log.decided() == []
    log.tick()
    assert log.decided() == ["a", "tick"]
    log.copy("b")
    assert log.decided() == []
    log.inbox.put(names.COMMAND, [delivery(command(), 9)])
    assert log.decided()[0] == "b"


def test_no_copy_is_held_that_has_conditions_or_comes_again() -> None:
    log = Log()
    log.copy("a", limits=(LimitKey(kind="ordered", key="k"),))
    log.copy("b")
    log.copy("b")
    assert log.decided() == ["a", "b"]  # the second is held
    log.now += 1.0
    assert (log.decided(), log.acked[-1]) == (["b"], (1, 3))


def test_so_many_copies_are_held_and_no_more() -> None:
    log = Log()
    for number in range(MOST_HELD + 1):
        log.copy(f"j{number}")
        assert log.decided() == ([] if number < MOST_HELD else ["j0"])


def test_copies_of_a_lost_channel_come_again_and_are_not_acknowledged() -> None:
    log = Log()
    log.copy("a")
    assert log.decided() == []
    log.inbox.lost(names.LOG, 1)
    log.tag = 0
    log.copy("a", channel=2)
    log.now += 1.0
    assert log.decided() == []
    log.events("a", channel=2)
    assert (log.decided(), log.acked) == (["a", "a"], [(2, 2)])


def test_what_a_gone_channel_still_delivers_is_not_decided() -> None:
    log = Log()
    log.inbox.lost(names.LOG, 1)
    log.events("a", channel=1)  # was on its way
    log.events("b", channel=2)
    assert log.decided() == ["b"]


def test_what_was_given_back_to_the_log_is_forgotten() -> None:
    log = Log()
    log.copy("a")
    assert log.decided() == []
    log.events("b")
    log.inbox.put(names.COMMAND, [delivery(mark(1), 5), delivery(command(), 6)])
    log.inbox.lost_all()
    log.now += 1.0
    assert (log.decided(), log.acked, log.inbox.held_until()) == ([], [], None)
    log.copy("a", channel=2)
    log.events("a", channel=2)
    assert log.decided() == ["a", "a"]


def test_a_question_comes_behind_the_copies_that_were_read_with_it() -> None:
    log = Log()
    log.copy("a")
    body = GetJob(id="q", at=log.harness.now, job_id="a").model_dump_json().encode()
    ask = Message(names.REQUEST, names.COMMAND_KEY, body, "command", reply_to=f"jobs.v1.reply.{'a' * 32}")
    log.inbox.put(names.COMMAND, [delivery(ask, 9)._replace(reply_to=ask.reply_to)])
    log.inbox.wait(0)
    (answer,) = log.harness.apply(*(piece.input for piece in log.inbox.take())).messages
    assert b'"known":true' in answer.body


def test_a_copy_behind_the_success_of_its_job_is_not_held_so_that_its_kind_counts_it() -> None:
    log = Log()
    log.events("a")
    log.copy("a")
    log.copy("b")
    log.inbox.wait(0)
    log.harness.apply(*(piece.input for piece in log.inbox.take()))
    with log.harness.store.reader._reading() as connection:
        assert connection.execute(select(schema.kind_outcomes.c.n)).scalars().all() == [1]
    log.copy("a")
    assert log.decided() == [], "an event of the pieces before it says nothing of this one"


def test_copies_are_held_up_to_a_number_of_bytes() -> None:
    log = Log()
    large = "x" * (MOST_HELD_BYTES // 3)
    for number in range(3):
        log.copy(f"j{number}", args=[large])
        assert log.decided() == ([] if number < 2 else ["j0"])
    log.events("j1", "j2")
    log.decided()
    log.copy("j3", args=[large])
    assert log.decided() == []


def test_copies_of_other_channels_than_the_lost_one_stay_held() -> None:
    log = Log()
    log.copy("a")
    log.copy("b", channel=2)
    assert log.decided() == []
    log.inbox.lost(names.LOG, 1)
    log.events("a", "b", channel=2)
    assert log.decided() == ["a", "b", "b"]
