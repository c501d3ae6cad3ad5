"""The page of queues."""

from collections.abc import Iterator

import pytest

from broker_jobs.dashboard.role import Role
from tests.support.hostile import LONG_QUEUE, UNSERVED
from tests.support.wait import eventually
from tests.unit.dashboard.system import System, assert_harmless, row_of, system_in, words_of


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    with system_in(tmp_path_factory.mktemp("system")) as system:
        yield system


def test_each_queue_says_what_waits_and_who_serves_it(system: System) -> None:
    page = eventually(lambda: _with_workers(system))
    assert_harmless(page)
    assert LONG_QUEUE in page
    assert row_of(page, "mail").endswith("1 Pause")
    assert 'href="/jobs?queue=mail&amp;state=processing"' in page
    assert "no worker" not in row_of(page, "mail")


def test_a_queue_without_a_worker_says_what_to_do(system: System) -> None:
    page = eventually(lambda: _with_workers(system))
    assert "⚠ no worker" in row_of(page, UNSERVED)
    assert (
        f"No worker consumes {UNSERVED} , and 1 job waits for one. "
        f"Start one: broker-jobs worker APP --queues {UNSERVED}" in words_of(page)
    )


def test_a_paused_queue_starts_nothing_until_it_is_resumed(system: System) -> None:
    person = system.person()
    shown = person.send("/queues/default/pause", page="/queues")
    assert "Queue default is paused" in words_of(shown)
    assert row_of(shown, "default").startswith("default ❚❚ paused")
    receipt = system.hostile.jobs["greet"].enqueue("while paused")
    eventually(lambda: "Waiting" in words_of(person.see("/queues")) and _waits(system, "default"))
    assert not receipt.state().is_final
    shown = person.send("/queues/default/resume", page="/queues")
    assert "paused" not in row_of(shown, "default")
    assert receipt.result(timeout=120) == "hello while paused"
    assert [subject for _, subject in system.audited("queue pause")][:2] == ["default", "default"]


def test_a_viewer_sees_queues_and_cannot_act(system: System) -> None:
    viewer = system.person(Role.VIEWER)
    page = viewer.see("/queues")
    assert "<button" not in page.partition("<main")[2]
    viewer.send("/queues/default/pause", page="/queues", status=403)
    system.person(read_only=True).send("/queues/default/pause", page="/queues", status=403)
    assert not system.store.reader.queues.all()["default"]


def test_a_queue_whose_name_cannot_be_is_refused_and_nothing_breaks(system: System) -> None:
    shown = system.person().send("/queues/no%20such%3Cb%3E/pause", page="/queues")
    assert "is not a queue name" in words_of(shown)
    assert_harmless(shown)


def _with_workers(system: System) -> str:
    page = system.person().see("/queues")
    assert "no worker" not in row_of(page, "default"), "no heartbeat has come yet"
    return page


def _waits(system: System, queue: str) -> bool:
    return next(view.enqueued for view in system.queries.system.queues() if view.name == queue) > 0
