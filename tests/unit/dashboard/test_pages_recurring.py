"""The pages of recurring jobs: list, one, its times changed, a new one."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker_jobs.clock import as_datetime
from broker_jobs.dashboard.forms.cron_form import local_times, preview_times
from broker_jobs.dashboard.role import Role
from broker_jobs.dashboard.views import ScheduleView
from broker_jobs.errors import OptionError
from tests.support.hostile import ALL, JOB, SCRIPT, SLASHED
from tests.support.wait import eventually
from tests.unit.dashboard.system import System, assert_harmless, row_of, system_in, words_of

DECLARED = "declared/in/code"
ITS_PAGE = f"/recurring/{quote(SLASHED)}"
RULES: dict[str, Any] = {"misfire": "once", "overlap": "allow"}


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    with system_in(tmp_path_factory.mktemp("system")) as system:
        yield system


# --- the next times ---


def test_a_time_is_shown_as_two_clocks_show_it() -> None:
    found = local_times([datetime(2026, 7, 1, 6, tzinfo=UTC), datetime(2026, 12, 1, 7, tzinfo=UTC)], "Europe/Berlin")
    assert [(one.local, one.utc) for one in found] == [
        ("Wed 2026-07-01 08:00:00 CEST", "Wed 2026-07-01 06:00:00"),
        ("Tue 2026-12-01 08:00:00 CET", "Tue 2026-12-01 07:00:00"),
    ]


@given(st.floats(0, 32_000_000_000), st.text(max_size=30) | st.sampled_from(["UTC", "../etc/passwd", "\0", "Asia"]))
def test_no_zone_however_written_breaks_the_page(at: float, tz: str) -> None:
    assert len(local_times([as_datetime(at)], tz)) == 1


def test_what_is_wrong_with_a_form_is_told_and_shows_no_times() -> None:
    def refuse(cron: str, tz: str, count: int) -> list[float]:
        raise OptionError("no such thing")

    seen = preview_times("x", "UTC", refuse)
    assert (seen.times, seen.mistake) == ([], "no such thing")


# --- the list ---


def test_the_list_tells_when_each_ran_and_will_run(system: System) -> None:
    page = system.person(Role.VIEWER).see("/recurring")
    assert_harmless(page)
    assert f'href="{ITS_PAGE}"' in page
    assert "*/5 * * * * America/New_York" in row_of(page, SLASHED)
    assert "0 9 * * MON Europe/Istanbul" in row_of(page, DECLARED)
    assert "not yet" in row_of(page, DECLARED)
    assert "paused" in row_of(page, "every second")
    assert "<button" not in page.partition("<tbody")[2]


def test_the_list_is_searched(system: System) -> None:
    viewer = system.person(Role.VIEWER)
    page = viewer.see("/recurring?text=ISTANBUL")
    assert DECLARED in words_of(page)
    assert "every second" not in words_of(page)
    page = viewer.see(f"/recurring?text={quote(ALL)}%20not%20there")
    assert_harmless(page)
    assert "No recurring job has" in words_of(page)


# --- one ---


def test_one_shows_its_call_rules_next_times_and_last_runs(system: System) -> None:
    page = system.person(Role.VIEWER).see(ITS_PAGE)
    assert_harmless(page)
    words = words_of(page.partition("<main")[2])
    for word in (SLASHED, "in America/New_York", "in UTC", "run once, late", "run in parallel", "at run time"):
        assert word in words
    times = re.findall(r"<tr><td[^>]*>(\w{3} [\d-]+ [\d:]+ E[SD]T)</td>", page)
    assert len(times) == 5
    assert f'href="/jobs/{system.hostile.made["triggered"].id}"' in page
    assert "<form" not in page.partition("<main")[2]


def test_one_that_nobody_knows_is_not_there(system: System) -> None:
    assert_harmless(system.person().see(f"/recurring/{quote(SCRIPT)}", status=404))


def test_run_now_makes_a_job_and_leads_to_it(system: System) -> None:
    before = len(_schedule(system, SLASHED).runs)
    shown = system.person(Role.OPERATOR).send("/recurring-do", page=ITS_PAGE, name=SLASHED, do="trigger")
    made = re.search(r"runs now, as job ([0-9a-f-]+)", words_of(shown))
    assert made
    assert system.hostile.program.receipt(made.group(1)).result(timeout=120) == f"hello {ALL}"
    assert len(_schedule(system, SLASHED).runs) == before + 1


def test_a_paused_one_plans_nothing_until_it_is_resumed(system: System) -> None:
    person = system.person(Role.OPERATOR)
    shown = person.send("/recurring-do", page=ITS_PAGE, name=SLASHED, do="pause")
    assert "It does not run until you resume it" in words_of(shown)
    assert "Next runs" not in words_of(shown)
    assert _schedule(system, SLASHED).paused
    shown = person.send("/recurring-do", page=ITS_PAGE, name=SLASHED, do="resume")
    assert "Next runs" in words_of(shown)
    assert not _schedule(system, SLASHED).paused


def test_times_are_previewed_before_they_count(system: System) -> None:
    times: dict[str, Any] = {"cron": "0 30 3 * * *", "tz": "Asia/Kathmandu", "misfire": "skip", "overlap": "queue"}
    page = system.person().send(ITS_PAGE, page=ITS_PAGE, do="preview", **times)
    assert_harmless(page)
    assert "Next runs with this schedule" in words_of(page)
    assert "in Asia/Kathmandu" in words_of(page)
    assert "03:30:00 +0545" in words_of(page)
    assert 'value="0 30 3 * * *"' in page, "what was typed stays"
    assert '<option value="queue" selected>' in page
    assert _schedule(system, SLASHED).cron == "*/5 * * * *"


def test_times_are_changed_and_the_call_stays(system: System) -> None:
    before = _schedule(system, SLASHED)
    times: dict[str, Any] = {"cron": "0 30 3 * * *", "tz": "Asia/Kathmandu", "misfire": "skip", "overlap": "queue"}
    page = system.person(Role.OPERATOR).send(ITS_PAGE, page=ITS_PAGE, do="change", **times)
    assert "Changed. Next run: " in words_of(page)
    after = _schedule(system, SLASHED)
    assert (after.cron, after.tz, after.misfire, after.overlap) == tuple(times.values())
    assert (after.call, after.arguments, after.service) == (before.call, before.arguments, before.service)


@pytest.mark.parametrize(
    ("cron", "tz", "said"),
    [
        ("0 9 * * MO", "UTC", "'MO' is not a valid weekday"),
        ("* * *", "UTC", "has 3 fields"),
        (SCRIPT, "UTC", "fields"),
        ("0 0 30 2 *", "UTC", "never fires"),
        ("0 9 * * *", f"Europe/{SCRIPT}", "unknown time zone"),
        ("0 9 * * *", "Europe/Istambul", "did you mean 'Europe/Istanbul'"),
    ],
)
def test_what_is_wrong_is_told_and_what_was_typed_stays(system: System, cron: str, tz: str, said: str) -> None:
    before = _schedule(system, "every second")
    page_of = "/recurring/every%20second"
    for do in ("preview", "change"):
        page = system.person().send(page_of, page=page_of, status=422, do=do, cron=cron, tz=tz, **RULES)
        assert_harmless(page)
        assert said in words_of(page)
        assert cron in words_of(page.replace('value="', ">"))
    assert _schedule(system, "every second") == before


def test_one_that_code_declares_says_that_a_change_is_overwritten_and_it_is(system: System) -> None:
    page_of = f"/recurring/{DECLARED}"
    person = system.person()
    words = words_of(person.see(page_of))
    assert "until a beat of that program starts" in words
    assert "change the code" in words
    person.send(page_of, page=page_of, do="change", cron="0 1 * * *", tz="UTC", **RULES)
    person.send("/recurring-do", page=page_of, name=DECLARED, do="pause")
    changed = _schedule(system, DECLARED)
    assert (changed.cron, changed.paused) == ("0 1 * * *", True)
    program = system.hostile.program._program
    assert program is not None
    assert program.beat is not None
    program.beat.declare(system.hostile.program.recurring.declared(system.hostile.program.service))  # as at its start
    eventually(lambda: _schedule(system, DECLARED).cron == "0 9 * * MON", what="the code's times")
    assert _schedule(system, DECLARED).paused, "a pause stays"


def test_one_is_removed_and_its_jobs_stay(system: System) -> None:
    system.hostile.program.recurring.put("short-lived/x", "0 0 1 1 *", system.hostile.jobs["greet"].bind("x"))
    person = system.person()
    assert "data-confirm=" in person.see("/recurring/short-lived/x")
    shown = person.send("/recurring-do", page="/recurring/short-lived/x", name="short-lived/x", do="remove")
    assert "short-lived/x is removed" in words_of(shown)
    assert system.queries.schedules.get("short-lived/x") is None
    shown = person.send("/recurring-do", page="/queues", name="short-lived/x", do="trigger")
    assert "no recurring job is named" in words_of(shown)


def test_a_piece_of_a_page_shows_the_next_times_while_they_are_typed(system: System) -> None:
    viewer = system.person(Role.VIEWER)
    piece = viewer.see("/recurring-times?cron=0+9+*+*+*&tz=Europe/Istanbul")
    assert "<html" not in piece
    assert piece.count("09:00:00 +03") == 5
    piece = viewer.see(f"/recurring-times?cron={quote(SCRIPT)}&tz=UTC")
    assert_harmless(piece)
    assert "fields" in piece


# --- a new one ---


def test_a_new_one_is_made_of_a_declared_function(system: System) -> None:
    person = system.person()
    eventually(lambda: system.queries.functions.get(JOB), what="the functions of the program")
    chosen = person.see("/recurring-new?text=GREET")
    assert_harmless(chosen)
    page_of = f"/recurring-new?job={quote(JOB)}"
    assert_harmless(person.see(page_of))
    fields: dict[str, Any] = {"name": f"new {SCRIPT}", "cron": "0 0 1 1 *", "tz": "UTC", **RULES}
    typed = {"arg-who": ALL}
    page = person.send(page_of, typed, page=page_of, do="preview", **fields)
    assert "Next runs with this schedule" in words_of(page)
    page = person.send(page_of, {}, page=page_of, do="add", status=422, **fields)
    assert_harmless(page)
    assert "Nothing was added" in words_of(page)
    assert system.queries.schedules.get(fields["name"]) is None
    page = person.send(page_of, typed, page=page_of, do="add", priority="low", **fields)
    assert "<dt>Priority</dt><dd>low</dd>" in page
    assert "Added. Next run: " in words_of(page)
    made = _schedule(system, fields["name"])
    assert [(one.name, one.value) for one in made.arguments] == [("who", ALL)]
    page = person.send(page_of, typed, page=page_of, do="add", status=422, **fields)
    assert "There is already a recurring job" in words_of(page), "a name that is taken overwrites nothing"
    id = system.context.actions.schedules.trigger("test", fields["name"])
    assert system.hostile.program.receipt(id).result(timeout=120) == f"hello {ALL}"


def test_who_may_do_what(system: System) -> None:
    for person in (system.person(Role.VIEWER), system.person(read_only=True)):
        for do in ("trigger", "pause", "resume", "remove"):
            person.send("/recurring-do", page="/recurring", status=403, name=SLASHED, do=do)
        person.send(ITS_PAGE, page=ITS_PAGE, status=403, do="change", cron="* * * * *", tz="UTC", **RULES)
        person.see("/recurring-new", status=403)
        person.send(f"/recurring-new?job={quote(JOB)}", page="/recurring", status=403, do="add")
    operator = system.person(Role.OPERATOR)
    operator.see("/recurring-new", status=403)
    assert "Add a recurring job" not in words_of(operator.see("/recurring"))


def _schedule(system: System, name: str) -> ScheduleView:
    found = system.queries.schedules.get(name)
    assert found is not None
    return found
