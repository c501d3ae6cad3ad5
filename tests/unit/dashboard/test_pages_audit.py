"""The page of the audit."""

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from urllib.parse import quote

import pytest

from broker_jobs.dashboard.pages.audit import DESCRIPTIONS, audit_text
from broker_jobs.dashboard.role import Role
from broker_jobs.dashboard.views import AuditEntry
from tests.support.hostile import SLASHED
from tests.unit.dashboard.system import System, assert_harmless, row_of, system_in, words_of


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    with system_in(tmp_path_factory.mktemp("system")) as system:
        yield system


def _line(kind: str, ok: bool = True, refused: str | None = None, **detail: object) -> AuditEntry:
    answer = {"id": "1", "ok": ok, "detail": detail} | ({"refused": refused} if refused else {})
    at = datetime(2026, 1, 1, tzinfo=UTC)
    return AuditEntry(id="1", at=at, by="ann", user_id="", kind=kind, subject="it", detail=json.dumps(answer))


def test_pausing_is_told_from_resuming_and_a_refusal_from_an_action() -> None:
    assert audit_text(_line("queue pause", paused=True)).what == "paused a queue"
    assert audit_text(_line("queue pause", paused=False)).what == "resumed a queue"
    assert audit_text(_line("recurring pause", paused=False)).what == "resumed a recurring job"
    assert audit_text(_line("limit set", limit=5)).detail == "to 5"
    assert audit_text(_line("limit set", limit=None)).detail == "override removed"
    refused = audit_text(_line("requeue", ok=False, refused="it runs"))
    assert (refused.refused, refused.detail) == (True, "it runs")


def test_what_is_no_answer_is_shown_as_it_is() -> None:
    line = _line("something newer")
    for text in ("", "plain words", "[1]", '"x"', "{"):
        told = audit_text(line.model_copy(update={"detail": text}))
        assert (told.what, told.detail) == ("something newer", text)


def test_everything_that_was_done_is_there_with_who_did_it(system: System) -> None:
    page = system.person(Role.VIEWER).see("/audit")
    assert_harmless(page)
    main = words_of(page.partition("<main")[2])
    for kind in ("delete", "recurring put", "recurring declare", "recurring trigger", "limit set"):
        assert DESCRIPTIONS[kind] in main
    assert "to 50" in row_of(page, DESCRIPTIONS["limit set"])
    assert f'href="/recurring/{quote(SLASHED)}"' in page


def test_it_is_found_by_who_and_by_what(system: System) -> None:
    person = system.person(Role.OPERATOR)
    person.send("/queues/mail/pause", page="/queues")
    person.send("/queues/mail/resume", page="/queues")
    by = system.audited("queue pause")[0][0]
    assert by
    assert "as memory" in words_of(person.see("/audit").partition("<tbody")[2]), "the broker's user, beside the name"
    mine = person.see(f"/audit?by={by}")
    assert len(re.findall("<tr>", mine)) == 3
    assert "paused a queue" in words_of(mine)
    assert "resumed a queue" in words_of(mine)
    found = person.see("/audit?text=every+second")
    assert "every second" in words_of(found)
    assert "mail" not in words_of(found.partition("<tbody")[2])
    assert "No entry matches" in words_of(person.see("/audit?by=%3Cb%3Enobody"))


def test_a_long_audit_goes_on(system: System) -> None:
    viewer = system.person(Role.VIEWER)
    object.__setattr__(system.context, "page_size", 3)
    try:
        seen: list[str] = []
        address = "/audit"
        while address:
            page = viewer.see(address)
            seen += re.findall(r"<tr>(.*?)</tr>", page.partition("<tbody")[2], re.DOTALL)
            older = re.search(r'href="([^"]*cursor=[^"]*)"', page)
            address = older.group(1).replace("&amp;", "&") if older else ""
    finally:
        object.__setattr__(system.context, "page_size", 50)
    assert len(seen) == len(system.store.reader.audit.newest(500))
