"""Questions and commands over the broker: answered by events, repeated until answered, and each end has its error."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from broker_jobs import BrokerJobs, CurrentJob, Receipt, State
from broker_jobs.broker import names
from broker_jobs.broker.interface import PublishFailure, Unconfirmed
from broker_jobs.errors import (
    ArgumentsError,
    BrokerError,
    BrokerJobsError,
    JobDeleted,
    JobFailed,
    ResultTimeout,
    StoreError,
    UsageError,
)
from broker_jobs.messages.commands import (
    NO_SUCH_JOB,
    Command,
    DeleteJob,
    GetJob,
    JobReply,
    Reply,
    RequeueJob,
    RescheduleJob,
)
from broker_jobs.messages.events import ErrorInfo
from broker_jobs.producer import requests
from broker_jobs.producer.current_job import running
from tests.support.wait import eventually
from tests.unit.producer.recording import REPLIES, RecordingBroker


def view(**fields: Any) -> Callable[[Command], Reply]:
    def answer(command: Command) -> Reply:
        assert isinstance(command, GetJob)
        found = JobReply(id=command.job_id, **{"known": True, "job": "welcome", **fields})
        return Reply(id=command.id, detail=found.model_dump())

    return answer


def fail_with(broker: RecordingBroker, kind: type[Exception], call: Callable[[], object]) -> str:
    with pytest.raises(kind) as caught:
        call()
    return str(caught.value)


@pytest.fixture
def receipt(jobs: BrokerJobs) -> Receipt[str]:
    @jobs.job
    def welcome(user_id: int) -> str:
        return str(user_id)

    return welcome.receipt("0190")


def test_a_question_is_a_command_with_a_private_reply_queue(receipt: Receipt[str], broker: RecordingBroker) -> None:
    broker.answer = view(state="enqueued")
    assert receipt.state() is State.ENQUEUED
    message = broker.last
    assert (message.exchange, message.key, message.type) == (names.REQUEST, names.COMMAND_KEY, "command")
    assert (message.reply_to, message.correlation_id) == (REPLIES, message.message_id)
    assert broker.commands[-1].id == message.message_id


def test_a_result_comes_typed(receipt: Receipt[str], broker: RecordingBroker, jobs: BrokerJobs) -> None:
    broker.answer = view(state="succeeded", result='"42"')
    assert receipt.result(timeout=30) == "42"
    assert jobs.receipt("0190").result() == "42"
    assert isinstance(broker.commands[-1], GetJob)
    assert broker.commands[-1].until_ended
    broker.answer = view(state="succeeded", result="5")
    with pytest.raises(ArgumentsError, match="the result of welcome must be a str, not 5"):
        receipt.result()


def test_a_failed_job_raises_with_the_remote_traceback(receipt: Receipt[str], broker: RecordingBroker) -> None:
    error = ErrorInfo(type="ValueError", message="no such user", traceback="Traceback: far away")
    broker.answer = view(state="failed", attempt=11, error=error)
    with pytest.raises(JobFailed) as caught:
        receipt.result()
    assert str(caught.value) == "welcome 0190 failed after 11 runs: ValueError: no such user"
    assert caught.value.__notes__ == ["Traceback: far away"]


def test_a_deleted_job_raises(receipt: Receipt[str], broker: RecordingBroker) -> None:
    broker.answer = view(state="deleted", reason="by ana")
    assert fail_with(broker, JobDeleted, receipt.result) == "welcome 0190 was deleted: by ana"


def test_a_result_that_was_not_kept_says_why(receipt: Receipt[str], broker: RecordingBroker) -> None:
    broker.answer = view(state="succeeded", result_lost="result too large")
    assert fail_with(broker, BrokerJobsError, receipt.result) == (
        "welcome 0190 succeeded, but its result was not kept: result too large"
    )


def test_a_result_not_in_time_says_where_the_job_stands(receipt: Receipt[str], broker: RecordingBroker) -> None:
    still = view(state="processing", attempt=2)
    broker.answer = lambda command: None if getattr(command, "until_ended", False) else still(command)
    assert fail_with(broker, ResultTimeout, lambda: receipt.result(timeout=0.1)) == (
        "welcome 0190 is still processing (run 2) after 0.1 s"
    )


def test_without_a_coordinator_the_error_says_so(receipt: Receipt[str], broker: RecordingBroker) -> None:
    text = "no coordinator answered in 0.2 s: is one running? (broker-jobs coordinator)"
    assert fail_with(broker, ResultTimeout, receipt.state) == text
    assert fail_with(broker, ResultTimeout, receipt.delete) == text


@pytest.mark.parametrize("ends", [False, True])
def test_a_command_of_a_program_has_no_end_unless_it_is_told_to(
    receipt: Receipt[str], broker: RecordingBroker, jobs: BrokerJobs, ends: bool
) -> None:
    jobs.configure({"expire_commands": ends, "publish_timeout": 3.0})
    broker.answer = lambda command: Reply(id=command.id)
    receipt.delete()
    assert broker.last.expiration == (pytest.approx(1.0, abs=0.1) if ends else None)
    broker.answer = view(state="enqueued")
    receipt.state()
    assert broker.last.expiration is None


def test_where_commands_end_the_error_says_what_became_of_them(receipt: Receipt[str], jobs: BrokerJobs) -> None:
    def unreadable(_: str) -> bool:
        raise StoreError("no store here")

    texts = []
    for audit in (lambda _: False, lambda _: True, unreadable):
        jobs._requests.end_commands(audit)
        with pytest.raises(ResultTimeout) as caught:
            receipt.delete()
        texts.append(str(caught.value))
    expired, done, unknown = texts
    assert expired.startswith("expired: the command was not applied in 0.2 s and never will be")
    assert done.startswith("done: the command was decided")
    assert unknown.startswith("unknown: ")
    assert "no store here" in unknown


def test_a_command_that_came_too_late_says_so_and_a_refused_one_why(
    receipt: Receipt[str], broker: RecordingBroker, jobs: BrokerJobs
) -> None:
    jobs._requests.end_commands(lambda _: False)
    broker.answer = lambda command: Reply(id=command.id, ok=False, refused="its time was over", expired=True)
    assert fail_with(broker, ResultTimeout, receipt.delete).startswith("expired: ")
    broker.answer = lambda command: Reply(id=command.id, ok=False, refused="it has ended")
    assert fail_with(broker, UsageError, receipt.requeue) == "it has ended"


def test_an_unknown_job_is_asked_for_until_it_is_known(receipt: Receipt[str], broker: RecordingBroker) -> None:
    queries = 0

    def answer(command: Command) -> Reply:
        nonlocal queries
        queries += 1
        return view(known=queries > 2, state="enqueued" if queries > 2 else "")(command)

    broker.answer = answer
    assert receipt.state() is State.ENQUEUED
    assert queries == 3


def test_a_job_that_stays_unknown_is_said_to_be(receipt: Receipt[str], broker: RecordingBroker) -> None:
    broker.answer = view(known=False)
    assert fail_with(broker, ResultTimeout, receipt.state) == (
        "0190 is still unknown to the coordinator after 0.2 s: "
        "it was never enqueued on this broker, or it is kept no longer"
    )


def test_the_same_question_is_repeated_until_it_is_answered(
    receipt: Receipt[str], broker: RecordingBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(requests, "REPEAT_SECONDS", 0.02)
    seen: list[str] = []

    def answer(command: Command) -> Reply | None:
        seen.append(command.id)
        return view(state="succeeded", result='"42"')(command) if len(seen) == 3 else None

    broker.answer = answer
    assert receipt.result() == "42"
    assert len(seen) == 3
    assert len(set(seen)) == 1


def test_what_cannot_be_sent_is_a_broker_error(receipt: Receipt[str], broker: RecordingBroker) -> None:
    broker.fail = lambda _: PublishFailure(Unconfirmed.NOT_SENT, "RabbitMQ has blocked publishing")
    assert fail_with(broker, BrokerError, receipt.delete) == (
        "the request was not sent to the coordinator: RabbitMQ has blocked publishing"
    )


def test_a_job_that_waits_for_a_job_is_refused(receipt: Receipt[str]) -> None:
    with running(CurrentJob("0191", 1)), pytest.raises(UsageError) as caught:
        receipt.result()
    assert str(caught.value) == "a job that waits for a job can stop every worker; use child.after(receipt)"


def test_delete_says_whether_it_had_ended(receipt: Receipt[str], broker: RecordingBroker) -> None:
    broker.answer = lambda command: Reply(id=command.id, detail={"ended": True})
    assert receipt.delete() is False
    broker.answer = lambda command: Reply(id=command.id, detail={"ended": False})
    assert receipt.delete() is True
    assert isinstance(broker.commands[-1], DeleteJob)


def test_a_refusal_is_a_usage_error_with_the_coordinators_words(receipt: Receipt[str], broker: RecordingBroker) -> None:
    broker.answer = lambda command: Reply(id=command.id, ok=False, refused="0190 runs: delete it first")
    for call in (receipt.requeue, lambda: receipt.reschedule(timedelta(hours=1))):
        assert fail_with(broker, UsageError, call) == "0190 runs: delete it first"
    assert [type(command) for command in broker.commands] == [RequeueJob, RescheduleJob]


def test_a_job_enqueued_just_now_is_waited_for(jobs: BrokerJobs, broker: RecordingBroker) -> None:
    """Commands overtake the log: the coordinator may not have read of the job yet."""
    known = False

    def answer(command: Command) -> Reply:
        nonlocal known
        if isinstance(command, GetJob):
            known = True
            return view(state="scheduled")(command)
        return Reply(id=command.id) if known else Reply(id=command.id, ok=False, refused=NO_SUCH_JOB)

    @jobs.job
    def ping() -> None: ...

    broker.answer = answer
    ping.schedule(timedelta(days=1)).reschedule(timedelta(hours=1))
    assert [type(command) for command in broker.commands] == [RescheduleJob, GetJob, RescheduleJob]
    known = False
    assert fail_with(broker, UsageError, ping.receipt("0190").requeue) == NO_SUCH_JOB


def test_reschedule_takes_what_schedule_takes(receipt: Receipt[str], broker: RecordingBroker) -> None:
    broker.answer = lambda command: Reply(id=command.id)
    at = datetime(2030, 1, 1, tzinfo=UTC)
    receipt.reschedule(at)
    command = broker.commands[-1]
    assert isinstance(command, RescheduleJob)
    assert command.due_at == pytest.approx(at.timestamp())
    with pytest.raises(ArgumentsError, match=r"^reschedule\(\) takes a timedelta or an aware datetime first"):
        receipt.reschedule(30)  # type: ignore[arg-type]


def test_the_event_loop_goes_on_while_a_result_is_awaited(receipt: Receipt[str], broker: RecordingBroker) -> None:
    answered = False

    def answer(command: Command) -> Reply | None:
        return view(state="succeeded", result='"42"')(command) if answered else None

    broker.answer = answer

    async def handler() -> str:
        nonlocal answered
        waiting = asyncio.create_task(receipt.result_async(timeout=30))
        await asyncio.to_thread(eventually, lambda: broker.commands)
        answered = True
        assert await receipt.state_async() is State.SUCCEEDED
        broker._reply(broker.messages[0])
        return await waiting

    assert asyncio.run(handler()) == "42"


def test_queues_are_paused_by_command_and_declared_by_topology(jobs: BrokerJobs, broker: RecordingBroker) -> None:
    broker.answer = lambda command: Reply(id=command.id)
    jobs.queues.pause("mail")
    jobs.queues.resume("mail")
    assert [command.model_dump(include={"kind", "queue", "paused"}) for command in broker.commands] == [
        {"kind": "queue pause", "queue": "mail", "paused": True},
        {"kind": "queue pause", "queue": "mail", "paused": False},
    ]
    jobs.queues.declare("mail")
    assert [queue.name for queue in broker.topologies[-1].queues] == [*names.work_queues("mail")]
    for use in (jobs.queues.pause, jobs.queues.declare):
        with pytest.raises(ValueError, match="'a b' is not a queue name"):
            use("a b")
