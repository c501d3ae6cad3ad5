"""What waits to run again: when, why, which attempt; and what can be done with it."""

import re
from collections.abc import Iterator
from datetime import timedelta

import pytest

from broker_jobs import State
from broker_jobs.dashboard.role import Role
from tests.unit.dashboard.shop import Shop, flash_of, shop_in


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    with shop_in(tmp_path_factory.mktemp("shop")) as shop:
        yield shop


def test_nothing_to_retry_is_said(shop: Shop) -> None:
    assert "No job waits for a retry" in shop.visitor().see("/retries")


def test_a_retry_is_listed_with_its_error_time_and_attempt(shop: Shop) -> None:
    retry, later = shop.flaky.enqueue(5), shop.welcome.schedule(timedelta(days=1), 1)
    shop.ends(retry, later, as_=State.SCHEDULED)
    page = shop.visitor(Role.VIEWER).see("/retries")
    assert f'href="/jobs/{retry.id}"' in page
    assert later.id not in page
    assert "ConnectionError: smtp refused 5" in page
    assert "2 of 6" in page
    assert re.search(r'<time datetime="[^"]+" title="[^"]+">in (1 h|5\d min|60 min)', page)
    assert 'name="ids"' not in page
    assert retry.id not in shop.visitor().see("/retries?error_text=nothing-like-it")
    assert retry.id in shop.visitor().see("/retries?error_text=refused")


def test_the_selected_ones_run_now_or_are_deleted(shop: Shop) -> None:
    person = shop.visitor()
    now, gone = shop.flaky.enqueue(6), shop.flaky.enqueue(7)
    shop.ends(now, gone, as_=State.SCHEDULED)
    before = shop.store.reader.jobs.get(now.id)
    page = person.send("/retries", page="/retries", action="requeue", ids=[now.id])
    assert "1 job" in flash_of(page)
    page = person.send("/retries", page="/retries", action="delete", ids=[gone.id])
    assert "1 job deleted" in flash_of(page)
    assert shop.state(gone.id) == "deleted"
    shop.ends(now, as_=State.SCHEDULED)
    after = shop.store.reader.jobs.get(now.id)
    assert before is not None
    assert after is not None
    assert after.epoch >= before.epoch
    assert "No job is selected" in flash_of(person.send("/retries", page="/retries", action="delete"))


def test_a_viewer_may_not(shop: Shop) -> None:
    shop.visitor(Role.VIEWER).send("/retries", page="/retries", status=403, action="delete", ids=["x"])
