"""What every answer has: headers, static files for ever, and an honest page where something is wrong."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from starlette.testclient import TestClient

from broker_jobs.dashboard.pages.rendering import FOLDER, STATIC_FILES
from broker_jobs.errors import ResultTimeout, StoreError, UsageError
from tests.unit.dashboard.contexts import FakeActions, FakeQueries, context_of

Browse = Callable[..., TestClient]


@pytest.mark.parametrize("path", ["/queues", "/nothing", "/login", "/healthz", "/static/nothing.css", "/live?"])
def test_every_answer_has_the_headers_that_keep_it_safe(browse: Browse, path: str) -> None:
    client = browse(context_of(), token="t")
    headers = client.get(path).headers
    policy = headers["content-security-policy"]
    for rule in ("default-src 'none'", "script-src 'self'", "frame-ancestors 'none'", "base-uri 'none'"):
        assert rule in policy
    assert "unsafe" not in policy
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cross-origin-opener-policy"] == "same-origin"
    assert headers["cache-control"] == "no-store"


def test_a_page_has_no_script_or_style_in_it(browse: Browse) -> None:
    text = browse(context_of()).get("/queues").text
    assert not re.search(r"<script(?![^>]* src=)|<style|\sstyle=|\son\w+=|javascript:", text)
    assert "http://" not in text.replace("http://www.w3.org/2000/svg", "")
    assert "https://" not in text


def test_a_static_file_is_kept_for_ever_as_its_address_has_its_hash(browse: Browse) -> None:
    client = browse(context_of(), token="t")
    page = client.get("/login").text
    found = re.findall(r'(?:href|src)="(/static/[^"]+)"', page)
    assert len(found) >= 4
    for address in found:
        answer = client.get(address)
        assert answer.status_code == 200
        assert "immutable" in answer.headers["cache-control"]
    assert client.get("/static/style.css").status_code == 404


@pytest.mark.parametrize(
    "path", ["../app.py", "..%2fapp.py", "%2e%2e/app.py", "/etc/passwd", "%00", "style.css%00.css"]
)
def test_no_other_file_is_given_out(browse: Browse, path: str) -> None:
    answer = browse(context_of()).get(f"/static/{path}")
    assert answer.status_code == 404
    assert "import" not in answer.text


def test_pages_are_light() -> None:
    sizes = {file.suffix: 0 for file in (FOLDER / "static").iterdir()}
    for file in (FOLDER / "static").iterdir():
        sizes[file.suffix] += len(file.read_bytes())
    assert sizes[".css"] <= 22_000
    assert sizes[".js"] <= 15_000
    assert STATIC_FILES.get(STATIC_FILES.hashed_name("style.css")) is not None


def test_what_is_not_there_is_said_to_people_as_a_page_and_to_programs_as_json(browse: Browse) -> None:
    client = browse(context_of())
    page = client.get("/nothing")
    assert (page.status_code, "<nav" in page.text) == (404, True)
    assert client.get("/api/v1/nothing").json().keys() >= {"detail"}


def test_a_store_that_is_away_is_said_on_the_page_and_to_the_probe(browse: Browse) -> None:
    queries = FakeQueries()
    client = browse(context_of(queries=queries))
    assert client.get("/healthz").json() == {"ok": True}
    queries.alert = StoreError("the store x cannot be used: <b>gone</b>")

    def away() -> list[object]:
        raise queries.alert  # type: ignore[misc]

    queries.queues = away  # type: ignore[method-assign, assignment]
    page = client.get("/queues")
    assert page.status_code == 503
    assert "the store x cannot be used: &lt;b&gt;gone" in page.text
    probe = client.get("/healthz")
    assert (probe.status_code, probe.json()) == (503, {"ok": False})  # the probe is open to all, and tells nothing


def test_the_probe_needs_no_login(browse: Browse) -> None:
    assert browse(context_of(), token="t").get("/healthz").status_code == 200


def test_a_mistake_of_ours_shows_nothing_of_itself(browse: Browse) -> None:
    queries = FakeQueries()
    queries.queues = lambda: 1 // 0  # type: ignore[method-assign, assignment, return-value]
    client = browse(context_of(queries=queries))
    client._transport.raise_server_exceptions = False  # type: ignore[attr-defined]
    answer = client.get("/queues")
    assert answer.status_code == 500
    assert "ZeroDivision" not in answer.text
    assert answer.headers["content-security-policy"]


def _pause(client: TestClient, back: str = "/queues") -> TestClient:
    found = re.search(r'name="csrf" value="(\w+)"', client.get("/queues").text)
    assert found is not None
    client.post("/queues/mail/pause", data={"csrf": found.group(1), "back": back})
    return client


@pytest.mark.parametrize("alert", [UsageError("no <such> queue"), ResultTimeout("no coordinator answered")])
def test_what_was_refused_is_said_once_on_the_page_it_was_asked_on(browse: Browse, alert: Exception) -> None:
    actions = FakeActions()
    actions.alert = alert
    client = _pause(browse(context_of(actions)))
    said = str(alert).replace("<", "&lt;").replace(">", "&gt;")
    page = client.get("/queues").text
    assert said in page
    assert 'role="alert"' in page
    assert said not in client.get("/queues").text


def test_a_page_that_refreshes_itself_takes_no_message_from_the_one_that_waits_for_it(browse: Browse) -> None:
    actions = FakeActions()
    actions.alert = UsageError("refused so")
    client = _pause(browse(context_of(actions)))
    client.get("/queues", headers={"x-live": "1"})
    assert "refused so" in client.get("/queues").text


@pytest.mark.parametrize("back", ["https://evil.example/", "//evil.example/", "/\\evil.example", "queues", "/a\nb"])
def test_the_way_back_is_one_of_ours(browse: Browse, back: str) -> None:
    client = browse(context_of())
    found = re.search(r'name="csrf" value="(\w+)"', client.get("/queues").text)
    assert found is not None
    answer = client.post("/queues/mail/pause", data={"csrf": found.group(1), "back": back})
    assert answer.headers["location"] == "/" or answer.headers["location"].startswith("/queues")
