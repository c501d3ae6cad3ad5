"""A call becomes one message: which exchange, which key, which epoch."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker_jobs import BrokerJobs
from broker_jobs.broker import names
from broker_jobs.broker.delay import level_seconds
from broker_jobs.errors import ArgumentsError, EnqueueError
from broker_jobs.messages.codec import decode
from broker_jobs.messages.envelope import MAX_DELAY_SECONDS, Envelope, is_generated_id, new_id
from broker_jobs.producer.routing import due_at_of, message_for
from tests.unit.producer.recording import RecordingBroker


def route(broker: RecordingBroker) -> tuple[str, str, str, int]:
    message = broker.last
    assert message.message_id == broker.envelope.id
    return message.exchange, message.key, message.type, broker.envelope.epoch


def test_a_ready_job_goes_to_submit_with_its_queue_as_key(jobs: BrokerJobs, broker: RecordingBroker) -> None:
    @jobs.job(queue="mail", retries=3, tags=["a"])
    def welcome(user_id: int) -> str:
        return str(user_id)

    receipt = welcome.enqueue(42)
    assert route(broker) == (names.SUBMIT, "mail", "job", 1)
    envelope = broker.envelope
    assert (envelope.id, envelope.job, envelope.args, envelope.kwargs) == (receipt.id, "welcome", [42], {})
    assert (envelope.queue, envelope.policy.retries, envelope.tags) == ("mail", 3, ("a",))
    assert envelope.due_at is None
    assert is_generated_id(receipt.id)


@pytest.mark.parametrize("seconds", [0.05, 1, 1.99])
def test_a_short_delay_goes_to_the_log_alone(jobs: BrokerJobs, broker: RecordingBroker, seconds: float) -> None:
    @jobs.job
    def welcome(user_id: int) -> None: ...

    before = datetime.now(UTC)
    welcome.schedule(timedelta(seconds=seconds), 42)
    after = datetime.now(UTC)
    assert route(broker) == (names.OFFER, names.LOG_KEY, "job", 0)
    due_at = broker.envelope.due_at
    assert due_at is not None
    rounding = timedelta(milliseconds=1)
    assert before - rounding <= due_at - timedelta(seconds=seconds) <= after + rounding


@pytest.mark.parametrize(("delay", "step"), [(2.5, 1), (5, 2), (30 * 86400, 21), (MAX_DELAY_SECONDS, 28)])
def test_a_longer_delay_goes_to_the_longest_step_not_longer(
    jobs: BrokerJobs, broker: RecordingBroker, delay: float, step: int
) -> None:
    @jobs.job
    def welcome(user_id: int) -> None: ...

    welcome.schedule(timedelta(seconds=delay), 42)
    assert route(broker) == (names.OFFER, names.delay_key(step), "job", 0)
    assert broker.envelope.due_at is not None


def test_an_aware_datetime_is_a_time(jobs: BrokerJobs, broker: RecordingBroker) -> None:
    @jobs.job
    def welcome(user_id: int) -> None: ...

    at = datetime.now(UTC) + timedelta(days=1)
    welcome.schedule(at, 42)
    assert broker.envelope.due_at is not None
    assert abs(broker.envelope.due_at - at) < timedelta(milliseconds=1)


@pytest.mark.parametrize("when", [datetime(2020, 1, 1, tzinfo=UTC), timedelta(0), timedelta(days=-1)])
def test_the_past_means_now(jobs: BrokerJobs, broker: RecordingBroker, when: datetime | timedelta) -> None:
    @jobs.job
    def welcome(user_id: int) -> None: ...

    welcome.schedule(when, 42)
    assert route(broker) == (names.SUBMIT, "default", "job", 1)


def test_a_callers_own_id_is_held_by_the_coordinator(jobs: BrokerJobs, broker: RecordingBroker) -> None:
    @jobs.job
    def welcome(user_id: int) -> None: ...

    assert welcome.using(id="welcome-42").enqueue(42).id == "welcome-42"
    assert route(broker) == (names.OFFER, names.LOG_KEY, "job", 0)
    assert broker.envelope.due_at is None


def test_an_id_of_ours_given_again_is_a_repeat(jobs: BrokerJobs, broker: RecordingBroker) -> None:
    @jobs.job
    def welcome(user_id: int) -> None: ...

    welcome.using(id=new_id()).enqueue(42)
    assert route(broker) == (names.OFFER, names.LOG_KEY, "repeat", 1)


def test_an_id_of_ours_scheduled_again_is_no_release(jobs: BrokerJobs, broker: RecordingBroker) -> None:
    @jobs.job
    def welcome(user_id: int) -> None: ...

    welcome.using(id=new_id()).schedule(timedelta(hours=1), 42)
    assert route(broker) == (names.OFFER, names.delay_key(11), "job", 0)


@given(st.floats(min_value=2, max_value=MAX_DELAY_SECONDS, allow_nan=False))
def test_a_step_is_never_longer_than_the_delay(delay: float) -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    envelope = Envelope(id="a", job="b", created_at=now, due_at=now + timedelta(seconds=delay))
    message = message_for(envelope, now.timestamp(), 4096, own_id=False)
    if message.exchange == names.OFFER and message.key != names.LOG_KEY:
        assert level_seconds(int(message.key.split(".")[0])) <= delay
    assert decode(message.body).due_at == envelope.due_at


def when_refused(when: object) -> str:
    with pytest.raises(ArgumentsError) as caught:
        due_at_of(when, 0.0)
    return str(caught.value)


def test_a_bare_number_is_refused_with_what_to_write() -> None:
    assert when_refused(30) == (
        "schedule() takes a timedelta or an aware datetime first; for 30 seconds write timedelta(seconds=30)"
    )


def test_a_datetime_without_a_zone_is_refused_with_what_to_write() -> None:
    assert when_refused(datetime(2027, 1, 1)) == (  # noqa: DTZ001
        '2027-01-01 00:00 has no time zone; write datetime(…, tzinfo=ZoneInfo("Europe/Istanbul")), or a timedelta'
    )


@pytest.mark.parametrize("when", ["2027-01-01", None, True])
def test_what_is_no_time_is_refused(when: object) -> None:
    assert when_refused(when).startswith("schedule() takes a timedelta or an aware datetime first, not ")


def test_more_than_ten_years_are_refused() -> None:
    assert "at most 10 years" in when_refused(timedelta(seconds=MAX_DELAY_SECONDS + 1))


def test_a_large_message_is_refused_with_size_limit_and_what_to_do(jobs: BrokerJobs, broker: RecordingBroker) -> None:
    @jobs.job
    def keep(text: str) -> None: ...

    with pytest.raises(EnqueueError) as caught:
        keep.enqueue("x" * 5000)
    assert "the limit is 4_096" in str(caught.value)
    assert "its message has 5_" in str(caught.value)
    assert str(caught.value).endswith("store it elsewhere and pass a reference")
    assert broker.messages == []


def test_text_that_is_no_utf8_is_refused(jobs: BrokerJobs, broker: RecordingBroker) -> None:
    @jobs.job
    def keep(text: object) -> None: ...

    with pytest.raises(ArgumentsError, match="cannot be sent as JSON"):
        keep.enqueue("half a pair: \ud800")
    assert broker.messages == []
