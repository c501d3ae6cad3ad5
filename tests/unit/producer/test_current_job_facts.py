"""What a running function reads of its job: name, queue, arguments, tags, retries, trace."""

from collections.abc import Generator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from broker_jobs import BrokerJobs, CurrentJob, Depends, OptionError, UsageError, current_job
from broker_jobs.messages.envelope import Envelope, Policy
from broker_jobs.producer.current_job import inherited_trace, running
from broker_jobs.testing import Tester

PARENT = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "tracestate": "a=b"}


def of(attempt: int, **fields: Any) -> CurrentJob:
    envelope = Envelope(id="0190", job="mail", created_at=datetime(2026, 1, 1, tzinfo=UTC), **fields)
    return CurrentJob("0190", attempt, envelope=envelope)


@pytest.mark.parametrize(
    "what", ["name", "queue", "priority", "tags", "retries", "retries_left", "arguments", "trace", "id", "batch"]
)
def test_outside_a_job_reading_what_it_is_raises(what: str) -> None:
    with pytest.raises(
        UsageError, match=rf"current_job\(\).{what}: no job runs here; the function was called directly"
    ):
        getattr(current_job(), what)


@pytest.mark.parametrize(("attempt", "left"), [(1, 2), (2, 1), (3, 0), (4, 0)])
def test_retries_left_counts_the_runs_that_may_follow_this_one(attempt: int, left: int) -> None:
    job = of(attempt, policy=Policy(retries=2))
    assert (job.retries, job.retries_left) == (2, left)


def test_what_is_read_of_a_job_cannot_be_changed() -> None:
    job = of(1, trace=PARENT)
    job.called_with(lambda: {"a": 1})
    for mapping in (job.arguments, job.trace):
        with pytest.raises(TypeError):
            mapping["a"] = "2"  # type: ignore[index]
    assert (job.arguments, job.trace) == ({"a": 1}, PARENT)


def test_only_inside_a_job_with_a_trace_one_is_inherited() -> None:
    assert inherited_trace() is None
    with running(of(1)):
        assert inherited_trace() is None
    with running(of(1, trace=PARENT)):
        assert inherited_trace() == PARENT


jobs = BrokerJobs("memory://")
seen: list[tuple[str, dict[str, Any]]] = []


@jobs.around
def note_what_runs() -> Generator[None]:
    seen.append((current_job().name, dict(current_job().arguments)))
    yield


@jobs.job(name="mail.send", queue="mail", priority="low", retries=1, backoff=[1], tags=["x"])
def send(a: int, given: str = Depends(lambda: "given"), b: int = 2, *, c: str = "c", **more: int) -> dict[str, Any]:
    job = current_job()
    if job.retries_left:
        raise ValueError("not yet")
    return {
        "name": job.name, "queue": job.queue, "priority": job.priority, "tags": list(job.tags),
        "arguments": dict(job.arguments), "given": given,
    }  # fmt: skip


@jobs.job
async def child(*names: str) -> dict[str, str]:
    assert current_job().arguments == {"names": names}
    return dict(current_job().trace)


@jobs.job
def parent(own: bool) -> list[str]:
    job = child.using(trace={"traceparent": "own"}) if own else child
    with jobs.batch("children") as batch:
        members = [batch.enqueue(job, "member"), *batch.enqueue_many([job.bind("many")])]
    return [
        job.enqueue("one").id,
        *(each.id for each in jobs.enqueue_many([job.bind("two")])),
        *(m.id for m in members),
    ]


def test_a_job_reads_itself_in_its_function_and_in_hooks() -> None:
    seen.clear()
    with Tester(jobs) as tester:
        receipt = send.using(queue="slow").enqueue(7, b=3, extra=4)
        tester.run()
        tester.advance(timedelta(seconds=2))
        arguments = {"a": 7, "b": 3, "c": "c", "more": {"extra": 4}}
        assert receipt.result() == {
            "name": "mail.send", "queue": "slow", "priority": "low", "tags": ["x"], "arguments": arguments,
            "given": "given",
        }  # fmt: skip
        assert seen == [("mail.send", arguments)] * 2


@pytest.mark.parametrize("own", [False, True])
def test_the_jobs_of_a_job_inherit_its_trace_unless_they_are_given_one(own: bool) -> None:
    with Tester(jobs) as tester:
        receipt = parent.using(trace=PARENT).enqueue(own)
        tester.run()
        children = [child.receipt(id).result() for id in receipt.result()]
        assert children == [{"traceparent": "own"} if own else PARENT] * 4
        apart = child.enqueue()
        tester.run()
        assert apart.result() == {}


def test_the_runs_of_a_recurring_job_inherit_no_trace() -> None:
    program = BrokerJobs("memory://")

    @program.job
    def run() -> dict[str, str]:
        return dict(current_job().trace)

    @program.job
    def put() -> None:
        program.recurring.put("each", "* * * * *", run.bind())

    with Tester(program) as tester:
        put.using(trace=PARENT).enqueue()
        tester.run()
        tester.advance(timedelta(minutes=1))
        receipt = program.recurring.trigger("each")
        tester.run()
        assert receipt.result() == {}


@pytest.mark.parametrize(
    ("trace", "message"),
    [
        ("00-ab", "trace must be a mapping of texts"),
        ({"traceparent": 7}, "trace must be a mapping of texts"),
        ({str(n): "" for n in range(51)}, "trace must be at most 50 texts"),
        ({"traceparent": "x" * 8_193}, "trace must be names of at most 200, texts of at most 8_192 characters"),
        ({"traceparent": "a\0"}, "contains a null character"),
    ],
)
def test_a_trace_that_cannot_travel_is_refused(trace: Mapping[str, str], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        child.using(trace=trace)
