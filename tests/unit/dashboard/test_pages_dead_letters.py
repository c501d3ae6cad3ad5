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
from tests.unit.dashboard.system import House, assert_harmless, house_in, words_of

LOG, COMMAND, WORK = f"log/{SCRIPT}", "c 1", "work"
"""What their senders call them: of a dead letter a fact beside others, not its id."""


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with house_in(tmp_path_factory.mktemp("house")) as house:
        eventually(lambda: house.store.reader.dead_letter_count() == 3, what="three dead letters")
        yield house


def id_of(house: House, message_id: str) -> str:
    """The id of the dead letter that its sender called so."""
    return next((row.id for row in house.store.reader.dead_letters(100) if row.message_id == message_id), "")


def test_the_list_says_why_and_how_large(house: House) -> None:
    page = house.person(Role.VIEWER).see("/dead-letters")
    assert_harmless(page)
    assert "3 messages" in words_of(page)
    linked = {unquote(path) for path in re.findall(r'href="/dead-letters/([^"]+)"', page)}
    assert {id_of(house, LOG), id_of(house, COMMAND), id_of(house, WORK)} <= linked
    assert "this program reads version 1" in words_of(page)
    for origin in ORIGINS.values():
        assert origin.do in words_of(page)


def test_a_message_is_shown_raw_and_masked(house: House) -> None:
    viewer = house.person(Role.VIEWER)
    page = viewer.see(f"/dead-letters/{quote(id_of(house, LOG))}")
    assert_harmless(page)
    assert "<button" not in page.partition("<main")[2]
    assert "no JSON at all" in words_of(page)
    assert r"\xff" in page
    page = viewer.see(f"/dead-letters/{quote(id_of(house, COMMAND))}")
    assert "drop tables" in words_of(page)
    assert "hunter2" not in page
    viewer.see("/dead-letters/nowhere", status=404)


def test_a_message_that_still_cannot_be_read_stays(house: House) -> None:
    page = f"/dead-letters/{quote(id_of(house, WORK))}"
    shown = house.person().send(f"{page}/replay", page=page)
    assert "it still cannot be read" in words_of(shown)
    assert house.store.reader.dead_letter_count() >= 1


def test_a_message_is_deleted_for_good(house: House) -> None:
    id = id_of(house, LOG)
    shown = house.person().send(f"/dead-letters/{quote(id)}/delete", page=f"/dead-letters/{quote(id)}")
    assert "The message is deleted." in words_of(shown)
    assert quote(id) not in shown
    assert house.audited("dead letter delete")[0][0]
    assert house.audited("dead letter delete")[0][1] == id


def test_a_message_that_can_be_read_now_is_replayed(house: House) -> None:
    """As after an upgrade: the dead letter is put into the store as a program that understands it would read it."""
    envelope = house.store.reader.job(house.hostile.made["succeeded"].id)
    assert envelope is not None
    body = envelope.envelope.replace(envelope.id, "parked-and-replayed").encode()
    sender = house.hostile.program._connection
    message = Message(names.DEAD_LETTERS, "default", body, type="dead-lettered:by a test", message_id="again")
    assert sender.broker().publish([message]).result(20) == [None]
    id = eventually(lambda: id_of(house, "again"), what="the dead letter")
    shown = house.person().send(f"/dead-letters/{quote(id)}/replay", page=f"/dead-letters/{quote(id)}")
    assert "was read and is decided" in words_of(shown)
    assert house.hostile.program.receipt("parked-and-replayed").result(timeout=20)


def test_only_an_administrator_replays_and_deletes(house: House) -> None:
    for person in (house.person(Role.OPERATOR), house.person(Role.VIEWER), house.person(read_only=True)):
        for deed in ("replay", "delete"):
            person.send(f"/dead-letters/{quote(id_of(house, WORK))}/{deed}", page="/dead-letters", status=403)
    assert id_of(house, WORK)
