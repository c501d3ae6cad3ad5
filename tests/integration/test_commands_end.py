"""A command of a person ends: it is applied in its time or never, and its sender learns which."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker_jobs.errors import ResultTimeout
from tests.support.rabbitmq import Vhost
from tests.support.system import System
from tests.support.wait import eventually

pytestmark = pytest.mark.rabbitmq


@pytest.fixture
def system(vhost: Vhost, tmp_path: Path) -> Iterator[System]:
    system = System(vhost, tmp_path)
    yield system
    system.close()


def typed(system: System, *arguments: str, store: str = "", seconds: float = 1.0) -> tuple[int, str]:
    """What a command of a person says, and its exit code."""
    done = subprocess.run(
        [sys.executable, "-m", "broker_jobs.cli", *arguments], capture_output=True, text=True, timeout=60, check=False,
        env=os.environ | {
            "BROKER_JOBS_URL": system.url, "BROKER_JOBS_STORE": store or system.store_url,
            "BROKER_JOBS_PUBLISH_TIMEOUT": str(seconds),
        },
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


def kinds(system: System) -> list[str]:
    return [row.kind for row in system.store.reader.audit.newest()]


def test_a_command_that_no_coordinator_took_in_time_is_never_applied(system: System) -> None:
    system.here("coordinator").stop()
    code, text = typed(system, "queues", "pause", "mail")
    assert code == 2
    assert "expired: the command was not applied in 1 s and never will be" in text
    code, text = typed(system, "queues", "pause", "mail", store=f"sqlite:///{system.folder / 'elsewhere.db'}")
    assert code == 2
    assert "unknown: " in text
    assert "audit" in text
    system.here("coordinator")
    code, text = typed(system, "queues", "pause", "bulk", seconds=20.0)
    assert code == 0, text
    assert system.store.reader.queues.all() == {"bulk": True}
    assert kinds(system) == ["queue pause"]
    code, text = typed(system, "recurring", "pause", "nothing", seconds=20.0)
    assert code == 2
    assert "no recurring job is named 'nothing'" in text


def test_a_command_of_a_program_waits_for_a_coordinator_unless_told_otherwise(system: System) -> None:
    system.here("coordinator").stop()
    jobs = system.jobs.program
    jobs.configure({"publish_timeout": 1.0})
    with pytest.raises(ResultTimeout, match="no coordinator answered in 1 s"):
        jobs.queues.pause("mail")
    system.here("coordinator")
    eventually(lambda: system.store.reader.queues.all().get("mail"))
    assert set(kinds(system)) == {"queue pause"}
