"""Every action done once by clicking, and its effect seen in the system, not only on the page."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from urllib.parse import quote

import pytest

from broker_jobs import Receipt, State
from broker_jobs.broker import names
from broker_jobs.broker.interface import Message
from tests.browser.conftest import MARKS, System
from tests.support.hostile import ALL, JOB, SCRIPT
from tests.support.wait import eventually

pytestmark = MARKS

SAY_YES = "dialog[open] button.danger"


@pytest.fixture
def page(opened: Callable[..., Any]) -> Any:
    return opened()


def _flash(page: Any) -> str:
    return str(page.locator("p.flash").inner_text())


def _is(receipt: Receipt[Any], state: State) -> None:
    eventually(lambda: receipt.state() is state, what=f"{receipt.id} is {state}")


# --- one job ---


def test_a_failed_job_is_requeued(page: Any, address: str, system: System) -> None:
    receipt = _failed(system, "not fine")
    page.goto(f"{address}/jobs/{receipt.id}")
    system.hostile.mended.set()
    try:
        page.get_by_role("button", name="Requeue").click()
        assert "equeued" in _flash(page)
        assert receipt.result(timeout=120) == "not fine"
    finally:
        system.hostile.mended.clear()


def test_a_running_job_is_cancelled(page: Any, address: str, system: System) -> None:
    receipt = system.hostile.jobs["linger"].enqueue("until it is told to stop")
    _is(receipt, State.PROCESSING)
    page.goto(f"{address}/jobs/{receipt.id}")
    page.get_by_role("button", name="Cancel").click()
    page.locator(SAY_YES).click()
    page.wait_for_selector("p.flash")
    _is(receipt, State.DELETED)


def test_a_scheduled_job_is_run_now(page: Any, address: str, system: System) -> None:
    receipt = system.hostile.jobs["greet"].schedule(timedelta(days=1), "now")
    _is(receipt, State.SCHEDULED)
    page.goto(f"{address}/jobs/{receipt.id}")
    page.get_by_role("button", name="Run now").click()
    assert receipt.result(timeout=120) == "hello now"


def test_a_scheduled_job_is_given_another_time(page: Any, address: str, system: System) -> None:
    receipt = system.hostile.jobs["greet"].schedule(timedelta(days=1), "later")
    _is(receipt, State.SCHEDULED)
    page.goto(f"{address}/jobs/{receipt.id}")
    page.get_by_text("Reschedule", exact=True).first.click()
    page.get_by_label("delay", exact=True).fill("1")
    page.get_by_label("unit of the delay").select_option("seconds")
    page.get_by_role("button", name="Reschedule").click()
    assert receipt.result(timeout=120) == "hello later"


def test_a_waiting_job_is_deleted_after_a_question(page: Any, address: str, system: System) -> None:
    receipt = system.hostile.jobs["greet"].schedule(timedelta(days=1), "no")
    _is(receipt, State.SCHEDULED)
    page.goto(f"{address}/jobs/{receipt.id}")
    page.get_by_role("button", name="Delete").click()
    page.get_by_role("button", name="Keep").click()
    assert receipt.state() is State.SCHEDULED
    page.get_by_role("button", name="Delete").click()
    page.locator(SAY_YES).click()
    page.wait_for_selector("p.flash")
    assert receipt.state() is State.DELETED


def test_a_failed_job_gets_other_arguments(page: Any, address: str, system: System) -> None:
    receipt = _failed(system, "mend my argument")
    page.goto(f"{address}/jobs/{receipt.id}")
    page.get_by_role("link", name=re.compile("Edit arguments")).click()
    page.locator("textarea").first.fill('"fine"')
    page.get_by_role("button", name="Requeue with these").click()
    assert receipt.result(timeout=120) == "fine"
    page.locator("#head").get_by_text("succeeded").wait_for()  # live, without a reload


# --- many jobs ---


def test_selected_jobs_are_deleted(page: Any, address: str, system: System) -> None:
    tagged = system.hostile.jobs["greet"].using(tags=["to be deleted"])
    receipts = [tagged.schedule(timedelta(days=1), str(n)) for n in range(3)]
    for receipt in receipts:
        _is(receipt, State.SCHEDULED)
    page.goto(f"{address}/jobs?tag=to+be+deleted")
    page.get_by_label("select all on this page").check()
    page.locator(f'input[value="{receipts[0].id}"]').uncheck()
    page.locator(".bulk").get_by_role("button", name="Delete", exact=True).click()
    if page.locator(SAY_YES).count():
        page.locator(SAY_YES).click()
    page.wait_for_selector("p.flash")
    assert [receipt.state() for receipt in receipts] == [State.SCHEDULED, State.DELETED, State.DELETED]


def test_all_that_match_are_requeued_by_one_command(page: Any, address: str, system: System) -> None:
    tagged = system.hostile.jobs["greet"].using(tags=["all of these"])
    receipts = [tagged.schedule(timedelta(days=1), str(n)) for n in range(3)]
    for receipt in receipts:
        _is(receipt, State.SCHEDULED)
        receipt.delete()
    before = len(_audited(system, "bulk requeue"))
    page.goto(f"{address}/jobs?state=deleted&tag=all+of+these")
    page.get_by_role("link", name="Requeue all…").click()
    page.get_by_role("button", name=re.compile("^Requeue (this job|these jobs)$")).click()
    for n, receipt in enumerate(receipts):
        assert receipt.result(timeout=120) == f"hello {n}"
    assert len(_audited(system, "bulk requeue")) == before + 1


def test_all_that_match_are_deleted_by_one_command(page: Any, address: str, system: System) -> None:
    tagged = system.hostile.jobs["greet"].using(tags=["delete all of these"])
    receipts = [tagged.schedule(timedelta(days=1), str(n)) for n in range(3)]
    other = system.hostile.jobs["greet"].using(tags=["not these"]).schedule(timedelta(days=1), "stays")
    for receipt in [*receipts, other]:
        _is(receipt, State.SCHEDULED)
    page.goto(f"{address}/jobs?state=scheduled&tag=delete+all+of+these")
    page.get_by_role("link", name="Delete all…").click()
    assert "3 jobs?" in page.locator("h1").inner_text()
    page.get_by_role("button", name=re.compile("^Delete (this job|these jobs)$")).click()
    for receipt in receipts:
        _is(receipt, State.DELETED)
    assert other.state() is State.SCHEDULED


def test_a_retry_is_run_now(page: Any, address: str, system: System) -> None:
    receipt = system.hostile.jobs["fail_later"].enqueue("retry me from the page")
    _is(receipt, State.SCHEDULED)
    page.goto(f"{address}/retries")
    page.locator(f'input[value="{receipt.id}"]').check()
    page.locator(".bulk").get_by_role("button", name="Run now").click()
    eventually(
        lambda: (row := system.store.reader.jobs.get(receipt.id)) is not None and row.attempt > 1, what="attempt 2"
    )


# --- queues, recurring jobs, batches ---


def test_a_queue_is_paused_and_resumed(page: Any, address: str, system: System) -> None:
    page.goto(f"{address}/queues")
    row = page.locator("tr", has=page.get_by_role("link", name="default", exact=True))
    row.get_by_role("button", name="Pause").click()
    assert "Queue default is paused" in _flash(page)
    receipt = system.hostile.jobs["greet"].enqueue("held up")
    _is(receipt, State.ENQUEUED)
    row.get_by_text("paused").wait_for()
    row.get_by_role("button", name="Resume").click()
    assert receipt.result(timeout=120) == "hello held up"


def test_a_recurring_job_is_run_paused_resumed_changed_and_removed(page: Any, address: str, system: System) -> None:
    name = f"by hand/{SCRIPT} %2F"
    system.hostile.program.recurring.put(name, "0 0 1 1 *", system.hostile.jobs["greet"].bind("by hand"))

    def schedule() -> Any:
        return next((row for row in system.store.reader.schedules.all() if row.name == name), None)

    page.goto(f"{address}/recurring")
    page.get_by_role("link", name=name).click()
    assert page.locator("h1").inner_text() == name
    page.get_by_role("button", name="Run now").click()
    page.wait_for_url(re.compile(r"/jobs/[0-9a-f-]{36}$"))
    assert system.hostile.program.receipt(page.url.rpartition("/")[2]).result(timeout=120) == "hello by hand"
    page.go_back()
    page.get_by_role("button", name="Pause").click()
    page.get_by_role("button", name="Resume").wait_for()
    assert schedule().paused
    page.get_by_role("button", name="Resume").click()
    page.get_by_role("button", name="Pause").wait_for()
    assert not schedule().paused
    page.get_by_label("Schedule (cron)").fill("0 12 * * MON")
    page.get_by_label("Time zone").fill("Asia/Tokyo")
    page.locator("#preview").get_by_text("12:00:00 JST").first.wait_for()  # while it is typed
    assert schedule().cron == "0 0 1 1 *"
    page.get_by_role("button", name="Save").click()
    page.wait_for_selector("p.flash")
    assert (schedule().cron, schedule().tz) == ("0 12 * * MON", "Asia/Tokyo")
    page.get_by_role("button", name="Remove").click()
    page.locator(SAY_YES).click()
    page.wait_for_url(f"{address}/recurring")
    assert schedule() is None


def test_a_recurring_job_is_added(page: Any, address: str, system: System) -> None:
    page.goto(f"{address}/recurring")
    page.get_by_role("link", name="Add a recurring job").click()
    page.locator("main a", has_text=JOB).click()
    page.get_by_label("Name of the recurring job").fill("added/by hand")
    page.get_by_label("Schedule (cron)").fill("* * * * * *")
    page.locator("#arg1").fill(f"added {ALL}")
    page.get_by_role("button", name="Add").click()
    page.wait_for_url(f"{address}/recurring/{quote('added/by hand')}")
    made = eventually(lambda: system.store.reader.jobs.newest(recurring="added/by hand", limit=1), what="its first job")
    assert system.hostile.program.receipt(made[0].id).result(timeout=120) == f"hello added {ALL}"
    system.hostile.program.recurring.remove("added/by hand")


def test_the_failures_of_a_batch_are_run_again(page: Any, address: str, system: System) -> None:
    load = system.hostile.jobs["load"]
    with system.hostile.program.batch("to be mended") as batch:
        batch.enqueue(load, -1, "first error")
        batch.enqueue(load, -2, "second error")
    eventually(lambda: batch.state() is State.FAILED)
    before = [row.attempt for row in system.store.reader.jobs.newest(batch=batch.id, limit=5)]
    assert before == [1, 1]
    page.goto(f"{address}/batches?text=to+be+mended")
    page.get_by_role("link", name="to be mended").click()
    system.hostile.mended.set()
    try:
        page.get_by_role("button", name="Requeue all failures").click()
        assert "2 jobs requeued" in _flash(page)
        eventually(lambda: batch.state() is State.SUCCEEDED, what="the batch has succeeded")
    finally:
        system.hostile.mended.clear()


def test_a_batch_is_given_up(page: Any, address: str, system: System) -> None:
    with system.hostile.program.batch("to be deleted") as batch:
        batch.schedule(system.hostile.jobs["greet"], timedelta(days=1), "never")
    eventually(lambda: batch.state() is not State.AWAITING)
    page.goto(f"{address}/batches/{batch.id}")
    page.get_by_role("button", name="Delete").click()
    page.locator(SAY_YES).click()
    page.wait_for_selector("p.flash")
    assert batch.wait(timeout=20) is State.DELETED


# --- limits, dead letters, a job from its form ---


def test_a_limit_is_set_and_unset(page: Any, address: str, system: System) -> None:
    page.goto(f"{address}/limits")
    page.get_by_label("Key").fill("by hand")
    page.get_by_label("Limit", exact=True).fill("7")
    page.locator("form.form").get_by_role("button", name="Set").click()
    page.wait_for_selector("p.flash")
    row = page.locator("tr", has_text="by hand").first
    assert {one.most for one in system.store.reader.limits.all() if one.key.endswith(":by hand")} == {7}
    row.get_by_role("button", name="Remove override").click()
    page.wait_for_selector("p.flash")
    assert [one for one in system.store.reader.limits.all() if one.key.endswith(":by hand")] == []


def test_a_dead_lettered_message_is_replayed_and_another_deleted(page: Any, address: str, system: System) -> None:
    row = system.store.reader.jobs.get(system.hostile.made["succeeded"].id)
    assert row is not None
    body = row.envelope.replace(row.id, "replayed-by-hand").encode()
    broker = system.hostile.program._connection.broker()
    sent = broker.publish(
        [
            Message(names.DEAD_LETTERS, "default", body, type="dead-lettered:by a test", message_id="to replay"),
            Message(
                names.DEAD_LETTERS,
                "default",
                b"rubbish",
                type="dead-lettered:by a test",
                message_id=f"to/delete {SCRIPT}",
            ),
        ]
    )
    assert sent.result(20) == [None, None]

    def both() -> dict[bytes, str]:
        ids = {one.body: one.id for one in system.store.reader.dead_letters.oldest(100) if "by a test" in one.reason}
        assert len(ids) == 2
        return ids

    ids = eventually(both)
    page.goto(f"{address}/dead-letters")
    page.get_by_role("link", name=ids[body]).click()
    page.get_by_role("button", name="Replay").click()
    assert "has been processed" in _flash(page)
    assert system.hostile.program.receipt("replayed-by-hand").result(timeout=120) == f"hello {ALL}"
    page.get_by_role("link", name=ids[b"rubbish"]).click()
    page.get_by_role("button", name="Delete").click()
    page.locator(SAY_YES).click()
    page.wait_for_url(f"{address}/dead-letters")
    assert not [one for one in system.store.reader.dead_letters.oldest(100) if "by a test" in one.reason]


def test_a_job_is_run_from_its_form(page: Any, address: str, system: System) -> None:
    page.goto(f"{address}/run")
    page.locator("main a", has_text=JOB).click()
    page.locator("#arg1").fill(f"from a form {ALL}")
    page.get_by_role("button", name="Run", exact=True).click()
    page.wait_for_url(re.compile(r"/jobs/[0-9a-f-]{36}$"))
    receipt = system.hostile.program.receipt(page.url.rpartition("/")[2])
    assert receipt.result(timeout=120) == f"hello from a form {ALL}"


def test_a_job_is_run_from_its_form_after_a_while(page: Any, address: str, system: System) -> None:
    page.goto(f"{address}/run")
    page.locator("main a", has_text=JOB).click()
    page.locator("#arg1").fill("not before an hour")
    page.get_by_role("radio", name="after").check()
    page.get_by_label("delay", exact=True).fill("1")
    page.get_by_label("unit of the delay").select_option("hours")
    page.get_by_role("button", name="Run", exact=True).click()
    page.wait_for_url(re.compile(r"/jobs/[0-9a-f-]{36}$"))
    row = system.store.reader.jobs.get(page.url.rpartition("/")[2])
    assert row is not None
    assert row.state is State.SCHEDULED
    assert 3_500 < (row.due_at or 0) - row.created_at < 3_700


def test_the_same_is_done_without_a_script(opened: Callable[..., Any], address: str, system: System) -> None:
    page = opened(script=False)
    receipt = system.hostile.jobs["greet"].schedule(timedelta(days=1), "no script")
    _is(receipt, State.SCHEDULED)
    page.goto(f"{address}/jobs/{receipt.id}")
    page.get_by_role("button", name="Delete").click()
    assert "eleted" in _flash(page)
    assert receipt.state() is State.DELETED
    page.get_by_role("button", name="Requeue").click()
    assert receipt.result(timeout=120) == "hello no script"


def _failed(system: System, text: str) -> Receipt[Any]:
    receipt: Receipt[Any] = system.hostile.jobs["fail"].enqueue(text)
    _is(receipt, State.FAILED)
    return receipt


def _audited(system: System, kind: str) -> list[Any]:
    return [row for row in system.store.reader.audit.newest(500) if row.kind == kind]
