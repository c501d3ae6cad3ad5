"""What is forgotten while others need it: the result of a parent, the original of an alias, the job of a window."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from broker_jobs import Unique, result_of
from tests.support.observed import SECONDS, Desk, ObservedProgram, store_in
from tests.support.wait import eventually

HOUR = timedelta(hours=1)


@contextmanager
def program(url: str, store: str) -> Iterator[Desk]:
    """A program that runs for a while."""
    running = ObservedProgram(url, store)
    try:
        yield Desk(running)
    finally:
        running.close()


def is_forgotten(desk: Desk, id: str) -> bool:
    """Whether nothing is known of a job."""
    return desk.dashboard().get(f"/api/v1/jobs/{id}").status_code == 404


def test_what_others_need_is_kept_however_old_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url, store = f"memory://{uuid.uuid4().hex}", store_in(tmp_path)
    window = Unique("window", scope=HOUR)
    running = Unique("running", scope="running")
    with program(url, store) as desk:
        desk.hold("first")
        first = desk.go("first", unique=running)
        desk.started("first")
        alias = desk.go("alias", unique=running)
        desk.barrier()
        desk.let("first")
        old, parent, held = desk.go_all(["old", "parent", "held"])
        kept = desk.go("kept", unique=window)
        desk.results([first, alias, old, parent, held, kept])
        later = desk.program.work.schedule(HOUR, desk.name("later"))
        child = desk.program.take.after(later).enqueue(desk.name("child-"), result_of(parent))
        of_alias = desk.program.take.after(later).enqueue(desk.name("of-alias-"), result_of(alias))
        desk.wait(child, of_alias)
    for name in ("SUCCEEDED", "DELETED"):
        monkeypatch.setenv(f"BROKER_JOBS_KEEP_{name}", "0.001")
    with program(url, store) as desk:
        eventually(lambda: is_forgotten(desk, old.id), SECONDS, "what nobody needs is forgotten")
        for needed in (first, alias, parent, kept):
            assert not is_forgotten(desk, needed.id)
        assert desk.go("again", unique=window).result(timeout=SECONDS) == "kept"
        desk.jobs.receipt(later.id).requeue()
        assert desk.jobs.receipt(child.id).result(timeout=SECONDS) == "child-parent"
        assert desk.jobs.receipt(of_alias.id).result(timeout=SECONDS) == "of-alias-first"
