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
