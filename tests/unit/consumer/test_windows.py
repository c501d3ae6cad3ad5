"""How much of each queue is let in: what cannot start soon stays where another worker may take it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from broker_jobs.broker.names import priority_of, queue_of, work_queue
from broker_jobs.consumer.local_queue import LocalQueue
from broker_jobs.consumer.received_delivery import ReceivedDelivery
from broker_jobs.consumer.windows import LOWER_AFTER_LOOKS, QUIET_LOOKS, Windows
from broker_jobs.messages.priority import PRIORITIES, Priority
from broker_jobs.served_queues import ServedQueues
from tests.unit.consumer.test_starts import received


class Room:
    """A local queue and the windows of its queues."""

    def __init__(self, *queues: str, concurrency: int = 2, limits: dict[str, int] | None = None) -> None:
        served = ServedQueues.parse(queues, limits)
        self.local = LocalQueue(served, concurrency)
        self.windows = Windows(served, self.local, 500)
        self.runs: list[ReceivedDelivery] = []

    @property
    def sizes(self) -> dict[str, int]:
        """Those of the normal priority, by queue."""
        return {queue_of(name): size for name, size in self.windows.sizes.items() if priority_of(name) == "normal"}

    def size(self, queue: str, priority: Priority) -> int:
        return self.windows.sizes[work_queue(queue, priority)]

    def shut_behind(self, queue: str, priority: Priority = "normal") -> None:
        self.windows.shut_behind(work_queue(queue, priority))

    def start(self, *queues: str) -> None:
        self.runs += self.local.put([received(n, queue) for n, queue in enumerate(queues)])

    def start_of(self, queue: str, priority: Priority) -> None:
        self.runs += self.local.put([received(0, queue, priority=priority)])

    def end(self) -> None:
        following = self.local.ended(self.runs.pop(0))
        if following is not None:
            self.runs.append(following)

    def open(self, *, paused: frozenset[str] = frozenset(), looked: bool = False) -> dict[str, int]:
        self.windows.open(paused, looked=looked)
        return self.sizes

    def adapt(self, mean: float, looks: int = 1, **owned: int) -> dict[str, int]:
        for _ in range(looks):
            self.windows.adapt(mean, has_ended=True, owned=owned, waits_seconds={})
        return self.sizes


def test_a_worker_of_one_queue_starts_with_what_it_can_run() -> None:
    assert Room("mail").sizes == {"mail": 2}
    assert Room("mail", "bulk").sizes == {"mail": 4, "bulk": 4}
    assert Room("mail", "bulk", limits={"bulk": 1}).sizes == {"mail": 4, "bulk": 1}


def test_a_queue_whose_deliveries_wait_is_shut_with_what_comes_after_it() -> None:
    room = Room("mail", "bulk", "rest")
    room.start("mail", "mail", "bulk")
    room.shut_behind("bulk")
    assert room.sizes == {"mail": 4, "bulk": 0, "rest": 0}
    assert room.open(looked=True) == {"mail": 4, "bulk": 0, "rest": 0}, "no slot is free"


def test_what_is_shut_is_opened_by_what_is_free_and_the_preferred_queue_first() -> None:
    room = Room("mail", "bulk", "rest", concurrency=3)
    room.shut_behind("mail")
    room.start("mail", "mail")
    assert room.open() == {"mail": 1, "bulk": 0, "rest": 0}
    assert room.open() == {"mail": 2, "bulk": 0, "rest": 0}, "mail may still come"
    assert room.open(looked=True)["bulk"] == 1, "nothing of mail has come"
    room.start("bulk")
    assert room.open(looked=True)["rest"] == 0
    room.end()
    assert room.open(looked=True)["rest"] == 1


def test_a_limited_queue_that_is_full_shuts_no_other() -> None:
    room = Room("bulk", "mail", limits={"bulk": 1})
    room.start("bulk", "bulk")
    room.shut_behind("bulk")
    assert room.open(looked=True) == {"bulk": 0, "mail": 4}
    assert not room.windows.waits_for_slot(frozenset())
    room.local.remove(lambda _: True)
    room.end()
    assert room.open()["bulk"] == 1


def test_queues_with_weights_are_opened_one_at_a_time_in_turn_while_slots_are_scarce() -> None:
    room = Room("mail:3", "bulk:1", concurrency=1)
    room.shut_behind("bulk")
    assert room.sizes == {"mail": 0, "bulk": 0}
    opened = []
    for _ in range(40):
        (queue,) = [queue for queue, size in room.open().items() if size]
        opened.append(queue)
        room.start(queue)
        assert room.open() == {"mail": 0, "bulk": 0}, "its window would let the next one of it in"
        room.end()
    assert opened.count("bulk") == 10


def test_a_paused_queue_is_not_opened_and_keeps_none_shut() -> None:
    room = Room("mail", "bulk")
    room.windows.pause(["mail"])
    assert room.size("mail", "high") == room.size("mail", "low") == 0
    assert room.open(paused=frozenset({"mail"}), looked=True) == {"mail": 0, "bulk": 4}
    assert not room.windows.waits_for_slot({"mail"})
    assert room.open()["mail"] == 2


def test_a_run_that_was_handed_over_leaves_no_room_for_another_delivery() -> None:
    room = Room("mail")
    room.start("mail", "mail")
    room.windows.hand_over({"mail": 1})
    assert room.sizes == {"mail": 0}
    assert room.open() == {"mail": 0}
    room.end()
    assert room.open() == {"mail": 1}, "one slot is free"
    assert room.adapt(0.05, mail=1)["mail"] == 2, "while one runs, the next is on its way"
    room.start("mail")
    room.windows.hand_over({"mail": 2})
    assert room.sizes == {"mail": 0}


def test_a_window_of_many_short_jobs_stays_when_one_run_is_handed_over() -> None:
    room = Room("mail")
    assert room.adapt(0.001, looks=4) == {"mail": 32}
    room.windows.hand_over({"mail": 1})
    assert room.sizes == {"mail": 32}


def test_a_window_grows_at_once_for_short_jobs_and_by_what_is_free_for_long_ones() -> None:
    room = Room("mail", concurrency=8)
    room.windows.pause(["mail"])
    room.start(*["mail"] * 7)
    assert room.open() == {"mail": 1}
    assert room.adapt(5.0) == {"mail": 1}
    assert room.open() == {"mail": 2}
    room.start("mail")
    assert room.open() == {"mail": 2}
    assert room.adapt(0.05) == {"mail": 16}


def test_no_window_grows_while_its_deliveries_wait() -> None:
    room = Room("mail")
    room.windows.adapt(0.001, has_ended=True, owned={}, waits_seconds={work_queue("mail"): 0.4})
    assert room.sizes == {"mail": 2}


def test_a_window_that_is_too_large_is_shut_and_opened_by_what_is_free() -> None:
    room = Room("mail")
    room.adapt(0.001, looks=4)
    room.start("mail")
    assert room.adapt(5.0, LOWER_AFTER_LOOKS - 1) == {"mail": 32}
    assert room.adapt(5.0) == {"mail": 0}
    assert room.open() == {"mail": 1}


STEPS = st.sampled_from(["put mail", "put bulk", "end", "late mail", "late bulk", "look", "owned"])


@given(st.lists(STEPS, max_size=60))
def test_a_free_slot_is_always_offered_to_some_queue(steps: list[str]) -> None:
    room = Room("mail", "bulk", concurrency=2)
    for step in steps:
        match step.split():
            case ["put", queue]:
                room.start(queue)
            case ["end"] if room.runs:
                room.end()
            case ["late", queue]:
                room.shut_behind(queue)
                room.local.remove(lambda each, queue=queue: each.queue == queue)  # type: ignore[misc]
            case ["owned"] if room.runs:
                room.windows.hand_over({room.runs[0].queue: 1})
            case ["look"]:
                room.open(looked=True)
            case _:
                continue
    room.local.remove(lambda _: True)
    for _ in range(3):
        room.open(looked=True)
    assert all(room.sizes.values()) or not room.local.free


# --- priorities ---


def test_one_more_of_what_is_high_is_at_hand() -> None:
    room = Room("mail")
    assert (room.size("mail", "high"), room.size("mail", "normal"), room.size("mail", "low")) == (4, 2, 2)


def test_a_low_delivery_that_waits_shuts_nothing_that_is_higher() -> None:
    room = Room("mail", "bulk")
    room.start("mail", "mail")
    room.shut_behind("mail", "low")
    assert [room.size("mail", each) for each in PRIORITIES] == [4, 4, 0]
    assert [room.size("bulk", each) for each in PRIORITIES] == [0, 0, 0]
    room.shut_behind("mail", "high")
    assert [room.size("mail", each) for each in PRIORITIES] == [0, 0, 0]


def test_what_is_high_is_opened_alone_only_if_something_of_it_came_lately() -> None:
    room = Room("mail", concurrency=1)
    room.start("mail")
    room.adapt(5.0)
    room.shut_behind("mail", "high")
    room.end()
    room.open()
    assert [room.size("mail", each) for each in PRIORITIES] == [1, 1, 0], "nothing high was ever seen"
    room.start_of("mail", "high")
    room.adapt(5.0)
    room.shut_behind("mail", "high")
    room.end()
    room.open()
    assert [room.size("mail", each) for each in PRIORITIES] == [1, 0, 0], "more of it may come"
    room.open(looked=True)
    assert room.size("mail", "normal") == 1, "nothing of it has come"
    room.adapt(5.0, looks=QUIET_LOOKS)
    room.shut_behind("mail", "high")
    room.open()
    assert [room.size("mail", each) for each in PRIORITIES][:2] == [1, 1]


def test_what_is_quiet_keeps_its_window() -> None:
    room = Room("mail")
    assert room.adapt(0.001, looks=4)["mail"] == 32
    assert (room.size("mail", "high"), room.size("mail", "low")) == (4, 2)


def test_weights_choose_the_queue_and_within_it_the_priority_does() -> None:
    room = Room("mail:3", "bulk:1", concurrency=1)
    room.start_of("mail", "high")
    room.start_of("bulk", "high")
    room.adapt(5.0)
    room.local.remove(lambda _: True)
    room.shut_behind("mail", "high")
    room.end()
    opened = []
    for _ in range(8):
        room.open()
        (name,) = [name for name, size in room.windows.sizes.items() if size]
        opened.append(name)
        room.windows.shut(room.windows.sizes)
    assert sorted(opened) == [work_queue("bulk", "high")] * 2 + [work_queue("mail", "high")] * 6


def test_a_queue_of_which_nothing_high_comes_any_more_gets_its_whole_share() -> None:
    room = Room("mail:3", "bulk:1", concurrency=1)
    room.start_of("mail", "high")
    room.adapt(5.0)
    room.shut_behind("mail", "high")
    room.shut_behind("bulk", "high")
    room.end()
    started: list[str] = []
    looked = False
    while len(started) < 40:  # both have normal jobs alone, and each takes less than a look
        room.open(looked=looked)
        queues = [queue for queue, size in room.sizes.items() if size]
        looked = not queues  # what is open has nothing
        room.adapt(5.0)
        if queues:
            started.append(queues[0])
            room.start(queues[0])
            room.open()
            room.end()
    assert 9 <= started.count("bulk") <= 11


def test_of_a_queue_that_is_served_from_now_on_what_is_high_keeps_nothing_waiting() -> None:
    room = Room("mail", concurrency=1)
    queues = ServedQueues.parse(["bulk"])
    room.local.change(queues, 1)
    room.windows.change(queues)
    room.open()
    assert [room.size("bulk", each) for each in PRIORITIES][:2] == [1, 1], "nothing high was ever seen"
