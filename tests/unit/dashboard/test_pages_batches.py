"""The pages of batches."""

import re
from collections.abc import Iterator

import pytest

from broker_jobs.dashboard.role import Role
from broker_jobs.messages.state import State
from tests.support.hostile import ALL, SCRIPT
from tests.support.wait import eventually
from tests.unit.dashboard.system import System, assert_harmless, row_of, system_in, words_of


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    with system_in(tmp_path_factory.mktemp("system")) as system:
        yield system


def test_the_list_says_how_far_each_is_in_words_too(system: System) -> None:
    page = system.person(Role.VIEWER).see("/batches")
    assert_harmless(page)
    row = row_of(page, f"import {ALL}")
    assert "✕ failed" in row
    assert "100 %" in row
    assert 'aria-label="100 % of 8 ended: 4 succeeded, 4 failed"' in page
    assert "processing" in row_of(page, "after the import")
    assert system.hostile.batches["untitled"].id in page, "a batch without a title is named by its id"


def test_the_list_is_found_by_state_and_title(system: System) -> None:
    viewer = system.person(Role.VIEWER)
    page = viewer.see("/batches?state=processing")
    assert "after the import" in words_of(page)
    assert "inside <" not in words_of(page.partition("<main")[2])
    page = viewer.see("/batches?text=AFTER+the")
    assert "after the import" in words_of(page)
    assert len(re.findall("<tr>", page)) == 2
    page = viewer.see("/batches?text=%3Cscript%3Enothing")
    assert_harmless(page)
    assert "No batch matches" in words_of(page)


def test_a_long_list_goes_on(system: System) -> None:
    viewer = system.person(Role.VIEWER)
    object.__setattr__(system.context, "page_size", 2)
    try:
        first = viewer.see("/batches")
        older = re.search(r'href="([^"]*cursor=[^"]*)"', first)
        assert older
        second = viewer.see(older.group(1).replace("&amp;", "&"))
    finally:
        object.__setattr__(system.context, "page_size", 50)
    seen = [re.findall(r'<th scope="row"><a href="/batches/([^"]+)"', page) for page in (first, second)]
    assert [len(ids) for ids in seen] == [2, 2]
    assert len({*seen[0], *seen[1]}) == 4


def test_a_batch_shows_its_tree_failures_and_members(system: System) -> None:
    batch, inside = system.hostile.batches["import"], system.hostile.batches["inside"]
    page = system.person(Role.VIEWER).see(f"/batches/{batch.id}")
    assert_harmless(page)
    words = words_of(page)
    assert f"import {ALL}" in words
    assert "3 GiveUp" in words or "3 broker_jobs.errors.GiveUp" in words
    assert "another error" in words, "failures of a batch inside are failures too"
    assert f'href="/batches/{inside.id}"' in page
    assert f'href="/batches/{system.hostile.batches["later"].id}"' in page, "what waits for it is linked"
    assert "<button" not in page.partition("<main")[2]


def test_the_link_of_a_group_of_failures_finds_just_them(system: System) -> None:
    batch = system.hostile.batches["import"]
    viewer = system.person(Role.VIEWER)
    page = viewer.see(f"/batches/{batch.id}")
    links = re.findall(r'<td class="number"[^>]*><a href="(/jobs\?[^"]*error_text[^"]*)">(\d+)</a>', page)
    assert sorted(count for _, count in links) == ["1", "3"]
    for link, count in links:
        listed = viewer.see(link.replace("&amp;", "&"))
        assert len(re.findall(r'<th scope="row"><a href="/jobs/', listed)) == int(count)


def test_all_failures_are_run_again_by_one_command(system: System) -> None:
    batch = system.hostile.batches["import"]
    person = system.person(Role.OPERATOR)
    system.hostile.mended.set()
    shown = person.send(f"/batches/{batch.id}/requeue", page=f"/batches/{batch.id}")
    assert "4 jobs requeued" in words_of(shown)
    assert batch.wait(timeout=20) is State.SUCCEEDED
    assert "Failures" not in words_of(person.see(f"/batches/{batch.id}").partition("<main")[2])
    assert len(system.audited("bulk requeue")) == 1


def test_what_has_not_ended_is_deleted(system: System) -> None:
    later = system.hostile.batches["later"]
    person = system.person(Role.OPERATOR)
    assert "data-confirm=" in person.see(f"/batches/{later.id}")
    shown = person.send(f"/batches/{later.id}/delete", page=f"/batches/{later.id}")
    assert "Running jobs are asked to stop" in words_of(shown)
    system.hostile.gate.set()
    eventually(lambda: later.state().is_final)
    assert "data-confirm=" not in person.see(f"/batches/{later.id}")
    shown = person.send(f"/batches/{later.id}/delete", page="/queues")
    assert "The batch had already ended" in words_of(shown)
    assert [subject for _, subject in system.audited("batch delete")] == [later.id, later.id]


def test_a_batch_nobody_knows_is_not_there(system: System) -> None:
    page = system.person().see(f"/batches/{SCRIPT.replace('/', '%2F')}", status=404)
    assert_harmless(page)


def test_a_viewer_cannot_act(system: System) -> None:
    batch = system.hostile.batches["import"]
    for person in (system.person(Role.VIEWER), system.person(read_only=True)):
        for action in ("requeue", "delete"):
            person.send(f"/batches/{batch.id}/{action}", page="/batches", status=403)
