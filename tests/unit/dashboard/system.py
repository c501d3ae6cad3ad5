"""The hostile program of `tests/support/hostile.py`, running in this process, and people who look at it."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from broker_jobs.clock import SystemClock
from broker_jobs.dashboard.actions import Actions
from broker_jobs.dashboard.app import build_app
from broker_jobs.dashboard.auth import Authentication
from broker_jobs.dashboard.context import RequestContext
from broker_jobs.dashboard.credentials import Credentials
from broker_jobs.dashboard.masking import Masking
from broker_jobs.dashboard.queries import Queries
from broker_jobs.dashboard.role import Role
from broker_jobs.store import Store
from tests.support.hostile import Hostile, fill, hostile
from tests.unit.dashboard.shop import Person


class System:
    """A full system, and its request context."""

    def __init__(self, hostile: Hostile, store: Store) -> None:
        self.hostile = hostile
        self.store = store
        keep = dict.fromkeys(("succeeded", "failed", "deleted"), 86400.0)
        self.queries = Queries(store.reader, Masking(("password", "token")), SystemClock(), keep)
        self.context = RequestContext(self.queries, Actions(hostile.program._requests, self.queries), SystemClock())

    def person(self, role: Role = Role.ADMIN, *, read_only: bool = False) -> Person:
        """Somebody of this role."""
        access = Authentication(
            Credentials(), authorize=lambda _: role, key=lambda: b"k" * 32, clock=SystemClock(), read_only=read_only
        )
        return Person(build_app(self.context, access))

    def audited(self, kind: str) -> list[tuple[str, str]]:
        """Who did something of this kind, and to what; the newest first."""
        return [(row.by, row.subject) for row in self.store.reader.audit.newest(200) if row.kind == kind]


@contextmanager
def system_in(folder: Path) -> Iterator[System]:
    """A system that runs."""
    address = f"sqlite:///{folder / 'store.db'}"
    program = hostile(store=address)
    store = Store(address)
    try:
        fill(program)
        store.open()
        yield System(program, store)
    finally:
        program.gate.set()
        program.program.stop(5)
        store.close()


def words_of(page: str) -> str:
    """What a page says, in one line, as a person reads it."""
    body = re.sub(r"<head>.*?</head>", " ", page, flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", body)).split())


def row_of(page: str, word: str) -> str:
    """The row of a table that has this word, as words."""
    rows = [words_of(row) for row in re.findall(r"<tr>.*?</tr>", page, flags=re.DOTALL)]
    found = [row for row in rows if word in row]
    assert found, f"no row has {word!r}: {rows}"
    return found[0]


def assert_harmless(page: str) -> None:
    """Nothing of the hostile texts has become markup."""
    tags = re.findall(r"<\s*(\w+)([^>]*)>", page)
    assert not [name for name, _ in tags if name in {"iframe", "object", "embed", "style"}]
    for name, attributes in tags:
        assert not re.search(r"\son\w+\s*=", re.sub(r'"[^"]*"', '""', attributes)), attributes
        if name in {"script", "img"}:
            assert re.search(r'\ssrc="/static/', attributes), attributes
    assert "style=" not in re.sub(r'"[^"]*"', '""', page)
