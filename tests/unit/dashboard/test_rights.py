"""Each form and each operation that actions is for a role, and it is the role alone that refuses: session and token are
right, and the same request of who has the role goes further."""

from __future__ import annotations

import re
from typing import Any

import pytest
from starlette.requests import Request
from starlette.testclient import TestClient

from broker_jobs.clock import SystemClock
from broker_jobs.dashboard.api.app import build_api
from broker_jobs.dashboard.app import build_app
from broker_jobs.dashboard.auth import Authentication
from broker_jobs.dashboard.credentials import Credentials
from broker_jobs.dashboard.pages import routes
from broker_jobs.dashboard.role import Role
from tests.unit.dashboard.conftest import LOCAL
from tests.unit.dashboard.contexts import FakeActions, context_of
from tests.unit.dashboard.test_auth import token_in

FORMS = {
    "batch_delete": Role.OPERATOR,
    "batch_requeue": Role.OPERATOR,
    "job_delete": Role.OPERATOR,
    "job_edit_submit": Role.OPERATOR,
    "job_requeue": Role.OPERATOR,
    "job_reschedule": Role.OPERATOR,
    "job_run_now": Role.OPERATOR,
    "bulk_submit": Role.OPERATOR,
    "limits_set": Role.ADMIN,
    "workers_change": Role.ADMIN,
    "dead_letter_delete": Role.ADMIN,
    "dead_letter_replay": Role.ADMIN,
    "queue_pause": Role.OPERATOR,
    "queue_resume": Role.OPERATOR,
    "recurring_add": Role.ADMIN,
    "recurring_change": Role.OPERATOR,
    "recurring_do": Role.OPERATOR,
    "retries_submit": Role.OPERATOR,
    "run_one_submit": Role.ADMIN,
}
FREE = {"login_submit", "logout"}
"""Forms for everybody."""
OPERATIONS = {
    "delete_batch": Role.OPERATOR,
    "delete_job": Role.OPERATOR,
    "delete_jobs": Role.OPERATOR,
    "fail_jobs": Role.OPERATOR,
    "delete_dead_letter": Role.ADMIN,
    "change_recurring": Role.OPERATOR,
    "get_arguments": Role.OPERATOR,
    "pause_queue": Role.OPERATOR,
    "pause_recurring": Role.OPERATOR,
    "put_recurring": Role.ADMIN,
    "remove_recurring": Role.OPERATOR,
    "replay_dead_letter": Role.ADMIN,
    "requeue_failures": Role.OPERATOR,
    "requeue_job": Role.OPERATOR,
    "requeue_jobs": Role.OPERATOR,
    "reschedule_job": Role.OPERATOR,
    "resume_queue": Role.OPERATOR,
    "resume_recurring": Role.OPERATOR,
    "run_job": Role.ADMIN,
    "set_limit": Role.ADMIN,
    "change_workers": Role.ADMIN,
    "trigger_recurring": Role.OPERATOR,
}
"""Of the API; all others only read."""
PAGES = {
    "/jobs/bulk?action=delete": Role.OPERATOR,
    "/jobs/bulk/x": Role.OPERATOR,
    "/jobs/x/edit": Role.OPERATOR,
    "/recurring-new": Role.ADMIN,
    "/run": Role.ADMIN,
    "/run/x": Role.ADMIN,
}
FIELDS = {
    "concurrency": "1",
    "name": "default",
    "do": "remove",
    "key": "api",
    "limit": "1",
    "action": "delete",
    "ids": "a",
    "back": "/",
}
POSTS = {str(route.name): str(route.path) for route in routes() if "POST" in (route.methods or ())}
DESCRIBED = {
    operation["operationId"]: (method.upper(), "/api/v1" + path)
    for path, operations in build_api(context_of).openapi()["paths"].items()
    for method, operation in operations.items()
}
LESSER = [(role, False) for role in (Role.VIEWER, Role.OPERATOR)] + [(Role.ADMIN, True)]
"""Role, and whether the dashboard is read-only."""


def role_of(request: Request) -> Role:
    return Role[request.headers["x-role"]]


class Visit:
    """A browser with a session of the dashboard, whose program's login gives it any role it likes."""

    def __init__(self) -> None:
        self.actions = FakeActions()
        access, watched = (
            Authentication(
                Credentials(), authorize=role_of, key=lambda: b"k" * 32, clock=SystemClock(), read_only=read_only
            )
            for read_only in (False, True)
        )
        context = context_of(self.actions)
        self._apps = {False: build_app(context, access), True: build_app(context, watched)}
        self._first = self._browser(Role.ADMIN, read_only=False)
        self._token = token_in(self._first)

    def _browser(self, role: Role, *, read_only: bool) -> TestClient:
        return TestClient(
            self._apps[read_only], base_url=LOCAL, client=("127.0.0.1", 50_000), headers={"x-role": role.name},
            follow_redirects=False, raise_server_exceptions=False,
        )  # fmt: skip

    def ask(self, role: Role, method: str, path: str, *, read_only: bool = False, **given: Any) -> Any:
        browser = self._browser(role, read_only=read_only)
        browser.cookies.update(self._first.cookies)
        return browser.request(method, re.sub(r"\{[^}]+\}", "x", path), **given)

    def send(self, role: Role, path: str, *, read_only: bool = False) -> Any:
        """A form with the right token."""
        return self.ask(role, "POST", path, read_only=read_only, data=FIELDS | {"csrf": self._token})


@pytest.fixture
def visit() -> Visit:
    return Visit()


def refused(answer: Any) -> bool:
    """Whether somebody has not the rights; 403 for any other reason is none of this."""
    if answer.status_code != 403:
        return False
    assert "This dashboard is read-only" in answer.text or "This needs the role" in answer.text
    return True


def test_each_form_and_operation_that_acts_has_a_role_here() -> None:
    assert set(POSTS) == FORMS.keys() | FREE
    acting = {name for name, (method, _) in DESCRIBED.items() if method != "GET"}
    assert acting == OPERATIONS.keys() - {"get_arguments"}


@pytest.mark.parametrize(("role", "read_only"), LESSER)
@pytest.mark.parametrize("name", FORMS)
def test_a_form_is_refused_to_who_has_not_its_role(visit: Visit, name: str, role: Role, *, read_only: bool) -> None:
    may = role >= FORMS[name] and not read_only
    assert refused(visit.send(role, POSTS[name], read_only=read_only)) is not may
    if not may:
        assert visit.actions.done == []
        assert not refused(visit.send(Role.ADMIN, POSTS[name]))


@pytest.mark.parametrize(("role", "read_only"), LESSER)
@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_is_refused_to_who_has_not_its_role(
    visit: Visit, name: str, role: Role, *, read_only: bool
) -> None:
    may = role >= OPERATIONS[name] and not read_only
    method, path = DESCRIBED[name]
    assert refused(visit.ask(role, method, path, read_only=read_only)) is not may
    if not may:
        assert visit.actions.done == []
        assert not refused(visit.ask(Role.ADMIN, method, path))


@pytest.mark.parametrize(("role", "read_only"), LESSER)
@pytest.mark.parametrize("path", PAGES)
def test_a_page_for_who_acts_is_refused_to_others(visit: Visit, path: str, role: Role, *, read_only: bool) -> None:
    may = role >= PAGES[path] and not read_only
    assert refused(visit.ask(role, "GET", path, read_only=read_only)) is not may


@pytest.mark.parametrize(("role", "read_only"), [*LESSER, (Role.ADMIN, False)])
def test_the_menu_has_no_page_that_is_refused(visit: Visit, role: Role, *, read_only: bool) -> None:
    page = visit.ask(role, "GET", "/queues", read_only=read_only)
    assert page.status_code == 200
    linked = set(re.findall(r'<li><a href="([^"]+)"', page.text))
    assert {"/jobs", "/audit"} <= linked
    for address in linked:
        assert not refused(visit.ask(role, "GET", address, read_only=read_only))
    assert ("/run" in linked) is (role is Role.ADMIN and not read_only)
