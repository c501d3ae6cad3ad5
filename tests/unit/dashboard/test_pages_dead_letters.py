"""The pages of dead letters."""

import re
from collections.abc import Iterator
from urllib.parse import quote, unquote

import pytest

from broker_jobs.broker import names
from broker_jobs.broker.interface import Message
from broker_jobs.dashboard.pages.dead_letters import ORIGINS
from broker_jobs.dashboard.role import Role
from tests.support.hostile import SCRIPT
from tests.support.wait import eventually
from tests.unit.dashboard.system import System, assert_harmless, system_in, words_of

LOG, COMMAND, WORK = f"log/{SCRIPT}", "c 1", "work"
"""What their senders call them: of a dead letter a fact beside others, not its id."""


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    with system_in(tmp_path_factory.mktemp("system")) as system:
        eventually(lambda: system.store.reader.dead_letters.count() == 3, what="three dead letters")
        yield system


def id_of(system: System, message_id: str) -> str:
    """The id of the dead letter that its sender called so."""
    return next((row.id for row in system.store.reader.dead_letters.oldest(100) if row.message_id == message_id), "")


def test_the_list_says_why_and_how_large(system: System) -> None:
    page = system.person(Role.VIEWER).see("/dead-letters")
    assert_harmless(page)
    assert "3 dead letters" in words_of(page)
    linked = {unquote(path) for path in re.findall(r'href="/dead-letters/([^"]+)"', page)}
    assert {id_of(system, LOG), id_of(system, COMMAND), id_of(system, WORK)} <= linked
    assert "this program reads version 1" in words_of(page)
    for origin in ORIGINS.values():
        assert origin.do in words_of(page)


def test_a_message_is_shown_raw_and_masked(system: System) -> None:
    viewer = system.person(Role.VIEWER)
    page = viewer.see(f"/dead-letters/{quote(id_of(system, LOG))}")
    assert_harmless(page)
    assert "<button" not in page.partition("<main")[2]
    assert "no JSON at all" in words_of(page)
    assert r"\xff" in page
    page = viewer.see(f"/dead-letters/{quote(id_of(system, COMMAND))}")
    assert "drop tables" in words_of(page)
    assert "hunter2" not in page
    viewer.see("/dead-letters/nowhere", status=404)


def test_a_message_that_still_cannot_be_read_stays(system: System) -> None:
    page = f"/dead-letters/{quote(id_of(system, WORK))}"
    shown = system.person().send(f"{page}/replay", page=page)
    assert "it still cannot be read" in words_of(shown)
    assert system.store.reader.dead_letters.count() >= 1


def test_a_message_is_deleted_for_good(system: System) -> None:
    id = id_of(system, LOG)
    shown = system.person().send(f"/dead-letters/{quote(id)}/delete", page=f"/dead-letters/{quote(id)}")
    assert "The dead letter is deleted." in words_of(shown)
    assert quote(id) not in shown
    assert system.audited("dead letter delete")[0][0]
    assert system.audited("dead letter delete")[0][1] == id


def test_a_message_that_can_be_read_now_is_replayed(system: System) -> None:
    """As after an upgrade: the dead letter is put into the store as a program that understands it would read it."""
    envelope = system.store.reader.jobs.get(system.hostile.made["succeeded"].id)
    assert envelope is not None
    body = envelope.envelope.replace(envelope.id, "dead-and-replayed").encode()
    sender = system.hostile.program._connection
    message = Message(names.DEAD_LETTERS, "default", body, type="dead-lettered:by a test", message_id="again")
    assert sender.broker().publish([message]).result(20) == [None]
    id = eventually(lambda: id_of(system, "again"), what="the dead letter")
    shown = system.person().send(f"/dead-letters/{quote(id)}/replay", page=f"/dead-letters/{quote(id)}")
    assert "the message has been processed" in words_of(shown)
    assert system.hostile.program.receipt("dead-and-replayed").result(timeout=120)


def test_only_an_administrator_replays_and_deletes(system: System) -> None:
    for person in (system.person(Role.OPERATOR), system.person(Role.VIEWER), system.person(read_only=True)):
        for action in ("replay", "delete"):
            person.send(f"/dead-letters/{quote(id_of(system, WORK))}/{action}", page="/dead-letters", status=403)
    assert id_of(system, WORK)
