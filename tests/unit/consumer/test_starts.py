"""What a worker starts: never more than it has slots, nothing beside a free one waits, in the order of its queues."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker_jobs.broker import names
from broker_jobs.broker.interface import Delivery
from broker_jobs.consumer.local_queue import LocalQueue
from broker_jobs.consumer.received_delivery import ReceivedDelivery
from broker_jobs.consumer.starter import Starter
from broker_jobs.function.definition import define
from broker_jobs.messages.priority import PRIORITIES, Priority
from broker_jobs.served_queues import ServedQueues, parse_limits
from tests.support.wait import eventually
from tests.unit.consumer.scripted import envelope


def note() -> None: ...


async def note_async() -> None: ...


SYNC, ASYNC = define(note, {}), define(note_async, {})
JOB = envelope("note")


def received(
    number: int, queue: str = "default", *, is_async: bool = False, priority: Priority = "normal"
) -> ReceivedDelivery:
    delivery = Delivery(1, number, names.work_queue(queue, priority), b"", False, "", queue, "", "", None, None, 0)
    job = JOB.model_copy(update={"priority": priority})
    return ReceivedDelivery(delivery, job, ASYNC if is_async else SYNC, time.monotonic())


# --- slots and order ---

QUEUES = ["mail", "bulk", "rest"]
DELIVERIES = st.tuples(st.integers(0, 5), st.booleans(), st.sampled_from(PRIORITIES))
STEPS = st.lists(st.one_of(st.lists(DELIVERIES, min_size=1, max_size=4), st.integers(0, 20)), max_size=60)


@given(STEPS, st.integers(1, 4), st.booleans(), st.dictionaries(st.sampled_from(QUEUES), st.integers(1, 2)), st.data())
def test_no_free_slot_stands_beside_a_delivery_that_could_have_it(
    steps: list[list[tuple[int, bool, Priority]] | int],
    concurrency: int,
    weighted: bool,
    limits: dict[str, int],
    data: st.DataObject,
) -> None:
    served = QUEUES[: data.draw(st.integers(1, 3))]
    limits = {queue: limit for queue, limit in limits.items() if queue in served}
    queues = ServedQueues.parse([f"{queue}:{len(queue)}" for queue in served] if weighted else served, limits)
    local = LocalQueue(queues, concurrency)
    waiting: dict[str, list[tuple[int, int]]] = {queue: [] for queue in served}
    running: list[ReceivedDelivery] = []
    number = 0
    for step in steps:
        if isinstance(step, list):
            new = [
                received(number + n, served[which % len(served)], is_async=is_async, priority=priority)
                for n, (which, is_async, priority) in enumerate(step)
            ]
            number += len(new)
            for each in new:
                waiting[each.queue] = sorted([*waiting[each.queue], (each.rank, each.place.tag)])
            started = local.put(new)
        elif running:
            following = local.ended(running.pop(step % len(running)))
            started = [] if following is None else [following]
        else:
            continue
        for each in started:
            assert waiting[each.queue].pop(0) == (each.rank, each.place.tag), "out of the order of its queue"
            running.append(each)
        counts = Counter(each.queue for each in running)
        assert len(running) <= concurrency
        assert all(counts[queue] <= limit for queue, limit in limits.items())
        could = [q for q, line in waiting.items() if line and counts[q] < limits.get(q, concurrency)]
        assert len(running) == concurrency or not could
        assert local.in_threads == sum(not each.function.is_async for each in running)
        assert (local.free, len(local)) == (concurrency - len(running), sum(map(len, waiting.values())))


def starts(queues: list[str], count: int, limits: dict[str, int] | None = None) -> str:
    """Which jobs start, one after the other, while three queues have enough: the first letters of their queues."""
    local = LocalQueue(ServedQueues.parse(queues, limits), 1)
    names = [queue.partition(":")[0] for queue in queues]
    (running,) = local.put([received(n, queue) for n in range(count) for queue in reversed(names)])
    order = running.queue[0]
    for _ in range(count - 1):
        following = local.ended(running)
        assert following is not None
        order, running = order + following.queue[0], following
    return order


def test_the_queue_that_is_named_first_is_served_first() -> None:
    assert starts(["mail", "bulk"], 20)[1:] == "m" * 19, "all were there but for the first start"


def test_weights_are_shares_of_the_starts() -> None:
    order = starts(["mail:3", "bulk:1"], 400)
    assert order.count("b") == pytest.approx(100, abs=1)
    assert "b" * 2 not in order[1:], "not in lumps"


def test_a_weight_says_nothing_while_the_other_queues_have_nothing() -> None:
    local = LocalQueue(ServedQueues.parse(["mail:1000", "bulk:1"]), 2)
    assert [each.place.tag for each in local.put([received(1, "bulk"), received(2, "bulk")])] == [1, 2]


def test_a_limited_queue_keeps_no_other_queue_waiting() -> None:
    local = LocalQueue(ServedQueues.parse(["bulk", "mail"], {"bulk": 1}), 3)
    started = local.put([received(n, "bulk") for n in range(3)] + [received(9, "mail")])
    assert [each.place.tag for each in started] == [0, 9]
    assert local.at_limit("bulk")
    assert (local.room("bulk"), local.room("mail"), local.free) == (0, 1, 1)


def test_fewer_slots_end_no_job_and_more_slots_are_used_at_once() -> None:
    queues = ServedQueues.parse(["default"])
    local = LocalQueue(queues, 3)
    running = local.put([received(n) for n in range(6)])
    local.change(queues, 1)
    assert [local.ended(each) for each in running[:2]] == [None, None]
    following = local.ended(running[2])
    assert following is not None
    started, dropped = local.change(queues, 3)
    assert ([each.place.tag for each in [following, *started]], dropped) == ([3, 4, 5], [])


def test_a_lower_limit_is_kept_as_jobs_end() -> None:
    local = LocalQueue(ServedQueues.parse(["default"]), 3)
    running = local.put([received(n) for n in range(6)])
    local.change(ServedQueues.parse(["default"], {"default": 1}), 3)
    assert [local.ended(each) for each in running[:2]] == [None, None]
    following = local.ended(running[2])
    assert following is not None
    assert following.place.tag == 3


def test_what_waits_of_a_queue_that_is_not_served_any_more_is_given_up() -> None:
    local = LocalQueue(ServedQueues.parse(["mail", "bulk"]), 1)
    (running,) = local.put([received(0, "bulk")])
    local.put([received(1, "bulk"), received(2, "mail")])
    started, dropped = local.change(ServedQueues.parse(["mail"]), 1)
    assert (started, [each.place.tag for each in dropped]) == ([], [1])
    following = local.ended(running)
    assert following is not None
    assert following.queue == "mail"


# --- threads and the event loop ---


class Runs:
    """A starter whose jobs wait at a gate."""

    def __init__(self, concurrency: int) -> None:
        self.lock = threading.Lock()
        self.now: list[int] = []
        self.most = 0
        self.started: list[int] = []
        self.gate = threading.Event()
        self.local = LocalQueue(ServedQueues.parse(["default"]), concurrency)
        self.starter = Starter(self.local, self.run, self.run_async)

    def _enter(self, number: int) -> None:
        with self.lock:
            self.now.append(number)
            self.started.append(number)
            self.most = max(self.most, len(self.now))

    def _leave(self, number: int) -> None:
        with self.lock:
            self.now.remove(number)

    def run(self, received: ReceivedDelivery) -> None:
        self._enter(received.place.tag)
        self.gate.wait(60)
        self._leave(received.place.tag)

    async def run_async(self, received: ReceivedDelivery) -> None:
        self._enter(received.place.tag)
        while not self.gate.is_set():  # noqa: ASYNC110  # threads wait at it too
            await asyncio.sleep(0.005)
        self._leave(received.place.tag)


@pytest.fixture
def runs() -> Iterator[Runs]:
    runs = Runs(8)
    yield runs
    runs.gate.set()
    eventually(lambda: not runs.now)
    assert runs.starter.threads.stop(20)
    assert runs.starter.loop.stop(20)


def test_each_delivery_that_has_a_slot_is_run_at_once(runs: Runs) -> None:
    for number in range(12):
        runs.starter.take([received(number, is_async=number % 3 == 0)])
    eventually(lambda: len(runs.now) == 8)
    assert sorted(runs.now) == list(range(8))
    assert len(runs.starter) == 4


def test_slots_count_jobs_of_both_kinds(runs: Runs) -> None:
    runs.gate.set()
    for number in range(400):
        runs.starter.take([received(number, is_async=number % 2 == 0)])
    eventually(lambda: len(runs.started) == 400 and not runs.now)
    assert sorted(runs.started) == list(range(400))
    assert runs.most <= 8
    eventually(lambda: runs.local.free == 8)
    assert len(runs.starter.threads._threads) <= 8


def test_a_thread_that_has_ended_a_job_starts_an_async_one_and_the_other_way_round(runs: Runs) -> None:
    runs.starter.take([received(number, is_async=number in {1, 2, 3, 12, 13, 14, 15}) for number in range(16)])
    eventually(lambda: len(runs.now) == 8)
    runs.gate.set()
    eventually(lambda: len(runs.started) == 16)


def test_an_internal_error_gives_its_slot_back(caplog: pytest.LogCaptureFixture) -> None:
    def fail(received: ReceivedDelivery) -> None:
        raise SystemExit

    async def fail_async(received: ReceivedDelivery) -> None:
        raise ValueError

    starter = Starter(local := LocalQueue(ServedQueues.parse(["default"]), 1), fail, fail_async)
    starter.take([received(number, is_async=number % 2 == 0) for number in range(4)])
    eventually(lambda: local.free == 1)
    assert len([record for record in caplog.records if "internal error" in record.getMessage()]) == 4
    assert starter.threads.stop(20)
    assert starter.loop.stop(20)


def test_what_a_blocked_event_loop_has_not_begun_can_be_taken_back(runs: Runs) -> None:
    blocked = threading.Event()

    async def block(received: ReceivedDelivery) -> None:
        runs.started.append(received.place.tag)
        blocked.set()
        runs.gate.wait(60)  # not as an async job should

    starter = Starter(local := LocalQueue(ServedQueues.parse(["default"]), 2), runs.run, block)
    starter.take([received(1, is_async=True)])
    assert blocked.wait(60)
    starter.take([received(2, is_async=True)])
    assert [each.place.tag for each in starter.held()] == [2]
    assert [each.place.tag for each in starter.oldest().values()] == [2]
    assert [each.place.tag for each in starter.remove(lambda _: True)] == [2]
    assert starter.held() == []
    assert local.free == 0, "a loop that is blocked is given nothing more"
    runs.gate.set()
    eventually(lambda: local.free == 2)
    assert runs.started == [1]
    assert starter.loop.stop(20)


# --- how queues are written ---


@pytest.mark.parametrize(
    ("queues", "limits", "says"),
    [
        ([], {}, "name at least one queue"),
        (["mail:3", "bulk"], {}, "give each queue a weight, such as bulk:1"),
        (["mail:0"], {}, "the weight of queue mail is '0'; write a whole number from 1 to 1_000, such as mail:3"),
        (["mail:x"], {}, "the weight of queue mail is 'x'"),
        (["mail:3", "mail:1"], {}, "list each queue once"),
        (["a b"], {}, "'a b' is not a queue name"),
        (["mail"], {"bulk": 1}, "queue 'bulk' has a limit and is not served"),
    ],
)
def test_what_is_wrong_with_queues_is_said_with_what_to_write(
    queues: list[str], limits: dict[str, int], says: str
) -> None:
    with pytest.raises(ValueError, match=says.replace("(", r"\(")):
        ServedQueues.parse(queues, limits)


@pytest.mark.parametrize(
    ("limits", "says"),
    [
        (["bulk"], "'bulk' is not a limit of a queue; write the queue and a number: bulk=2"),
        (["bulk=0"], "the limit of queue bulk is '0'; write a whole number from 1 to 10_000, such as bulk=2"),
        (["bulk=²"], "the limit of queue bulk is '²'"),
        (["bulk=1", "bulk=2"], "queue bulk has two limits"),
    ],
)
def test_what_is_wrong_with_a_limit_is_said_with_what_to_write(limits: list[str], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        parse_limits(limits)


@pytest.mark.parametrize("queues", [["mail", "bulk"], ["mail:3", "bulk:1"]])
def test_queues_are_written_as_they_are_read(queues: list[str]) -> None:
    assert ServedQueues.parse(queues, {"bulk": 2}).written() == queues
