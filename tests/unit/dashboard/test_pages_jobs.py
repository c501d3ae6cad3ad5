"""The list of jobs: what a query string means, what stands in the rows, and commands about many."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import parse_qsl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker_jobs import Receipt, State
from broker_jobs.clock import as_datetime
from broker_jobs.dashboard.forms.job_query import active_filters, form_fields, parse_query, query_string
from broker_jobs.dashboard.forms.typed_values import parse_datetime
from broker_jobs.dashboard.pages.bulk import affected_states, result_text
from broker_jobs.dashboard.role import Role
from broker_jobs.dashboard.views import JobsQuery
from tests.support.wait import eventually
from tests.unit.dashboard.shop import HOSTILE, Shop, filled, flash_of, shop_in

MOST_BYTES = 60_000
"""Of a page's HTML with fifty rows."""


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    with shop_in(tmp_path_factory.mktemp("shop")) as shop:
        yield shop


@pytest.fixture(scope="module")
def made(shop: Shop) -> dict[str, Receipt[object]]:
    return filled(shop)


# --- the query string ---

WORD = st.text(min_size=1, max_size=20).map(str.strip).filter(lambda text: text and "\x00" not in text)
MOMENT = st.integers(0, 32_000_000_000).map(as_datetime)
QUERY = st.builds(
    JobsQuery,
    state=st.none() | st.sampled_from(State),
    unknown=st.none() | st.booleans(),
    queue=st.none() | WORD,
    job=st.none() | WORD,
    text=st.none() | WORD,
    error_text=st.none() | WORD,
    tag=st.none() | WORD,
    created_after=st.none() | MOMENT,
    created_before=st.none() | MOMENT,
    sort=st.sampled_from(["newest", "oldest", "changed", "due"]),
    limit=st.integers(1, 500),
)


@given(QUERY)
def test_a_query_survives_its_query_string(query: JobsQuery) -> None:
    back = parse_query(dict(parse_qsl(query_string(query).removeprefix("?"))), 50)
    assert (back.query, back.mistakes) == (query, [])


@given(QUERY)
def test_every_filter_has_a_chip_and_its_link_leaves_that_one_out(query: JobsQuery) -> None:
    chips = active_filters(query, "state")
    assert len(chips) == len(form_fields(query, "state", "sort", "limit"))
    for chip in chips:
        left = parse_query(dict(parse_qsl(chip.without.removeprefix("?"))), 50).query
        assert len(active_filters(left, "state")) == len(chips) - 1
        assert (left.state, left.sort) == (query.state, query.sort)


def test_another_filter_begins_at_the_first_page_again() -> None:
    assert query_string(JobsQuery(cursor="c", queue="mail"), queue="slow") == "?queue=slow"
    assert query_string(JobsQuery(cursor="c"), cursor="d") == "?cursor=d"


def test_what_cannot_be_asked_is_told_and_left_out() -> None:
    asked = parse_query({"state": "nope", "limit": "9999", "queue": "mail", "created_after": "yesterday", "x": "1"}, 20)
    assert asked.query == JobsQuery(queue="mail", limit=20)
    assert len(asked.mistakes) == 3
    assert any("'nope'" in text for text in asked.mistakes)


def test_a_time_without_a_zone_is_utc_and_an_impossible_one_none() -> None:
    assert parse_datetime("2026-01-31T08:00") == datetime(2026, 1, 31, 8, tzinfo=UTC)
    assert parse_datetime("2026-01-31T08:00+02:00") == datetime(2026, 1, 31, 6, tzinfo=UTC)
    for text in ("", "nope", "2026-13-01", "0001-01-01T00:00+14:00", "9999-12-31T23:59-14:00", "3000-01-01"):
        assert parse_datetime(text) is None, text


# --- the page ---


def test_the_list_shows_every_state_with_its_word_and_count(shop: Shop, made: dict[str, Receipt[object]]) -> None:
    page = shop.visitor().see("/jobs")
    for state in State:
        assert re.search(rf'href="/jobs\?state={state.value}"[^>]*>.*{state.value}', page)
    for receipt in made.values():
        assert f'href="/jobs/{receipt.id}"' in page
    assert "ValueError: order 1 has no card" in page
    assert "import &lt;b&gt;" not in page  # a batch's title is no part of the list
    assert "3 of 10" not in page


def test_each_filter_finds_its_jobs(shop: Shop, made: dict[str, Receipt[object]]) -> None:
    person = shop.visitor()
    for query, name in [
        ("state=failed", "failed"),
        ("queue=mail&state=scheduled", "later"),
        ("job=pay", "paid"),
        (f"batch={shop.store.reader.jobs.get(made['member'].id).batch}", "member"),  # type: ignore[union-attr]
        (f"text={made['succeeded'].id}", "succeeded"),
    ]:
        page = person.see(f"/jobs?{query}")
        assert made[name].id in page, query
        others = [other for other in made if other != name and f'href="/jobs/{made[other].id}"' in page]
        assert name == "failed" or not others, (query, others)


def test_a_filter_is_a_chip_that_can_be_removed(shop: Shop, made: dict[str, Receipt[object]]) -> None:
    page = shop.visitor().see("/jobs?state=failed&queue=no-such&tag=<b>")
    assert "No failed job matches these filters" in page
    assert re.search(r'href="/jobs\?state=failed&amp;tag=%3Cb%3E"[^>]*remove the filter queue no-such', page)
    assert "<b>" not in page.partition('<ul class="active-filters"')[2].partition("</ul>")[0]


def test_pages_go_on_and_back_to_the_start(shop: Shop, made: dict[str, Receipt[object]]) -> None:
    person = shop.visitor()
    seen: list[str] = []
    path: str | None = "/jobs?limit=3"
    while path:
        page = person.see(path)
        seen += re.findall(r'name="ids" value="([^"]+)"', page)
        assert ("First page" in page) == ("cursor" in path)
        found = re.search(r'href="([^"]+)" rel="next"', page)
        path = found.group(1).replace("&amp;", "&") if found else None
    assert len(seen) == len(set(seen)) >= len(made)
    assert seen == sorted(seen, reverse=True)


def test_nonsense_in_the_address_is_told_and_harmless(shop: Shop) -> None:
    page = shop.visitor().see("/jobs?state=<b>&sort=up&limit=x&created_before=%00&cursor=%FF")
    assert "&lt;b&gt;" in page
    assert "<b>" not in page.partition("<main")[2]


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/jobs?state=failed&sort=due", 200),  # the tab of another state, in a list sorted by when jobs are due
        ("/jobs?state=failed&sort=due&cursor=x", 200),
        ("/jobs?text=" + "x" * 2_000, 422),
        ("/jobs/bulk/none", 404),
        ("/audit?cursor=x", 422),
        ("/audit?text=" + "x" * 60_000, 422),
        ("/audit?by=%00", 422),
        ("/batches?text=%00", 422),
        ("/jobs/%00", 404),
        ("/recurring/a%00", 404),
        ("/batches?cursor=x", 422),
        ("/dead-letters?cursor=x", 422),
    ],
)
def test_an_address_that_cannot_be_is_no_trouble_of_the_system(shop: Shop, path: str, status: int) -> None:
    shop.visitor().see(path, status)


def test_fifty_rows_of_hostile_text_are_escaped_and_short(shop: Shop) -> None:
    receipts = [shop.repeat.enqueue(text, fail=index % 2 == 0) for index, text in enumerate(HOSTILE * 6)]
    shop.ends(*receipts)
    page = shop.visitor().see("/jobs?job=repeat&limit=50")
    assert page.count('name="ids"') == 50
    assert len(page.encode()) < MOST_BYTES
    assert "<script>alert" not in page
    assert "<img src=x" not in page
    assert "w" * 400 not in page
    assert "49 " not in flash_of(page)
    assert not re.search(r'href="(?!/|#)', page)


def test_a_viewer_sees_no_boxes_and_may_send_nothing(shop: Shop, made: dict[str, Receipt[object]]) -> None:
    person = shop.visitor(Role.VIEWER)
    page = person.see("/jobs")
    assert 'name="ids"' not in page
    assert 'name="action"' not in page
    person.see("/jobs/bulk?action=delete", status=403)
    person.send("/jobs/bulk", page="/jobs", status=403, action="delete", ids=[made["succeeded"].id])
    assert shop.state(made["succeeded"].id) == "succeeded"


def test_without_a_token_nothing_is_done(shop: Shop, made: dict[str, Receipt[object]]) -> None:
    person = shop.visitor()
    person.send("/jobs/bulk", page="/jobs", status=403, csrf="x", action="delete", ids=[made["succeeded"].id])
    assert shop.state(made["succeeded"].id) == "succeeded"


# --- many at once ---


def test_selected_jobs_are_deleted_and_requeued(shop: Shop) -> None:
    person = shop.visitor()
    later = [shop.welcome.schedule(timedelta(days=1), n) for n in range(3)]
    shop.ends(*later, as_=State.SCHEDULED)
    page = person.send("/jobs/bulk", page="/jobs?state=scheduled", action="delete", ids=[r.id for r in later[:2]])
    assert "2 jobs deleted" in flash_of(page)
    assert 'aria-current="page"' in page
    assert [shop.state(r.id) for r in later] == ["deleted", "deleted", "scheduled"]
    page = person.send("/jobs/bulk", page="/jobs", action="requeue", ids=[later[0].id])
    assert "1 job requeued" in flash_of(page)
    shop.ends(later[0], as_=State.SUCCEEDED)


def test_nothing_selected_is_told(shop: Shop) -> None:
    page = shop.visitor().send("/jobs/bulk", page="/jobs", action="delete")
    assert "No job is selected" in flash_of(page)


def test_all_that_match_are_told_before_and_done_as_one_command(shop: Shop) -> None:
    person = shop.visitor()
    failed = [shop.charge.using(tags=["run-9"]).enqueue(n) for n in range(4)]
    kept = shop.charge.enqueue(1)
    shop.ends(*failed, kept, as_=State.FAILED)
    page = person.see("/jobs?state=failed&tag=run-9")
    link = re.search(r'href="(/jobs/bulk\?action=delete[^"]*)"', page)
    assert link
    asked = person.see(link.group(1).replace("&amp;", "&"))
    assert "Delete 4 jobs?" in asked
    fields = dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)"', asked.partition('name="all"')[2]))
    assert fields == {"state": "failed", "tag": "run-9"}
    before = len(shop.store.reader.audit.newest())
    page = person.send("/jobs/bulk", page="/jobs", action="delete", all="1", **fields)
    assert "4 jobs deleted" in flash_of(page)
    assert {shop.state(r.id) for r in failed} == {"deleted"}
    assert shop.state(kept.id) == "failed"
    audit = shop.store.reader.audit.newest()
    assert (len(audit) - before, audit[0].kind, audit[0].by) == (1, "bulk delete", "authorized")


def test_a_search_cannot_be_a_command_about_all(shop: Shop, made: dict[str, Receipt[object]]) -> None:
    person = shop.visitor()
    assert "/jobs/bulk?action" not in person.see("/jobs?text=charge")
    assert re.search(r"<button[^>]*disabled", person.see("/jobs/bulk?action=delete&text=charge"))
    page = person.send("/jobs/bulk", page="/jobs", all="1", action="delete", text="charge")
    assert "bulk commands have no filter text" in flash_of(page)
    assert shop.state(made["failed"].id) == "failed"


def test_a_filter_that_is_not_understood_is_no_command_about_more(shop: Shop, made: dict[str, Receipt[object]]) -> None:
    page = shop.visitor().send("/jobs/bulk", page="/jobs", all="1", action="delete", state="failled")
    assert "nothing was done" in flash_of(page)
    assert shop.state(made["failed"].id) == "failed"


def test_what_takes_longer_has_a_page_of_its_own(shop: Shop) -> None:
    person = shop.visitor()
    receipt = shop.charge.enqueue(3)
    shop.ends(receipt, as_=State.FAILED)
    command = shop.context.actions.delete_many("me", [receipt.id])  # type: ignore[union-attr]
    page = eventually(
        lambda: (
            page
            if ">Done<" in (page := person.see(f"/jobs/bulk/{command}?action=delete&back=/jobs?queue=mail"))
            else ""
        )
    )
    assert "1 job deleted" in page
    assert 'href="/jobs?queue=mail"' in page
    assert 'href="//evil' not in person.see(f"/jobs/bulk/{command}?back=//evil.example/")


def test_what_is_meant_without_a_state() -> None:
    assert affected_states("requeue", None) == (State.FAILED,)
    assert set(affected_states("delete", None)) == {State.AWAITING, State.SCHEDULED, State.ENQUEUED, State.PROCESSING}
    assert affected_states("delete", State.SUCCEEDED) == (State.SUCCEEDED,)


def test_how_a_command_has_ended_in_words() -> None:
    assert result_text("delete", {"done": 1, "refused": 0}) == "1 job deleted."
    assert result_text("requeue", {"done": 3, "refused": 1}).startswith("3 jobs requeued. 1 refused")
    assert (
        result_text("requeue", {"done": 0, "refused": 2})
        == "0 jobs requeued. 2 refused: their state does not allow it."
    )


def test_an_empty_system_says_where_to_begin(tmp_path: Path) -> None:
    with shop_in(tmp_path) as empty:
        assert "no job yet" in empty.visitor().see("/jobs")
