"""The cells of docs/internals/transitions.md: what a record makes of a job in each state."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

from broker_jobs.coordinator.inputs import Input
from broker_jobs.coordinator.records import (
    DueNotice,
    FromWorker,
    LeaseOver,
    ProvenLost,
    ReadyCopy,
    Released,
    ReleaseFailed,
    ReleaseUnknown,
    Repeat,
    TimerDue,
    Undecidable,
    Unroutable,
    WaitingCopy,
)
from broker_jobs.messages import codec
from broker_jobs.messages.commands import NO_SUCH_JOB, DeleteJob, Reply, RequeueJob, RescheduleJob
from broker_jobs.messages.envelope import LimitKey, Policy
from broker_jobs.messages.events import LogLine, Overrun, Progress
from broker_jobs.messages.state import State
from broker_jobs.store.row import Publication, Reason
from tests.unit.coordinator.engine_harness import EngineHarness

AWAITING, SCHEDULED, ENQUEUED = State.AWAITING, State.SCHEDULED, State.ENQUEUED
PROCESSING, SUCCEEDED, FAILED, DELETED = State.PROCESSING, State.SUCCEEDED, State.FAILED, State.DELETED
NONE, PUBLISHING, PUBLISHED = Publication.NONE, Publication.PUBLISHING, Publication.PUBLISHED


@pytest.fixture
def harness() -> EngineHarness:
    return EngineHarness()


def awaiting(harness: EngineHarness) -> list[Input]:
    return [harness.child("j", "parent")]


def scheduled(harness: EngineHarness) -> list[Input]:
    return [harness.held(delay=60.0)]


def enqueued(harness: EngineHarness) -> list[Input]:
    return [harness.ready()]


def processing(harness: EngineHarness) -> list[Input]:
    return [harness.ready(), harness.started()]


def owned(harness: EngineHarness) -> list[Input]:
    return [harness.ready(), harness.started(owned=True)]


def retry(harness: EngineHarness) -> list[Input]:
    return [harness.ready(), harness.failed()]


def crashed(harness: EngineHarness) -> list[Input]:
    return [*owned(harness), LeaseOver("j", "w1", "its worker vanished")]


def returned(harness: EngineHarness) -> list[Input]:
    return [harness.ready(), harness.returned("redelivered")]


def rescheduled(harness: EngineHarness) -> list[Input]:
    return [harness.ready(), harness.ask(RescheduleJob, job_id="j", due_at=harness.now + 60.0)]


def succeeded(harness: EngineHarness) -> list[Input]:
    return [harness.ready(), harness.succeeded()]


def deleted(harness: EngineHarness) -> list[Input]:
    """Its message is out."""
    return [harness.ready(), harness.ask(DeleteJob, job_id="j")]


def returned_and_deleted(harness: EngineHarness) -> list[Input]:
    """A worker may run it still."""
    return [*returned(harness), harness.ask(DeleteJob, job_id="j")]


def asked_to_stop(harness: EngineHarness) -> list[Input]:
    return [harness.ready(), harness.started(), harness.ask(DeleteJob, job_id="j")]


def released(harness: EngineHarness) -> list[Input]:
    """Its release is not confirmed yet."""
    return [harness.held()]


def released_and_rescheduled(harness: EngineHarness) -> list[Input]:
    return [harness.held(), harness.ask(RescheduleJob, job_id="j", due_at=harness.now + 60.0)]


def released_and_deleted(harness: EngineHarness) -> list[Input]:
    return [harness.held(), harness.ask(DeleteJob, job_id="j")]


def released_and_running(harness: EngineHarness) -> list[Input]:
    return [harness.held(), harness.started()]


class Shown(NamedTuple):
    """What is looked at in a row."""

    state: State
    publication: Publication
    fence: int = 0


def shown(harness: EngineHarness) -> Shown:
    row = harness.row()
    return Shown(row.state, row.publication, row.fence)


def refused(harness: EngineHarness, kind: Any, **fields: Any) -> str | None:
    answer = harness.apply(harness.ask(kind, reply_to="me", **fields)).messages[-1]
    return Reply.model_validate_json(answer.body).refused


def apply_each(harness: EngineHarness, *inputs: Input) -> None:
    """A transaction each."""
    for one in inputs:
        harness.apply(one)


Begin = Callable[[EngineHarness], list[Input]]


# ---- what becomes known of a release


@pytest.mark.parametrize(
    ("begin", "expected"),
    [
        (released, Shown(ENQUEUED, PUBLISHED)),
        (released_and_rescheduled, Shown(SCHEDULED, PUBLISHED, 1)),
        (released_and_deleted, Shown(DELETED, PUBLISHED, 1)),
        (released_and_running, Shown(PROCESSING, PUBLISHED)),
    ],
)
def test_a_confirmed_release_is_published(harness: EngineHarness, begin: Begin, expected: Shown) -> None:
    apply_each(harness, *begin(harness), Released("j", 1))
    assert shown(harness) == expected
    harness.apply(Released("j", 1))
    assert shown(harness) == expected, "told twice"


@pytest.mark.parametrize(
    ("begin", "expected"),
    [(released, Shown(ENQUEUED, PUBLISHED)), (released_and_rescheduled, Shown(SCHEDULED, PUBLISHED, 1))],
)
def test_a_confirmed_release_is_published_also_where_more_is_read_of_its_job(
    harness: EngineHarness, begin: Begin, expected: Shown
) -> None:
    apply_each(harness, *begin(harness))
    harness.apply(FromWorker("w1", Progress(id="j", epoch=1, at=harness.now, done=1.0)), Released("j", 1))
    assert (shown(harness), harness.row().sender) == (expected, None)


@pytest.mark.parametrize(
    ("begin", "expected"),
    [
        (released, Shown(SCHEDULED, NONE)),
        (released_and_rescheduled, Shown(SCHEDULED, PUBLISHED, 1)),
        (released_and_deleted, Shown(DELETED, PUBLISHED, 1)),
        (released_and_running, Shown(PROCESSING, PUBLISHED)),
    ],
)
def test_a_release_that_may_have_been_published_counts_as_out(
    harness: EngineHarness, begin: Begin, expected: Shown
) -> None:
    apply_each(harness, *begin(harness), ReleaseUnknown("j", 1))
    assert shown(harness) == expected


@pytest.mark.parametrize(
    ("begin", "expected"),
    [
        (released, Shown(SCHEDULED, NONE)),
        (released_and_rescheduled, Shown(SCHEDULED, NONE)),
        (released_and_deleted, Shown(DELETED, NONE)),
        (released_and_running, Shown(PROCESSING, PUBLISHED)),
    ],
)
def test_a_release_that_was_certainly_not_published_is_cleared(
    harness: EngineHarness, begin: Begin, expected: Shown
) -> None:
    apply_each(harness, *begin(harness), ReleaseFailed("j", 1, "RabbitMQ is away"))
    assert shown(harness) == expected


@pytest.mark.parametrize("record", [ReleaseUnknown, ProvenLost])
def test_what_becomes_known_of_another_release_says_nothing_of_this_one(
    harness: EngineHarness, record: Callable[[str, int], Input]
) -> None:
    apply_each(harness, harness.held(), Released("j", 1), record("j", 0), record("j", 2))
    assert (shown(harness), harness.row().epoch) == (Shown(ENQUEUED, PUBLISHED), 1)


@pytest.mark.parametrize(
    ("begin", "expected"),
    [
        (enqueued, Shown(ENQUEUED, PUBLISHING, 1)),
        (rescheduled, Shown(SCHEDULED, NONE)),
        (deleted, Shown(DELETED, NONE)),
        (processing, Shown(PROCESSING, PUBLISHED)),
    ],
)
def test_what_is_proven_lost_is_cleared_or_released_again(
    harness: EngineHarness, begin: Begin, expected: Shown
) -> None:
    apply_each(harness, *begin(harness), ProvenLost("j", 1))
    assert shown(harness) == expected


def test_a_release_that_is_not_confirmed_yet_cannot_be_proven_lost(harness: EngineHarness) -> None:
    apply_each(harness, harness.held(), ProvenLost("j", 1))
    assert (shown(harness), harness.row().epoch) == (Shown(ENQUEUED, PUBLISHING), 1)


@pytest.mark.parametrize("is_known", [True, False])
def test_a_job_whose_queue_does_not_exist_fails_with_the_reason(harness: EngineHarness, is_known: bool) -> None:
    harness.apply(*([harness.ready()] if is_known else []))
    harness.apply(Unroutable("j", 1, "no queue 'default'", harness.body()))
    assert (shown(harness), harness.row().reason) == (Shown(FAILED, NONE), "no queue 'default'")
    assert harness.row().job == "work"


@pytest.mark.parametrize("begin", [processing, retry, succeeded])
def test_a_job_that_is_not_enqueued_any_more_was_routed(harness: EngineHarness, begin: Begin) -> None:
    apply_each(harness, *begin(harness))
    before = shown(harness)
    harness.apply(Unroutable("j", 1, "no queue 'default'", harness.body()))
    assert shown(harness) == before


@pytest.mark.parametrize(
    ("begin", "expected"), [(rescheduled, Shown(SCHEDULED, NONE)), (deleted, Shown(DELETED, NONE))]
)
def test_a_message_whose_queue_does_not_exist_is_gone(harness: EngineHarness, begin: Begin, expected: Shown) -> None:
    apply_each(harness, *begin(harness), Unroutable("j", 1, "no queue 'default'", harness.body()))
    assert shown(harness) == expected
    harness.now += 60.0
    assert [row.epoch for row in harness.apply(TimerDue("j")).releases] == ([2] if begin is rescheduled else [])


def test_a_job_that_is_not_due_is_not_released(harness: EngineHarness) -> None:
    apply_each(harness, *scheduled(harness))
    assert harness.apply(TimerDue("j"), TimerDue("unknown")).releases == []


# ---- envelopes


def test_a_job_with_conditions_that_was_published_past_the_coordinator_waits_until_its_message_is_returned(
    harness: EngineHarness,
) -> None:
    limit = LimitKey(kind="concurrency", key="k", limit=1)
    effects = harness.apply(harness.ready(limits=[limit]))
    assert effects.releases == []
    assert (shown(harness), harness.row().epoch) == (Shown(SCHEDULED, PUBLISHED, 1), 1)
    assert harness.row().reason == "waits for its message, which was published without its conditions being asked"
    assert harness.row().history == [(harness.now, "scheduled", harness.row().reason)]
    assert effects.control is not None
    assert [(fence.id, fence.epoch) for fence in effects.control.fences] == [("j", 1)]
    (row,) = harness.apply(harness.returned("not released")).releases
    assert (row.id, row.epoch, row.fence) == ("j", 2, 0)


def test_a_job_with_a_parent_that_was_published_past_the_coordinator_waits_for_both(harness: EngineHarness) -> None:
    child = harness.child("j", "parent")
    direct = child.envelope.model_copy(update={"epoch": 1})
    harness.apply(harness.ready("parent"), ReadyCopy(direct, codec.encode(direct).decode()))
    assert (shown(harness), harness.row().reason) == (
        Shown(AWAITING, PUBLISHED, 1),
        "waits for parent to have succeeded",
    )
    assert [state for _, state, _ in harness.row().history] == ["awaiting"]
    assert harness.apply(harness.returned("not released")).releases == []
    assert [row.id for row in harness.apply(harness.succeeded("parent")).releases] == ["j"]


def test_a_job_whose_parent_has_ended_and_that_was_published_past_the_coordinator_waits_for_its_message(
    harness: EngineHarness,
) -> None:
    direct = harness.child("j", "parent").envelope.model_copy(update={"epoch": 1})
    harness.apply(harness.ready("parent"), harness.succeeded("parent"))
    harness.apply(ReadyCopy(direct, codec.encode(direct).decode()))
    assert shown(harness) == Shown(SCHEDULED, PUBLISHED, 1)
    assert [row.id for row in harness.apply(harness.returned("not released")).releases] == ["j"]


def test_a_job_that_waits_for_itself_and_was_published_past_the_coordinator_is_fenced(harness: EngineHarness) -> None:
    direct = harness.child("j", "j").envelope.model_copy(update={"epoch": 1})
    harness.apply(ReadyCopy(direct, codec.encode(direct).decode()))
    assert shown(harness) == Shown(FAILED, PUBLISHED, 1)
    harness.apply(harness.returned("not released"))
    assert shown(harness) == Shown(FAILED, NONE)


def test_a_message_returned_as_not_released_before_its_copy_is_read_is_asked_its_conditions(
    harness: EngineHarness,
) -> None:
    limit = LimitKey(kind="concurrency", key="k", limit=1)
    harness.apply(harness.held("other", limits=[limit]))
    direct = harness.ready(limits=[limit])
    back = harness.returned("not released")
    event = back.event.model_copy(update={"envelope": direct.body})
    assert harness.apply(FromWorker("w2", event)).releases == []
    assert harness.row().reason == "waits for one of 1 slots of 'k'"
    assert [row.id for row in harness.apply(harness.succeeded("other")).releases] == ["j"]


def test_an_old_copy_of_a_job_is_not_its_newest_message(harness: EngineHarness) -> None:
    apply_each(harness, *retry(harness))
    harness.now += 5.0
    harness.release()
    harness.apply(harness.failed(epoch=2))
    harness.apply(harness.ready())
    assert (shown(harness), harness.row().epoch) == (Shown(SCHEDULED, NONE), 2)


@pytest.mark.parametrize("begin", [retry, returned, rescheduled, enqueued, processing, succeeded, deleted])
def test_a_copy_that_is_read_again_changes_nothing(harness: EngineHarness, begin: Begin) -> None:
    apply_each(harness, *begin(harness))
    before = harness.row()
    harness.apply(harness.ready())
    assert harness.row() == before


def test_an_envelope_that_is_read_late_does_not_delay_the_next_run(harness: EngineHarness) -> None:
    apply_each(harness, harness.started(owned=True), LeaseOver("j", "w1", "its worker vanished"))
    due_at = harness.row().due_at
    harness.apply(harness.held(delay=3_600.0))
    assert (harness.row().job, harness.row().due_at) == ("work", due_at)


def test_a_copy_of_a_deleted_job_of_which_nothing_is_out_fences_nothing(harness: EngineHarness) -> None:
    harness.apply(harness.ready(), harness.failed(final=True), harness.ask(DeleteJob, job_id="j"), harness.ready())
    assert shown(harness) == Shown(DELETED, NONE)


def test_a_store_that_was_restored_takes_the_epoch_of_a_newer_message(harness: EngineHarness) -> None:
    harness.apply(harness.held())
    harness.apply(harness.ready(epoch=3))
    assert (shown(harness), harness.row().epoch, harness.row().sender) == (Shown(ENQUEUED, PUBLISHED), 3, None)


def test_what_an_envelope_says_completes_a_job_that_was_known_from_an_event(harness: EngineHarness) -> None:
    harness.apply(harness.succeeded())
    due = harness.held(
        delay=60.0, queue="mail", tags=("a", "b"), parent="p", batch="b", recurring="r", policy=Policy(retries=7),
        priority="low",
    )  # fmt: skip
    harness.apply(due)
    row = harness.row()
    assert (row.job, row.queue, row.tags, row.parent, row.batch, row.recurring, row.retries) == (
        "work", "mail", "a b", "p", "b", "r", 7,
    )  # fmt: skip
    assert (row.created_at, row.due_at, row.envelope) == (harness.now, harness.now + 60.0, due.body)
    assert row.priority == "low"
    harness.apply(harness.held(queue="other"))
    assert harness.row().queue == "mail", "the first one counts"


def test_a_copy_in_the_delay_queues_is_remembered_once_and_gone_with_its_due_notice(harness: EngineHarness) -> None:
    held = harness.held(delay=60.0)
    harness.apply(WaitingCopy(held.envelope, held.body, copied_for=64.0))
    assert harness.row().copy_until == harness.now + 64.0
    harness.now += 10.0
    harness.apply(WaitingCopy(held.envelope, held.body, copied_for=64.0))
    assert harness.row().copy_until == harness.now + 54.0
    harness.apply(harness.ask(DeleteJob, job_id="j"), DueNotice(held.envelope, held.body))
    assert harness.row().copy_until is None


def test_a_job_that_was_known_before_its_delayed_copy_remembers_that_one(harness: EngineHarness) -> None:
    held = harness.held(delay=60.0)
    harness.apply(harness.ask(DeleteJob, job_id="j"), WaitingCopy(held.envelope, held.body, copied_for=64.0))
    assert harness.row().copy_until == harness.now + 64.0


# ---- events of workers


@pytest.mark.parametrize(
    ("begin", "expected"),
    [
        (awaiting, Shown(AWAITING, PUBLISHED)),
        (retry, Shown(SCHEDULED, NONE)),
        (returned, Shown(PROCESSING, PUBLISHED)),
        (rescheduled, Shown(PROCESSING, PUBLISHED, 1)),
        (enqueued, Shown(PROCESSING, PUBLISHED)),
        (processing, Shown(PROCESSING, PUBLISHED)),
        (succeeded, Shown(SUCCEEDED, NONE)),
        (deleted, Shown(DELETED, PUBLISHED, 1)),
    ],
)
def test_a_start_makes_a_job_run_that_may_run(harness: EngineHarness, begin: Begin, expected: Shown) -> None:
    apply_each(harness, *begin(harness), harness.started())
    assert shown(harness) == expected


@pytest.mark.parametrize(("begin", "is_owned"), [(returned, True), (rescheduled, False), (enqueued, False)])
def test_a_run_whose_delivery_came_back_is_owned_by_its_worker(
    harness: EngineHarness, begin: Begin, is_owned: bool
) -> None:
    apply_each(harness, *begin(harness), FromWorker("w1", harness.started().event, "node-1"))
    row = harness.row()
    assert (row.owner, row.owned, row.ran_on, row.ran_host) == ("w1", is_owned, "w1", "node-1")
    assert (row.started_at, row.grace_until) == (harness.now, None)


def test_a_run_is_owned_once_its_own_worker_says_so(harness: EngineHarness) -> None:
    apply_each(harness, *processing(harness), harness.started(worker="w2", owned=True))
    assert (harness.row().owner, harness.row().owned) == ("w1", False), "another worker"
    assert harness.effects[-1].notes == ["started twice"]
    harness.apply(harness.started(owned=True))
    assert (harness.row().owner, harness.row().owned) == ("w1", True)
    harness.apply(harness.started())
    assert harness.row().owned, "told again without"


@pytest.mark.parametrize(
    ("begin", "is_owned", "is_told"),
    [(succeeded, False, False), (succeeded, True, True), (deleted, False, True), (deleted, True, True)],
)
def test_who_runs_what_has_ended_is_told_to_stop(
    harness: EngineHarness, begin: Begin, is_owned: bool, is_told: bool
) -> None:
    apply_each(harness, *begin(harness))
    control = harness.apply(harness.started(owned=is_owned)).control
    assert (control is not None and control.cancel == ["j"]) is is_told


@pytest.mark.parametrize(
    ("begin", "expected"),
    [
        (awaiting, Shown(AWAITING, PUBLISHED)),
        (retry, Shown(SUCCEEDED, NONE)),
        (returned, Shown(SUCCEEDED, NONE)),
        (rescheduled, Shown(SUCCEEDED, NONE)),
        (enqueued, Shown(SUCCEEDED, NONE)),
        (owned, Shown(SUCCEEDED, NONE)),
        (deleted, Shown(DELETED, NONE)),
    ],
)
def test_a_success_ends_any_wait_but_for_a_parent(harness: EngineHarness, begin: Begin, expected: Shown) -> None:
    apply_each(harness, *begin(harness), harness.succeeded(result="7"))
    row = harness.row()
    assert shown(harness) == expected
    if row.state is SUCCEEDED:
        assert (row.result, row.error, row.grace_until, row.owner, row.owned) == ("7", None, None, None, False)
        assert row.ended_at == harness.now


@pytest.mark.parametrize(
    ("begin", "expected", "reason_code"),
    [
        (awaiting, Shown(AWAITING, PUBLISHED), Reason.NONE),
        (retry, Shown(SCHEDULED, NONE), Reason.RETRY),
        (returned, Shown(SCHEDULED, NONE), Reason.RETRY),
        (rescheduled, Shown(SCHEDULED, NONE), Reason.RESCHEDULED),
        (enqueued, Shown(SCHEDULED, NONE), Reason.RETRY),
        (owned, Shown(SCHEDULED, NONE), Reason.RETRY),
        (succeeded, Shown(SUCCEEDED, NONE), Reason.NONE),
        (deleted, Shown(DELETED, NONE), Reason.NONE),
        (asked_to_stop, Shown(DELETED, NONE), Reason.NONE),
    ],
)
def test_a_failure_is_retried_after_the_back_off(
    harness: EngineHarness, begin: Begin, expected: Shown, reason_code: str
) -> None:
    apply_each(harness, *begin(harness))
    before = harness.row().due_at
    harness.apply(harness.failed())
    row = harness.row()
    assert (shown(harness), row.reason_code) == (expected, reason_code)
    assert row.due_at == (harness.now + 5.0 if reason_code == Reason.RETRY else before)
    if reason_code == Reason.RETRY:
        assert (row.grace_until, row.owner, row.owned) == (None, None, False)


@pytest.mark.parametrize(
    ("begin", "expected"),
    [
        (retry, Shown(SCHEDULED, NONE)),
        (returned, Shown(FAILED, NONE)),
        (rescheduled, Shown(SCHEDULED, NONE)),
        (enqueued, Shown(FAILED, NONE)),
        (processing, Shown(FAILED, NONE)),
        (asked_to_stop, Shown(DELETED, NONE)),
    ],
)
def test_a_failure_for_good_is_final(harness: EngineHarness, begin: Begin, expected: Shown) -> None:
    apply_each(harness, *begin(harness), harness.failed(final=True))
    assert shown(harness) == expected


@pytest.mark.parametrize(
    ("begin", "expected"), [(enqueued, Shown(ENQUEUED, PUBLISHING)), (asked_to_stop, Shown(DELETED, NONE))]
)
def test_a_run_that_was_stopped_but_not_as_asked_runs_again_and_spends_no_retry(
    harness: EngineHarness, begin: Begin, expected: Shown
) -> None:
    apply_each(harness, *begin(harness))
    harness.apply(harness.failed(ended="cancelled"))
    assert shown(harness) == expected
    if expected.state is ENQUEUED:
        assert (harness.row().epoch, harness.row().attempt) == (2, 1)
        assert harness.row().history[-2][1:] == ("scheduled", "stopped at shutdown")
    else:
        assert harness.row().reason == "stopped as asked"


def test_a_run_that_goes_on_after_its_timeout_says_so_until_it_has_ended(harness: EngineHarness) -> None:
    apply_each(harness, *processing(harness))
    overrun = Overrun(id="j", epoch=1, at=harness.now)
    harness.apply(FromWorker("w2", overrun))
    assert harness.row().reason == "", "another worker"
    before = shown(harness)
    harness.apply(FromWorker("w1", overrun))
    assert (shown(harness), harness.row().reason) == (before, "timed out, ending")
    assert harness.apply(FromWorker("w1", overrun)).rows == 0, "told again"
    harness.apply(harness.failed(ended="timed out"))
    assert harness.row().state is SCHEDULED
    assert harness.row().reason.startswith("retry 1 of")


@pytest.mark.parametrize("begin", [awaiting, retry, enqueued, succeeded, deleted, asked_to_stop])
def test_what_does_not_run_or_was_asked_to_stop_is_not_said_to_go_on(harness: EngineHarness, begin: Begin) -> None:
    apply_each(harness, *begin(harness))
    before = harness.row()
    harness.apply(FromWorker("w1", Overrun(id="j", epoch=before.epoch, at=harness.now)))
    assert harness.row() == before


def test_a_run_that_ends_with_its_process_is_not_run_again_before_that_had_a_second_to_end(
    harness: EngineHarness,
) -> None:
    harness.apply(harness.ready(policy=Policy(retries=3, backoff=(0.0,))))
    harness.apply(harness.started(), harness.failed(ended="timed out", runs_on=True))
    assert harness.row().due_at == harness.now + 1.0


def test_a_retry_at_the_time_that_the_job_asked_for(harness: EngineHarness) -> None:
    failed = harness.failed()
    harness.apply(harness.ready(), FromWorker("w1", failed.event.model_copy(update={"retry_after": 42.0})))
    assert harness.row().due_at == harness.now + 42.0


@pytest.mark.parametrize(
    ("begin", "expected", "is_awaited"),
    [
        (awaiting, Shown(AWAITING, PUBLISHED), False),
        (retry, Shown(SCHEDULED, NONE), True),
        (rescheduled, Shown(SCHEDULED, NONE), True),
        (enqueued, Shown(SCHEDULED, NONE), True),
        (processing, Shown(PROCESSING, PUBLISHED), False),
        (succeeded, Shown(SUCCEEDED, NONE), True),
        (deleted, Shown(DELETED, NONE), True),
    ],
)
def test_a_redelivered_message_is_gone_and_a_run_of_it_is_waited_for(
    harness: EngineHarness, begin: Begin, expected: Shown, is_awaited: bool
) -> None:
    apply_each(harness, *begin(harness), harness.returned("redelivered"))
    row = harness.row()
    assert (shown(harness), row.grace_until) == (expected, 10.0 if is_awaited else None)
    assert row.owned is (begin is processing)


@pytest.mark.parametrize("begin", [retry, rescheduled, succeeded, deleted])
def test_a_fenced_message_that_comes_back_is_gone_and_no_run_of_it_is_waited_for(
    harness: EngineHarness, begin: Begin
) -> None:
    apply_each(harness, *begin(harness))
    before = harness.row()
    harness.apply(harness.returned("fenced"))
    row = harness.row()
    assert (row.state, row.reason_code) == (before.state, before.reason_code)
    assert (row.publication, row.fence, row.grace_until) == (NONE, 0, None)


@pytest.mark.parametrize(
    ("begin", "expected"),
    [
        (awaiting, Shown(AWAITING, PUBLISHED)),
        (rescheduled, Shown(SCHEDULED, NONE)),
        (enqueued, Shown(ENQUEUED, PUBLISHING)),
        (processing, Shown(ENQUEUED, PUBLISHING)),
        (succeeded, Shown(SUCCEEDED, NONE)),
        (deleted, Shown(DELETED, NONE)),
        (asked_to_stop, Shown(DELETED, NONE)),
    ],
)
def test_a_delivery_that_its_worker_gave_back_unrun_runs_again_at_once(
    harness: EngineHarness, begin: Begin, expected: Shown
) -> None:
    apply_each(harness, *begin(harness), harness.returned("shutdown", worker="w1"))
    assert shown(harness) == expected


@pytest.mark.parametrize("reason", ["shutdown", "unknown job"])
def test_a_delivery_that_another_worker_gave_back_leaves_the_run_to_its_worker(
    harness: EngineHarness, reason: Any
) -> None:
    apply_each(harness, *processing(harness), harness.returned(reason, worker="w2"))
    assert (shown(harness), harness.row().owned) == (Shown(PROCESSING, PUBLISHED), True)


@pytest.mark.parametrize(
    ("begin", "expected"),
    [
        (awaiting, Shown(AWAITING, PUBLISHED)),
        (retry, Shown(SCHEDULED, NONE)),
        (enqueued, Shown(ENQUEUED, PUBLISHED)),
        (released, Shown(ENQUEUED, PUBLISHING)),
        (processing, Shown(ENQUEUED, PUBLISHED)),
        (owned, Shown(SCHEDULED, NONE)),
        (succeeded, Shown(SUCCEEDED, NONE)),
        (asked_to_stop, Shown(DELETED, PUBLISHED, 1)),
    ],
)
def test_an_interruption_counts_only_of_the_run_that_is_known(
    harness: EngineHarness, begin: Begin, expected: Shown
) -> None:
    apply_each(harness, *begin(harness), harness.interrupted())
    assert (shown(harness), harness.row().owner) == (expected, None)


def test_an_interruption_by_another_worker_is_not_of_this_run(harness: EngineHarness) -> None:
    apply_each(harness, *processing(harness), harness.interrupted(worker="w2"))
    assert (shown(harness), harness.row().owner, harness.row().interruptions) == (
        Shown(PROCESSING, PUBLISHED), "w1", 0,
    )  # fmt: skip


def test_an_owned_run_that_is_interrupted_runs_again_when_its_process_has_had_a_second_to_end(
    harness: EngineHarness,
) -> None:
    apply_each(harness, *owned(harness), harness.interrupted())
    assert (harness.row().reason_code, harness.row().due_at) == (Reason.NOW, harness.now + 1.0)


def test_an_owned_run_that_was_to_stop_and_is_interrupted_leaves_nothing_out(harness: EngineHarness) -> None:
    apply_each(harness, *owned(harness), harness.ask(DeleteJob, job_id="j"), harness.interrupted())
    assert (shown(harness), harness.row().reason) == (Shown(DELETED, NONE), "stopped as asked")


@pytest.mark.parametrize("begin", [retry, enqueued, processing, succeeded])
def test_progress_and_lines_change_no_state(harness: EngineHarness, begin: Begin) -> None:
    apply_each(harness, *begin(harness))
    before = shown(harness)
    progress = Progress(id="j", epoch=1, at=harness.now, done=2.0, total=5.0)
    line = LogLine(id="j", epoch=1, at=harness.now, text="half way")
    harness.apply(FromWorker("w1", progress), FromWorker("w1", line))
    assert (shown(harness), harness.row().progress) == (before, "2/5")
    assert harness.apply(FromWorker("w1", progress)).rows == 0, "told again"
    harness.apply(FromWorker("w1", progress.model_copy(update={"total": None})))
    assert harness.row().progress == "2"


def test_a_line_of_a_job_that_is_not_known_is_kept_as_of_its_first_attempt(harness: EngineHarness) -> None:
    harness.apply(FromWorker("w1", LogLine(id="unknown", epoch=1, at=harness.now, text="half way")))
    assert [(line.attempt, line.text) for line in harness.store.reader.log_lines.of("unknown")] == [(1, "half way")]


def test_a_line_is_kept_as_of_the_attempt_in_which_it_was_written(harness: EngineHarness) -> None:
    apply_each(harness, *retry(harness))
    harness.now += 5.0
    harness.release()
    harness.apply(FromWorker("w1", LogLine(id="j", epoch=2, at=harness.now, text="again")))
    assert [(line.attempt, line.text) for line in harness.store.reader.log_lines.of("j")] == [(2, "again")]


def test_an_event_of_an_older_epoch_is_counted_and_changes_nothing(harness: EngineHarness) -> None:
    apply_each(harness, *retry(harness))
    harness.now += 5.0
    harness.release()
    before = harness.row()
    effects = harness.apply(harness.started(), harness.succeeded(), harness.failed())
    assert (effects.notes, harness.row()) == (["stale"] * 3, before)


def test_a_store_that_was_restored_takes_the_epoch_of_a_newer_event(harness: EngineHarness) -> None:
    apply_each(harness, *retry(harness))
    harness.apply(harness.started(epoch=4))
    assert (shown(harness), harness.row().epoch) == (Shown(PROCESSING, PUBLISHED), 4)


@pytest.mark.parametrize(
    "end",
    [
        lambda harness: harness.failed(epoch=2),
        lambda harness: harness.failed(epoch=2, final=True),
        lambda harness: harness.returned("shutdown", epoch=2),
        lambda harness: harness.returned("fenced", epoch=2),
        lambda harness: Unroutable("j", 2, "no queue 'default'", harness.body()),
    ],
)
@pytest.mark.parametrize("begin", [retry, crashed])
def test_nothing_is_out_when_a_release_that_a_restored_store_does_not_know_has_ended(
    harness: EngineHarness, begin: Begin, end: Callable[[EngineHarness], Input]
) -> None:
    apply_each(harness, *begin(harness), end(harness))
    assert shown(harness) == Shown(SCHEDULED, NONE)
    harness.now += 5.0
    assert [row.epoch for row in harness.apply(TimerDue("j")).releases] == [3]


@pytest.mark.parametrize(
    ("begin", "expected", "crashes"),
    [
        (awaiting, Shown(AWAITING, NONE), 0),
        (retry, Shown(SCHEDULED, NONE), 0),
        (enqueued, Shown(ENQUEUED, PUBLISHED), 0),
        (processing, Shown(ENQUEUED, PUBLISHED), 0),
        (owned, Shown(SCHEDULED, NONE), 1),
        (succeeded, Shown(SUCCEEDED, NONE), 0),
        (asked_to_stop, Shown(DELETED, PUBLISHED, 1), 0),
    ],
)
def test_the_end_of_a_lease_ends_the_run_of_that_worker(
    harness: EngineHarness, begin: Begin, expected: Shown, crashes: int
) -> None:
    apply_each(harness, *begin(harness))
    before = shown(harness)
    harness.apply(LeaseOver("j", "w2", "another worker vanished"))
    assert shown(harness) == before
    harness.apply(LeaseOver("j", "w1", "its worker vanished"))
    row = harness.row()
    assert (shown(harness), row.crashes, row.owner, row.owned) == (expected, crashes, None, False)
    if begin is owned:
        assert (row.reason_code, row.due_at) == (Reason.CRASH, harness.now + 5.0)


def test_an_owned_run_that_was_to_stop_is_deleted_when_its_lease_is_over_and_nothing_is_out(
    harness: EngineHarness,
) -> None:
    apply_each(
        harness, *owned(harness), harness.ask(DeleteJob, job_id="j"), LeaseOver("j", "w1", "its worker vanished")
    )
    assert (shown(harness), harness.row().reason) == (Shown(DELETED, NONE), "deleted; its worker vanished")


def test_the_third_crash_of_owned_runs_fails_the_job(harness: EngineHarness) -> None:
    harness.apply(harness.ready())
    for epoch in (1, 2, 3):
        harness.apply(harness.started(epoch=epoch, owned=True), LeaseOver("j", "w1", "its worker vanished"))
        assert harness.row().crashes == epoch
        harness.now += 5.0
        harness.release()
    assert (shown(harness), harness.row().reason) == (Shown(FAILED, NONE), "its worker died 3 times while running it")


def test_a_job_known_from_its_start_alone_is_not_released_after_a_crash_before_its_envelope_is_seen(
    harness: EngineHarness,
) -> None:
    harness.apply(harness.started(owned=True), LeaseOver("j", "w1", "its worker vanished"))
    assert harness.row().due_at == harness.now + 15.0, "the back-off of a job without a policy"
    harness.now += 15.0
    assert harness.apply(TimerDue("j")).releases == []
    assert harness.row().reason == "its envelope was never seen: it cannot be released"
    assert shown(harness) == Shown(FAILED, NONE)


def test_a_report_of_the_last_run_reaches_a_job_that_waits_in_a_line_for_its_next(harness: EngineHarness) -> None:
    slot = LimitKey(kind="concurrency", key="k", limit=1)
    apply_each(harness, harness.held(limits=[slot]), Released("j", 1), harness.returned("redelivered"))
    harness.apply(harness.held("other", limits=[slot]))
    harness.ticks(11)
    harness.apply(harness.ask(RescheduleJob, job_id="j", due_at=harness.now + 60.0))
    harness.apply(harness.held("third", limits=[slot]), TimerDue("other"))
    harness.now += 60.0
    harness.apply(TimerDue("j"))
    assert shown(harness).state is AWAITING
    harness.apply(harness.started("j", 1))
    assert shown(harness) == Shown(PROCESSING, PUBLISHED, 1)


# ---- commands


@pytest.mark.parametrize(
    ("begin", "expected"),
    [
        (awaiting, Shown(DELETED, NONE)),
        (scheduled, Shown(DELETED, NONE)),
        (retry, Shown(DELETED, NONE)),
        (returned, Shown(DELETED, NONE, 1)),
        (enqueued, Shown(DELETED, PUBLISHED, 1)),
        (processing, Shown(PROCESSING, PUBLISHED)),
        (succeeded, Shown(DELETED, NONE)),
        (deleted, Shown(DELETED, PUBLISHED, 1)),
    ],
)
def test_a_deletion_ends_what_does_not_run(harness: EngineHarness, begin: Begin, expected: Shown) -> None:
    apply_each(harness, *begin(harness))
    has_ended = harness.row().state.is_final
    answer = harness.apply(harness.ask(DeleteJob, reply_to="me", job_id="j")).messages[-1]
    assert shown(harness) == expected
    assert Reply.model_validate_json(answer.body).detail["ended"] is has_ended


@pytest.mark.parametrize(
    ("begin", "expected"),
    [
        (awaiting, Shown(ENQUEUED, PUBLISHING)),
        (scheduled, Shown(ENQUEUED, PUBLISHING)),
        (retry, Shown(ENQUEUED, PUBLISHING)),
        (returned, Shown(SCHEDULED, NONE)),
        (rescheduled, Shown(SCHEDULED, PUBLISHED, 1)),
        (succeeded, Shown(ENQUEUED, PUBLISHING)),
        (deleted, Shown(SCHEDULED, PUBLISHED, 1)),
    ],
)
def test_a_requeue_makes_a_job_due_now(harness: EngineHarness, begin: Begin, expected: Shown) -> None:
    apply_each(harness, *begin(harness))
    assert refused(harness, RequeueJob, job_id="j") is None
    assert (shown(harness), harness.row().due_at) == (expected, harness.now)


@pytest.mark.parametrize(
    ("begin", "reason_code"),
    [
        (scheduled, Reason.NOW),
        (rescheduled, Reason.NOW),
        (returned, Reason.RETURNED),
        (deleted, Reason.NOW),
        (returned_and_deleted, Reason.RETURNED),
    ],
)
def test_a_requeue_keeps_why_a_job_waits_only_where_that_counts(
    harness: EngineHarness, begin: Begin, reason_code: str
) -> None:
    apply_each(harness, *begin(harness))
    harness.apply(harness.ask(RequeueJob, job_id="j"), may_release=False)
    assert harness.row().reason_code == reason_code


def test_a_retry_that_a_person_runs_now_spends_the_retry(harness: EngineHarness) -> None:
    apply_each(harness, *retry(harness))
    (row,) = harness.apply(harness.ask(RequeueJob, job_id="j")).releases
    assert (row.epoch, row.attempt) == (2, 2)


@pytest.mark.parametrize(
    ("begin", "expected"),
    [
        (awaiting, Shown(AWAITING, NONE)),
        (scheduled, Shown(SCHEDULED, NONE)),
        (retry, Shown(SCHEDULED, NONE)),
        (returned, Shown(SCHEDULED, NONE)),
        (enqueued, Shown(SCHEDULED, PUBLISHED, 1)),
        (succeeded, Shown(SCHEDULED, NONE)),
        (deleted, Shown(SCHEDULED, PUBLISHED, 1)),
    ],
)
def test_a_reschedule_gives_a_job_another_time(harness: EngineHarness, begin: Begin, expected: Shown) -> None:
    apply_each(harness, *begin(harness))
    assert refused(harness, RescheduleJob, job_id="j", due_at=harness.now + 99.0) is None
    assert (shown(harness), harness.row().due_at) == (expected, harness.now + 99.0)


@pytest.mark.parametrize("kind", [RequeueJob, RescheduleJob])
def test_a_running_and_an_unknown_job_are_not_run_again(harness: EngineHarness, kind: Any) -> None:
    more = {"due_at": harness.now} if kind is RescheduleJob else {}
    assert refused(harness, kind, job_id="unknown", **more) == NO_SUCH_JOB
    apply_each(harness, *processing(harness))
    doing = "requeue" if kind is RequeueJob else "reschedule"
    assert refused(harness, kind, job_id="j", **more) == f"it is running: delete it first, then {doing} it"
    assert shown(harness) == Shown(PROCESSING, PUBLISHED)


@pytest.mark.parametrize("kind", [RequeueJob, RescheduleJob])
def test_a_job_that_runs_again_has_its_whole_budget_and_nothing_of_its_last_run(
    harness: EngineHarness, kind: Any
) -> None:
    harness.apply(harness.ready(), harness.started(owned=True), LeaseOver("j", "w1", "its worker vanished"))
    harness.now += 5.0
    harness.release()
    progress = Progress(id="j", epoch=2, at=harness.now, done=2.0)
    harness.apply(harness.started(epoch=2), FromWorker("w1", progress), harness.succeeded(epoch=2, result="7"))
    assert (harness.row().attempt, harness.row().crashes, harness.row().progress) == (2, 1, "2")
    more: dict[str, Any] = {"due_at": harness.now + 60.0} if kind is RescheduleJob else {}
    harness.apply(harness.ask(kind, job_id="j", **more))
    row = harness.row()
    assert (row.attempt, row.crashes, row.returns, row.unknowns, row.interruptions) == (1, 0, 0, 0, 0)
    assert (row.result, row.progress, row.ended_at) == (None, None, None)


# ---- what a row keeps


@pytest.mark.parametrize(
    ("parents", "batches", "reason"),
    [
        (("p",), (), "waits for p to have failed"),
        (("p", "q"), (), "waits for p to have failed and 1 more"),
        (("p", "q"), ("b",), "waits for p to have failed and 2 more"),
        ((), ("b",), "waits for batch b to have failed"),
    ],
)
def test_a_job_says_what_it_waits_for(
    harness: EngineHarness, parents: tuple[str, ...], batches: tuple[str, ...], reason: str
) -> None:
    harness.apply(harness.child("j", *parents, batches=batches, on="failed"))
    assert harness.row().reason == reason


def test_a_new_job_has_what_its_envelope_says(harness: EngineHarness) -> None:
    ready = harness.ready(
        queue="mail", tags=("a", "b"), policy=Policy(retries=7), parent="p", recurring="r", priority="high"
    )
    harness.now += 2.0
    harness.apply(ready)
    row = harness.row()
    assert (row.job, row.queue, row.tags, row.retries, row.attempt) == ("work", "mail", "a b", 7, 1)
    assert (row.parent, row.recurring, row.batch, row.priority) == ("p", "r", None, "high")
    assert (row.created_at, row.changed_at, row.released_at) == (harness.now - 2.0, harness.now, harness.now)
    assert row.history == [(harness.now - 2.0, "enqueued", "")]


def test_a_job_that_is_known_from_its_start_alone_was_out_by_then(harness: EngineHarness) -> None:
    harness.apply(FromWorker("w1", Progress(id="j", epoch=1, at=harness.now, done=1.0)))
    row = harness.row()
    assert (shown(harness), row.created_at, row.released_at) == (
        Shown(ENQUEUED, PUBLISHED), harness.now, harness.now,
    )  # fmt: skip


def test_a_run_by_another_worker_than_the_one_that_said_it_began_is_kept_as_of_that_one(
    harness: EngineHarness,
) -> None:
    apply_each(harness, *processing(harness))
    harness.apply(FromWorker("w2", harness.succeeded().event, "node-2"))
    assert (harness.row().state, harness.row().ran_on, harness.row().ran_host) == (SUCCEEDED, "w2", "node-2")


def test_a_failure_with_the_same_attempts_as_retries_is_retried_once_more(harness: EngineHarness) -> None:
    harness.apply(harness.ready(policy=Policy(retries=2, backoff=(5.0,))))
    for epoch in (1, 2):
        harness.apply(harness.failed(epoch=epoch))
        assert harness.row().reason == f"retry {epoch} of 2: ValueError: boom"
        harness.now += 5.0
        harness.release()
    harness.apply(harness.failed(epoch=3))
    assert (harness.row().state, harness.row().reason) == (FAILED, "failed after 3 runs: ValueError: boom")


def test_a_job_that_failed_is_still_told_of_to_the_worker_that_runs_it(harness: EngineHarness) -> None:
    apply_each(harness, harness.ready(), harness.failed(final=True))
    control = harness.apply(harness.started(owned=True)).control
    assert control is not None
    assert (control.cancel, [(fence.id, fence.epoch) for fence in control.fences]) == (["j"], [("j", 1)])


def test_a_deleted_job_whose_grace_is_over_is_not_fenced(harness: EngineHarness) -> None:
    apply_each(harness, *deleted(harness), harness.returned("redelivered"))
    harness.ticks(11)
    harness.apply(TimerDue("j"))
    assert (shown(harness), harness.row().grace_until) == (Shown(DELETED, NONE), None)


def test_a_job_that_waits_is_fenced_when_its_grace_is_over(harness: EngineHarness) -> None:
    apply_each(harness, *returned(harness), harness.ask(RescheduleJob, job_id="j", due_at=harness.now + 60.0))
    harness.ticks(9)
    harness.apply(TimerDue("j"))
    assert (shown(harness), harness.row().grace_until) == (Shown(SCHEDULED, NONE), 10.0)
    harness.ticks(1)
    harness.apply(TimerDue("j"))
    assert (shown(harness), harness.row().grace_until) == (Shown(SCHEDULED, NONE, 1), None)


def test_a_repeat_that_is_deleted_is_fenced_as_its_first_message_may_be_out(harness: EngineHarness) -> None:
    ready = harness.ready()
    apply_each(harness, Repeat(ready.envelope, ready.body), harness.ask(DeleteJob, job_id="j"))
    assert (shown(harness), harness.row().reason_code) == (Shown(DELETED, NONE, 1), Reason.REPEAT)


def test_a_failure_of_a_job_that_crashed_does_not_move_its_next_run(harness: EngineHarness) -> None:
    apply_each(harness, *owned(harness), LeaseOver("j", "w1", "its worker vanished"))
    due_at = harness.row().due_at
    harness.now += 1.0
    harness.apply(harness.failed())
    assert (shown(harness), harness.row().reason_code, harness.row().due_at) == (
        Shown(SCHEDULED, NONE), Reason.CRASH, due_at,
    )  # fmt: skip


def test_a_job_that_is_released_late_keeps_the_time_that_it_was_to_run_at(harness: EngineHarness) -> None:
    harness.apply(harness.held(delay=10.0))
    due_at = harness.now + 10.0
    harness.now += 15.0
    effects = harness.apply(TimerDue("j"))
    assert (harness.row().due_at, harness.row().released_at, effects.late) == (due_at, harness.now, [5.0])


def test_a_job_that_is_known_from_its_end_alone_fails_when_it_is_run_again(harness: EngineHarness) -> None:
    harness.apply(harness.succeeded())
    assert refused(harness, RequeueJob, job_id="j") is None
    harness.apply(TimerDue("j"))
    assert (shown(harness), harness.row().reason) == (
        Shown(FAILED, NONE), "its envelope was never seen: it cannot be released",
    )  # fmt: skip


def test_a_job_is_released_a_moment_ahead_of_its_time_and_not_before_that(harness: EngineHarness) -> None:
    harness.apply(harness.held(delay=10.0))
    harness.now += 9.97
    assert harness.engine.apply([TimerDue("j")], harness.now, ahead=0.02).releases == []
    harness.now += 0.02
    (row,) = harness.engine.apply([TimerDue("j")], harness.now, ahead=0.02).releases
    assert row.released_at == row.due_at


@pytest.mark.parametrize("runs", [1, 2])
def test_a_job_that_failed_says_how_often_it_ran(harness: EngineHarness, runs: int) -> None:
    harness.apply(harness.ready(policy=Policy(retries=runs - 1, backoff=(5.0,))))
    for epoch in range(1, runs + 1):
        harness.apply(harness.failed(epoch=epoch))
        harness.now += 5.0
        harness.release()
    assert harness.row().reason == {1: "failed: ValueError: boom", 2: "failed after 2 runs: ValueError: boom"}[runs]


def test_what_cannot_be_decided_waits_for_no_report(harness: EngineHarness) -> None:
    apply_each(harness, *returned(harness), Undecidable("j", "it raised"))
    assert (shown(harness), harness.row().grace_until) == (Shown(FAILED, NONE, 1), None)


def test_a_run_of_what_cannot_be_decided_is_owned_by_nobody(harness: EngineHarness) -> None:
    apply_each(harness, *owned(harness), Undecidable("j", "it raised"))
    assert (shown(harness), harness.row().owner, harness.row().owned) == (Shown(FAILED, PUBLISHED, 1), None, False)
