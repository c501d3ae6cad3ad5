"""Workers and the services beside them are one: one that cannot run ends all, and the health names the role."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from broker_jobs import metrics as m
from broker_jobs.processes.pool import Pool
from broker_jobs.processes.pools import Pools
from broker_jobs.processes.signals import ComponentFailed
from tests.support.wait import eventually
from tests.unit.processes import children


class Stage:
    """A pool of one worker and one of a coordinator, with a folder for each."""

    def __init__(self, folder: Path) -> None:
        self.workers, self.services = folder / "workers", folder / "services"
        self.failed: list[ComponentFailed] = []
        self._started: list[Pools] = []
        for each in (self.workers, self.services):
            each.mkdir()
            (each / "finish").touch()

    def start(self, worker: Callable[..., None], service: Callable[..., None]) -> Pools:
        pools = Pools(
            Pool(worker, (str(self.workers),), 1, on_failed=self.failed.append),
            [Pool(service, (str(self.services),), 1, on_failed=self.failed.append, role="coordinator")],
        )
        self._started.append(pools)
        pools.start()
        return pools

    def close(self) -> None:
        for pools in self._started:
            pools.stop_now()


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    stage = Stage(tmp_path)
    yield stage
    stage.close()


def test_the_health_has_a_part_for_each_role_and_its_reasons_name_it(stage: Stage) -> None:
    pools = stage.start(children.obedient, children.disconnected)
    eventually(lambda: "not connected" in str(pools.health().reasons), 60, "the coordinator has reported")
    eventually(lambda: pools.health().components["worker"]["ok"], 60, "the worker has reported")
    health = pools.health()
    pid = health.components["coordinator"]["processes"][0]["pid"]
    assert not health.ok
    assert health.reasons == (f"coordinator process {pid}: not connected",)
    assert health.components["worker"]["ok"]
    assert not health.components["coordinator"]["ok"]


def test_a_role_that_died_is_unhealthy_and_says_how_until_it_is_replaced(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    pools = stage.start(children.obedient, children.obedient)
    eventually(lambda: pools.health().ok, 60, "healthy")
    monkeypatch.setattr(Pool, "_start_later", lambda *_, **__: None)  # so that it stays dead
    os.kill(pools.health().components["coordinator"]["processes"][0]["pid"], signal.SIGKILL)
    eventually(lambda: "was killed by signal 9" in str(pools.health().reasons), 60, "says how it ended")
    assert pools.health().reasons[0].startswith("coordinator process of slot 0: it has ended (was killed by signal 9)")


def test_five_deaths_of_one_role_before_it_was_ready_end_all_with_the_reason(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("broker_jobs.processes.pool.LONGEST_PAUSE_SECONDS", 0.5)
    pools = stage.start(children.obedient, children.crashing)
    eventually(lambda: stage.failed, 60, "failed")
    (failed,) = stage.failed
    assert "5 coordinator processes ended before one was ready; the last exited with code 77" in failed.reason
    assert failed.code == 70
    assert pools.stop(20)


def test_a_role_that_refuses_to_start_ends_all_with_its_reason(stage: Stage) -> None:
    stage.start(children.obedient, children.misconfigured)
    eventually(lambda: stage.failed, 60, "failed")
    assert stage.failed[0] == ComponentFailed("a coordinator process could not start: no such queue", 2)


def test_what_is_counted_of_processes_has_their_role(stage: Stage) -> None:
    pools = stage.start(children.obedient, children.obedient)
    eventually(lambda: pools.health().ok, 60, "healthy")
    total = m.Snapshot()
    for snapshot in pools.snapshots():
        total.add(snapshot)
    assert total.values[m.PROCESSES.name] == {("worker",): 1, ("coordinator",): 1}
    assert total.values[m.RESTARTS.name] == {("worker",): 0, ("coordinator",): 0}
    assert total.values[m.RELEASES.name] == {(): 2}, "added up"


ROLE = """
import logging
from broker_jobs import logs

logs.set_up("INFO")
logs.name_role("beat")
logging.getLogger("a.b").warning("it is late", extra={"queue": "mail"})
logging.getLogger("a.b").warning("of a user", extra={"role": "admin"})
"""


def test_lines_of_a_process_with_a_role_name_it() -> None:
    lines = subprocess.run([sys.executable, "-c", ROLE], check=True, capture_output=True, text=True).stderr.splitlines()
    assert lines[0].endswith("it is late queue=mail role=beat")
    assert lines[1].endswith("of a user role=admin")
