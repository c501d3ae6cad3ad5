"""One job: what its page tells, how hostile text looks in it, and what can be done to it."""

import json
import re
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker_jobs import Receipt, State
from broker_jobs.clock import as_datetime
from broker_jobs.dashboard.forms.argument_form import argument_inputs, read_arguments, restore_hidden
from broker_jobs.dashboard.masking import MASKED
from broker_jobs.dashboard.pages.charts import MAX_PER_SIDE, axis_number, bar_chart, relation_graph, round_up
from broker_jobs.dashboard.pages.job import indented, is_own_code, visible_frames
from broker_jobs.dashboard.role import Role
from broker_jobs.dashboard.views import Argument, History, HistoryPoint, JobView, RelationView, StackFrame
from tests.support.wait import eventually
from tests.unit.dashboard.shop import HOSTILE, SECRET, Shop, filled, flash_of, shop_in


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    with shop_in(tmp_path_factory.mktemp("shop")) as shop:
        yield shop


@pytest.fixture(scope="module")
def made(shop: Shop) -> dict[str, Receipt[object]]:
    return filled(shop)


# --- what is told ---


def test_a_job_that_succeeded(shop: Shop, made: dict[str, Receipt[object]]) -> None:
    page = shop.visitor().see(f"/jobs/{made['succeeded'].id}")
    assert "welcome" in page
    assert "Zoë 7" in page  # its result
    assert SECRET not in page
    assert MASKED in page
    assert "succeeded" in page
    assert page.count('<li><span class="state') >= 2  # the steps
    assert f'/jobs/{made["succeeded"].id}/requeue"' in page
    assert "run-now" not in page


def test_the_attempts_of_a_job_that_failed_are_told_on_its_page_and_in_the_api(
    shop: Shop, made: dict[str, Receipt[object]]
) -> None:
    id = made["failed"].id
    page = shop.visitor().see(f"/jobs/{id}")
    table = page.partition('<h2 id="attempts">')[2].partition("</table>")[0]
    assert "raised" in table
    assert "ValueError: order 1 has no card" in table
    job = json.loads(shop.visitor().see(f"/api/v1/jobs/{id}"))
    (only,) = job["attempts"]
    assert (only["attempt"], only["ended"]) == (1, "raised")
    assert only["worker"] == job["ran_on"]
    assert job["worker"] is None
    assert len(only["fingerprint"]) == 16
    assert f"<code><bdi>{job['ran_on']}</bdi></code>" in page


def test_a_job_that_succeeded_at_once_has_no_table_of_attempts(shop: Shop, made: dict[str, Receipt[object]]) -> None:
    id = made["succeeded"].id
    assert '<h2 id="attempts">' not in shop.visitor().see(f"/jobs/{id}")
    assert json.loads(shop.visitor().see(f"/api/v1/jobs/{id}"))["attempts"] == []


def test_a_job_that_failed_shows_the_error_for_reading(shop: Shop, made: dict[str, Receipt[object]]) -> None:
    page = shop.visitor().see(f"/jobs/{made['failed'].id}")
    assert "order 1 has no card" in page
    assert "KeyError" in page
    assert "which caused" in page
    assert "shop.py</bdi>:" in page  # file and line of a frame
    assert "raise ValueError(" in page  # its code
    assert "<summary>Raw traceback</summary>" in page
    assert "Traceback (most recent call last)" in page


def test_a_running_job_shows_progress_and_log(shop: Shop, made: dict[str, Receipt[object]]) -> None:
    person = shop.visitor()
    path = f"/jobs/{made['running'].id}"
    page = person.see(path)
    assert 'aria-label="progress">30 %' in page
    assert "&lt;b&gt;step&lt;/b&gt; 1" in page
    assert "<b>step" not in page
    assert ">Cancel</button>" in page
    assert "/edit" not in page


def test_what_is_secret_is_on_no_page(shop: Shop, made: dict[str, Receipt[object]]) -> None:
    person = shop.visitor()
    for path in ("", "/edit"):
        page = person.see(f"/jobs/{made['paid'].id}{path}")
        assert SECRET not in page
        assert MASKED in page or "hidden" in page
        assert "Ann" in page


def test_what_is_secret_by_its_place_is_hidden_too(shop: Shop) -> None:
    assert shop.context is not None
    eventually(lambda: shop.context.queries.functions.get("pay"), what="the worker has told what pay takes")  # type: ignore[union-attr]
    receipt = shop.pay.enqueue(1.0, SECRET, {})
    shop.ends(receipt)
    for path in ("", "/edit"):
        page = shop.visitor().see(f"/jobs/{receipt.id}{path}")
        assert SECRET not in page
        assert MASKED in page
    assert SECRET not in shop.visitor().see("/jobs?job=pay")


def test_relatives_are_drawn_and_listed(shop: Shop, made: dict[str, Receipt[object]]) -> None:
    page = shop.visitor().see(f"/jobs/{made['child'].id}")
    assert '<svg class="relations"' in page
    assert page.count(f'href="/jobs/{made["running"].id}"') >= 2
    assert "on success" in page
    unsatisfied = shop.visitor().see(f"/jobs/{made['unsatisfied'].id}")
    assert "unsatisfied" in unsatisfied


def test_a_member_leads_to_its_batch(shop: Shop, made: dict[str, Receipt[object]]) -> None:
    row = shop.store.reader.jobs.get(made["member"].id)
    assert row is not None
    assert f'href="/batches/{row.batch}"' in shop.visitor().see(f"/jobs/{made['member'].id}")


def test_a_job_never_heard_of_is_explained(shop: Shop) -> None:
    page = shop.visitor().see("/jobs/<b>nope", status=404)
    assert "may not have read it yet" in page
    assert "retention" in page
    assert "<b>nope" not in page
    shop.visitor().see("/jobs/nope/edit", status=404)


def test_an_id_may_hold_slashes(shop: Shop) -> None:
    receipt = shop.welcome.using(id="tenant/7/edit@x").enqueue(1)
    shop.ends(receipt)
    page = shop.visitor().see("/jobs/tenant/7/edit@x")
    assert "succeeded" in page
    page = shop.visitor().send("/jobs/tenant/7/edit@x/delete", page="/jobs/tenant/7/edit@x")
    assert shop.state(receipt.id) == "deleted"


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_text_is_shown_as_text(shop: Shop, text: str) -> None:
    good, bad = shop.repeat.enqueue(text), shop.repeat.enqueue(text, fail=True)
    shop.ends(good, bad)
    for receipt in (good, bad):
        for path in ("", "/edit"):
            page = shop.visitor().see(f"/jobs/{receipt.id}{path}")
            assert "<script>alert" not in page
            assert "<img src=x" not in page
            assert not re.search(r'(?:href|action)="(?!/|#)', page)
            assert "49" not in re.findall(r"<code><bdi>(.*?)</bdi>", page)
            assert len(page.encode()) < 100_000


# --- what can be done ---


def test_a_failed_job_is_mended_and_runs(shop: Shop) -> None:
    person = shop.visitor()
    receipt = shop.pay.enqueue(-1.0, token=SECRET, card={"password": SECRET, "holder": "Ann"})
    shop.ends(receipt, as_=State.FAILED)
    path = f"/jobs/{receipt.id}"
    assert f'href="{path}/edit"' in person.see(path)
    form = person.see(f"{path}/edit")
    fields = dict(re.findall(r'name="(value-\d+)"[^>]*>\n([^<]*)</textarea>', form))
    assert fields["value-0"] == "-1.0"
    assert SECRET not in form
    typed = {name: text.replace("&#34;", '"') for name, text in fields.items()} | {"value-0": "5.5"}
    typed["value-2"] = typed["value-2"].replace("Ann", "Bob")
    page = person.send(f"{path}/edit", typed, page=f"{path}/edit")
    assert "Requeued with these arguments" in flash_of(page)
    shop.ends(receipt, as_=State.SUCCEEDED)
    row = shop.store.reader.jobs.get(receipt.id)
    assert row is not None
    sent = json.loads(row.envelope)
    assert sent["args"] == [5.5]
    assert sent["kwargs"] == {"token": SECRET, "card": {"password": SECRET, "holder": "Bob"}}
    assert SECRET not in person.see(path)


def test_what_is_wrong_in_the_form_is_told_beside_what_was_typed(shop: Shop) -> None:
    person = shop.visitor()
    receipt = shop.charge.enqueue(1)
    shop.ends(receipt, as_=State.FAILED)
    path = f"/jobs/{receipt.id}/edit"
    page = person.send(path, {"value-0": "[1, <b>", "further": "[]"}, page=path, status=422)
    assert "is not valid JSON" in page
    assert "[1, &lt;b&gt;</textarea>" in page
    assert "must be a JSON object" in page
    assert shop.state(receipt.id) == "failed"


def test_a_viewer_may_look_and_nothing_else(shop: Shop, made: dict[str, Receipt[object]]) -> None:
    person = shop.visitor(Role.VIEWER)
    id = made["failed"].id
    page = person.see(f"/jobs/{id}")
    assert "<form" not in page.partition("<main")[2]
    person.see(f"/jobs/{id}/edit", status=403)
    for action in ("requeue", "run-now", "delete", "reschedule", "edit"):
        person.send(f"/jobs/{id}/{action}", page=f"/jobs/{id}", status=403, when="after", number="1")
    assert shop.state(id) == "failed"


def test_requeue_run_now_reschedule_delete(shop: Shop) -> None:
    person = shop.visitor()
    failed, later = shop.charge.enqueue(2), shop.welcome.schedule(timedelta(days=2), 3)
    shop.ends(failed, as_=State.FAILED)
    shop.ends(later, as_=State.SCHEDULED)
    page = person.send(f"/jobs/{failed.id}/requeue", page=f"/jobs/{failed.id}")
    assert "Requeued" in flash_of(page)
    page = person.send(f"/jobs/{later.id}/reschedule", page=f"/jobs/{later.id}", when="after", number="x", unit="hours")
    assert "is no delay" in flash_of(page)
    page = person.send(f"/jobs/{later.id}/reschedule", page=f"/jobs/{later.id}", when="at", at="2031-01-31T08:00")
    assert "2031-01-31 08:00:00 UTC" in page
    page = person.send(f"/jobs/{later.id}/run-now", page=f"/jobs/{later.id}")
    shop.ends(later, as_=State.SUCCEEDED)
    page = person.send(f"/jobs/{later.id}/delete", page=f"/jobs/{later.id}")
    assert shop.state(later.id) == "deleted"
    page = person.send("/jobs/nope/requeue", page="/jobs")
    assert "there is no job with this id" in flash_of(page)


def test_a_running_job_is_cancelled(shop: Shop) -> None:
    receipt = shop.waits.enqueue("to cancel")
    shop.ends(receipt, as_=State.PROCESSING)
    page = shop.visitor().send(f"/jobs/{receipt.id}/delete", page=f"/jobs/{receipt.id}", cancel="1")
    assert "asked to stop" in flash_of(page)
    shop.ends(receipt, as_=State.DELETED)


# --- arguments with hidden parts ---

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5).filter(lambda text: MASKED not in text),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)


@given(JSON)
def test_what_was_not_touched_keeps_its_value(raw: Any) -> None:
    assert json.dumps(restore_hidden(MASKED, MASKED, raw)) == json.dumps(raw)
    shown, whole = {"token": MASKED, "rest": 1}, {"token": raw, "rest": 1}
    assert restore_hidden({"token": MASKED, "rest": 2}, shown, whole) == {"token": raw, "rest": 2}


@given(JSON, JSON)
def test_what_was_typed_is_taken_as_it_is(typed: Any, raw: Any) -> None:
    assert json.dumps(restore_hidden(typed, raw, raw)) == json.dumps(typed)


def test_a_mark_where_nothing_was_hidden_is_refused() -> None:
    for typed, shown, raw in [
        ({"a": MASKED}, {"a": 1}, {"a": 1}),
        ([1, MASKED], [MASKED], ["secret"]),
        (f"x{MASKED}", MASKED, "secret"),
    ]:
        with pytest.raises(ValueError, match="where nothing is hidden"):
            restore_hidden(typed, shown, raw)


def test_an_emptied_named_argument_is_left_out_and_further_ones_come_in() -> None:
    boxes = argument_inputs(
        [Argument(name="a", value=1, masked=False), Argument(name="b", value=2, masked=False)], [1], {"b": 2}
    )
    read = read_arguments(boxes, {"value-0": "3", "value-1": " ", "further": '{"c": 4}'})
    assert (read.is_valid, read.args, read.kwargs) == (True, [3], {"c": 4})
    read = read_arguments(boxes, {"value-0": "", "further": '{"b": 4}'})
    assert not read.is_valid
    assert "is not valid JSON" in read.inputs[0].mistake
    assert "its own input" in read.further_mistake


@pytest.mark.parametrize("depth", [120, 300, 900])
def test_what_is_nested_too_deeply_to_travel_is_told_beside_it(depth: int) -> None:
    boxes = argument_inputs([Argument(name="a", value=1, masked=False)], [1], {})
    read = read_arguments(boxes, {"value-0": "[" * depth + "]" * depth})
    assert "nested too deeply" in read.inputs[0].mistake
    assert read_arguments(boxes, {"value-0": "[" * 100 + "]" * 100}).is_valid


# --- drawings ---


def test_a_week_of_hours_is_drawn_short_and_adds_up() -> None:
    points = [
        HistoryPoint(at=_moment(hour), succeeded=hour * 1_000, failed=3 if hour == 5 else 0, deleted=hour % 2)
        for hour in range(168)
    ]
    bars = bar_chart(History(span="week", step_seconds=3_600, points=points))
    assert sum(len(path) for path in bars.paths.values()) < 12_000
    assert bars.totals == {"succeeded": sum(range(168)) * 1_000, "failed": 3, "deleted": 84}
    assert sum(row.succeeded for row in bars.table) == bars.totals["succeeded"]
    assert len(bars.table) <= 24
    assert "v-2.0" in bars.paths["failed"]  # three among a hundred thousand are seen


@given(st.integers(0, 10**12))
def test_the_top_of_an_axis_is_round_and_high_enough(most: int) -> None:
    top = round_up(most)
    assert most <= top
    assert top <= max(2.5 * most, 2)
    assert len(axis_number(top)) <= 7


def test_an_empty_history_is_drawn_too() -> None:
    bars = bar_chart(History(span="day", step_seconds=3_600, points=[]))
    assert not any(bars.paths.values())


def test_many_relatives_are_drawn_as_few_and_more(shop: Shop, made: dict[str, Receipt[object]]) -> None:
    job = shop.context.queries.jobs.get(made["succeeded"].id)  # type: ignore[union-attr]
    assert isinstance(job, JobView)
    assert relation_graph(job) is None
    many = [RelationView(id=str(n), is_batch=n == 0, title="t", state="failed", on="finished") for n in range(40)]
    family = relation_graph(job.model_copy(update={"children": many}))
    assert family is not None
    assert len(family.nodes) == 1 + MAX_PER_SIDE
    assert family.nodes[-1].title == "35 more"
    assert len(family.edges) == MAX_PER_SIDE


def test_frames_of_an_endless_recursion_are_cut_in_the_middle() -> None:
    many = [StackFrame(file=f"{n}.py", line=n, function="f", code="f()") for n in range(500)]
    shown = visible_frames(many)
    assert 460 in shown
    assert len(shown) == 41
    assert (shown[0], shown[-1]) == (many[0], many[-1])


def test_frames_of_libraries_are_told_from_ours() -> None:
    def frame(file: str) -> StackFrame:
        return StackFrame(file=file, line=1, function="f", code="")

    assert is_own_code(frame("/srv/shop/jobs.py"))
    assert is_own_code(frame("C:\\shop\\jobs.py"))
    for file in (
        "/venv/lib/python3.12/site-packages/requests/api.py",
        "/usr/lib/python3.11/json/__init__.py",
        "<string>",
    ):
        assert not is_own_code(frame(file)), file


def test_a_result_that_is_no_json_stays_as_it_is() -> None:
    assert indented('{"a":1}') == '{\n  "a": 1\n}'
    assert indented("{nope") == "{nope"


def _moment(hour: int) -> Any:
    return as_datetime(1_760_000_400.0 + hour * 3_600)
