"""The page of queues."""

from collections.abc import Iterator

import pytest

from broker_jobs.dashboard.role import Role
from tests.support.hostile import LONG_QUEUE, UNSERVED
from tests.support.wait import eventually
from tests.unit.dashboard.system import House, assert_harmless, house_in, row_of, words_of


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with house_in(tmp_path_factory.mktemp("house")) as house:
        yield house


def test_each_queue_says_what_waits_and_who_serves_it(house: House) -> None:
    page = eventually(lambda: _with_workers(house))
    assert_harmless(page)
    assert LONG_QUEUE in page
    assert row_of(page, "mail").endswith("1 Pause")
    assert 'href="/jobs?queue=mail&amp;state=processing"' in page
    assert "no worker" not in row_of(page, "mail")


def test_a_queue_without_a_worker_says_what_to_do(house: House) -> None:
    page = eventually(lambda: _with_workers(house))
    assert "⚠ no worker" in row_of(page, UNSERVED)
    assert (
        f"No worker serves {UNSERVED} , and 1 job waits for one. "
        f"Start one: broker-jobs worker APP --queues {UNSERVED}" in words_of(page)
    )


def test_a_paused_queue_starts_nothing_until_it_is_resumed(house: House) -> None:
    person = house.person()
    shown = person.send("/queues/default/pause", page="/queues")
    assert "Queue default is paused" in words_of(shown)
    assert row_of(shown, "default").startswith("default ❚❚ paused")
    receipt = house.hostile.jobs["greet"].enqueue("while paused")
    eventually(lambda: "Waiting" in words_of(person.see("/queues")) and _waits(house, "default"))
    assert not receipt.state().is_final
    shown = person.send("/queues/default/resume", page="/queues")
    assert "paused" not in row_of(shown, "default")
    assert receipt.result(timeout=20) == "hello while paused"
    assert [subject for _, subject in house.audited("queue pause")][:2] == ["default", "default"]


def test_a_viewer_sees_queues_and_cannot_act(house: House) -> None:
    viewer = house.person(Role.VIEWER)
    page = viewer.see("/queues")
    assert "<button" not in page.partition("<main")[2]
    viewer.send("/queues/default/pause", page="/queues", status=403)
    house.person(read_only=True).send("/queues/default/pause", page="/queues", status=403)
    assert not house.store.reader.queues()["default"]


def test_a_queue_whose_name_cannot_be_is_refused_and_nothing_breaks(house: House) -> None:
    shown = house.person().send("/queues/no%20such%3Cb%3E/pause", page="/queues")
    assert "is no queue name" in words_of(shown)
    assert_harmless(shown)


def _with_workers(house: House) -> str:
    page = house.person().see("/queues")
    assert "no worker" not in row_of(page, "default"), "no heartbeat has come yet"
    return page


def _waits(house: House, queue: str) -> bool:
    return next(view.enqueued for view in house.queries.queues() if view.name == queue) > 0
