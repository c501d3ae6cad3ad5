"""What a coordinator makes of records: one job at a time, each rule by its name."""

from __future__ import annotations

import gc

import pytest

from broker_jobs.broker.interface import Delivery
from broker_jobs.coordinator.engine import Engine
from broker_jobs.coordinator.inputs import HeartbeatReceived, Input, Unreadable
from broker_jobs.coordinator.records import (
    DueNotice,
    LeaseOver,
    ProvenLost,
    Released,
    ReleaseFailed,
    ReleaseUnknown,
    Repeat,
    TimerDue,
    Undecidable,
)
from broker_jobs.coordinator.release import release
from broker_jobs.coordinator.rows import Rows
from broker_jobs.coordinator.state_machine.workers import LEAVING_SECONDS, MAX_INTERRUPTIONS
from broker_jobs.messages import codec
from broker_jobs.messages.commands import (
    AcceptStore,
    DeleteDeadLetter,
    DeleteJob,
    GetJob,
    PauseQueue,
    ReplayDeadLetter,
    Reply,
    RequeueJob,
    RescheduleJob,
)
from broker_jobs.messages.envelope import Growth, LimitKey, Policy
from broker_jobs.messages.events import Heartbeat, Tick, WorkerRef
from broker_jobs.messages.state import State
from broker_jobs.store.row import Publication, Reason
from tests.unit.coordinator.engine_harness import EngineHarness


@pytest.fixture
def harness() -> EngineHarness:
    return EngineHarness()


# ---- the plain road


def test_a_job_that_ran_is_stored_with_every_step(harness: EngineHarness) -> None:
    harness.apply(harness.ready(), harness.succeeded(result='"hi"'))
    row = harness.row()
    assert (row.state, row.publication, row.result) == (State.SUCCEEDED, Publication.NONE, '"hi"')
    assert [state for _, state, _ in row.history] == ["enqueued", "processing", "succeeded"]


def test_an_outcome_before_its_envelope_is_the_same_in_the_end(harness: EngineHarness) -> None:
    other = EngineHarness()
    harness.apply(harness.succeeded(), harness.ready())
    other.apply(other.ready(), other.succeeded())
    assert harness.row().state is other.row().state is State.SUCCEEDED
    assert harness.row().job == "work"


def test_a_log_record_applied_twice_changes_nothing(harness: EngineHarness) -> None:
    records: list[Input] = [harness.ready(), harness.started(), harness.failed()]
    harness.apply(*records)
    once = harness.row()
    harness.apply(*records)
    twice = harness.row()
    assert (once.state, once.epoch, once.attempt, once.due_at, once.publication) == (
        twice.state, twice.epoch, twice.attempt, twice.due_at, twice.publication,
    )  # fmt: skip


def test_what_cannot_be_decided_fails_and_whatever_is_out_of_it_is_stopped(harness: EngineHarness) -> None:
    harness.apply(
        harness.ready("queued"),
        harness.ready("runs"),
        harness.started("runs"),
        harness.held("later", delay=60.0),
        harness.child("then", "runs", on="failed"),
        harness.ready("ended"),
        harness.succeeded("ended"),
    )
    effects = harness.apply(*(Undecidable(id, "it raised") for id in ("queued", "runs", "later", "ended", "no")))
    assert {id: harness.row(id).state for id in ("queued", "runs", "later")} == dict.fromkeys(
        ("queued", "runs", "later"), State.FAILED
    )
    assert harness.row("runs").reason == "it raised"
    assert {id: harness.row(id).fence for id in ("queued", "runs", "later")} == {
        "queued": 1, "runs": 1, "later": 0,
    }  # fmt: skip
    assert effects.control is not None
    assert effects.control.cancel == ["runs"]
    assert harness.row("then").state is State.ENQUEUED
    assert harness.row("ended").state is State.SUCCEEDED
    harness.apply(harness.succeeded("runs"))
    assert (harness.row("runs").state, harness.row("runs").fence) == (State.FAILED, 0)


def test_a_delayed_job_is_never_released_before_its_time(harness: EngineHarness) -> None:
    effects = harness.apply(harness.held(delay=10.0))
    assert effects.timers == [("j", harness.now + 10.0)]
    harness.now += 9.999
    assert harness.apply(TimerDue("j")).releases == []
    harness.now += 0.001
    assert [row.epoch for row in harness.apply(TimerDue("j")).releases] == [1]


def test_a_coordinator_that_is_not_active_releases_nothing(harness: EngineHarness) -> None:
    harness.apply(harness.held(), may_release=False)
    assert harness.apply(TimerDue("j"), may_release=False).releases == []
    assert harness.row().state is State.SCHEDULED


def test_the_release_carries_epoch_attempt_and_care(harness: EngineHarness) -> None:
    harness.apply(harness.ready(), harness.failed())
    harness.now += 5.0
    row = harness.release().releases[0]
    envelope = codec.decode(release(row).body)
    assert (envelope.epoch, envelope.attempt, envelope.careful) == (2, 2, False)
    harness.apply(harness.returned("redelivered", epoch=2))
    harness.ticks(11)
    envelope = codec.decode(release(harness.release().releases[0]).body)
    assert (envelope.epoch, envelope.attempt, envelope.careful) == (3, 2, True)


# ---- retries


def test_retries_are_counted_and_the_last_failure_is_final(harness: EngineHarness) -> None:
    harness.apply(harness.ready(policy=Policy(retries=1, backoff=(2.0,))), harness.failed())
    assert harness.row().reason == "retry 1 of 1: ValueError: boom"
    harness.now += 2.0
    harness.release()
    harness.apply(harness.failed(epoch=2))
    assert harness.row().state is State.FAILED
    assert harness.row().reason == "failed after 2 runs: ValueError: boom"


def back_offs(harness: EngineHarness, policy: Policy) -> list[float]:
    """How long each retry waits."""
    found = []
    harness.apply(harness.ready(policy=policy))
    for epoch in range(1, policy.retries + 1):
        harness.apply(harness.failed(epoch=epoch))
        due_at = harness.row().due_at or 0.0
        found.append(due_at - harness.now)
        harness.now = due_at
        harness.release()
    harness.apply(harness.failed(epoch=policy.retries + 1))
    assert harness.row().state is State.FAILED
    return found


@pytest.mark.parametrize(
    ("chance", "seconds"),
    [(0.0, [15, 16, 31, 96, 271]), (0.5, [30, 46, 76, 156, 346]), (0.999, [44, 74, 118, 212, 416])],
)
def test_the_default_backoff_is_hangfire_s(harness: EngineHarness, chance: float, seconds: list[float]) -> None:
    harness.engine = Engine(harness.store, "c1", since=harness.now, chance=lambda: chance)
    assert back_offs(harness, Policy(retries=5)) == seconds


def test_the_last_of_a_policy_s_back_offs_is_repeated(harness: EngineHarness) -> None:
    assert back_offs(harness, Policy(retries=4, backoff=(2.0, 7.0))) == [2.0, 7.0, 7.0, 7.0]


def test_a_policy_without_back_offs_retries_at_once(harness: EngineHarness) -> None:
    harness.apply(harness.ready(policy=Policy(retries=1, backoff=())))
    assert [row.attempt for row in harness.apply(harness.failed()).releases] == [2]


def test_the_back_off_after_a_crash_is_that_of_so_many_crashes(harness: EngineHarness) -> None:
    harness.apply(harness.ready(policy=Policy(retries=2, backoff=(2.0, 7.0))), harness.failed())
    for epoch, seconds in ((2, 2.0), (3, 7.0)):
        harness.now += 10.0
        harness.release()
        harness.apply(harness.started(epoch=epoch, owned=True), LeaseOver("j", "w1", "its worker vanished"))
        assert harness.row().due_at == harness.now + seconds


def test_a_back_off_that_grows_ends_with_its_cap(harness: EngineHarness) -> None:
    harness.engine = Engine(harness.store, "c1", since=harness.now, chance=lambda: 0.5)
    growth = Growth(first=2, factor=3, cap=10, jitter=0.5)
    assert back_offs(harness, Policy(retries=4, backoff=growth)) == [1.5, 4.5, 7.5, 7.5]


def test_the_default_backoff_is_at_most_a_day(harness: EngineHarness) -> None:
    policy = Policy(retries=1_000_000)
    harness.apply(harness.ready(attempt=999_999, policy=policy), harness.failed())
    row = harness.row()
    assert (row.state, row.due_at) == (State.SCHEDULED, harness.now + 86_400)


def test_a_person_s_requeue_starts_the_budget_anew(harness: EngineHarness) -> None:
    harness.apply(harness.ready(policy=Policy(retries=0)), harness.failed())
    assert harness.row().state is State.FAILED
    effects = harness.apply(harness.ask(RequeueJob, job_id="j"))
    assert effects.releases[0].attempt == 1
    harness.apply(harness.failed(epoch=2))
    assert harness.row().state is State.FAILED


def test_an_error_is_kept_with_its_traceback(harness: EngineHarness) -> None:
    harness.apply(harness.ready(), harness.failed(final=True))
    assert '"traceback":"…"' in (harness.row().error or "")


# ---- commands


def test_requeueing_an_enqueued_job_is_refused_as_it_is_on_its_way(harness: EngineHarness) -> None:
    harness.apply(harness.ready())
    effects = harness.apply(harness.ask(RequeueJob, reply_to="me", id="r1", job_id="j"))
    reply = Reply.model_validate_json(effects.messages[0].body)
    assert reply.refused == "it is already on its way: enqueued"
    assert effects.releases == []


def test_rescheduling_an_enqueued_job_fences_it_and_waits_for_it_to_come_back(harness: EngineHarness) -> None:
    harness.apply(harness.ready())
    effects = harness.apply(harness.ask(RescheduleJob, job_id="j", due_at=harness.now))
    assert effects.control is not None
    assert [(fence.id, fence.epoch) for fence in effects.control.fences] == [("j", 1)]
    assert harness.apply(TimerDue("j")).releases == []
    effects = harness.apply(harness.returned("fenced"))
    assert [row.epoch for row in effects.releases] == [2]


def test_a_job_that_starts_before_its_later_time_is_known_has_no_later_time(harness: EngineHarness) -> None:
    harness.apply(harness.ready())
    harness.apply(harness.ask(RescheduleJob, job_id="j", due_at=harness.now + 50))
    harness.apply(harness.started())
    assert harness.row().state is State.PROCESSING
    assert (harness.row().due_at or 0.0) <= harness.now
    harness.apply(harness.interrupted(acknowledged=False))
    assert harness.row().state is State.ENQUEUED
    assert (harness.row().due_at or 0.0) <= harness.now


def test_a_command_that_comes_again_after_its_job_ended_is_not_applied_again(harness: EngineHarness) -> None:
    harness.apply(harness.ready(), harness.failed(final=True))
    requeue = harness.ask(RequeueJob, id="once", job_id="j")
    harness.apply(requeue)
    harness.apply(Released("j", 2), harness.succeeded(epoch=2))
    effects = harness.apply(requeue)
    assert effects.releases == []
    assert harness.row().state is State.SUCCEEDED


def test_a_repeated_command_gets_its_first_answer(harness: EngineHarness) -> None:
    harness.apply(harness.ready())
    delete = harness.ask(DeleteJob, reply_to="me", id="d", job_id="j")
    first, second = harness.apply(delete).messages[0], harness.apply(delete).messages[0]
    assert Reply.model_validate_json(first.body).detail["ended"] is False
    assert first.body == second.body


def test_a_job_deleted_before_its_envelope_is_seen_stays_deleted(harness: EngineHarness) -> None:
    harness.apply(harness.ask(DeleteJob, job_id="j"))
    effects = harness.apply(harness.ready())
    assert (harness.row().state, harness.row().fence) == (State.DELETED, 1)
    assert effects.releases == []
    harness.apply(harness.returned("fenced"))
    assert (harness.row().publication, harness.row().fence) == (Publication.NONE, 0)


def test_deleting_a_running_job_asks_it_to_stop_and_its_outcome_decides(harness: EngineHarness) -> None:
    harness.apply(harness.ready(), harness.started())
    effects = harness.apply(harness.ask(DeleteJob, job_id="j"))
    assert effects.control is not None
    assert effects.control.cancel == ["j"]
    assert harness.row().state is State.PROCESSING
    harness.apply(harness.succeeded())
    assert harness.row().state is State.SUCCEEDED


def test_a_running_job_that_stops_as_asked_is_deleted(harness: EngineHarness) -> None:
    harness.apply(
        harness.ready(), harness.started(), harness.ask(DeleteJob, job_id="j"), harness.failed(ended="cancelled")
    )
    assert harness.row().state is State.DELETED


def test_a_question_is_answered_at_once_or_when_the_job_ends(harness: EngineHarness) -> None:
    harness.apply(harness.ready())
    asked = harness.ask(GetJob, reply_to="me", id="q", job_id="j", until_ended=True)
    assert harness.apply(asked).messages == []
    assert harness.apply(asked).messages == []
    answers = harness.apply(harness.succeeded(result="7")).messages
    assert [Reply.model_validate_json(a.body).detail["result"] for a in answers] == ["7"]
    assert len(harness.apply(harness.ask(GetJob, reply_to="me", job_id="j")).messages) == 1
    unknown = harness.apply(harness.ask(GetJob, reply_to="me", job_id="nobody")).messages[0]
    assert Reply.model_validate_json(unknown.body).detail["known"] is False


def test_a_paused_queue_is_told_to_the_workers(harness: EngineHarness) -> None:
    control = harness.apply(harness.ask(PauseQueue, queue="mail", paused=True)).control
    assert control is not None
    assert control.paused == ["mail"]
    assert harness.apply(harness.ask(PauseQueue, queue="mail", paused=True)).control is None


# ---- crashes, blips, repeats


def test_a_redelivered_job_waits_for_word_of_its_runner_before_it_runs_again(harness: EngineHarness) -> None:
    harness.apply(harness.ready())
    assert harness.apply(harness.returned("redelivered")).releases == []
    harness.apply(harness.succeeded())
    assert harness.row().state is State.SUCCEEDED
    harness.ticks(12)
    assert harness.apply(TimerDue("j")).releases == []


def test_a_redelivered_job_without_a_runner_is_released_after_the_grace(harness: EngineHarness) -> None:
    harness.apply(harness.ready(), harness.returned("redelivered"))
    harness.ticks(9)
    assert harness.apply(TimerDue("j")).releases == []
    harness.ticks(2)
    assert [row.epoch for row in harness.apply(TimerDue("j")).releases] == [2]


def test_a_requeue_during_the_grace_waits_for_its_end(harness: EngineHarness) -> None:
    harness.apply(harness.ready(), harness.returned("redelivered"))
    assert harness.apply(harness.ask(RequeueJob, job_id="j")).releases == []
    harness.ticks(11)
    assert len(harness.apply(TimerDue("j")).releases) == 1


def test_a_release_that_may_have_been_published_is_fenced_and_not_repeated(harness: EngineHarness) -> None:
    released = harness.apply(harness.held()).releases[0]
    assert harness.row().publication is Publication.PUBLISHING
    harness.apply(ReleaseUnknown("j", released.epoch))
    assert (harness.row().state, harness.row().publication, harness.row().reason_code) == (
        State.SCHEDULED,
        Publication.NONE,
        Reason.RETURNED,
    )
    harness.ticks(11)
    effects = harness.apply(TimerDue("j"))
    assert [row.epoch for row in effects.releases] == [2]
    assert effects.control is not None
    assert [(fence.id, fence.epoch) for fence in effects.control.fences] == [("j", 1)]


def test_a_release_that_was_not_sent_is_tried_again(harness: EngineHarness) -> None:
    harness.apply(harness.held())
    effects = harness.apply(ReleaseFailed("j", 1, "RabbitMQ is away"))
    assert effects.releases == []
    assert effects.timers == [("j", harness.now + 1.0)]
    harness.now += 1.0
    assert [row.epoch for row in harness.apply(TimerDue("j")).releases] == [2]


def test_a_producer_s_repeat_of_a_known_job_does_nothing(harness: EngineHarness) -> None:
    ready = harness.ready()
    harness.apply(ready, harness.succeeded())
    assert harness.apply(Repeat(ready.envelope, ready.body)).releases == []
    assert harness.row().state is State.SUCCEEDED


def test_a_producer_s_repeat_of_an_unknown_job_waits_for_the_first(harness: EngineHarness) -> None:
    ready = harness.ready()
    harness.apply(Repeat(ready.envelope, ready.body))
    assert harness.row().state is State.SCHEDULED
    harness.apply(ready)
    assert (harness.row().state, harness.row().epoch) == (State.ENQUEUED, 1)


def test_a_worker_that_died_while_running_costs_a_crash_only_with_proof(harness: EngineHarness) -> None:
    harness.apply(harness.ready(), harness.started(), LeaseOver("j", "w1", "its worker vanished"))
    assert (harness.row().state, harness.row().reason_code, harness.row().crashes) == (
        State.ENQUEUED,
        Reason.VANISHED,
        0,
    )
    harness.apply(harness.returned("redelivered"))
    assert (harness.row().state, harness.row().crashes) == (State.SCHEDULED, 1)


def test_innocents_that_come_back_often_are_never_crash_loops(harness: EngineHarness) -> None:
    harness.apply(harness.ready())
    for epoch in range(1, 9):
        harness.apply(harness.returned("redelivered", epoch=epoch))
        harness.ticks(11)
        harness.release()
    assert (harness.row().state, harness.row().crashes, harness.row().epoch) == (State.ENQUEUED, 0, 9)


def test_the_third_crash_fails_the_job(harness: EngineHarness) -> None:
    harness.apply(harness.ready())
    for epoch in (1, 2, 3):
        harness.apply(
            harness.started(epoch=epoch), LeaseOver("j", "w1", "gone"), harness.returned("redelivered", epoch=epoch)
        )
        harness.ticks(11)
        harness.release()
    assert harness.row().state is State.FAILED
    assert "died 3 times while running it" in harness.row().reason


def test_from_the_second_crash_on_jobs_of_a_queue_run_one_at_a_time(harness: EngineHarness) -> None:
    for id in ("a", "b"):
        harness.apply(harness.ready(id))
        for epoch in (1, 2):
            harness.apply(
                harness.started(id, epoch), LeaseOver(id, "w1", "gone"), harness.returned("redelivered", id, epoch)
            )
            if epoch == 1:
                harness.ticks(11)
                harness.release(id)
    harness.ticks(11)
    first = harness.release("a")
    assert len(first.releases) == 1
    assert harness.release("b").releases == []
    assert [row.id for row in harness.apply(harness.succeeded("a", 3)).releases] == ["b"]


def test_an_owned_job_whose_lease_is_over_runs_again_later(harness: EngineHarness) -> None:
    harness.apply(harness.ready(), harness.started(owned=True), LeaseOver("j", "w1", "its worker vanished"))
    assert (harness.row().state, harness.row().reason_code, harness.row().crashes, harness.row().publication) == (
        State.SCHEDULED, Reason.CRASH, 1, Publication.NONE,
    )  # fmt: skip


def test_a_redelivery_beside_a_known_runner_leaves_the_job_to_the_runner(harness: EngineHarness) -> None:
    harness.apply(harness.ready(), harness.started(), harness.returned("redelivered"))
    assert (harness.row().state, harness.row().owned) == (State.PROCESSING, True)
    harness.ticks(12)
    assert harness.apply(TimerDue("j")).releases == []


def test_a_living_worker_that_twice_does_not_list_a_job_has_lost_it(harness: EngineHarness) -> None:
    harness.apply(harness.ready(), harness.started(owned=True))
    assert harness.apply(harness.beat(running=[("j", 1)])).next == []
    harness.ticks(10)
    assert harness.apply(harness.beat()).next == []
    harness.ticks(10)
    assert [type(record) for record in harness.apply(harness.beat()).next] == [LeaseOver]


def test_heartbeats_of_before_the_start_that_are_read_again_end_no_run(harness: EngineHarness) -> None:
    """Committed and not acknowledged: the next active coordinator reads them again, and knows of the start already."""
    log: list[Input] = []
    for _ in range(3):
        log.append(harness.beat())
        harness.now += 2.0
    log += [harness.ready(), harness.started(owned=True)]
    for piece in log:
        harness.apply(piece)
    after = EngineHarness(harness.store, "c2")
    after.now = harness.now
    after.engine.become_active(after.now)
    assert [record for piece in log for record in after.apply(piece).next] == []
    for _ in range(3):
        after.ticks(2)
        assert after.apply(after.beat(running=[("j", 1)])).next == []
    assert after.row().state is State.PROCESSING


def test_jobs_returned_at_shutdown_go_on_at_once_and_cost_nothing(harness: EngineHarness) -> None:
    effects = harness.apply(harness.ready(), harness.returned("shutdown"))
    row = effects.releases[0]
    assert (row.epoch, row.attempt, row.crashes, row.returns) == (2, 1, 0, 0)


@pytest.mark.parametrize("told", [False, True])
def test_an_interrupted_job_runs_again_at_once_when_its_worker_has_ended_and_costs_nothing(
    harness: EngineHarness, told: bool
) -> None:
    harness.apply(harness.ready(), *([harness.started()] if told else []))
    assert harness.apply(harness.interrupted()).releases == []  # its worker may still run it
    assert (harness.row().state, harness.row().publication) == (State.ENQUEUED, Publication.PUBLISHED)
    row = harness.apply(harness.returned("redelivered")).releases[0]
    assert (row.epoch, row.attempt, row.crashes, row.returns) == (2, 1, 0, 0)
    assert [state for _, state, _ in row.history] == ["enqueued", "processing", "enqueued", "scheduled", "enqueued"]
    assert "interrupted" in row.history[2][2]


def test_an_interrupted_job_that_rabbitmq_does_not_back_waits_a_moment(harness: EngineHarness) -> None:
    harness.apply(harness.ready("a"), harness.started("a", owned=True), harness.ready("b"), harness.started("b"))
    assert harness.apply(harness.interrupted("a"), harness.interrupted("b", acknowledged=True)).releases == []
    harness.now += LEAVING_SECONDS
    for id in ("a", "b"):
        (row,) = harness.apply(TimerDue(id)).releases
        assert (row.epoch, row.attempt, row.crashes) == (2, 1, 0)


def test_interruptions_told_twice_count_once(harness: EngineHarness) -> None:
    harness.apply(harness.ready(), harness.started(), harness.interrupted(), harness.started(), harness.interrupted())
    assert (harness.row().state, harness.row().reason_code, harness.row().interruptions) == (
        State.ENQUEUED,
        Reason.INTERRUPTED,
        1,
    )


def test_a_success_that_is_told_after_the_interruption_stands(harness: EngineHarness) -> None:
    harness.apply(harness.ready(), harness.started(), harness.interrupted(), harness.succeeded())
    assert (harness.row().state, harness.row().publication) == (State.SUCCEEDED, Publication.NONE)
    assert harness.apply(harness.returned("redelivered")).releases == []


def test_a_job_that_was_to_be_stopped_is_deleted_when_it_is_interrupted(harness: EngineHarness) -> None:
    harness.apply(harness.ready(), harness.started(), harness.ask(DeleteJob, job_id="j"), harness.interrupted())
    assert harness.row().state is State.DELETED
    harness.apply(harness.returned("redelivered"))
    assert harness.row().publication is Publication.NONE


def test_ten_interruptions_count_as_one_crash_and_three_crashes_fail_the_job(harness: EngineHarness) -> None:
    harness.apply(harness.ready())
    for number in range(1, 3 * MAX_INTERRUPTIONS + 1):
        epoch = harness.row().epoch
        harness.apply(harness.started(epoch=epoch), harness.interrupted(epoch=epoch))
        harness.apply(harness.returned("redelivered", epoch=epoch))
        assert harness.row().crashes == number // MAX_INTERRUPTIONS
        if number % MAX_INTERRUPTIONS == 0 and number < 3 * MAX_INTERRUPTIONS:
            assert (harness.row().state, harness.row().reason_code) == (State.SCHEDULED, Reason.CRASH)
            harness.now += 1_000.0
        if harness.row().state is State.SCHEDULED:  # after a crash: its time, and one such job at a time
            harness.release()
    assert harness.row().state is State.FAILED
    assert "interrupted 10 times, which counts as a crash" in harness.row().reason


def test_a_lost_message_is_released_again_with_the_next_epoch(harness: EngineHarness) -> None:
    harness.apply(harness.ready())
    effects = harness.apply(ProvenLost("j", 1))
    assert [(row.epoch, row.fence) for row in effects.releases] == [(2, 1)]


# ---- time


def test_log_time_counts_an_outage_as_one_second(harness: EngineHarness) -> None:
    harness.ticks(5)
    before = harness.store.reader.meta().log_time
    harness.now += 3_600.0
    harness.apply(harness.tick())
    assert harness.store.reader.meta().log_time == pytest.approx(before + 1.0)


def test_two_coordinators_ticks_do_not_make_log_time_run_faster(harness: EngineHarness) -> None:
    meta = harness.store.reader.meta()
    for second in range(1, 11):
        harness.apply(harness.tick(harness.now + second))
        harness.apply(Tick(coordinator="c2", store=meta.store_id, serial=0, sent_at=harness.now + second + 0.5))
    assert harness.store.reader.meta().log_time == pytest.approx(9.0)


def test_a_tick_ahead_of_the_store_says_that_the_store_went_back(harness: EngineHarness) -> None:
    meta = harness.store.reader.meta()
    effects = harness.apply(Tick(coordinator="c0", store=meta.store_id, serial=meta.serial + 5, sent_at=harness.now))
    assert effects.went_back == meta.serial + 5
    with harness.store.transaction() as tx:
        tx.accept_restored()
    meta = harness.store.reader.meta()
    assert meta.serial > effects.went_back


def test_accepting_a_restored_store_lets_waiting_jobs_leap_over_old_epochs(harness: EngineHarness) -> None:
    harness.apply(harness.held(delay=60.0))
    with harness.store.transaction() as tx:
        assert tx.accept_restored() == 1
    harness.now += 60.0
    assert [row.epoch for row in harness.apply(TimerDue("j")).releases] == [1001]


def test_a_living_coordinator_of_another_store_is_noticed_and_a_dead_one_is_not(harness: EngineHarness) -> None:
    late = Tick(coordinator="c9", store="another", serial=1, sent_at=harness.now + 1.0)
    assert harness.apply(late).foreign == "c9"
    assert harness.store.reader.meta().log_time == 0.0
    assert harness.apply(late.model_copy(update={"sent_at": harness.now - 1.0})).foreign is None


def test_a_long_delay_gets_a_copy_in_the_delay_queues_and_a_due_notice_sends_the_next(harness: EngineHarness) -> None:
    effects = harness.apply(harness.held(delay=3_600.0))
    assert [message.key for message in effects.messages] == ["11"]
    assert harness.row().copy_until is not None
    harness.now += 2_048.0
    envelope = harness.envelope(epoch=0)
    effects = harness.apply(DueNotice(envelope, codec.encode(envelope).decode()))
    assert [message.key for message in effects.messages] == ["10"]


def test_a_due_notice_of_a_lost_job_brings_it_back(harness: EngineHarness) -> None:
    held = harness.held(delay=20.0)
    harness.apply(DueNotice(held.envelope, held.body))
    assert (harness.row().state, harness.row().due_at) == (State.SCHEDULED, harness.now + 20.0)


def test_retention_spares_what_a_copy_in_the_delay_queues_could_revive(harness: EngineHarness) -> None:
    held = harness.held(delay=30 * 86_400.0)
    harness.apply(held)
    harness.apply(harness.ask(RequeueJob, job_id="j"))
    harness.apply(Released("j", 1), harness.succeeded())
    harness.now += 20 * 86_400.0
    with harness.store.transaction() as tx:
        assert tx.purge(now=harness.now, keep_succeeded=7 * 86_400.0, keep_deleted=1.0, keep_failed=1.0, limit=10) == 0
    harness.apply(DueNotice(held.envelope, held.body))
    assert harness.row().state is State.SUCCEEDED
    with harness.store.transaction() as tx:
        assert tx.purge(now=harness.now, keep_succeeded=7 * 86_400.0, keep_deleted=1.0, keep_failed=1.0, limit=10) == 1


# ---- control


def test_a_worker_that_missed_news_is_told_all_again(harness: EngineHarness) -> None:
    harness.apply(harness.ready())
    harness.apply(harness.ask(DeleteJob, job_id="j"), harness.ask(PauseQueue, queue="mail", paused=True))
    behind = HeartbeatReceived(WorkerRef(id="w1"), Heartbeat(at=harness.now, control_version=0), harness.now)
    control = harness.apply(behind).control
    assert control is not None
    assert (control.snapshot, control.paused) == (True, ["mail"])
    assert [(fence.id, fence.epoch) for fence in control.fences] == [("j", 1)]
    current = HeartbeatReceived(
        WorkerRef(id="w1"), Heartbeat(at=harness.now, control_version=control.version), harness.now
    )
    assert harness.apply(current).control is None


# ---- dead letters


def test_a_dead_lettered_message_is_replayed_when_it_can_be_read_and_refused_while_it_cannot(
    harness: EngineHarness,
) -> None:
    newer = arrived(b'{"v": 2}')
    harness.apply(Unreadable("log", "message of version 2", newer))
    dead_letter = harness.store.reader.dead_letters.oldest()[0]
    assert (dead_letter.origin, dead_letter.reason, dead_letter.body) == ("log", "message of version 2", newer.body)
    reply = answered(harness, ReplayDeadLetter, dead_letter_id=dead_letter.id)
    assert reply.refused is not None
    assert "version 2" in reply.refused
    harness.apply(Unreadable("dead", "a worker could not read it", arrived(harness.body("k").encode())))
    readable = next(row for row in harness.store.reader.dead_letters.oldest() if row.origin == "dead")
    assert answered(harness, ReplayDeadLetter, dead_letter_id=readable.id).ok
    assert harness.row("k").state is State.ENQUEUED
    assert readable.id not in [row.id for row in harness.store.reader.dead_letters.oldest()]


def test_a_dead_lettered_message_is_deleted_for_good(harness: EngineHarness) -> None:
    harness.apply(Unreadable("command", "not JSON", arrived(b"?")))
    dead_letter = harness.store.reader.dead_letters.oldest()[0]
    assert answered(harness, DeleteDeadLetter, dead_letter_id=dead_letter.id).ok
    assert harness.store.reader.dead_letters.oldest() == []
    assert answered(harness, DeleteDeadLetter, dead_letter_id=dead_letter.id).refused == "no dead letter has this id"


def test_a_restored_store_is_accepted_by_a_command(harness: EngineHarness) -> None:
    harness.apply(harness.held(delay=60.0))
    before = harness.store.reader.meta().serial
    assert answered(harness, AcceptStore).detail == {"waiting": 1}
    assert harness.store.reader.meta().serial > before + 1_000_000


def arrived(body: bytes) -> Delivery:
    return Delivery(1, 1, "jobs.v1.log", body, False, "jobs.v1.submit", "default", "", "", None, None, 0)


def answered(harness: EngineHarness, kind: type, **fields: str) -> Reply:
    return Reply.model_validate_json(harness.apply(harness.ask(kind, reply_to="me", **fields)).messages[-1].body)


def test_the_rows_of_a_transaction_are_gone_when_it_is_over(harness: EngineHarness) -> None:
    """Without a collection of garbage, which a coordinator rarely makes: jobs may be large."""
    limits = (LimitKey(kind="concurrency", key="k", limit=500),)
    gc.collect()
    gc.disable()
    try:
        for number in range(5):
            harness.apply(harness.held(f"h{number}", limits=limits), harness.ready(f"r{number}"))
        harness.effects.clear()
        assert [one for one in gc.get_objects() if isinstance(one, Rows)] == []
    finally:
        gc.enable()


@pytest.mark.parametrize("requeued_first", [False, True])
def test_a_waiting_job_that_was_deleted_before_its_copy_was_read_runs_at_once_when_it_is_requeued(
    requeued_first: bool,
) -> None:
    harness = EngineHarness()
    harness.apply(harness.ask(DeleteJob, job_id="j"))
    steps: list[Input] = [harness.held("j", 50.0), harness.ask(RequeueJob, job_id="j")]
    for step in reversed(steps) if requeued_first else steps:
        harness.apply(step)
    assert (harness.row("j").state, harness.row("j").epoch) == (State.ENQUEUED, 2)


def test_a_direct_job_that_was_deleted_before_its_copy_was_read_may_be_out() -> None:
    harness = EngineHarness()
    harness.apply(harness.ask(DeleteJob, job_id="j"))
    harness.apply(harness.ready("j"))
    harness.apply(harness.ask(RequeueJob, job_id="j"))
    assert harness.row("j").state is State.SCHEDULED
