"""Who may only look: no button anywhere, and each action is refused."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from broker_jobs.dashboard.pages import routes
from broker_jobs.dashboard.role import Role
from tests.browser.addresses import pages_of
from tests.browser.conftest import MARKS, System

pytestmark = MARKS

FREE = {"login_submit", "logout"}
"""Forms that are for everybody."""
ACTIONS = sorted(
    (str(route.path), str(route.name))
    for route in routes()
    if "POST" in (route.methods or ()) and route.name not in FREE
)


@contextmanager
def _viewer(system: System) -> Iterator[str]:
    with system.dashboard_for(Role.VIEWER) as address:
        yield address


@contextmanager
def _read_only(system: System) -> Iterator[str]:
    with system.dashboard(BROKER_JOBS_DASHBOARD_READ_ONLY="true") as address:
        yield address


@pytest.mark.parametrize("who", [_viewer, _read_only])
def test_who_may_only_look_sees_no_button_and_does_nothing(
    who: Callable[[System], Any], system: System, opened: Callable[..., Any]
) -> None:
    before = len(system.store.reader.audit.newest(1_000))
    with who(system) as address:
        page = opened()
        for name, path in pages_of(system).items():
            answer = page.goto(address + path)
            if name in {"job-edit", "bulk", "recurring-choose", "recurring-new", "run", "run-one"}:
                assert answer.status == 403, name
                continue
            forms = page.locator("main form[method=post]")
            assert forms.locator("button, input[type=submit]").count() == 0, f"{name}: {forms.first.inner_html()[:300]}"
        page.goto(address + "/queues")
        job = system.hostile.made["scheduled"].id
        for path, name in ACTIONS:
            action = re.sub(r"\{[^}]+\}", job, path)
            status = page.evaluate(
                """async ([action]) => {
                    const body = new URLSearchParams({ csrf: "x", back: "/", name: "default", do: "remove", key: "api",
                        limit: "1", action: "delete", all: "1" });
                    return (await fetch(action, { method: "POST", body, redirect: "manual" })).status;
                }""",
                [action],
            )
            assert status == 403, f"{name}: {status}"
        page.goto("about:blank")  # its stream ends before the dashboard does
    assert len(system.store.reader.audit.newest(1_000)) == before


def test_a_login_is_asked_for_and_ends(system: System, opened: Callable[..., Any]) -> None:
    with system.dashboard(BROKER_JOBS_DASHBOARD_USER="ann", BROKER_JOBS_DASHBOARD_PASSWORD="b0b") as address:
        page = opened()
        page.goto(f"{address}/queues?x=1")
        page.get_by_label("User").fill("ann")
        page.get_by_label("Password").fill("wrong")
        page.get_by_role("button", name="Log in").click()
        assert page.get_by_role("alert").count() == 1
        page.get_by_label("User").fill("ann")
        page.get_by_label("Password").fill("b0b")
        page.get_by_role("button", name="Log in").click()
        page.wait_for_url(f"{address}/queues*")
        page.get_by_role("button", name="Log out").click()
        page.goto(f"{address}/queues")
        assert "/login" in page.url
        page.goto("about:blank")
