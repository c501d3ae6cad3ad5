"""Addresses of pages, whatever is in a name, and wherever the dashboard is mounted."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.testclient import TestClient

from broker_jobs.dashboard import context
from tests.unit.dashboard.conftest import client_of

IDS = st.from_regex(r"[A-Za-z0-9._:@/+-]{1,40}", fullmatch=True).filter(lambda id: not {".", ".."} & set(id.split("/")))
"""What a job may be called."""


def answering(path: str, name: str, show: Callable[[Request], str]) -> Starlette:
    def page(request: Request) -> Response:
        return PlainTextResponse(show(request))

    return Starlette(routes=[Route(path, page, name=name), Route("/x", page, name="x")])


def asked(app: Starlette, path: str, prefix: str = "") -> TestClient:
    return client_of(Starlette(routes=[Mount(prefix, app=app)]) if prefix else app)


@settings(deadline=None, max_examples=60)
@given(IDS)
def test_an_id_comes_back_from_its_address(id: str) -> None:
    app = answering("/jobs/{id:path}/edit", "job", lambda r: r.path_params.get("id") or context.url(r, "job", id=id))
    client = client_of(app)
    address = client.get("/x").text
    assert client.get(address).text == id


@settings(deadline=None, max_examples=60)
@given(st.text(min_size=1, max_size=30).filter(lambda n: not {"", ".", ".."} & set(n.split("/")) and "\0" not in n))
def test_a_name_comes_back_from_its_address(name: str) -> None:
    app = answering(
        "/recurring/{name:path}", "one", lambda r: r.path_params.get("name") or context.url(r, "one", name=name)
    )
    client = client_of(app)
    address = client.get("/x").text
    assert unquote(urlsplit(address).path) == f"/recurring/{name}"


def test_what_is_no_part_of_the_path_is_the_query_and_none_is_left_out() -> None:
    app = answering(
        "/jobs", "jobs", lambda r: context.url(r, "jobs", state="failed", text="a&b=ü", cursor=None, ids=["1", "2"])
    )
    address = client_of(app).get("/x").text
    assert parse_qs(urlsplit(address).query) == {"state": ["failed"], "text": ["a&b=ü"], "ids": ["1", "2"]}


@pytest.mark.parametrize("prefix", ["", "/jobs", "/a/b"])
def test_addresses_are_below_where_it_is_mounted(prefix: str) -> None:
    app = answering("/queues", "queues", lambda r: f"{context.url(r, 'queues')} {context.here(r)} {context.root(r)}")
    said = asked(app, "/x", prefix).get(f"{prefix}/x?a=1").text
    assert said == f"{prefix}/queues {prefix}/x?a=1 {prefix}"


@pytest.mark.parametrize(
    ("address", "ours"),
    [("/jobs/queues", True), ("/jobs/", True), ("/other", False), ("//evil", False), ("/jobsx/", False), ("", False),
     ("/jobs/\\evil", False), ("https://evil/jobs/", False), ("/jobs/\r\nset-cookie: a", False),
     ("//[", False), ("http://[", False), ("/jobs/[", True)],
)  # fmt: skip
def test_only_addresses_below_the_mount_are_ours(address: str, ours: bool) -> None:
    app = answering("/queues", "queues", lambda r: str(context.is_own_address(r, address)))
    assert asked(app, "/x", "/jobs").get("/jobs/x").text == str(ours)
