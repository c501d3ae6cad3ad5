"""Values that are hard to carry arrive as they were, by every way into a worker, on each broker and store."""

from __future__ import annotations

import collections
import datetime as dt
import functools
import pathlib
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from ipaddress import IPv6Address
from typing import Annotated, Any, Literal

import pytest
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, computed_field

from broker_jobs import ArgumentsError, BrokerJobs, BrokerJobsError, result_of
from broker_jobs.function.comparison import difference
from broker_jobs.producer.receipt import Receipt
from broker_jobs.testing import Tester
from tests.support.postgres import Postgres
from tests.support.rabbitmq import Vhost
from tests.unit.function.annotation_types import (
    Base64,
    Boxed,
    Camel,
    Checked,
    Colour,
    Kept,
    Key,
    Level,
    Movie,
    Open,
    Pair,
    Private,
    Rights,
    Row,
    Swapped,
    Tree,
    Word,
    Wrapped,
)
from tests.unit.function.annotations import ZONES

LONG = dt.timedelta(seconds=60)
TWICE = dt.datetime(2026, 10, 25, 2, 30, tzinfo=ZONES[0])


class Two(BaseModel):
    """A field that is read by one name and written by another."""

    model_config = ConfigDict(extra="forbid")
    value_: str = Field(validation_alias="valIn", serialization_alias="valOut")

    @computed_field  # type: ignore[prop-decorator]
    @property
    def length(self) -> int:
        return len(self.value_)


@dataclass
class Trip:
    """What a travel agency would send."""

    start: dt.datetime
    price: Decimal
    tickets: dict[str, bytes]
    via: tuple[str, ...] = ()


VALUES: list[tuple[Any, Any]] = [
    (str, 'nul \0, quote ", backslash \\, 😀, \U0010ffff, \u2028, line\nend'),
    (str, "**********"),
    (int, 10**1_000),
    (int, -(2**64)),
    (float, -0.0),
    (float, 5e-324),
    (float | int, 3),
    (bool | int, 1),
    (str | None, None),
    (str | Decimal, "1.10"),
    (Decimal, Decimal("1.10")),
    (Decimal, Decimal("-0E+30")),
    (bytes, bytes(range(256))),
    (dt.datetime, TWICE),
    (dt.datetime, TWICE.replace(fold=1)),
    (dt.datetime, dt.datetime(2026, 3, 29, 2, 30, tzinfo=ZONES[0])),
    (list[dt.datetime], [TWICE, TWICE.replace(fold=1)]),
    (set[dt.datetime], {TWICE, dt.datetime.max.replace(tzinfo=dt.UTC)}),
    (dt.timedelta, dt.timedelta(days=-1, microseconds=1)),
    (dt.time, dt.time(1, 2, 3, 4, tzinfo=dt.UTC)),
    (dt.date, dt.date.min),
    (uuid.UUID, uuid.UUID(int=7)),
    (pathlib.PurePosixPath, pathlib.PurePosixPath("/x/\0")),
    (IPv6Address, IPv6Address("fe80::1%eth0")),
    (Colour, Colour.RED),
    (Level | None, Level.HIGH),
    (Word, Word.DATE),
    (Rights, Rights.READ | Rights.WRITE),
    (Literal["a", 1], 1),
    (Pair, Pair(1, "2")),
    (tuple[int, str], (1, "1")),
    (frozenset[Key], frozenset({Key(1), Key(2, TWICE)})),
    (collections.deque[int], collections.deque([1, 2])),
    (collections.OrderedDict[str, int], collections.OrderedDict(b=1, a=2)),
    (dict[int, Row], {1: Row("a", b"abcd"), 2: Row("\0", b"\xff")}),
    (Row, Row("a", b"abcd")),
    (Kept, Kept(a=1, b=[2], d=3)),
    (Movie, {"title": "\0", "poster": b"\xff"}),
    (Checked, Checked(anA=1, b={"x", "y"})),
    (Two, Two(valIn="\0")),
    (Swapped, Swapped(a=1, b=2)),
    (Camel, Camel(order_id=1)),
    (Open, Open.model_validate({"a": 1, "\0": [None]})),
    (Base64, Base64(data=b"\xff")),
    (Private, Private(a=1)),
    (Tree, Tree(value=1, children=[Tree(value=2)])),
    (Wrapped, Wrapped([1])),
    (Boxed[set[str]], Boxed[set[str]](value={"a", "\0"})),
    (Trip, Trip(TWICE, Decimal("1.10"), {"\0": b"\xff"}, ("a",))),
    (Any, {"a": [1, 1.0, True, None, "1", {"\0": "\0"}]}),
]


class Echoes:
    """A program with a job for each value, which returns it if it has arrived as it was."""

    def __init__(self, url: str, store: str) -> None:
        self.jobs = BrokerJobs(url, store=store)
        self.calls = [(self._job(number, *each), each[1]) for number, each in enumerate(VALUES)]

    def _job(self, number: int, annotation: Any, value: Any) -> Any:
        def echo(x: Any) -> Any:
            found = difference(x, value)
            assert found is None, found
            return x

        echo.__annotations__ = {"x": annotation, "return": annotation}
        return self.jobs.job(name=f"echo-{number}", retries=0)(echo)


@pytest.fixture(
    params=[
        "memory",
        pytest.param("sqlite", marks=pytest.mark.rabbitmq),
        pytest.param("postgres", marks=[pytest.mark.rabbitmq, pytest.mark.postgres]),
    ]
)
def echoes(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> Iterator[Echoes]:
    store = f"sqlite:///{tmp_path / 'store.db'}"
    if request.param == "postgres":
        server: Postgres = request.getfixturevalue("postgres")
        assert server is not None
        store = request.getfixturevalue("postgres_url")
    vhost: Vhost | None = None if request.param == "memory" else request.getfixturevalue("vhost")
    program = Echoes("memory://" if vhost is None else vhost.url, store)
    with program.jobs:
        yield program
        program.jobs.stop(5)


def all_arrived(receipts: list[Receipt[Any]]) -> None:
    for receipt, (_, value) in zip(receipts, VALUES, strict=True):
        back = receipt.result(LONG)
        assert difference(back, value) is None, (back, value)


def test_hard_values_arrive_and_come_back(echoes: Echoes) -> None:
    all_arrived([job.enqueue(value) for job, value in echoes.calls])


def test_hard_results_become_arguments(echoes: Echoes) -> None:
    first = [job.enqueue(value) for job, value in echoes.calls]
    all_arrived([
        job.enqueue(result_of(parent)) for (job, _), parent in zip(echoes.calls, first, strict=True)
    ])  # fmt: skip


def test_hard_values_arrive_in_batches(echoes: Echoes) -> None:
    with echoes.jobs.batch("hard values") as batch:
        receipts = [batch.enqueue(job, value) for job, value in echoes.calls]
    all_arrived(receipts)


def test_hard_values_arrive_in_recurring_jobs(echoes: Echoes) -> None:
    receipts = []
    for job, value in echoes.calls:
        echoes.jobs.recurring.put(job.name, "0 3 * * *", job.bind(value))
        receipts.append(echoes.jobs.recurring.trigger(job.name))
    for receipt, (job, value) in zip(receipts, echoes.calls, strict=True):
        back = job.receipt(receipt.id).result(LONG)
        assert difference(back, value) is None, (back, value)


def test_an_argument_that_changes_its_type_alone_changes_a_recurring_job(echoes: Echoes) -> None:
    @echoes.jobs.job(retries=0)
    def kind(x: Any) -> str:
        return type(x).__name__

    for value in (1, True, 1.0):
        echoes.jobs.recurring.put("kind", "0 3 * * *", kind.bind(value))
        assert kind.receipt(echoes.jobs.recurring.trigger("kind").id).result(LONG) == type(value).__name__


def test_a_validator_runs_once_on_the_way(echoes: Echoes) -> None:
    def shout(x: Any) -> Any:
        return x

    shout.__annotations__ = {"x": Annotated[str, AfterValidator(lambda text: text + "!")], "return": str}
    assert echoes.jobs.job(shout).enqueue("a").result(LONG) == "a!"


def test_a_secret_arrives_and_does_not_come_back(echoes: Echoes) -> None:
    @echoes.jobs.job(retries=3)
    def reveal(password: SecretStr) -> SecretStr:
        assert password.get_secret_value() == "open \0"
        return password

    with pytest.raises(
        BrokerJobsError, match="succeeded, but its result was not kept: the result of reveal holds a secret"
    ):
        reveal.enqueue(SecretStr("open \0")).result(LONG)


def refused_calls(jobs: BrokerJobs) -> list[Any]:
    """Every way in which a value leaves a program, each with one that no worker would get as it is."""

    @jobs.job
    def take(x: uuid.UUID | str) -> None:
        del x

    text = str(uuid.uuid4())
    parts = functools.partial
    return [
        parts(take.enqueue, text),
        parts(take.schedule, dt.timedelta(hours=1), text),
        parts(take.bind, text),
        parts(lambda: jobs.enqueue_many(take.bind(each) for each in (text,))),
        parts(lambda: jobs.recurring("take", "0 3 * * *", take.bind(text))),
        parts(take.using(priority="high").enqueue, text),
    ]


@pytest.mark.parametrize("way", range(6))
def test_every_way_in_refuses_a_value_that_would_not_arrive(way: int) -> None:
    jobs = BrokerJobs()
    with pytest.raises(ArgumentsError, match=r"read alike in JSON: annotate it as one type\. Nothing was enqueued\."):
        refused_calls(jobs)[way]()


def test_a_batch_and_the_tester_refuse_a_value_that_would_not_arrive() -> None:
    jobs = BrokerJobs()

    @jobs.job
    def take(x: uuid.UUID | str) -> None:
        del x

    with Tester(jobs), pytest.raises(ArgumentsError, match="read alike in JSON"), jobs.batch("import") as batch:
        batch.enqueue(take, str(uuid.uuid4()))


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ("\ud800", "half a character"),
        (float("nan"), "no NaN"),
        ([10**4300], "more than 4_300 digits"),
        (object(), "unknown type"),
    ],
    ids=["half a character", "NaN", "digits", "object"],
)
def test_a_published_event_refuses_what_no_subscriber_can_read(value: Any, sentence: str) -> None:
    jobs = BrokerJobs()
    with pytest.raises(ArgumentsError, match=rf"^stock\.low: .*{sentence}.* Nothing was published\.$"):
        jobs.publish("stock.low", value)
