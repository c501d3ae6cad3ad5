"""Dependencies of a job: they are sent in its envelope, and wrong ones raise before anything is published."""

from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest

from broker_jobs import BrokerJobs, EnqueueUnknown
from broker_jobs.broker import names
from broker_jobs.broker.interface import PublishFailure, Unconfirmed
from broker_jobs.errors import ArgumentsError
from broker_jobs.messages.envelope import Parent
from tests.unit.producer.recording import RecordingBroker


def held(broker: RecordingBroker) -> tuple[Parent, ...]:
    after = broker.envelope.after
    assert after is not None
    return after.parents


def test_a_continuation_goes_to_the_log_alone_and_is_held(jobs: BrokerJobs, broker: RecordingBroker) -> None:
    @jobs.job
    def welcome(user_id: int) -> str:
        return str(user_id)

    parent = welcome.enqueue(1)
    child = welcome.after(parent, on="failed").enqueue(2)
    message, envelope = broker.last, broker.envelope
    assert (message.exchange, message.key, message.type) == (names.OFFER, names.LOG_KEY, "job")
    assert (envelope.id, envelope.epoch, envelope.args) == (child.id, 0, [2])
    assert held(broker) == (Parent(id=parent.id, on="failed"),)


def test_several_parents_and_after_of_after_wait_for_all(jobs: BrokerJobs, broker: RecordingBroker) -> None:
    @jobs.job
    def ping() -> None: ...

    a, b, batch = ping.enqueue(), ping.enqueue(), jobs.batch()
    ping.after(a, batch).using(queue="slow").after(b, a, on="finished").enqueue()
    assert held(broker) == (
        Parent(id=a.id),
        Parent(id=a.id, on="finished"),
        Parent(id=batch.id, batch=True),
        Parent(id=b.id, on="finished"),
    )
    assert broker.envelope.queue == "slow"


def test_after_publishes_nothing_and_leaves_the_job_as_it_is(jobs: BrokerJobs, broker: RecordingBroker) -> None:
    @jobs.job
    def ping() -> None: ...

    ping.after(jobs.receipt("0190"))
    assert broker.messages == []
    ping.enqueue()
    assert broker.envelope.after is None
    assert broker.last.exchange == names.SUBMIT


def test_a_delay_after_parents_counts_from_their_end(jobs: BrokerJobs, broker: RecordingBroker) -> None:
    @jobs.job
    def ping() -> None: ...

    later = ping.after(jobs.receipt("0190"))
    later.schedule(timedelta(hours=1))
    assert broker.envelope.after is not None
    assert (broker.envelope.after.delay, broker.envelope.due_at) == (3600, None)
    assert broker.last.exchange == names.OFFER
    at = datetime.now(UTC) + timedelta(days=2)
    later.schedule(at)
    assert broker.envelope.after.delay is None
    assert broker.envelope.due_at is not None
    assert abs((broker.envelope.due_at - at).total_seconds()) < 0.001
    assert broker.last.exchange == names.OFFER
    later.schedule(timedelta(0))
    soon = broker.envelope
    assert soon.after is not None
    assert (soon.after.delay, soon.due_at) == (None, None)


def test_many_continuations_go_out_together(jobs: BrokerJobs, broker: RecordingBroker) -> None:
    @jobs.job
    def welcome(user_id: int) -> None: ...

    parent = welcome.enqueue(1)
    jobs.enqueue_many([welcome.after(parent).bind(2), welcome.bind(3)])
    assert [message.exchange for message in broker.messages[1:]] == [names.OFFER, names.SUBMIT]


@pytest.mark.parametrize(
    ("parent", "hint"),
    [
        (timedelta(hours=1), "; to wait for time write welcome.schedule(timedelta(hours=1), …)"),
        (timedelta(seconds=1.5), "; to wait for time write welcome.schedule(timedelta(seconds=1.5), …)"),
        (datetime(2027, 1, 1, tzinfo=UTC), "; to wait for time write welcome.schedule(when, …)"),
        ("0190…", '; for a job known by its id write welcome.after(jobs.receipt("0190…"))'),
        (42, ", not 42"),
    ],
)
def test_what_is_no_parent_is_told_what_to_write(
    jobs: BrokerJobs, broker: RecordingBroker, parent: Any, hint: str
) -> None:
    @jobs.job
    def welcome(user_id: int) -> None: ...

    with pytest.raises(ArgumentsError) as caught:
        welcome.after(parent)
    assert str(caught.value) == f"after() waits for a receipt or a batch{hint}"
    assert broker.messages == []


def test_no_such_end_names_the_nearest(jobs: BrokerJobs) -> None:
    @jobs.job
    def ping() -> None: ...

    with pytest.raises(ArgumentsError) as caught:
        ping.after(jobs.receipt("0190"), on=cast("Any", "success"))
    assert str(caught.value).startswith("on must be 'succeeded', 'failed' or 'finished', not 'success'")
    with pytest.raises(ArgumentsError, match="both succeed and fail"):
        ping.after(jobs.receipt("0190")).after(jobs.receipt("0190"), on="failed")
    with pytest.raises(ArgumentsError, match="at most 1_000"):
        ping.after(*[jobs.receipt(f"x{number}") for number in range(1001)])


def test_a_recurring_job_waits_for_nothing_else(jobs: BrokerJobs) -> None:
    @jobs.job
    def ping() -> None: ...

    for call in (ping.after(jobs.receipt("0190")), ping.after(jobs.receipt("0190")).bind()):
        with pytest.raises(ArgumentsError, match="waits for its time"):
            jobs.recurring("x", "* * * * *", call)


def test_a_continuation_without_confirm_is_repeated_with_its_parents(jobs: BrokerJobs, broker: RecordingBroker) -> None:
    @jobs.job
    def welcome(user_id: int) -> None: ...

    parent = welcome.enqueue(1)
    broker.fail = lambda _: PublishFailure(Unconfirmed.UNKNOWN, "no confirm")
    with pytest.raises(EnqueueUnknown, match=r'welcome\.using\(id="[^"]+"\)\.after\(…\)\.enqueue\(2\)') as caught:
        welcome.after(parent).enqueue(2)
    broker.fail = lambda _: None
    welcome.using(id=caught.value.receipt.id).after(parent).enqueue(2)
    first, second = broker.messages[-2:]
    assert (first.key, first.type, first.message_id) == (second.key, second.type, second.message_id)
    assert broker.envelope.epoch == 0
