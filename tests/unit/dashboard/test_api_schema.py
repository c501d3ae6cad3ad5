"""The API does what its OpenAPI document says, whatever is sent: Schemathesis asks every operation of a real system."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.config import SchemathesisConfig
from schemathesis.generation import GenerationMode

from broker_jobs.clock import SystemClock
from broker_jobs.dashboard.api.app import build_api
from broker_jobs.dashboard.app import build_app
from broker_jobs.dashboard.auth import Authentication
from broker_jobs.dashboard.context import RequestContext
from broker_jobs.dashboard.credentials import Credentials
from tests.unit.dashboard.shop import Shop, filled, shop_in

TOKEN = "right"
RIGHT = {"Authorization": f"Bearer {TOKEN}"}
EXAMPLES = 10
"""Of each operation, of what fits and of what does not."""


def no_context() -> RequestContext:
    raise AssertionError("the document needs no context")


OPERATIONS = [
    (method.upper(), path)
    for path, operations in build_api(no_context).openapi()["paths"].items()
    for method in operations
]
MEANT = (
    "GET /jobs", "GET /batches", "GET /audit", "GET /dead-letters", "GET /times", "POST /jobs",
    "POST /jobs/{id}/requeue", "POST /jobs/{id}/reschedule",
    "POST /bulk/delete", "POST /bulk/requeue", "PUT /recurring/{name}", "PATCH /recurring/{name}", "PUT /limits",
    "POST /workers/change",
)  # fmt: skip
"""A schema cannot say which cursor, cron expression or pair of fields means something: these may answer 422 to all."""
TAKEN = ["2xx", "401", "403", "404", "409", "5xx", "422"]
CONFIG: dict[str, Any] = {
    "operations": [
        {"include-name": name, "checks": {"positive_data_acceptance": {"expected-statuses": TAKEN}}} for name in MEANT
    ]
}


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    with shop_in(Path(tmp_path_factory.mktemp("shop"))) as open_shop:
        filled(open_shop)
        yield open_shop


@pytest.fixture(scope="module")
def described(shop: Shop) -> Any:
    assert shop.context is not None
    access = Authentication(Credentials(token=TOKEN), key=lambda: b"k" * 32, clock=SystemClock())
    app = build_app(shop.context, access)
    return schemathesis.openapi.from_asgi(
        "/api/v1/openapi.json", app, config=SchemathesisConfig.from_dict(CONFIG), headers=RIGHT
    )


@pytest.mark.slow
@pytest.mark.parametrize(("method", "path"), OPERATIONS, ids=[f"{method} {path}" for method, path in OPERATIONS])
@pytest.mark.parametrize("mode", list(GenerationMode), ids=[mode.name.lower() for mode in GenerationMode])
def test_every_operation_answers_as_described(described: Any, method: str, path: str, mode: GenerationMode) -> None:
    operation = described[path][method]

    @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(case=operation.as_strategy(generation_mode=mode))
    def asks(case: schemathesis.Case[Any]) -> None:
        case.call_and_validate(headers=RIGHT)

    asks()
