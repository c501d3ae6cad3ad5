"""The parts of a worker that decide without it."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker_jobs.broker.interface import Delivery
from broker_jobs.clock import ManualClock
from broker_jobs.consumer.acknowledger import FEW_OPEN, GAP_SECONDS, Acknowledger
from broker_jobs.consumer.dead_letter import MAX_TEXT_BYTES, DeadLetterPublisher
from broker_jobs.consumer.event_sender import DeliveryTag
from broker_jobs.consumer.outcome import can_be_written, describe, raised
from broker_jobs.consumer.prefetch import first_prefetch, next_prefetch
from broker_jobs.consumer.revocations import KEEP_SECONDS, Revocations
from broker_jobs.errors import Retry
from broker_jobs.messages.control import Control, Fence
from broker_jobs.messages.envelope import MAX_DELAY_SECONDS
from tests.unit.consumer.scripted import ScriptedExchange, ScriptedSubscription, envelope


def delivery(tag: int, channel: int = 1) -> Delivery:
    return Delivery(channel, tag, "q", b"", False, "", "", "", "", None, None, 0)


# --- acknowledge ---


@given(st.permutations(range(1, 21)), st.integers(1, 20), st.lists(st.integers(0, 20), max_size=5))
def test_exactly_what_was_acknowledged_is_acknowledged(order: list[int], count: int, looks: list[int]) -> None:
    clock, subscription = ManualClock(), ScriptedSubscription()
    acknowledger = Acknowledger(clock)
    acknowledger.use(subscription)
    acknowledger.took([delivery(tag) for tag in range(1, 21)])
    for index, tag in enumerate(order[:count]):
        acknowledger.acknowledge([DeliveryTag(1, tag)])
        if index in looks:
            clock.advance(2 * GAP_SECONDS)
            acknowledger.look()
    clock.advance(2 * GAP_SECONDS)
    acknowledger.look()
    acked: list[int] = []
    for _, tag, multiple in subscription.acks:
        acked += [t for t in range(1, tag + 1) if t not in acked] if multiple else [tag]
    assert sorted(acked) == sorted(order[:count])
    assert len(acked) == len(set(acked))
    assert acknowledger.unacknowledged == 20 - count


def test_beyond_a_gap_acknowledgements_wait_a_tenth_of_a_second() -> None:
    clock, subscription = ManualClock(), ScriptedSubscription()
    acknowledger = Acknowledger(clock)
    acknowledger.use(subscription)
    acknowledger.took([delivery(tag) for tag in range(1, FEW_OPEN + 4)])
    acknowledger.acknowledge([DeliveryTag(1, 2), DeliveryTag(1, 3)])
    clock.advance(GAP_SECONDS / 2)
    acknowledger.look()
    assert subscription.acks == []
    clock.advance(GAP_SECONDS)
    acknowledger.look()
    assert subscription.acks == [(1, 2, False), (1, 3, False)]
    acknowledger.acknowledge([DeliveryTag(1, 1)])
    assert subscription.acks[2:] == [(1, 1, True)]


def test_where_few_are_out_no_acknowledgement_waits_beyond_a_gap() -> None:
    subscription = ScriptedSubscription()
    acknowledger = Acknowledger(ManualClock())
    acknowledger.use(subscription)
    acknowledger.took([delivery(1), delivery(2), delivery(3)])
    acknowledger.acknowledge([DeliveryTag(1, 3)])
    assert subscription.acks == [(1, 3, False)]


def test_tags_of_a_lost_channel_are_forgotten() -> None:
    clock, subscription = ManualClock(), ScriptedSubscription()
    acknowledger = Acknowledger(clock)
    acknowledger.use(subscription)
    acknowledger.took([delivery(1), delivery(1, channel=2)])
    acknowledger.lost(1)
    acknowledger.acknowledge([DeliveryTag(1, 1)])
    assert subscription.acks == []
    acknowledger.acknowledge([DeliveryTag(2, 1), DeliveryTag(2, 1), DeliveryTag(2, 9)])
    assert subscription.acks == [(2, 1, True)]


def test_at_the_end_what_waits_beyond_a_gap_is_acknowledged_at_once() -> None:
    subscription = ScriptedSubscription()
    acknowledger = Acknowledger(ManualClock())
    acknowledger.use(subscription)
    acknowledger.took([delivery(1), delivery(2)])
    acknowledger.acknowledge([DeliveryTag(1, 2)])
    acknowledger.acknowledge_rest()
    assert subscription.acks == [(1, 2, False)]


def test_a_delivery_is_open_until_it_is_acknowledged_or_its_channel_is_lost() -> None:
    acknowledger = Acknowledger(ManualClock())
    acknowledger.took([delivery(1), delivery(2)])
    acknowledger.acknowledge([DeliveryTag(1, 1)])
    assert [acknowledger.is_open(DeliveryTag(1, tag)) for tag in (1, 2)] == [False, True]
    acknowledger.lost(1)
    assert not acknowledger.is_open(DeliveryTag(1, 2))


# --- prefetch ---


@given(st.integers(1, 1000), st.floats(0, 100), st.integers(1, 500), st.integers(1, 1000))
def test_prefetch_stays_in_its_bounds(current: int, mean: float, concurrency: int, maximum: int) -> None:
    assert 1 <= next_prefetch(min(current, maximum), mean, concurrency, maximum) <= maximum


def test_prefetch_grows_only_while_jobs_are_short() -> None:
    assert (first_prefetch(16, 500), first_prefetch(16, 500, several=True)) == (16, 32)
    assert next_prefetch(32, 0.001, 16, 500) == 64
    assert next_prefetch(400, 0.001, 16, 500) == 500
    assert next_prefetch(100, 0.009, 1, 500) == 100, "200 of them would wait for almost two seconds"
    assert next_prefetch(500, 0.1, 16, 500) == 32
    assert next_prefetch(32, 0.5, 16, 500) == 16
    assert next_prefetch(32, 0.5, 16, 500, several=True) == 32, "one of each queue is at hand to choose from"
    assert next_prefetch(32, 0.05, 16, 500, several=True) == 96, "of each for a quarter of a second"
    assert next_prefetch(32, 5.0, 16, 500, several=True) == 16
    assert next_prefetch(64, None, 16, 500) == 64


@given(st.integers(1, 500), st.floats(0, 10), st.integers(1, 100))
def test_prefetch_does_not_swing_at_a_steady_run_time(start: int, mean: float, concurrency: int) -> None:
    current = start
    for _ in range(12):
        current = next_prefetch(current, mean, concurrency, 500)
    assert next_prefetch(current, mean, concurrency, 500) == current


# --- fences ---


def test_fences_only_grow_and_are_forgotten_after_an_hour() -> None:
    fences, job = Revocations(), envelope("note", epoch=3)
    fences.learn(Control(version=1, fences=[Fence(id=job.id, epoch=3)]), 0.0)
    fences.learn(Control(version=2, fences=[Fence(id=job.id, epoch=1)]), 0.0)
    assert fences.refuses(job, "default") == "fenced"
    assert fences.refuses(job.evolve(epoch=4), "default") is None
    fences.forget(KEEP_SECONDS - 1)
    assert fences.refuses(job, "default") == "fenced"
    fences.forget(KEEP_SECONDS)
    assert fences.refuses(job, "default") is None


def test_news_without_a_word_on_pauses_changes_none() -> None:
    fences = Revocations()
    assert fences.version == 0
    fences.learn(Control(version=1, paused=["mail"]), 0.0)
    fences.learn(Control(version=2), 0.0)
    assert (fences.version, fences.paused) == (2, frozenset({"mail"}))


# --- exceptions ---


class Odd(str):
    """A text that is none when it is used."""

    __slots__ = ()

    def encode(self, *_: object) -> bytes:
        raise ValueError("no")


class Refused(Exception):
    """An exception of a library."""

    def __str__(self) -> str:
        return Odd("refused")


def test_an_exception_whose_text_is_odd_is_told_with_its_type() -> None:
    told = describe(Refused())
    assert (told.type, told.message) == (f"{__name__}.Refused", "refused")
    assert describe(ValueError("no")).type == "ValueError"


@pytest.mark.parametrize(
    ("after", "bounded"),
    [(None, None), (math.nan, None), (-1.0, 0.0), (5.0, 5.0), (math.inf, float(MAX_DELAY_SECONDS))],
)
def test_a_retry_asks_for_a_delay_that_can_travel(after: float | None, bounded: float | None) -> None:
    assert raised(Retry(after), ()).retry_after == bounded


def test_an_exception_that_no_log_can_write_is_known() -> None:
    assert can_be_written(ValueError("no"))
    odd = SyntaxError("no")
    odd.filename, odd.lineno, odd.offset, odd.text = "a.py", 1, object(), "x"  # type: ignore[assignment]
    assert not can_be_written(odd)


def test_the_answer_to_our_own_hello_is_the_newest_truth() -> None:
    fences = Revocations()
    fences.learn(Control(version=50, snapshot=True, paused=["mail"]), 0.0)
    fences.learn(Control(version=3, snapshot=True, paused=[]), 0.0, asked=True)
    assert (fences.version, fences.paused) == (3, frozenset())


# --- dead letters ---


def test_properties_that_became_too_long_for_amqp_are_cut_in_a_dead_letter() -> None:
    exchange = ScriptedExchange()
    long = delivery(1)._replace(key="é" * 200, message_id=r"\xff" * 255)
    DeadLetterPublisher(exchange, Acknowledger(ManualClock()), 1.0).publish_dead_letter(long, "no JSON")
    (message,) = exchange.published
    assert message.key == "é" * 127
    assert message.message_id == long.message_id[:MAX_TEXT_BYTES]
