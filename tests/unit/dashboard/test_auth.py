"""Who comes in, as what, and that what actions was sent by a page of ours."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from typing import Any

import pytest
from starlette.requests import Request
from starlette.testclient import TestClient

from broker_jobs.clock import ManualClock, SystemClock
from broker_jobs.dashboard.app import build_app
from broker_jobs.dashboard.auth import Authentication
from broker_jobs.dashboard.credentials import Credentials, same_secret, signing_key
from broker_jobs.dashboard.local_requests import is_loopback
from broker_jobs.dashboard.role import Role, Visitor
from broker_jobs.errors import UsageError
from tests.unit.dashboard.conftest import client_of
from tests.unit.dashboard.contexts import FakeActions, context_of

Browse = Callable[..., TestClient]
PAGE = "/queues"


def basic(user: str, password: str) -> dict[str, str]:
    return {"authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}


def token_in(client: TestClient, path: str = PAGE) -> str:
    """The token of a page's forms."""
    found = re.search(r'name="csrf" value="(\w+)"', client.get(path).text)
    assert found is not None
    return found.group(1)


def log_in(client: TestClient, **form: str) -> Any:
    return client.post("/login", data=form)


# --- without a login: this machine alone ---


def test_without_a_login_this_machine_is_served(browse: Browse) -> None:
    assert browse(context_of()).get(PAGE).status_code == 200


@pytest.mark.parametrize(
    ("peer", "headers"),
    [
        ("192.0.2.7", {}),
        ("127.0.0.1", {"host": "evil.example"}),  # a name of somebody else that has our address
        ("127.0.0.1", {"host": "localhost.evil.example"}),
        ("127.0.0.1", {"x-forwarded-for": "192.0.2.7"}),  # a proxy on this machine
        ("127.0.0.1", {"forwarded": "for=192.0.2.7"}),
        ("127.0.0.1", {"x-real-ip": "192.0.2.7"}),
        ("127.0.0.1", {"x-forwarded-proto": "https"}),
        ("127.0.0.1", {"x-forwarded-port": "443"}),
        ("127.0.0.1", {"origin": "https://jobs.example"}),  # through a proxy that says nothing of itself
    ],
)
def test_without_a_login_nobody_else_is_served_and_the_page_says_how_to_open_it(
    peer: str, headers: dict[str, str]
) -> None:
    app = build_app(context_of(), Authentication(Credentials(), local=True, key=lambda: b"k", clock=SystemClock()))
    answer = client_of(app, peer=peer).get(PAGE, headers=headers)
    assert answer.status_code == 403
    assert "BROKER_JOBS_DASHBOARD_TOKEN" in answer.text
    assert "default" not in answer.text


def test_a_server_without_an_address_of_its_client_is_not_this_machine() -> None:
    app = build_app(context_of(), Authentication(Credentials(), local=True, key=lambda: b"k", clock=SystemClock()))

    async def on_a_unix_socket(scope: Any, receive: Any, send: Any) -> None:
        await app({**scope, "client": None}, receive, send)

    assert client_of(on_a_unix_socket).get(PAGE).status_code == 403


def test_what_speaks_as_a_proxy_does_by_default_is_not_this_machine() -> None:
    app = build_app(context_of(), Authentication(Credentials(), local=True, key=lambda: b"k", clock=SystemClock()))

    async def proxied(scope: Any, receive: Any, send: Any) -> None:
        await app({**scope, "http_version": "1.0"}, receive, send)

    assert client_of(proxied).get(PAGE).status_code == 403


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "[::1]", "localhost", "LOCALHOST.", "a.localhost"])
def test_these_are_this_machine(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "localhost.example", "127.0.0.1.example", "", "fe80::1"])
def test_these_are_not_this_machine(host: str) -> None:
    assert not is_loopback(host)


# --- token, user and password ---


def test_with_a_token_even_this_machine_has_to_show_it(browse: Browse) -> None:
    client = browse(context_of(), token="open sesame")
    answer = client.get(PAGE + "?a=1")
    assert (answer.status_code, answer.headers["location"]) == (303, "/login?next=%2Fqueues%3Fa%3D1")
    assert client.get(PAGE, headers={"authorization": "Bearer open sesame"}).status_code == 200
    assert client.get(PAGE, headers={"authorization": "Bearer open"}).status_code == 303


def test_the_login_form_takes_the_token_and_goes_on_where_one_wanted_to(browse: Browse) -> None:
    client = browse(context_of(), token="open sesame")
    assert log_in(client, token="wrong").status_code == 401
    answer = log_in(client, token="open sesame", next="/queues?a=1")
    assert (answer.status_code, answer.headers["location"]) == (303, "/queues?a=1")
    assert client.get(PAGE).status_code == 200


@pytest.mark.parametrize(
    "elsewhere", ["https://evil.example/", "//evil.example", "/\\evil.example", "javascript:x", ""]
)
def test_the_login_leads_nobody_elsewhere(browse: Browse, elsewhere: str) -> None:
    client = browse(context_of(), token="t")
    assert log_in(client, token="t", next=elsewhere).headers["location"] == "/"


def test_user_and_password_open_by_the_form_and_by_http(browse: Browse) -> None:
    client = browse(context_of(), user="ann", password="pass word ü")
    assert log_in(client, user="ann", password="pass word").status_code == 401
    assert client.get(PAGE, headers=basic("ann", "wrong")).status_code == 303
    assert client.get(PAGE, headers=basic("ann", "pass word ü")).status_code == 200
    assert log_in(client, user="ann", password="pass word ü").status_code == 303
    assert "ann" in client.get(PAGE).text


def test_a_session_cookie_is_not_read_by_scripts_and_ends_with_the_logout(browse: Browse) -> None:
    client = browse(context_of(), token="t")
    cookie = log_in(client, token="t").headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=lax" in cookie
    assert "Path=/" in cookie
    assert "Secure" not in cookie  # by plain http; see the next test
    kept = client.cookies["broker_jobs_session"]
    answer = client.post("/logout", data={"csrf": token_in(client)})
    assert answer.headers["location"] == "/login"
    assert client.get(PAGE).status_code == 303
    client.cookies["broker_jobs_session"] = kept  # somebody has copied it
    assert client.get(PAGE).status_code == 303


def test_a_session_cookie_over_https_is_for_https_alone() -> None:
    access = Authentication(Credentials(token="t"), key=lambda: b"k", clock=SystemClock())
    client = client_of(build_app(context_of(), access), base_url="https://jobs.example")
    assert "Secure" in log_in(client, token="t").headers["set-cookie"]


def test_a_session_ends_by_itself() -> None:
    clock = ManualClock()
    access = Authentication(Credentials(token="t"), key=lambda: b"k", clock=clock)
    client = client_of(build_app(context_of(), access))
    log_in(client, token="t")
    clock.advance(11 * 3600)
    assert client.get(PAGE).status_code == 200
    clock.advance(2 * 3600)
    assert client.get(PAGE).status_code == 303


def test_a_page_that_stays_open_without_a_login_can_still_act() -> None:
    clock, actions = ManualClock(), FakeActions()
    client = client_of(
        build_app(context_of(actions), Authentication(Credentials(), local=True, key=lambda: b"k", clock=clock))
    )
    token = token_in(client)
    for _ in range(5):
        clock.advance(7 * 3600)
        client.get(PAGE, headers={"x-live": "1"})
    assert client.post("/queues/mail/pause", data={"csrf": token}).status_code == 303
    clock.advance(13 * 3600)
    assert client.post("/queues/mail/pause", data={"csrf": token}).status_code == 403
    assert len(actions.done) == 1


@pytest.mark.parametrize("forged", ["", "x", "e30.x.y", "eyJpZCI6ImEiLCJ3aG8iOiJhbm4iLCJ1bnRpbCI6OTk5OTk5OTk5OX0.aaaa"])
def test_a_forged_session_opens_nothing(browse: Browse, forged: str) -> None:
    client = browse(context_of(), token="t")
    client.cookies["broker_jobs_session"] = forged
    assert client.get(PAGE).status_code == 303


def test_a_session_of_another_password_opens_nothing(browse: Browse) -> None:
    old = client_of(
        build_app(
            context_of(), Authentication(Credentials(token="a"), key=lambda: signing_key("a"), clock=SystemClock())
        )
    )
    log_in(old, token="a")
    new = client_of(
        build_app(
            context_of(), Authentication(Credentials(token="b"), key=lambda: signing_key("b"), clock=SystemClock())
        )
    )
    new.cookies["broker_jobs_session"] = old.cookies["broker_jobs_session"]
    assert new.get(PAGE).status_code == 303


def test_too_many_wrong_attempts_have_to_wait_and_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    clock = ManualClock()
    client = client_of(build_app(context_of(), Authentication(Credentials(token="t"), key=lambda: b"k", clock=clock)))
    assert [log_in(client, token="x").status_code for _ in range(10)] == [401] * 10
    assert log_in(client, token="t").status_code == 429
    assert [record.getMessage() for record in caplog.records if record.name.startswith("broker_jobs")] == [
        "10 failed logins to the dashboard from '127.0.0.1' in a minute: further ones are refused for a minute"
    ]
    assert client.get(PAGE, headers={"authorization": "Bearer t"}).status_code == 303
    clock.advance(61)
    assert log_in(client, token="t").status_code == 303


def test_user_and_password_go_together() -> None:
    with pytest.raises(UsageError, match="belong together"):
        Credentials(user="ann")
    assert not Credentials().is_token("")
    assert not Credentials().is_user("", "")


def test_secrets_are_compared_whole() -> None:
    assert same_secret("ü", "ü")
    assert not same_secret("a", "ab")
    assert signing_key("a", "") == signing_key("a", "") != signing_key("", "a")
    assert signing_key() != signing_key()


# --- the program's own login ---


def plain(request: Request) -> Role | Visitor | None:
    name = request.headers.get("x-user")
    roles = {"vera": Role.VIEWER, "otto": Role.OPERATOR, "none": Role.NONE}
    return Visitor(Role.ADMIN, "Ada") if name == "ada" else roles.get(name or "")


async def coroutine(request: Request) -> Role | Visitor | None:
    return plain(request)


@pytest.mark.parametrize("authorize", [plain, coroutine])
def test_the_programs_own_login_decides(browse: Browse, authorize: Any) -> None:
    client = browse(context_of(), authorize=authorize)
    assert client.get(PAGE).status_code == 403  # being local counts for nothing
    assert client.get(PAGE, headers={"x-user": "none"}).status_code == 403
    assert client.get(PAGE, headers={"x-user": "vera"}).status_code == 200
    assert "Ada" in client.get(PAGE, headers={"x-user": "ada"}).text


def test_what_is_no_role_lets_nobody_in(browse: Browse) -> None:
    client = browse(context_of(), authorize=lambda _request: "admin")
    with pytest.raises(UsageError, match="return a Role"):
        client.get(PAGE)


def test_a_role_may_do_what_it_may_and_no_more(browse: Browse) -> None:
    actions = FakeActions()
    client = browse(context_of(actions), authorize=plain)

    def pause(user: str) -> int:
        client.headers["x-user"] = user
        client.cookies.clear()
        page = client.get(PAGE)
        found = re.search(r'name="csrf" value="(\w+)"', page.text)
        # A viewer's page has no form of its own; the token is the session's all the same.
        return int(client.post("/queues/mail/pause", data={"csrf": found.group(1) if found else "x"}).status_code)

    assert pause("vera") == 403
    assert actions.done == []
    assert pause("otto") == 303
    assert actions.done == [("pause_queue", "authorized", "mail")]
    client.headers["x-user"] = "otto"
    assert client.post("/limits/set", data={"csrf": token_in(client), "key": "a", "limit": "1"}).status_code == 403


def test_read_only_lets_nobody_do_anything_and_shows_no_button(browse: Browse) -> None:
    actions = FakeActions()
    client = browse(context_of(actions, read_only=True), read_only=True)
    page = client.get(PAGE).text
    assert '<form class="act"' not in page
    answer = client.post("/queues/mail/pause", data={"csrf": "x"})
    assert answer.status_code == 403
    assert "read-only" in answer.text
    assert actions.done == []


# --- a request that actions ---


@pytest.fixture
def actions() -> FakeActions:
    return FakeActions()


@pytest.fixture
def client(browse: Browse, actions: FakeActions) -> TestClient:
    return browse(context_of(actions))


def test_a_form_of_our_own_page_acts(client: TestClient, actions: FakeActions) -> None:
    answer = client.post("/queues/mail/pause", data={"csrf": token_in(client), "back": PAGE})
    assert (answer.status_code, answer.headers["location"]) == (303, PAGE)
    assert actions.done == [("pause_queue", "local", "mail")]


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": "http://localhost:81"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"sec-fetch-site": "none"},
    ],
)
def test_a_form_of_another_page_does_nothing_even_with_the_token(
    client: TestClient, actions: FakeActions, headers: dict[str, str]
) -> None:
    answer = client.post("/queues/mail/pause", data={"csrf": token_in(client)}, headers=headers)
    assert answer.status_code == 403
    assert actions.done == []


def test_the_browsers_word_for_our_own_page_is_taken(client: TestClient, actions: FakeActions) -> None:
    token = token_in(client)
    for headers in ({"origin": "http://localhost"}, {"sec-fetch-site": "same-origin"}):
        assert client.post("/queues/mail/pause", data={"csrf": token}, headers=headers).status_code == 303
    assert len(actions.done) == 2


@pytest.mark.parametrize("data", [{}, {"csrf": ""}, {"csrf": "0" * 64}])
def test_without_the_sessions_token_nothing_is_done(
    client: TestClient, actions: FakeActions, data: dict[str, str]
) -> None:
    client.get(PAGE)
    assert client.post("/queues/mail/pause", data=data).status_code == 403
    assert actions.done == []


def test_the_token_of_another_session_does_nothing(browse: Browse, client: TestClient, actions: FakeActions) -> None:
    other = token_in(browse(context_of()))
    client.get(PAGE)
    assert client.post("/queues/mail/pause", data={"csrf": other}).status_code == 403
    assert actions.done == []


def test_a_bearer_needs_no_token_of_a_form(browse: Browse, actions: FakeActions) -> None:
    client = browse(context_of(actions), token="t")
    assert client.post("/queues/mail/pause", headers={"authorization": "Bearer t"}).status_code == 303
    assert actions.done == [("pause_queue", "token", "mail")]


def test_a_get_never_acts(client: TestClient, actions: FakeActions) -> None:
    assert client.get("/queues/mail/pause").status_code == 405
    assert actions.done == []


def test_what_is_too_large_is_not_read(client: TestClient, actions: FakeActions) -> None:
    token = token_in(client)
    large = {"csrf": token, "more": "x" * (1024 * 1024)}
    assert client.post("/queues/mail/pause", data=large).status_code == 413

    def chunks() -> Any:
        yield b"csrf=" + token.encode() + b"&more="
        for _ in range(20):
            yield b"x" * 100_000

    headers = {"content-type": "application/x-www-form-urlencoded"}
    assert client.post("/queues/mail/pause", content=chunks(), headers=headers).status_code == 413
    assert actions.done == []
