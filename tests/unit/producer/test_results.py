"""`result_of` is only an argument of a job: every other use raises where it is written."""

import copy
import json
import operator
import pickle
from collections.abc import Callable
from typing import Any, cast

import pytest

from broker_jobs import BrokerJobs, Receipt, SyncJob, result_of, results_of
from broker_jobs.errors import ArgumentsError, UsageError
from broker_jobs.function.pending import has_pending
from broker_jobs.messages.envelope import Parent, ResultArgument
from tests.unit.producer.recording import RecordingBroker


@pytest.fixture
def image(jobs: BrokerJobs) -> Receipt[bytes]:
    @jobs.job
    def fetch(url: str) -> bytes:
        return url.encode()

    return fetch.enqueue("u")


@pytest.fixture
def resize(jobs: BrokerJobs) -> SyncJob[..., str]:
    @jobs.job
    def resize(image: bytes, width: int, *, crop: bytes = b"") -> str:
        return f"{image!r}{width}{crop!r}"

    return resize


def test_a_result_travels_as_a_place_to_fill_and_implies_its_parent(
    broker: RecordingBroker, image: Receipt[bytes], resize: SyncJob[..., str]
) -> None:
    resize.enqueue(result_of(image), 100, crop=result_of(image))
    envelope = broker.envelope
    assert (envelope.args, envelope.kwargs, envelope.epoch) == ([None, 100], {"crop": None}, 0)
    assert envelope.result_args == (
        ResultArgument(place=0, parents=(image.id,)),
        ResultArgument(place="crop", parents=(image.id,)),
    )
    assert envelope.after is not None
    assert envelope.after.parents == (Parent(id=image.id),)


def test_results_are_one_list(jobs: BrokerJobs, broker: RecordingBroker) -> None:
    @jobs.job
    def ping() -> int:
        return 1

    @jobs.job
    def total(counts: list[int]) -> int:
        return sum(counts)

    counts = [ping.enqueue() for _ in range(3)]
    total.after(counts[0]).enqueue(counts=results_of(counts))
    ids = tuple(receipt.id for receipt in counts)
    assert broker.envelope.result_args == (ResultArgument(place="counts", parents=ids, many=True),)
    assert broker.envelope.after is not None
    assert broker.envelope.after.parents == tuple(Parent(id=id) for id in ids)
    total.enqueue(results_of([]))
    assert broker.envelope.args == [[]]
    assert not broker.envelope.result_args


def test_it_fits_every_kind_of_parameter(jobs: BrokerJobs, broker: RecordingBroker, image: Receipt[bytes]) -> None:
    @jobs.job
    def odd(a: int, /, *more: bytes, **named: list[int]) -> None: ...

    anything = cast("Any", result_of(image))
    odd.enqueue(anything, b"x", anything, z=anything)
    assert [result_arg.place for result_arg in broker.envelope.result_args] == [0, 2, "z"]
    assert broker.envelope.args == [None, "eA==", None]
    jobs.remote("other").enqueue(anything, x=anything)
    assert [result_arg.place for result_arg in broker.envelope.result_args] == [0, "x"]


def test_the_other_arguments_are_checked_as_ever(
    broker: RecordingBroker, image: Receipt[bytes], resize: SyncJob[..., str]
) -> None:
    published = len(broker.messages)
    with pytest.raises(ArgumentsError, match="width must be an int, not 'x'"):
        resize.enqueue(result_of(image), "x")
    with pytest.raises(ArgumentsError, match="width is missing"):
        resize.enqueue(result_of(image))
    assert len(broker.messages) == published


def test_inside_a_list_it_is_refused_with_what_to_write(jobs: BrokerJobs, image: Receipt[bytes]) -> None:
    @jobs.job
    def join(parts: list[bytes]) -> None: ...

    @jobs.job
    def anything(parts: Any) -> None: ...

    with pytest.raises(ArgumentsError, match=r"only a whole argument can be one, for a list write results_of"):
        join.enqueue([result_of(image)])
    with pytest.raises(ArgumentsError, match="cannot be sent as JSON"):
        anything.enqueue([result_of(image)])


def test_a_failed_job_has_no_result(image: Receipt[bytes], resize: SyncJob[..., str]) -> None:
    with pytest.raises(ArgumentsError, match=r"^a failed job has no result; to take its result"):
        resize.after(image, on="failed").enqueue(result_of(image), 1)
    with pytest.raises(ArgumentsError, match="may have failed"):
        resize.after(image, on="finished").enqueue(result_of(image), 1)


def test_a_call_carries_it_until_it_is_enqueued(
    jobs: BrokerJobs, broker: RecordingBroker, image: Receipt[bytes], resize: SyncJob[..., str]
) -> None:
    call = resize.using(queue="slow").bind(result_of(image), 100)
    assert "result_of(fetch " in repr(call)
    jobs.enqueue_many([call])
    assert broker.envelope.result_args == (ResultArgument(place=0, parents=(image.id,)),)
    assert broker.envelope.queue == "slow"
    assert has_pending(*call.bound)
    with pytest.raises(ArgumentsError, match="waits for its time"):
        jobs.recurring("x", "* * * * *", call)


USES: list[Callable[[Any], Any]] = [
    str, lambda x: f"{x}", lambda x: f"{x:>10}", "{}".format, bool, lambda x: 1 if x else 2, len, list,
    iter, next, hash, int, float, bytes, abs, round, operator.index, operator.neg, json.dumps, pickle.dumps, copy.copy,
    copy.deepcopy, open, lambda x: x + 1, lambda x: 1 + x, lambda x: x * 2, lambda x: x % 2, lambda x: x == 1,
    lambda x: x != 1, lambda x: x < 1, lambda x: x & 1, lambda x: x[0], lambda x: x(), lambda x: x.upper(),
    lambda x: x.upper, lambda x: 1 in x, lambda x: {x: 1}, lambda x: [*x], lambda x: {**x}, lambda x: x.__enter__(),
]  # fmt: skip


@pytest.mark.parametrize("use", USES)
def test_every_other_use_raises_at_once(image: Receipt[bytes], use: Callable[[Any], Any]) -> None:
    with pytest.raises((TypeError, AttributeError)):
        use(result_of(image))
    with pytest.raises((TypeError, AttributeError)):
        use(results_of([image]))


def test_the_error_says_what_it_is(image: Receipt[bytes]) -> None:
    with pytest.raises(TypeError) as caught:
        result_of(image).upper()
    assert str(caught.value) == (
        f"the result of fetch {image.id} is not known yet; result_of() can only be an argument of a job"
    )
    assert repr(result_of(image)) == f"result_of(fetch {image.id})"


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        (lambda jobs: result_of(jobs.batch()), "a batch has no result"),
        (lambda _: result_of(cast("Any", "0190")), r'result_of\(jobs.receipt\("0190"\)\)'),
        (lambda jobs: result_of(cast("Any", [jobs.receipt("x")])), "for several write results_of"),
        (lambda jobs: results_of(jobs.receipt("x")), r"write results_of\(\[…\]\)"),
        (lambda jobs: results_of(cast("Any", [jobs.receipt("x"), 3])), "not 3"),
        (lambda jobs: results_of([jobs.receipt("x")] * 1001), "at most 1_000"),
    ],
)
def test_it_takes_receipts(jobs: BrokerJobs, wrong: Callable[[Any], Any], text: str) -> None:
    with pytest.raises(ArgumentsError, match=text):
        wrong(jobs)


def test_a_member_of_a_batch_may_take_the_result_of_another(
    jobs: BrokerJobs, broker: RecordingBroker, resize: SyncJob[..., str]
) -> None:
    @jobs.job
    def fetch() -> bytes:
        return b""

    with jobs.batch() as batch:
        image = batch.enqueue(fetch)
        batch.enqueue(resize, result_of(image), 1)
        with pytest.raises(UsageError):
            image.result()
