"""What a coordinator makes of records: one job at a time, each rule by its name."""

from __future__ import annotations

import pytest

from broker_jobs.broker.interface import Delivery
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
)
from broker_jobs.coordinator.release import release
from broker_jobs.coordinator.state_machine import LEAVING_SECONDS, MAX_INTERRUPTIONS
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
from broker_jobs.messages.envelope import Policy
from broker_jobs.messages.events import Heartbeat, Tick, WorkerRef
from broker_jobs.messages.state import State
from broker_jobs.store.row import Publication, Reason
from tests.unit.coordinator.engine_desk import Desk


@pytest.fixture
def desk() -> Desk:
    return Desk()


# ---- the plain road


def test_a_job_that_ran_is_stored_with_every_step(desk: Desk) -> None:
    desk.apply(desk.ready(), desk.succeeded(result='"hi"'))
    row = desk.row()
    assert (row.state, row.publication, row.result) == (State.SUCCEEDED, Publication.NONE, '"hi"')
    assert [state for _, state, _ in row.history] == ["enqueued", "processing", "succeeded"]


def test_an_outcome_before_its_envelope_is_the_same_in_the_end(desk: Desk) -> None:
    other = Desk()
    desk.apply(desk.succeeded(), desk.ready())
    other.apply(other.ready(), other.succeeded())
    assert desk.row().state is other.row().state is State.SUCCEEDED
    assert desk.row().job == "work"


def test_a_log_record_applied_twice_changes_nothing(desk: Desk) -> None:
    records: list[Input] = [desk.ready(), desk.started(), desk.failed()]
    desk.apply(*records)
    once = desk.row()
    desk.apply(*records)
    twice = desk.row()
    assert (once.state, once.epoch, once.attempt, once.due_at, once.publication) == (
        twice.state, twice.epoch, twice.attempt, twice.due_at, twice.publication,
    )  # fmt: skip


def test_a_delayed_job_is_never_released_before_its_time(desk: Desk) -> None:
    effects = desk.apply(desk.held(delay=10.0))
    assert effects.timers == [("j", desk.now + 10.0)]
    desk.now += 9.999
    assert desk.apply(TimerDue("j")).releases == []
    desk.now += 0.001
    assert [row.epoch for row in desk.apply(TimerDue("j")).releases] == [1]


def test_a_coordinator_that_is_not_active_releases_nothing(desk: Desk) -> None:
    desk.apply(desk.held(), may_release=False)
    assert desk.apply(TimerDue("j"), may_release=False).releases == []
    assert desk.row().state is State.SCHEDULED


def test_the_release_carries_epoch_attempt_and_care(desk: Desk) -> None:
    desk.apply(desk.ready(), desk.failed())
    desk.now += 5.0
    row = desk.release().releases[0]
    envelope = codec.decode(release(row).body)
    assert (envelope.epoch, envelope.attempt, envelope.careful) == (2, 2, False)
    desk.apply(desk.returned("redelivered", epoch=2))
    desk.ticks(11)
    envelope = codec.decode(release(desk.release().releases[0]).body)
    assert (envelope.epoch, envelope.attempt, envelope.careful) == (3, 2, True)


# ---- retries


def test_retries_are_counted_and_the_last_failure_is_final(desk: Desk) -> None:
    desk.apply(desk.ready(policy=Policy(retries=1, backoff=(2.0,))), desk.failed())
    assert desk.row().reason == "retry 1 of 1: ValueError: boom"
    desk.now += 2.0
    desk.release()
    desk.apply(desk.failed(epoch=2))
    assert desk.row().state is State.FAILED
    assert desk.row().reason == "failed after 2 runs: ValueError: boom"


def test_the_default_backoff_is_hangfire_s(desk: Desk) -> None:
    policy = Policy()
    desk.apply(desk.ready(policy=policy), desk.failed())
    assert desk.row().due_at == desk.now + 15.0


def test_a_person_s_requeue_starts_the_budget_anew(desk: Desk) -> None:
    desk.apply(desk.ready(policy=Policy(retries=0)), desk.failed())
    assert desk.row().state is State.FAILED
    effects = desk.apply(desk.ask(RequeueJob, job_id="j"))
    assert effects.releases[0].attempt == 1
    desk.apply(desk.failed(epoch=2))
    assert desk.row().state is State.FAILED


def test_an_error_is_kept_with_its_traceback(desk: Desk) -> None:
    desk.apply(desk.ready(), desk.failed(final=True))
    assert '"traceback":"…"' in (desk.row().error or "")


# ---- commands


def test_requeueing_an_enqueued_job_is_refused_as_it_is_on_its_way(desk: Desk) -> None:
    desk.apply(desk.ready())
    effects = desk.apply(desk.ask(RequeueJob, reply_to="me", id="r1", job_id="j"))
    reply = Reply.model_validate_json(effects.messages[0].body)
    assert reply.refused == "it is already on its way: enqueued"
    assert effects.releases == []


def test_rescheduling_an_enqueued_job_fences_it_and_waits_for_it_to_come_back(desk: Desk) -> None:
    desk.apply(desk.ready())
    effects = desk.apply(desk.ask(RescheduleJob, job_id="j", due_at=desk.now))
    assert effects.control is not None
    assert [(fence.id, fence.epoch) for fence in effects.control.fences] == [("j", 1)]
    assert desk.apply(TimerDue("j")).releases == []
    effects = desk.apply(desk.returned("fenced"))
    assert [row.epoch for row in effects.releases] == [2]


def test_a_command_that_comes_again_after_its_job_ended_is_not_applied_again(desk: Desk) -> None:
    desk.apply(desk.ready(), desk.failed(final=True))
    requeue = desk.ask(RequeueJob, id="once", job_id="j")
    desk.apply(requeue)
    desk.apply(Released("j", 2), desk.succeeded(epoch=2))
    effects = desk.apply(requeue)
    assert effects.releases == []
    assert desk.row().state is State.SUCCEEDED


def test_a_repeated_command_gets_its_first_answer(desk: Desk) -> None:
    desk.apply(desk.ready())
    delete = desk.ask(DeleteJob, reply_to="me", id="d", job_id="j")
    first, second = desk.apply(delete).messages[0], desk.apply(delete).messages[0]
    assert Reply.model_validate_json(first.body).detail["ended"] is False
    assert first.body == second.body


def test_a_job_deleted_before_its_envelope_is_seen_stays_deleted(desk: Desk) -> None:
    desk.apply(desk.ask(DeleteJob, job_id="j"))
    effects = desk.apply(desk.ready())
    assert (desk.row().state, desk.row().fence) == (State.DELETED, 1)
    assert effects.releases == []
    desk.apply(desk.returned("fenced"))
    assert (desk.row().publication, desk.row().fence) == (Publication.NONE, 0)


def test_deleting_a_running_job_asks_it_to_stop_and_its_outcome_decides(desk: Desk) -> None:
    desk.apply(desk.ready(), desk.started())
    effects = desk.apply(desk.ask(DeleteJob, job_id="j"))
    assert effects.control is not None
    assert effects.control.cancel == ["j"]
    assert desk.row().state is State.PROCESSING
    desk.apply(desk.succeeded())
    assert desk.row().state is State.SUCCEEDED


def test_a_running_job_that_stops_as_asked_is_deleted(desk: Desk) -> None:
    desk.apply(desk.ready(), desk.started(), desk.ask(DeleteJob, job_id="j"), desk.failed(cancelled=True))
    assert desk.row().state is State.DELETED


def test_a_question_is_answered_at_once_or_when_the_job_ends(desk: Desk) -> None:
    desk.apply(desk.ready())
    asked = desk.ask(GetJob, reply_to="me", id="q", job_id="j", until_ended=True)
    assert desk.apply(asked).messages == []
    assert desk.apply(asked).messages == []
    answers = desk.apply(desk.succeeded(result="7")).messages
    assert [Reply.model_validate_json(a.body).detail["result"] for a in answers] == ["7"]
    assert len(desk.apply(desk.ask(GetJob, reply_to="me", job_id="j")).messages) == 1
    unknown = desk.apply(desk.ask(GetJob, reply_to="me", job_id="nobody")).messages[0]
    assert Reply.model_validate_json(unknown.body).detail["known"] is False


def test_a_paused_queue_is_told_to_the_workers(desk: Desk) -> None:
    control = desk.apply(desk.ask(PauseQueue, queue="mail", paused=True)).control
    assert control is not None
    assert control.paused == ["mail"]
    assert desk.apply(desk.ask(PauseQueue, queue="mail", paused=True)).control is None


# ---- crashes, blips, repeats


def test_a_redelivered_job_waits_for_word_of_its_runner_before_it_runs_again(desk: Desk) -> None:
    desk.apply(desk.ready())
    assert desk.apply(desk.returned("redelivered")).releases == []
    desk.apply(desk.succeeded())
    assert desk.row().state is State.SUCCEEDED
    desk.ticks(12)
    assert desk.apply(TimerDue("j")).releases == []


def test_a_redelivered_job_without_a_runner_is_released_after_the_grace(desk: Desk) -> None:
    desk.apply(desk.ready(), desk.returned("redelivered"))
    desk.ticks(9)
    assert desk.apply(TimerDue("j")).releases == []
    desk.ticks(2)
    assert [row.epoch for row in desk.apply(TimerDue("j")).releases] == [2]


def test_a_requeue_during_the_grace_waits_for_its_end(desk: Desk) -> None:
    desk.apply(desk.ready(), desk.returned("redelivered"))
    assert desk.apply(desk.ask(RequeueJob, job_id="j")).releases == []
    desk.ticks(11)
    assert len(desk.apply(TimerDue("j")).releases) == 1


def test_a_release_that_may_have_been_published_is_fenced_and_not_repeated(desk: Desk) -> None:
    released = desk.apply(desk.held()).releases[0]
    assert desk.row().publication is Publication.PUBLISHING
    desk.apply(ReleaseUnknown("j", released.epoch))
    assert (desk.row().state, desk.row().publication, desk.row().reason_code) == (
        State.SCHEDULED,
        Publication.NONE,
        Reason.RETURNED,
    )
    desk.ticks(11)
    effects = desk.apply(TimerDue("j"))
    assert [row.epoch for row in effects.releases] == [2]
    assert effects.control is not None
    assert [(fence.id, fence.epoch) for fence in effects.control.fences] == [("j", 1)]


def test_a_release_that_was_not_sent_is_tried_again(desk: Desk) -> None:
    desk.apply(desk.held())
    effects = desk.apply(ReleaseFailed("j", 1, "RabbitMQ is away"))
    assert effects.releases == []
    assert effects.timers == [("j", desk.now + 1.0)]
    desk.now += 1.0
    assert [row.epoch for row in desk.apply(TimerDue("j")).releases] == [2]


def test_a_producer_s_repeat_of_a_known_job_does_nothing(desk: Desk) -> None:
    ready = desk.ready()
    desk.apply(ready, desk.succeeded())
    assert desk.apply(Repeat(ready.envelope, ready.body)).releases == []
    assert desk.row().state is State.SUCCEEDED


def test_a_producer_s_repeat_of_an_unknown_job_waits_for_the_first(desk: Desk) -> None:
    ready = desk.ready()
    desk.apply(Repeat(ready.envelope, ready.body))
    assert desk.row().state is State.SCHEDULED
    desk.apply(ready)
    assert (desk.row().state, desk.row().epoch) == (State.ENQUEUED, 1)


def test_a_worker_that_died_while_running_costs_a_crash_only_with_proof(desk: Desk) -> None:
    desk.apply(desk.ready(), desk.started(), LeaseOver("j", "w1", "its worker vanished"))
    assert (desk.row().state, desk.row().reason_code, desk.row().crashes) == (State.ENQUEUED, Reason.VANISHED, 0)
    desk.apply(desk.returned("redelivered"))
    assert (desk.row().state, desk.row().crashes) == (State.SCHEDULED, 1)


def test_innocents_that_come_back_often_are_never_crash_loops(desk: Desk) -> None:
    desk.apply(desk.ready())
    for epoch in range(1, 9):
        desk.apply(desk.returned("redelivered", epoch=epoch))
        desk.ticks(11)
        desk.release()
    assert (desk.row().state, desk.row().crashes, desk.row().epoch) == (State.ENQUEUED, 0, 9)


def test_the_third_crash_fails_the_job(desk: Desk) -> None:
    desk.apply(desk.ready())
    for epoch in (1, 2, 3):
        desk.apply(desk.started(epoch=epoch), LeaseOver("j", "w1", "gone"), desk.returned("redelivered", epoch=epoch))
        desk.ticks(11)
        desk.release()
    assert desk.row().state is State.FAILED
    assert "died 3 times while running it" in desk.row().reason


def test_from_the_second_crash_on_jobs_of_a_queue_run_one_at_a_time(desk: Desk) -> None:
    for id in ("a", "b"):
        desk.apply(desk.ready(id))
        for epoch in (1, 2):
            desk.apply(desk.started(id, epoch), LeaseOver(id, "w1", "gone"), desk.returned("redelivered", id, epoch))
            if epoch == 1:
                desk.ticks(11)
                desk.release(id)
    desk.ticks(11)
    first = desk.release("a")
    assert len(first.releases) == 1
    assert desk.release("b").releases == []
    desk.apply(desk.succeeded("a", 3))
    assert len(desk.release("b").releases) == 1


def test_an_owned_job_whose_lease_is_over_runs_again_later(desk: Desk) -> None:
    desk.apply(desk.ready(), desk.started(owned=True), LeaseOver("j", "w1", "its worker vanished"))
    assert (desk.row().state, desk.row().reason_code, desk.row().crashes, desk.row().publication) == (
        State.SCHEDULED, Reason.CRASH, 1, Publication.NONE,
    )  # fmt: skip


def test_a_redelivery_beside_a_known_runner_leaves_the_job_to_the_runner(desk: Desk) -> None:
    desk.apply(desk.ready(), desk.started(), desk.returned("redelivered"))
    assert (desk.row().state, desk.row().owned) == (State.PROCESSING, True)
    desk.ticks(12)
    assert desk.apply(TimerDue("j")).releases == []


def test_a_living_worker_that_twice_does_not_list_a_job_has_lost_it(desk: Desk) -> None:
    desk.apply(desk.ready(), desk.started(owned=True))
    assert desk.apply(desk.beat(running=[("j", 1)])).next == []
    desk.now += 10.0
    assert desk.apply(desk.beat()).next == []
    desk.now += 10.0
    assert [type(record) for record in desk.apply(desk.beat()).next] == [LeaseOver]


def test_jobs_returned_at_shutdown_go_on_at_once_and_cost_nothing(desk: Desk) -> None:
    effects = desk.apply(desk.ready(), desk.returned("shutdown"))
    row = effects.releases[0]
    assert (row.epoch, row.attempt, row.crashes, row.returns) == (2, 1, 0, 0)


@pytest.mark.parametrize("told", [False, True])
def test_an_interrupted_job_runs_again_at_once_when_its_worker_has_ended_and_costs_nothing(
    desk: Desk, told: bool
) -> None:
    desk.apply(desk.ready(), *([desk.started()] if told else []))
    assert desk.apply(desk.interrupted()).releases == []  # its worker may still run it
    assert (desk.row().state, desk.row().publication) == (State.ENQUEUED, Publication.PUBLISHED)
    row = desk.apply(desk.returned("redelivered")).releases[0]
    assert (row.epoch, row.attempt, row.crashes, row.returns) == (2, 1, 0, 0)
    assert [state for _, state, _ in row.history] == ["enqueued", "processing", "enqueued", "scheduled", "enqueued"]
    assert "interrupted" in row.history[2][2]


def test_an_interrupted_job_that_rabbitmq_does_not_back_waits_a_moment(desk: Desk) -> None:
    desk.apply(desk.ready("a"), desk.started("a", owned=True), desk.ready("b"), desk.started("b"))
    assert desk.apply(desk.interrupted("a"), desk.interrupted("b", acknowledged=True)).releases == []
    desk.now += LEAVING_SECONDS
    for id in ("a", "b"):
        (row,) = desk.apply(TimerDue(id)).releases
        assert (row.epoch, row.attempt, row.crashes) == (2, 1, 0)


def test_interruptions_told_twice_count_once(desk: Desk) -> None:
    desk.apply(desk.ready(), desk.started(), desk.interrupted(), desk.started(), desk.interrupted())
    assert (desk.row().state, desk.row().reason_code, desk.row().interruptions) == (
        State.ENQUEUED,
        Reason.INTERRUPTED,
        1,
    )


def test_a_success_that_is_told_after_the_interruption_stands(desk: Desk) -> None:
    desk.apply(desk.ready(), desk.started(), desk.interrupted(), desk.succeeded())
    assert (desk.row().state, desk.row().publication) == (State.SUCCEEDED, Publication.NONE)
    assert desk.apply(desk.returned("redelivered")).releases == []


def test_a_job_that_was_to_be_stopped_is_deleted_when_it_is_interrupted(desk: Desk) -> None:
    desk.apply(desk.ready(), desk.started(), desk.ask(DeleteJob, job_id="j"), desk.interrupted())
    assert desk.row().state is State.DELETED
    desk.apply(desk.returned("redelivered"))
    assert desk.row().publication is Publication.NONE


def test_ten_interruptions_count_as_one_crash_and_three_crashes_fail_the_job(desk: Desk) -> None:
    desk.apply(desk.ready())
    for number in range(1, 3 * MAX_INTERRUPTIONS + 1):
        epoch = desk.row().epoch
        desk.apply(desk.started(epoch=epoch), desk.interrupted(epoch=epoch))
        desk.apply(desk.returned("redelivered", epoch=epoch))
        assert desk.row().crashes == number // MAX_INTERRUPTIONS
        if number % MAX_INTERRUPTIONS == 0 and number < 3 * MAX_INTERRUPTIONS:
            assert (desk.row().state, desk.row().reason_code) == (State.SCHEDULED, Reason.CRASH)
            desk.now += 1_000.0
        if desk.row().state is State.SCHEDULED:  # after a crash: its time, and one such job at a time
            desk.release()
    assert desk.row().state is State.FAILED
    assert "interrupted 10 times, which counts as a crash" in desk.row().reason


def test_an_unknown_job_is_offered_ten_times_and_then_failed(desk: Desk) -> None:
    desk.apply(desk.ready())
    for epoch in range(1, 11):
        assert desk.row().state is State.ENQUEUED
        desk.apply(desk.returned("unknown job", epoch=epoch))
        desk.now += 30.0
        desk.release()
    assert desk.row().state is State.FAILED
    assert desk.row().reason == "no worker of queue 'default' knows a job named 'work'"


def test_a_lost_message_is_released_again_with_the_next_epoch(desk: Desk) -> None:
    desk.apply(desk.ready())
    effects = desk.apply(ProvenLost("j", 1))
    assert [(row.epoch, row.fence) for row in effects.releases] == [(2, 1)]


# ---- time


def test_log_time_counts_an_outage_as_one_second(desk: Desk) -> None:
    desk.ticks(5)
    before = desk.store.reader.meta().log_time
    desk.now += 3_600.0
    desk.apply(desk.tick())
    assert desk.store.reader.meta().log_time == pytest.approx(before + 1.0)


def test_two_coordinators_ticks_do_not_make_log_time_run_faster(desk: Desk) -> None:
    meta = desk.store.reader.meta()
    for second in range(1, 11):
        desk.apply(desk.tick(desk.now + second))
        desk.apply(Tick(coordinator="c2", store=meta.store_id, serial=0, sent_at=desk.now + second + 0.5))
    assert desk.store.reader.meta().log_time == pytest.approx(9.0)


def test_a_tick_ahead_of_the_store_says_that_the_store_went_back(desk: Desk) -> None:
    meta = desk.store.reader.meta()
    effects = desk.apply(Tick(coordinator="c0", store=meta.store_id, serial=meta.serial + 5, sent_at=desk.now))
    assert effects.went_back == meta.serial + 5
    with desk.store.transaction() as tx:
        tx.accept_restored()
    meta = desk.store.reader.meta()
    assert meta.serial > effects.went_back


def test_accepting_a_restored_store_lets_waiting_jobs_leap_over_old_epochs(desk: Desk) -> None:
    desk.apply(desk.held(delay=60.0))
    with desk.store.transaction() as tx:
        assert tx.accept_restored() == 1
    desk.now += 60.0
    assert [row.epoch for row in desk.apply(TimerDue("j")).releases] == [1001]


def test_a_living_coordinator_of_another_store_is_noticed_and_a_dead_one_is_not(desk: Desk) -> None:
    late = Tick(coordinator="c9", store="another", serial=1, sent_at=desk.now + 1.0)
    assert desk.apply(late).foreign == "c9"
    assert desk.store.reader.meta().log_time == 0.0
    assert desk.apply(late.model_copy(update={"sent_at": desk.now - 1.0})).foreign is None


def test_a_long_delay_gets_a_copy_in_the_delay_queues_and_a_due_notice_sends_the_next(desk: Desk) -> None:
    effects = desk.apply(desk.held(delay=3_600.0))
    assert [message.key for message in effects.messages] == ["11"]
    assert desk.row().copy_until is not None
    desk.now += 2_048.0
    envelope = desk.envelope(epoch=0)
    effects = desk.apply(DueNotice(envelope, codec.encode(envelope).decode()))
    assert [message.key for message in effects.messages] == ["10"]


def test_a_due_notice_of_a_lost_job_brings_it_back(desk: Desk) -> None:
    held = desk.held(delay=20.0)
    desk.apply(DueNotice(held.envelope, held.body))
    assert (desk.row().state, desk.row().due_at) == (State.SCHEDULED, desk.now + 20.0)


def test_retention_spares_what_a_copy_in_the_delay_queues_could_revive(desk: Desk) -> None:
    held = desk.held(delay=30 * 86_400.0)
    desk.apply(held)
    desk.apply(desk.ask(RequeueJob, job_id="j"))
    desk.apply(Released("j", 1), desk.succeeded())
    desk.now += 20 * 86_400.0
    with desk.store.transaction() as tx:
        assert tx.purge(now=desk.now, keep_succeeded=7 * 86_400.0, keep_deleted=1.0, keep_failed=1.0, limit=10) == 0
    desk.apply(DueNotice(held.envelope, held.body))
    assert desk.row().state is State.SUCCEEDED
    with desk.store.transaction() as tx:
        assert tx.purge(now=desk.now, keep_succeeded=7 * 86_400.0, keep_deleted=1.0, keep_failed=1.0, limit=10) == 1


# ---- control


def test_a_worker_that_missed_news_is_told_all_again(desk: Desk) -> None:
    desk.apply(desk.ready())
    desk.apply(desk.ask(DeleteJob, job_id="j"), desk.ask(PauseQueue, queue="mail", paused=True))
    behind = HeartbeatReceived(WorkerRef(id="w1"), Heartbeat(at=desk.now, control_version=0), desk.now)
    control = desk.apply(behind).control
    assert control is not None
    assert (control.snapshot, control.paused) == (True, ["mail"])
    assert [(fence.id, fence.epoch) for fence in control.fences] == [("j", 1)]
    current = HeartbeatReceived(WorkerRef(id="w1"), Heartbeat(at=desk.now, control_version=control.version), desk.now)
    assert desk.apply(current).control is None


# ---- dead letters


def test_a_dead_lettered_message_is_replayed_when_it_can_be_read_and_refused_while_it_cannot(desk: Desk) -> None:
    newer = arrived(b'{"v": 2}')
    desk.apply(Unreadable("log", "envelope of version 2", newer))
    dead_letters = desk.store.reader.dead_letters()[0]
    assert (dead_letters.origin, dead_letters.reason, dead_letters.body) == ("log", "envelope of version 2", newer.body)
    reply = answered(desk, ReplayDeadLetter, dead_letter_id=dead_letters.id)
    assert reply.refused is not None
    assert "version 2" in reply.refused
    desk.apply(Unreadable("dead", "a worker could not read it", arrived(desk.body("k").encode())))
    dead_letters = desk.store.reader.dead_letters()[-1]
    assert answered(desk, ReplayDeadLetter, dead_letter_id=dead_letters.id).ok
    assert desk.row("k").state is State.ENQUEUED
    assert dead_letters.id not in [row.id for row in desk.store.reader.dead_letters()]


def test_a_dead_lettered_message_is_deleted_for_good(desk: Desk) -> None:
    desk.apply(Unreadable("command", "not JSON", arrived(b"?")))
    dead_letters = desk.store.reader.dead_letters()[0]
    assert answered(desk, DeleteDeadLetter, dead_letter_id=dead_letters.id).ok
    assert desk.store.reader.dead_letters() == []
    assert answered(desk, DeleteDeadLetter, dead_letter_id=dead_letters.id).refused == "no dead letter has this id"


def test_a_restored_store_is_accepted_by_a_command(desk: Desk) -> None:
    desk.apply(desk.held(delay=60.0))
    before = desk.store.reader.meta().serial
    assert answered(desk, AcceptStore).detail == {"waiting": 1}
    assert desk.store.reader.meta().serial > before + 1_000_000


def arrived(body: bytes) -> Delivery:
    return Delivery(1, 1, "jobs.v1.log", body, False, "jobs.v1.submit", "default", "", "", None, None, 0)


def answered(desk: Desk, kind: type, **fields: str) -> Reply:
    return Reply.model_validate_json(desk.apply(desk.ask(kind, reply_to="me", **fields)).messages[-1].body)
