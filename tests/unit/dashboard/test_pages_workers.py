"""The page of workers, coordinators and beats."""

from collections.abc import Iterator

import pytest

from broker_jobs.dashboard.role import Role
from broker_jobs.dashboard.views import ComponentView
from tests.support.wait import eventually
from tests.unit.dashboard.system import System, assert_harmless, row_of, system_in, words_of


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    with system_in(tmp_path_factory.mktemp("system")) as system:
        yield system


def test_a_worker_says_what_it_runs_now(system: System) -> None:
    worker = eventually(system.queries.system.workers, what="a heartbeat")[0]
    page = system.person(Role.VIEWER).see("/workers")
    assert_harmless(page)
    row = row_of(page, str(worker.pid))
    assert row.startswith(f"{worker.host} {worker.pid}")
    assert "alive" in row
    assert "default , mail" in row
    assert "of 8" in row
    running = system.hostile.made["running"].id
    assert f'href="/jobs/{running}"' in page, "the job in flight is linked"


def test_silent_and_lost_workers_are_told_apart(system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    known = eventually(system.queries.system.workers, what="a heartbeat")[0]
    told = [
        known.model_copy(update={"id": "a", "host": "silent-host", "silent": True, "jobs": []}),
        known.model_copy(update={"id": "b", "host": "lost-host", "silent": True, "lost": True, "jobs": []}),
    ]
    monkeypatch.setattr(system.queries.system, "workers", lambda: told)
    page = system.person().see("/workers")
    assert "! silent" in row_of(page, "silent-host")
    assert "✕ lost" in row_of(page, "lost-host")
    assert "Three heartbeats are missing" in words_of(page)
    assert "was declared dead" in words_of(page)
    assert "No worker is running" in words_of(page)


def test_a_busy_worker_and_one_that_takes_no_jobs_are_alive_and_say_why(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = eventually(system.queries.system.workers, what="a heartbeat")[0]
    problem = "RabbitMQ refuses: 403 ACCESS_REFUSED <b>"
    told = [
        known.model_copy(update={"id": "a", "host": "busy-host", "busy_since": known.seen_at}),
        known.model_copy(update={"id": "b", "host": "barred-host", "problem": problem, "jobs": []}),
    ]
    monkeypatch.setattr(system.queries.system, "workers", lambda: told)
    page = system.person().see("/workers")
    assert_harmless(page)
    assert "busy" in row_of(page, "busy-host")
    assert "takes no jobs" in row_of(page, "barred-host")
    assert "one of its jobs keeps Python's GIL" in words_of(page)
    assert "It does not take all jobs: RabbitMQ refuses: 403 ACCESS_REFUSED" in words_of(page)
    assert "No worker is running" not in words_of(page)


def test_a_worker_says_which_job_keeps_others_from_running(system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    known = eventually(system.queries.system.workers, what="a heartbeat")[0]
    busy = "its event loop is blocked since 2026-01-02 by <b>render</b> 0190 attempt 1"
    monkeypatch.setattr(system.queries.system, "workers", lambda: [known.model_copy(update={"busy": busy})])
    page = system.person().see("/workers")
    assert_harmless(page)
    assert busy in words_of(page)


def test_of_parts_one_is_active_and_others_stand_by(system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = system.queries.system.workers()[0].seen_at
    components = [
        ComponentView(
            kind="coordinator", id=f"{n}", host=f"<b>host-{n}</b>", pid=n, version="1", active=n == 1, seen_at=seen,
            silent=n == 3,
        )
        for n in (1, 2, 3)
    ]  # fmt: skip
    monkeypatch.setattr(system.queries.system, "components", lambda: components)
    page = system.person().see("/workers")
    assert_harmless(page)
    assert "active" in row_of(page, "host-1")
    assert "standby" in row_of(page, "host-2")
    assert "silent" in row_of(page, "host-3")
    monkeypatch.setattr(system.queries.system, "components", list)
    assert "Without a coordinator retries, delays" in words_of(system.person().see("/workers"))


def test_an_administrator_changes_a_worker(system: System) -> None:
    worker = eventually(system.queries.system.workers, what="a heartbeat")[0]
    given = {"worker": worker.id, "host": worker.host, "queues": "default:2, mail:1", "queue_limits": "mail=3"}
    person = system.person()
    page = person.see("/workers")
    assert "After a restart the worker does again what its options say" in words_of(page)
    shown = person.send("/workers/change", given, page="/workers", concurrency="9", scope="worker")
    assert "1 worker is changed until the next restart" in words_of(shown)
    eventually(lambda: "of 9" in row_of(person.see("/workers"), str(worker.pid)), what="the next heartbeat")
    assert "default:2 , mail:1 at most 3" in row_of(person.see("/workers"), str(worker.pid))
    given |= {"queues": "default,mail", "queue_limits": ""}
    person.send("/workers/change", given, page="/workers", concurrency="8", scope="host")
    eventually(lambda: "of 8" in row_of(person.see("/workers"), str(worker.pid)), what="the next heartbeat")
    assert [subject for _, subject in system.audited("worker change")] == [worker.host, worker.id]
    told = words_of(person.see("/audit"))
    assert "changed workers" in told
    assert "9 jobs at once; queues default:2,mail:1; limits mail=3" in told
    assert "8 jobs at once; queues default,mail; no limits of queues" in told


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"concurrency": "0"}, "the concurrency is an integer from 1 to 10_000, not '0'"),
        ({"concurrency": "9" * 400}, "the concurrency is an integer from 1 to 10_000"),
        ({"queues": "mail:3,default"}, "give each queue a weight, such as default:1"),
        ({"queues": ""}, "name at least one queue, such as default"),
        ({"queues": "mail:" + "9" * 400}, "at most 120 characters"),
        ({"queue_limits": "bulk"}, "write the queue and a number: bulk=2"),
        ({"queue_limits": "bulk=2"}, "queue 'bulk' has a limit and is not served"),
        ({"worker": "nobody"}, "no worker with the id nobody is running"),
    ],
)
def test_a_change_that_cannot_be_is_refused_with_what_to_write(
    system: System, wrong: dict[str, str], says: str
) -> None:
    worker = eventually(system.queries.system.workers, what="a heartbeat")[0]
    given = {"worker": worker.id, "host": worker.host, "queues": "default,mail", "queue_limits": ""}
    given |= {"concurrency": "8", "scope": "worker"} | wrong
    shown = system.person().send("/workers/change", given, page="/workers")
    assert says in words_of(shown)
    assert system.queries.system.workers()[0].concurrency == 8


def test_only_an_administrator_sees_the_form(system: System) -> None:
    for person in (system.person(Role.OPERATOR), system.person(Role.VIEWER), system.person(read_only=True)):
        assert "<form" not in person.see("/workers").partition("<main")[2]
