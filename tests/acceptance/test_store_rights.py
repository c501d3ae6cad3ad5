"""The store in a file is its owner's alone, whatever the umask of who makes it."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from broker_jobs import BrokerJobs

pytestmark = [
    pytest.mark.acceptance,
    pytest.mark.skipif(os.name != "posix", reason="rights of files are those of POSIX"),
]

PROGRAM = """\
import os, sys
from pathlib import Path
from broker_jobs import BrokerJobs

os.umask(int(sys.argv[2], 8))
folder = Path(sys.argv[1])
jobs = BrokerJobs("memory://", store=f"sqlite:///{folder / 'store.db'}")


@jobs.job
def login(password: str) -> None:
    pass


with jobs:
    login.enqueue("hunter2").result(timeout=120)
    for path in (folder, *sorted(folder.iterdir())):
        print(path.name, f"{path.stat().st_mode & 0o777:o}")
"""


def made(folder: Path, umask: str) -> list[str]:
    """Name and rights of what a program makes, while it runs."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(folder), umask], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize("umask", ["0", "022", "077"])
def test_file_and_folder_are_made_for_their_owner_alone(tmp_path: Path, umask: str) -> None:
    assert made(tmp_path / "new", umask) == ["new 700", "store.db 600", "store.db-shm 600", "store.db-wal 600"]


def test_a_folder_that_is_there_keeps_its_rights(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    assert made(tmp_path, "0")[1:] == ["store.db 600", "store.db-shm 600", "store.db-wal 600"]
    assert tmp_path.stat().st_mode & 0o777 == 0o755


def rights_after_a_run(store: Path, mode: int) -> int:
    """The rights a store has once a program has used it that found it with these."""
    with BrokerJobs("memory://", store=f"sqlite:///{store}"):
        pass
    store.chmod(mode)
    with BrokerJobs("memory://", store=f"sqlite:///{store}"):
        return store.stat().st_mode & 0o777


@pytest.mark.parametrize("mode", [0o644, 0o666, 0o664])
def test_a_file_that_all_could_read_is_taken_from_them_and_that_is_said(
    tmp_path: Path, mode: int, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "broker_jobs"):
        assert rights_after_a_run(tmp_path / "store.db", mode) == 0o600
    assert [record.getMessage() for record in caplog.records].count(
        f"all users could read {tmp_path / 'store.db'}: it is its owner's alone now"
    ) == 1


@pytest.mark.parametrize("mode", [0o600, 0o660, 0o640])
def test_rights_that_were_given_to_a_group_are_kept(tmp_path: Path, mode: int) -> None:
    assert rights_after_a_run(tmp_path / "store.db", mode) == mode
