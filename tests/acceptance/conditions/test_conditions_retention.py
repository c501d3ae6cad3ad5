"""What is forgotten while others need it: the result of a parent, the original of an alias, the job of a window."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from broker_jobs import Unique, result_of
from tests.support.observed import SECONDS, ObservedProgram, Watcher, store_in
from tests.support.wait import eventually

HOUR = timedelta(hours=1)


@contextmanager
def program(url: str, store: str) -> Iterator[Watcher]:
    """A program that runs for a while."""
    running = ObservedProgram(url, store)
    try:
        yield Watcher(running)
    finally:
        running.close()


def is_forgotten(watcher: Watcher, id: str) -> bool:
    """Whether nothing is known of a job."""
    return watcher.dashboard().get(f"/api/v1/jobs/{id}").status_code == 404


def test_what_others_need_is_kept_however_old_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url, store = f"memory://{uuid.uuid4().hex}", store_in(tmp_path)
    window = Unique("window", scope=HOUR)
    running = Unique("running", scope="running")
    with program(url, store) as watcher:
        watcher.hold("first")
        first = watcher.go("first", unique=running)
        watcher.started("first")
        alias = watcher.go("alias", unique=running)
        watcher.barrier()
        watcher.let("first")
        old, parent, held = watcher.go_all(["old", "parent", "held"])
        kept = watcher.go("kept", unique=window)
        watcher.results([first, alias, old, parent, held, kept])
        later = watcher.program.work.schedule(HOUR, watcher.name("later"))
        child = watcher.program.take.after(later).enqueue(watcher.name("child-"), result_of(parent))
        of_alias = watcher.program.take.after(later).enqueue(watcher.name("of-alias-"), result_of(alias))
        watcher.wait(child, of_alias)
    for name in ("SUCCEEDED", "DELETED"):
        monkeypatch.setenv(f"BROKER_JOBS_KEEP_{name}", "0.001")
    with program(url, store) as watcher:
        eventually(lambda: is_forgotten(watcher, old.id), SECONDS, "what nobody needs is forgotten")
        for needed in (first, alias, parent, kept):
            assert not is_forgotten(watcher, needed.id)
        assert watcher.go("again", unique=window).result(timeout=SECONDS) == "kept"
        watcher.jobs.receipt(later.id).requeue()
        assert watcher.jobs.receipt(child.id).result(timeout=SECONDS) == "child-parent"
        assert watcher.jobs.receipt(of_alias.id).result(timeout=SECONDS) == "of-alias-first"
