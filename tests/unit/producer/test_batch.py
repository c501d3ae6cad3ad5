"""A batch travels while its block runs, starts when it is committed, and not at all when the block raises."""

import asyncio
import logging
import threading
import tracemalloc
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from datetime import timedelta
from typing import Any, TypeAlias, cast

import pytest

from broker_jobs import Batch, BatchUnknown, BrokerJobs, EnqueueError, Receipt, State, SyncJob
from broker_jobs.broker import names
from broker_jobs.broker.interface import Message, PublishFailure, Unconfirmed
from broker_jobs.errors import ArgumentsError, ResultTimeout, UsageError
from broker_jobs.messages.batch import CHUNK_BYTES, CHUNK_JOBS, BatchCommit, Chunk
from broker_jobs.messages.codec import decode
from broker_jobs.messages.commands import BulkRequeue, Command, DeleteBatch, GetBatch, ListFailures, Reply, RequeueJob
from broker_jobs.messages.envelope import Envelope, Parent
from broker_jobs.producer.current_job import CurrentJob, current_job, running
from tests.support.wait import eventually
from tests.unit.producer.recording import RecordingBroker, program

Load: TypeAlias = SyncJob[..., str]


@pytest.fixture
def load(jobs: BrokerJobs) -> Load:
    @jobs.job
    def load(row: int) -> str:
        return str(row)

    return load


def chunks(broker: RecordingBroker) -> list[Chunk]:
    return [Chunk.model_validate_json(message.body) for message in broker.messages if message.type == "chunk"]


def commits(broker: RecordingBroker) -> list[BatchCommit]:
    return [commit for commit in _all_seals(broker) if not commit.abandoned]


def abandoned(broker: RecordingBroker) -> list[str]:
    """The submissions that were abandoned."""
    return [commit.submission for commit in _all_seals(broker) if commit.abandoned]


def _all_seals(broker: RecordingBroker) -> list[BatchCommit]:
    return [BatchCommit.model_validate_json(message.body) for message in broker.messages if message.type == "commit"]


def members(broker: RecordingBroker) -> list[Envelope]:
    return [decode(text) for chunk in chunks(broker) for text in chunk.jobs]


def first_times(kind: str, failure: PublishFailure, times: int) -> Callable[[Message], PublishFailure | None]:
    seen: list[Message] = []

    def fail(message: Message) -> PublishFailure | None:
        if message.type == kind and len(seen) < times:
            seen.append(message)
            return failure
        return None

    return fail


def break_in(batch: Batch, load: Load) -> None:
    """Add a job, and have the block raise."""
    with pytest.raises(ZeroDivisionError), batch:  # noqa: PT012  # both lines are the case
        batch.enqueue(load, 1)
        raise ZeroDivisionError


UNKNOWN = PublishFailure(Unconfirmed.UNKNOWN, "no confirm in time")
NOT_SENT = PublishFailure(Unconfirmed.NOT_SENT, "unreachable")


def test_members_travel_in_chunks_and_the_commit_counts_them(
    jobs: BrokerJobs, broker: RecordingBroker, load: Load
) -> None:
    with jobs.batch("import") as batch:
        receipts = [batch.enqueue(load, row) for row in range(CHUNK_JOBS + 2)]
        assert len(chunks(broker)) == 1
        assert commits(broker) == []
    assert sum(len(chunk.jobs) for chunk in chunks(broker)) == CHUNK_JOBS + 2
    assert all(len(chunk.jobs) <= CHUNK_JOBS for chunk in chunks(broker))
    assert [chunk.number for chunk in chunks(broker)] == [0, 1]
    (commit,) = commits(broker)
    assert (commit.chunks, commit.title, commit.batch, commit.parents, commit.parent) == (
        2,
        "import",
        batch.id,
        (),
        None,
    )
    assert {chunk.submission for chunk in chunks(broker)} == {commit.submission}
    assert [message.type for message in broker.messages] == ["chunk", "chunk", "commit"]
    assert {(message.exchange, message.key) for message in broker.messages} == {(names.OFFER, names.LOG_KEY)}
    found = members(broker)
    assert [each.id for each in found] == [receipt.id for receipt in receipts]
    assert {(each.epoch, each.batch, each.job) for each in found} == {(0, batch.id, "load")}
    assert [each.args for each in found] == [[row] for row in range(CHUNK_JOBS + 2)]


def test_a_chunk_is_closed_by_its_bytes_too(broker: RecordingBroker, jobs: BrokerJobs) -> None:
    @jobs.job
    def say(text: str) -> None: ...

    with jobs.batch() as batch:
        for _ in range(100):
            batch.enqueue(say, "x" * 3000)
    assert len(chunks(broker)) > 2
    assert all(sum(map(len, chunk.jobs)) <= CHUNK_BYTES for chunk in chunks(broker))
    assert len(members(broker)) == 100


def test_every_way_to_add_makes_members(jobs: BrokerJobs, broker: RecordingBroker, load: Load) -> None:
    outside = load.enqueue(0)
    with jobs.batch() as batch:
        batch.enqueue(load.using(queue="slow"), 1)
        batch.schedule(load, timedelta(hours=1), 2)
        many = batch.enqueue_many(load.bind(row) for row in (3, 4))
        batch.enqueue(load.after(outside, many[0]), row=5)
        batch.schedule(load.after(outside), timedelta(hours=1), 6)
    one, two, *rest, five, six = members(broker)
    assert one.queue == "slow"
    assert two.due_at is not None
    assert [each.id for each in rest] == [receipt.id for receipt in many]
    assert five.after is not None
    assert [parent.id for parent in five.after.parents] == [outside.id, many[0].id]
    assert (five.kwargs, five.epoch) == ({"row": 5}, 0)
    assert six.after is not None
    assert (six.after.delay, six.due_at) == (3600, None)


def test_a_block_that_raises_commits_nothing(jobs: BrokerJobs, broker: RecordingBroker, load: Load) -> None:
    def result_arg(wrong: Any) -> Receipt[str]:
        receipt: Receipt[str] | None = None
        with jobs.batch("import") as batch:
            for row in range(CHUNK_JOBS):
                receipt = batch.enqueue(load, row)
                kept.append((batch, receipt))
            batch.enqueue(load, wrong)
        assert receipt is not None
        return receipt

    kept: list[tuple[Batch, Receipt[str]]] = []
    with pytest.raises(ArgumentsError, match="row must be an int, not 'x'"):
        result_arg("x")
    (chunk,) = chunks(broker)
    assert commits(broker) == []
    assert abandoned(broker) == [chunk.submission]
    batch, receipt = kept[-1]
    with pytest.raises(UsageError, match=rf"^load {receipt.id} never starts: the with block of batch 'import' did not"):
        receipt.result()
    with pytest.raises(UsageError, match="was never completed"):
        batch.wait()


def test_each_with_is_one_submission(jobs: BrokerJobs, broker: RecordingBroker, load: Load) -> None:
    batch = jobs.batch("import")
    for row in range(2):
        with batch:
            batch.enqueue(load, row)
    first, second = commits(broker)
    assert first.batch == second.batch
    assert first.submission != second.submission
    assert [chunk.number for chunk in chunks(broker)] == [0, 0]


def test_a_failed_block_may_be_followed_by_another(jobs: BrokerJobs, broker: RecordingBroker, load: Load) -> None:
    batch = jobs.batch()
    break_in(batch, load)
    with batch:
        batch.enqueue(load, 2)
    (commit,) = commits(broker)
    committed = [chunk for chunk in chunks(broker) if chunk.submission == commit.submission]
    assert [decode(text).args for chunk in committed for text in chunk.jobs] == [[2]]


def test_outside_its_block_nothing_is_added(jobs: BrokerJobs, load: Load) -> None:
    batch = jobs.batch("import")
    with pytest.raises(UsageError, match="is not open; write: with batch:"):
        batch.enqueue(load, 1)
    with batch:
        pass
    adds: list[Callable[[], object]] = [
        lambda: batch.enqueue(load, 1),
        lambda: batch.schedule(load, timedelta(1), 1),
        lambda: batch.enqueue_many([]),
        batch.batch,
    ]
    for add in adds:
        with pytest.raises(UsageError) as caught:
            add()
        assert str(caught.value) == "batch 'import' is closed; to add to it open it again: with batch:"


def test_a_result_is_not_waited_for_inside_the_block(jobs: BrokerJobs, load: Load) -> None:
    with jobs.batch("import") as batch:
        receipt = batch.enqueue(load, 1)
        calls: list[Callable[[], object]] = [receipt.result, lambda: asyncio.run(receipt.result_async())]
        for call in calls:
            with pytest.raises(UsageError) as caught:
                call()
            assert (
                str(caught.value)
                == f"load {receipt.id} starts when the batch is complete; call this after the with block"
            )
        assert receipt.state() is State.AWAITING
        assert batch.state() is State.AWAITING
        waits: list[Callable[[], object]] = [batch.wait, batch.delete, batch.failures]
        for wait in waits:
            with pytest.raises(UsageError, match="when its with block has ended"):
                wait()


def test_jobs_enqueued_inside_an_empty_block_give_a_warning(
    jobs: BrokerJobs, broker: RecordingBroker, load: Load, caplog: pytest.LogCaptureFixture
) -> None:
    with jobs.batch("import"):
        load.enqueue(1)
        jobs.enqueue_many([load.bind(2), load.bind(3)])
    assert [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING] == [
        (
            "batch 'import' is empty, but 3 jobs were enqueued inside its block without joining it: "
            "write batch.enqueue(load, …)"
        )
    ]
    assert commits(broker)[0].chunks == 0
    caplog.clear()
    load.enqueue(4)
    with jobs.batch() as batch:
        load.enqueue(5)
        with batch.batch() as part:
            part.enqueue(load, 6)
    with jobs.batch():
        pass
    assert caplog.records == []


def test_what_a_batch_waits_for_stands_in_its_commit(jobs: BrokerJobs, broker: RecordingBroker, load: Load) -> None:
    first = jobs.batch()
    receipt = load.enqueue(1)
    for after in (first, [first], (each for each in [first])):
        with jobs.batch(after=after):
            pass
        assert commits(broker)[-1].parents == (Parent(id=first.id, batch=True),)
    with jobs.batch("x", after=[first, receipt], on="finished"):
        pass
    assert commits(broker)[-1].parents == (
        Parent(id=first.id, batch=True, on="finished"),
        Parent(id=receipt.id, on="finished"),
    )
    with pytest.raises(ArgumentsError, match="on must be"):
        jobs.batch(on=cast("Any", "success"))
    with pytest.raises(ArgumentsError, match=r'for a job known by its id write jobs.receipt\("0190"\)'):
        jobs.batch(after=cast("Any", "0190"))
    with pytest.raises(ArgumentsError, match="waits for a receipt or a batch"):
        jobs.batch(after=cast("Any", [timedelta(1)]))


def test_batches_nest(jobs: BrokerJobs, broker: RecordingBroker, load: Load) -> None:
    with jobs.batch("import") as batch:
        with batch.batch("part") as part:
            part.enqueue(load, 1)
        batch.enqueue(load, 2)
    inner, outer = commits(broker)
    assert (inner.title, inner.parent, inner.parent_submission) == ("part", batch.id, outer.submission)
    assert (outer.batches, outer.parent) == ([part.id], None)
    assert [each.batch for each in members(broker)] == [part.id, batch.id]


def test_a_part_that_was_given_up_is_not_waited_for(jobs: BrokerJobs, broker: RecordingBroker, load: Load) -> None:
    with jobs.batch() as batch:
        break_in(batch.batch(), load)
        batch.batch("never filled")
    (commit,) = commits(broker)
    assert commit.batches == []


def test_a_part_opens_inside_its_batch_only(jobs: BrokerJobs, load: Load) -> None:
    with jobs.batch("import") as batch:
        part = batch.batch("part")
    with pytest.raises(UsageError, match="batch 'part' is part of batch 'import': open it inside"), part:
        pass
    with batch, part:
        part.enqueue(load, 1)
    with part:
        part.enqueue(load, 2)


def test_a_batch_does_not_end_before_the_blocks_of_its_parts(
    jobs: BrokerJobs, broker: RecordingBroker, load: Load
) -> None:
    batch = jobs.batch()
    batch.__enter__()
    part = batch.batch()
    part.__enter__()
    with pytest.raises(UsageError, match="sub-batch whose with block has not ended"):
        batch.__exit__()
    assert commits(broker) == []


def test_a_member_cannot_wait_for_its_own_batch(jobs: BrokerJobs, load: Load) -> None:
    with jobs.batch() as batch, batch.batch() as part:
        for own in (batch, part):
            with pytest.raises(UsageError, match="would wait for the batch it is part of"):
                part.enqueue(load.after(own), 1)


def test_limits_of_titles_and_depth(jobs: BrokerJobs) -> None:
    with pytest.raises(ArgumentsError, match="at most 200"):
        jobs.batch("x" * 201)
    with pytest.raises(ArgumentsError, match="takes a title, not"):
        jobs.batch(cast("Any", [1, 2]))

    def nest(batch: Batch, depth: int) -> None:
        with batch:
            if depth:
                nest(batch.batch(), depth - 1)

    nest(jobs.batch(), 9)
    with pytest.raises(UsageError, match="at most 10 deep"):
        nest(jobs.batch(), 10)


def test_what_is_no_job_of_this_program_is_refused(jobs: BrokerJobs, load: Load) -> None:
    other = BrokerJobs("memory://")

    @other.job
    def theirs() -> None: ...

    with jobs.batch() as batch:
        with pytest.raises(UsageError, match="belongs to another BrokerJobs"):
            batch.enqueue(theirs)
        with pytest.raises(ArgumentsError, match=r"batch\.enqueue\(\) takes a job first"):
            batch.enqueue(cast("Any", load(1)))
        with pytest.raises(ArgumentsError, match="takes calls"):
            batch.enqueue_many(cast("Any", [1]))
        with pytest.raises(UsageError, match="is open already"), batch:
            pass


def test_a_job_that_is_too_large_is_refused_alone(jobs: BrokerJobs, broker: RecordingBroker) -> None:
    @jobs.job
    def say(text: str) -> None: ...

    with jobs.batch() as batch:
        with pytest.raises(EnqueueError, match="the limit is 4_096"):
            batch.enqueue(say, "x" * 5000)
        batch.enqueue(say, "y")
    assert len(members(broker)) == 1


def test_a_job_that_grows_over_the_broker_s_limit_in_a_chunk_is_refused(
    monkeypatch: pytest.MonkeyPatch, broker: RecordingBroker
) -> None:
    jobs = program(monkeypatch, broker, max_body=8 * 1024 * 1024)

    @jobs.job
    def say(text: str) -> None: ...

    with jobs.batch() as batch:
        with pytest.raises(EnqueueError, match="too large for a batch"):
            batch.enqueue(say, '"' * 4_000_000)
        batch.enqueue(say, "x" * 8_000_000)
    assert max(len(message.body) for message in broker.messages) < 16 * 1024 * 1024


# ---- confirms


def test_a_chunk_without_confirm_is_sent_again_before_the_commit(
    jobs: BrokerJobs, broker: RecordingBroker, load: Load
) -> None:
    broker.fail = first_times("chunk", UNKNOWN, 2)
    with jobs.batch() as batch:
        batch.enqueue(load, 1)
    assert [message.type for message in broker.messages] == ["chunk", "chunk", "chunk", "commit"]
    assert len({message.body for message in broker.messages[:3]}) == 1


def test_a_chunk_that_is_lost_starts_nothing(jobs: BrokerJobs, broker: RecordingBroker, load: Load) -> None:
    for failure in (UNKNOWN, NOT_SENT):
        broker.fail = first_times("chunk", failure, 99)
        text = "^batch 'import' was not enqueued, and nothing of it starts: "
        with pytest.raises(EnqueueError, match=text), jobs.batch("import") as batch:
            batch.enqueue(load, 1)
    assert commits(broker) == []


def test_a_lost_chunk_in_a_long_block_cannot_be_overlooked(
    jobs: BrokerJobs, broker: RecordingBroker, load: Load
) -> None:
    broker.fail = first_times("chunk", NOT_SENT, 1)
    refused = 0
    with pytest.raises(EnqueueError, match="nothing of it starts"), jobs.batch() as batch:  # noqa: PT012  # it ends it
        for row in range(CHUNK_JOBS * 3):
            try:
                batch.enqueue(load, row)
            except EnqueueError:
                refused += 1
    assert refused > CHUNK_JOBS
    assert commits(broker) == []


def test_an_unreachable_broker_is_told_at_the_end(jobs: BrokerJobs, broker: RecordingBroker, load: Load) -> None:
    broker.unreachable = "connection refused"
    with pytest.raises(EnqueueError, match="nothing of it starts: connection refused"), jobs.batch() as batch:
        batch.enqueue(load, 1)


def test_a_commit_without_confirm_can_be_repeated(jobs: BrokerJobs, broker: RecordingBroker, load: Load) -> None:
    broker.fail = first_times("commit", UNKNOWN, 1)
    with jobs.batch() as batch:
        batch.enqueue(load, 1)
    assert len(commits(broker)) == 2
    broker.messages.clear()
    broker.fail = first_times("commit", UNKNOWN, 99)
    with pytest.raises(BatchUnknown, match="may start or not") as caught, jobs.batch("import") as batch:
        batch.enqueue(load, 1)
    first = commits(broker)[0]
    broker.fail = lambda _: None
    with caught.value.batch:
        pass
    assert commits(broker)[-2] == first
    assert commits(broker)[-1].submission != first.submission


def test_a_commit_that_was_not_sent_starts_nothing(jobs: BrokerJobs, broker: RecordingBroker, load: Load) -> None:
    broker.fail = first_times("commit", NOT_SENT, 99)
    with pytest.raises(EnqueueError, match="nothing of it starts") as caught, jobs.batch() as batch:
        batch.enqueue(load, 1)
    assert not isinstance(caught.value, BatchUnknown)


def test_a_part_that_may_have_started_takes_its_batch_with_it(
    jobs: BrokerJobs, broker: RecordingBroker, load: Load
) -> None:
    broker.fail = first_times("commit", UNKNOWN, 3)
    outer = jobs.batch()
    with pytest.raises(BatchUnknown, match="batch 'part'"), outer:  # noqa: PT012  # one within the other
        part = outer.batch("part")
        with pytest.raises(BatchUnknown), part:
            part.enqueue(load, 1)
    assert {commit.title for commit in commits(broker)} == {"part"}


class SlowBroker(RecordingBroker):
    """Confirms messages only when the test calls."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting: list[Future[list[PublishFailure | None]]] = []
        self.most = 0

    def publish(self, messages: Sequence[Message], timeout: float = 10.0) -> Future[list[PublishFailure | None]]:
        self.messages.extend(messages)
        future: Future[list[PublishFailure | None]] = Future()
        self.waiting.append(future)
        self.most = max(self.most, len(self.waiting))
        return future

    def confirm_all(self) -> None:
        while self.waiting:
            self.waiting.pop(0).set_result([None])


class TestOnASlowBroker:
    @pytest.fixture
    def broker(self) -> RecordingBroker:
        return SlowBroker()

    def test_few_chunks_are_unconfirmed_and_the_commit_waits_for_all(
        self, jobs: BrokerJobs, broker: SlowBroker, load: Load
    ) -> None:
        def result_arg() -> None:
            with jobs.batch() as batch:
                for row in range(CHUNK_JOBS * 10):
                    batch.enqueue(load, row)

        thread = threading.Thread(target=result_arg)
        thread.start()
        eventually(lambda: len(broker.waiting) == 5)
        assert [message.type for message in broker.messages] == ["chunk"] * 5
        while thread.is_alive():
            broker.confirm_all()
            thread.join(0.01)
        assert broker.most <= 5
        assert [message.type for message in broker.messages] == ["chunk"] * commits(broker)[0].chunks + ["commit"]
        assert commits(broker)[0].chunks >= 10

    def test_the_jobs_of_a_large_batch_are_not_held(self, jobs: BrokerJobs, broker: SlowBroker, load: Load) -> None:
        tracemalloc.start()
        with jobs.batch() as batch:
            for row in range(20_000):
                batch.enqueue(load, row)
                if broker.waiting:
                    broker.confirm_all()
                    broker.messages.clear()
            held, _ = tracemalloc.get_traced_memory()
            tracemalloc.stop()
            threading.Timer(0.05, lambda: eventually(self.all_confirmed(broker))).start()
        assert held < 2_000_000

    def all_confirmed(self, broker: SlowBroker) -> Callable[[], bool]:
        def confirmed() -> bool:
            broker.confirm_all()
            return any(message.type == "commit" for message in broker.messages)

        return confirmed

    def test_an_async_block_leaves_the_loop_free(self, jobs: BrokerJobs, broker: SlowBroker, load: Load) -> None:
        async def result_arg() -> None:
            async with jobs.batch() as batch:
                for row in range(CHUNK_JOBS * 10):
                    batch.enqueue(load, row)
                assert len(broker.messages) >= 10
            assert broker.messages[-1].type == "commit"

        async def confirm() -> None:
            while not broker.messages or broker.messages[-1].type != "commit" or broker.waiting:
                broker.confirm_all()
                await asyncio.sleep(0)

        async def both() -> None:
            await asyncio.wait_for(asyncio.gather(result_arg(), confirm()), 30)

        asyncio.run(both())


def test_threads_of_a_block_add_together(jobs: BrokerJobs, broker: RecordingBroker, load: Load) -> None:
    with jobs.batch() as batch:
        threads = [
            threading.Thread(target=lambda: [batch.enqueue(load, row) for row in range(700)]) for _ in range(4)
        ]  # fmt: skip
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len({each.id for each in members(broker)}) == 2800
    assert commits(broker)[0].chunks == len({chunk.number for chunk in chunks(broker)})


def test_a_with_block_on_an_event_loop_warns(jobs: BrokerJobs, load: Load) -> None:
    async def result_arg() -> None:
        with pytest.warns(RuntimeWarning, match="write async with batch"), jobs.batch() as batch:
            batch.enqueue(load, 1)
        async with jobs.batch() as batch, batch.batch() as part:
            part.enqueue(load, 1)

    asyncio.run(result_arg())


def test_an_async_block_that_raises_commits_nothing(jobs: BrokerJobs, broker: RecordingBroker, load: Load) -> None:
    async def result_arg() -> None:
        async with jobs.batch() as batch:
            batch.enqueue(load, 1)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        asyncio.run(result_arg())
    assert commits(broker) == []


# ---- asking


def batch_reply(state: str, *, left: int = 0, known: bool = True) -> Callable[[Command], Reply | None]:
    def answer(command: Command) -> Reply | None:
        match command:
            case GetBatch():
                detail = {"id": command.batch_id, "known": known, "state": state, "total": 10, "open": left}
                return Reply(id=command.id, detail=detail)
            case DeleteBatch():
                return Reply(id=command.id, detail={"ended": state == "succeeded"})
            case _:
                return None

    return answer


def test_a_batch_is_asked_for_its_state_and_its_end(jobs: BrokerJobs, broker: RecordingBroker) -> None:
    with jobs.batch("import") as batch:
        pass
    broker.answer = batch_reply("failed")
    assert batch.state() is State.FAILED
    assert batch.wait(30) is State.FAILED
    assert asyncio.run(batch.state_async()) is State.FAILED
    assert asyncio.run(batch.wait_async(5)) is State.FAILED
    assert [c.until_ended for c in broker.commands if isinstance(c, GetBatch)] == [False, True, False, True]
    broker.answer = batch_reply("processing", left=7)
    with pytest.raises(ResultTimeout, match=r"batch 'import' is still processing \(3 of 10 ended\) after 0.05 s"):
        batch.wait(timedelta(seconds=0.05))
    broker.answer = batch_reply("", known=False)
    with pytest.raises(ResultTimeout, match="still unknown"):
        batch.state()
    with running(CurrentJob("0191", 1)), pytest.raises(UsageError, match=r"use child.after\(batch\)"):
        batch.wait()


def test_delete_says_whether_it_came_in_time(jobs: BrokerJobs, broker: RecordingBroker) -> None:
    with jobs.batch() as batch:
        pass
    broker.answer = batch_reply("processing")
    assert batch.delete() is True
    broker.answer = batch_reply("succeeded")
    assert batch.delete() is False


def test_failures_come_page_by_page_and_are_requeued(jobs: BrokerJobs, broker: RecordingBroker) -> None:
    with jobs.batch() as batch:
        pass
    ids = [f"id-{number:03}" for number in range(250)]
    requeued: list[str] = []

    def answer(command: Command) -> Reply | None:
        match command:
            case ListFailures():
                page = [id for id in ids if id > command.after][: command.limit]
                error = {"type": "ValueError", "message": "boom", "traceback": "Traceback…"}
                view = {"known": True, "job": "load", "state": "failed", "attempt": 3, "error": error, "args": [1]}
                return Reply(id=command.id, detail={"failures": [{**view, "id": id} for id in page]})
            case RequeueJob():
                requeued.append(command.job_id)
                return Reply(id=command.id)
            case _:
                return batch_reply("failed")(command)

    broker.answer = answer
    found = list(batch.failures())
    assert [failure.id for failure in found] == ids
    first = found[0]
    assert (first.job, first.args, first.kwargs, first.attempts) == ("load", (1,), {}, 3)
    assert (first.error_type, first.message, first.traceback) == ("ValueError", "boom", "Traceback…")
    first.requeue()
    assert requeued == ["id-000"]
    with pytest.raises(AttributeError):
        first.job = "x"  # type: ignore[misc]


def test_counts_are_a_value(jobs: BrokerJobs, broker: RecordingBroker) -> None:
    with jobs.batch() as batch, pytest.raises(UsageError, match="complete when its with block has ended"):
        batch.counts()
    broker.answer = batch_reply("processing", left=7)
    counts = batch.counts()
    assert counts == asyncio.run(batch.counts_async())
    assert (counts.total, counts.open, counts.ended) == (10, 7, counts.succeeded + counts.failed + counts.deleted)
    with pytest.raises(AttributeError):
        counts.open = 0  # type: ignore[misc]


def test_a_block_that_raises_before_anything_left_it_says_nothing(
    jobs: BrokerJobs, broker: RecordingBroker, load: Load
) -> None:
    with pytest.raises(ArgumentsError), jobs.batch() as batch:
        batch.enqueue_many(load.bind(cast(Any, row)) for row in (1, "x"))
    assert broker.messages == []


def test_a_block_that_raises_after_a_sub_batch_was_committed_says_so(
    jobs: BrokerJobs, broker: RecordingBroker, load: Load
) -> None:
    with pytest.raises(ZeroDivisionError), jobs.batch() as batch:  # noqa: PT012  # what raises stands behind it
        with batch.batch() as part:
            part.enqueue(load, 1)
        raise ZeroDivisionError
    (commit,) = commits(broker)
    assert abandoned(broker) == [commit.parent_submission]


def test_a_batch_is_known_by_its_id(jobs: BrokerJobs, broker: RecordingBroker, load: Load) -> None:
    batch = jobs.batch_receipt("0190")
    broker.answer = batch_reply("failed")
    assert batch.wait(30) is State.FAILED
    assert batch.counts().total == 10
    with batch:
        batch.enqueue(load, 7)
    (commit,) = commits(broker)
    assert commit.batch == "0190"


def test_all_failures_are_requeued_by_one_command(
    jobs: BrokerJobs, broker: RecordingBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("broker_jobs.producer.failures.FIRST_PAUSE_SECONDS", 0.001)
    with jobs.batch() as batch:
        pass
    given: list[BulkRequeue] = []

    def answer(command: Command) -> Reply | None:
        if not isinstance(command, BulkRequeue):
            return batch_reply("failed")(command)
        given.append(command)
        detail = {"started": True, "finished": len(given) == 3, "done": 10 * len(given), "refused": 0}
        return Reply(id=command.id, detail=detail)

    broker.answer = answer
    assert batch.requeue_failures("no route") == 30
    assert {(command.id, command.filter.batch, command.filter.error_text) for command in given} == {
        (given[0].id, batch.id, "no route")
    }
    with pytest.raises(ArgumentsError, match="at most 1,000 characters"):
        batch.requeue_failures("x" * 1_001)


# ---- inside a job


def test_a_running_job_adds_to_its_own_batch(jobs: BrokerJobs, broker: RecordingBroker, load: Load) -> None:
    batch_of = jobs.registry.batch_of
    assert batch_of is not None
    with running(CurrentJob("0191", 1, batch=batch_of("0190"))):
        mine = current_job().batch
        assert mine is not None
        assert mine is current_job().batch
        with mine:
            mine.enqueue(load, 7)
    (commit,) = commits(broker)
    assert (commit.batch, commit.title, commit.chunks) == ("0190", "", 1)
    assert members(broker)[0].batch == "0190"
    with running(CurrentJob("0191", 1)):
        assert current_job().batch is None
    with pytest.raises(UsageError, match=r"current_job\(\).batch: no job runs here"):
        _ = current_job().batch
