"""What is forgotten while others need it: the result of a parent, the original of an alias, the job of a window."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from broker_jobs import Unique, result_of
from tests.support.observed import SECONDS, ObservedProgram, View, store_in
from tests.support.wait import eventually

HOUR = timedelta(hours=1)


@contextmanager
def program(url: str, store: str) -> Iterator[View]:
    """A program that runs for a while."""
    running = ObservedProgram(url, store)
    try:
        yield View(running)
    finally:
        running.close()


def is_forgotten(view: View, id: str) -> bool:
    """Whether nothing is known of a job."""
    return view.dashboard().get(f"/api/v1/jobs/{id}").status_code == 404


def test_what_others_need_is_kept_however_old_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url, store = f"memory://{uuid.uuid4().hex}", store_in(tmp_path)
    window = Unique("window", scope=HOUR)
    running = Unique("running", scope="running")
    with program(url, store) as view:
        view.hold("first")
        first = view.go("first", unique=running)
        view.started("first")
        alias = view.go("alias", unique=running)
        view.barrier()
        view.let("first")
        old, parent, held = view.go_all(["old", "parent", "held"])
        kept = view.go("kept", unique=window)
        view.results([first, alias, old, parent, held, kept])
        later = view.program.work.schedule(HOUR, view.name("later"))
        child = view.program.take.after(later).enqueue(view.name("child-"), result_of(parent))
        of_alias = view.program.take.after(later).enqueue(view.name("of-alias-"), result_of(alias))
        view.wait(child, of_alias)
    for name in ("SUCCEEDED", "DELETED"):
        monkeypatch.setenv(f"BROKER_JOBS_KEEP_{name}", "0.001")
    with program(url, store) as view:
        eventually(lambda: is_forgotten(view, old.id), SECONDS, "what nobody needs is forgotten")
        for needed in (first, alias, parent, kept):
            assert not is_forgotten(view, needed.id)
        assert view.go("again", unique=window).result(timeout=SECONDS) == "kept"
        view.jobs.receipt(later.id).requeue()
        assert view.jobs.receipt(child.id).result(timeout=SECONDS) == "child-parent"
        assert view.jobs.receipt(of_alias.id).result(timeout=SECONDS) == "of-alias-first"
