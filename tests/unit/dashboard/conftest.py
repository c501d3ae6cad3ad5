"""A dashboard on a store in memory, and a browser of this machine in front of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from starlette.testclient import TestClient

from broker_jobs.clock import SystemClock
from broker_jobs.dashboard.app import build_app
from broker_jobs.dashboard.auth import Authentication
from broker_jobs.dashboard.context import RequestContext
from broker_jobs.dashboard.credentials import Credentials

LOCAL = "http://localhost"


def client_of(app: Any, base_url: str = LOCAL, peer: str = "127.0.0.1", **headers: str) -> TestClient:
    """A browser on this machine; `peer` is the address its requests come from."""
    return TestClient(app, base_url=base_url, client=(peer, 50000), headers=headers, follow_redirects=False)


@pytest.fixture
def browse() -> Callable[..., TestClient]:
    """Opens a site: browse(context), or browse(context, token="…", read_only=True, authorize=…)."""

    def opened(context: RequestContext, **given: Any) -> TestClient:
        credentials = Credentials(**{k: given.pop(k) for k in ("token", "user", "password") if k in given})
        local = given.get("authorize") is None
        access = Authentication(credentials, local=local, key=lambda: b"k" * 32, clock=SystemClock(), **given)
        return client_of(build_app(context, access))

    return opened
