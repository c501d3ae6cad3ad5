"""The API shows and does what the pages show and do; what goes wrong is said in one shape, with what to do."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from broker_jobs import Receipt
from broker_jobs.clock import SystemClock
from broker_jobs.dashboard.api.app import build_api
from broker_jobs.dashboard.api.errors import status_of
from broker_jobs.dashboard.app import build_app
from broker_jobs.dashboard.auth import Authentication
from broker_jobs.dashboard.context import RequestContext
from broker_jobs.dashboard.credentials import Credentials
from broker_jobs.dashboard.role import Role
from broker_jobs.errors import BrokerError, ResultTimeout, StoreError
from broker_jobs.messages.state import State
from tests.support.wait import eventually
from tests.unit.dashboard.shop import SECRET, Shop, filled, shop_in

ROOT = "/api/v1"


class Caller:
    """A program that calls the API with a role."""

    def __init__(self, context: RequestContext, role: Role = Role.ADMIN, **given: Any) -> None:
        access = Authentication(
            Credentials(), authorize=lambda _: role, key=lambda: b"k" * 32, clock=SystemClock(), **given
        )
        self.client = TestClient(build_app(context, access), base_url="http://localhost", client=("127.0.0.1", 50_000))

    def call(self, method: str, path: str, status: int = 200, **given: Any) -> Any:
        """The JSON of an answer of this status."""
        answer = self.client.request(method, ROOT + path, **given)
        assert answer.status_code == status, f"{path}: {answer.status_code} {answer.text}"
        if status >= 400:
            assert answer.headers["content-type"] == "application/problem+json"
            told = answer.json()
            assert told["status"] == status
            assert told["detail"]
            assert told["do"]
            return told
        return answer.json() if answer.content else None


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    with shop_in(Path(tmp_path_factory.mktemp("shop"))) as open_shop:
        declared = open_shop.store.reader.declarations.function
        eventually(lambda: declared("charge") is not None, what="the program has told its functions")
        yield open_shop


@pytest.fixture(scope="module")
def made(shop: Shop) -> dict[str, Receipt[Any]]:
    return filled(shop)


@pytest.fixture
def caller(shop: Shop) -> Caller:
    assert shop.context is not None
    return Caller(shop.context)


def test_jobs_are_listed_page_by_page(caller: Caller, made: dict[str, Receipt[Any]]) -> None:
    ids: list[str] = []
    cursor = None
    while True:
        page = caller.call("GET", "/jobs", params={"limit": 2} | ({"cursor": cursor} if cursor else {}))
        ids += [job["id"] for job in page["jobs"]]
        if (cursor := page["next"]) is None:
            break
    assert set(ids) >= {receipt.id for receipt in made.values()}
    assert len(ids) == len(set(ids))


def test_jobs_are_listed_by_state_and_error(caller: Caller, made: dict[str, Receipt[Any]]) -> None:
    found = caller.call("GET", "/jobs", params={"state": "failed", "error_text": "no CARD"})["jobs"]
    assert [job["id"] for job in found] == [made["failed"].id]


def test_one_job_is_told_whole_and_masked(caller: Caller, made: dict[str, Receipt[Any]]) -> None:
    job = caller.call("GET", f"/jobs/{made['paid'].id}")
    assert {each["name"]: each["value"] for each in job["arguments"]}["token"] == "***"
    assert SECRET not in str(job)
    failed = caller.call("GET", f"/jobs/{made['failed'].id}")
    assert failed["failure"]["type"] == "ValueError"
    assert [raised["link"] for raised in failed["failure"]["chain"]] == ["", "cause"]
    assert [child["id"] for child in failed["children"]] == [made["unsatisfied"].id]


def test_a_masked_value_is_not_found_by_searching(caller: Caller, made: dict[str, Receipt[Any]]) -> None:
    def found(text: str) -> list[str]:
        return [job["id"] for job in caller.call("GET", "/jobs", params={"text": text})["jobs"]]

    assert found(SECRET) == []
    assert found(SECRET[:-2]) == []
    assert found("12.5") == [made["paid"].id]


def test_how_far_a_search_came_tells_nothing_of_what_is_masked(shop: Shop, caller: Caller) -> None:
    twins = [shop.pay.enqueue(1.0, token=SECRET, card={"holder": "Zoe"}) for _ in range(3)]
    shop.ends(*twins)

    def told(text: str) -> Any:
        page = caller.call("GET", "/jobs", params={"text": text, "limit": 1, "job": "pay"})
        return page["jobs"], page["next"], page["scanned"], page["complete"]

    assert told(SECRET[:6]) == told("tok-9")
    assert told("Zoe")[1] is not None


def test_arguments_to_be_changed_are_told_to_operators_alone_and_what_is_hidden_to_nobody(
    shop: Shop, made: dict[str, Receipt[Any]]
) -> None:
    assert shop.context is not None
    path = f"/jobs/{made['paid'].id}/arguments"
    told = Caller(shop.context, Role.OPERATOR).call("GET", path)
    assert told == {"args": [12.5], "kwargs": {"token": "***", "card": {"holder": "Ann", "password": "***"}}}
    assert "operator" in Caller(shop.context, Role.VIEWER).call("GET", path, 403)["detail"]


def test_what_is_hidden_keeps_its_value_where_its_mark_is_sent_back(shop: Shop, caller: Caller) -> None:
    paid = shop.pay.enqueue(1.0, token=SECRET, card={"holder": "Ann", "password": SECRET})
    shop.ends(paid)
    sent = caller.call("GET", f"/jobs/{paid.id}/arguments")
    elsewhere = {"args": ["***"], "kwargs": sent["kwargs"]}
    assert "***" in caller.call("POST", f"/jobs/{paid.id}/requeue", 422, json=elsewhere)["detail"]
    caller.call("POST", f"/jobs/{paid.id}/requeue", json=sent | {"args": [2.0]})
    kept = ([2.0], {"token": SECRET, "card": {"holder": "Ann", "password": SECRET}})
    assert shop.store.reader.jobs.get(paid.id) is not None
    assert shop.context is not None
    assert shop.context.queries.jobs.raw_arguments(paid.id) == kept


@pytest.mark.parametrize("depth", [120, 300, 900])
def test_arguments_nested_too_deeply_to_be_read_are_refused(
    caller: Caller, made: dict[str, Receipt[Any]], depth: int
) -> None:
    body = f'{{"args": [{"[" * depth}{"]" * depth}], "kwargs": {{}}}}'.encode()
    told = caller.call(
        "POST", f"/jobs/{made['failed'].id}/requeue", 422, content=body, headers={"content-type": "application/json"}
    )
    assert "nested" in told["detail"]


def test_a_failed_job_is_requeued_with_other_arguments(shop: Shop, caller: Caller) -> None:
    failed = shop.charge.enqueue(2)
    shop.ends(failed, as_=State.FAILED)
    caller.call("POST", f"/jobs/{failed.id}/requeue", json={"args": [3], "kwargs": {}})
    eventually(lambda: _error(shop, failed.id) == "order 3 has no card", what="it failed with its new argument")


def _error(shop: Shop, id: str) -> str:
    assert shop.context is not None
    job = shop.context.queries.jobs.get(id)
    return "" if job is None or job.failure is None else job.failure.message


def test_a_job_is_run_scheduled_rescheduled_and_deleted(shop: Shop, caller: Caller) -> None:
    later = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    id = caller.call("POST", "/jobs", 201, json={"job": "welcome", "args": [1], "queue": "mail", "due_at": later})["id"]
    eventually(lambda: shop.state(id) == "scheduled", what="it is scheduled")
    caller.call("POST", f"/jobs/{id}/reschedule", json={"due_at": later})
    assert caller.call("DELETE", f"/jobs/{id}") == {"had_ended": False}
    assert caller.call("DELETE", f"/jobs/{id}") == {"had_ended": True}
    told = [(line["kind"], line["subject"], line["by"]) for line in caller.call("GET", "/audit")["audit"]]
    assert told[:4] == [(kind, id, "authorized") for kind in ("delete", "delete", "reschedule", "run")]


def test_many_jobs_are_requeued_by_one_command(shop: Shop, caller: Caller) -> None:
    failed = [shop.charge.enqueue(n) for n in range(3)]
    shop.ends(*failed, as_=State.FAILED)
    id = caller.call("POST", "/bulk/requeue", 202, json={"ids": [receipt.id for receipt in failed]})["id"]
    eventually(lambda: caller.call("GET", f"/bulk/{id}")["finished"], what="it is worked off")
    assert caller.call("GET", f"/bulk/{id}") == {"done": 3, "refused": 0, "finished": True}
    id = caller.call("POST", "/bulk/delete", 202, json={"matching": {"job": "charge", "state": "failed"}})["id"]
    eventually(lambda: caller.call("GET", f"/bulk/{id}")["finished"], what="it is worked off")


@pytest.mark.parametrize(
    "body",
    [{}, {"ids": []}, {"ids": ["a"], "matching": {}}, {"matching": {"text": "x"}}, {"matching": {"queue": None}}],
)
def test_what_a_command_about_many_cannot_mean_is_told(caller: Caller, body: dict[str, Any]) -> None:
    assert caller.call("POST", "/bulk/delete", 422, json=body)["mistakes"]


def test_queues_are_paused_and_resumed(caller: Caller) -> None:
    caller.call("POST", "/queues/spare/pause", 204)
    assert {q["name"]: q["paused"] for q in caller.call("GET", "/queues")}["spare"] is True
    caller.call("POST", "/queues/spare/resume", 204)
    assert {q["name"]: q["paused"] for q in caller.call("GET", "/queues")}["spare"] is False


def test_a_recurring_job_is_put_changed_triggered_paused_and_removed(caller: Caller) -> None:
    path = "/recurring/every/night"
    put = {"cron": "0 3 * * *", "job": "welcome", "args": [7], "kwargs": {"name": "Ann"}, "queue": "mail"}
    caller.call("PUT", path, 204, json=put)
    caller.call("PATCH", path, 204, json={"cron": "30 4 * * *", "tz": "Europe/Istanbul", "overlap": "skip"})
    told = caller.call("GET", path)
    assert (told["cron"], told["tz"], told["overlap"]) == ("30 4 * * *", "Europe/Istanbul", "skip")
    assert told["call"] == 'welcome.enqueue(7, name="Ann")'
    assert len(told["next_times"]) == 5
    id = caller.call("POST", f"{path}/trigger", 201)["id"]
    eventually(lambda: caller.call("GET", f"/jobs/{id}")["state"] == "succeeded", what="it has run")
    assert caller.call("GET", path)["runs"][0]["id"] == id
    caller.call("POST", f"{path}/pause", 204)
    assert caller.call("GET", path)["paused"] is True
    assert caller.call("GET", path)["next_times"] == []
    caller.call("POST", f"{path}/resume", 204)
    caller.call("DELETE", path, 204)
    caller.call("GET", path, 404)
    for method, end in (("PATCH", ""), ("DELETE", ""), ("POST", "/pause"), ("POST", "/resume"), ("POST", "/trigger")):
        caller.call(method, path + end, 404, json={"cron": "0 3 * * *"} if method == "PATCH" else None)


def test_the_times_of_a_cron_expression_are_told_or_what_is_wrong_in_it(caller: Caller) -> None:
    assert len(caller.call("GET", "/cron-preview", params={"cron": "0 9 * * MON", "count": 3})["times"]) == 3
    assert "not a valid hour" in caller.call("GET", "/cron-preview", 422, params={"cron": "0 99 * * *"})["detail"]


def test_a_batch_is_told_requeued_and_deleted(shop: Shop, caller: Caller) -> None:
    with shop.jobs.batch("orders") as batch:
        batch.enqueue(shop.charge, 1)
        batch.enqueue(shop.welcome, 1)
    eventually(lambda: batch.state() is State.FAILED, what="it has ended")
    told = caller.call("GET", f"/batches/{batch.id}")
    assert told["failures"][0]["count"] == 1
    assert {job["job"] for job in told["jobs"]} == {"charge", "welcome"}
    id = caller.call("POST", f"/batches/{batch.id}/requeue-failures", 202)["id"]
    eventually(lambda: caller.call("GET", f"/bulk/{id}")["finished"], what="it is worked off")
    eventually(lambda: batch.state() is State.FAILED, what="it has ended again")
    assert caller.call("DELETE", f"/batches/{batch.id}") == {"had_ended": True}
    caller.call("DELETE", "/batches/none", 404)


def test_a_limit_is_set_and_taken_back(caller: Caller) -> None:
    caller.call("PUT", "/limits", 204, json={"key": "smtp", "limit": 7})
    told = [(each["key"], each["limit"]) for each in caller.call("GET", "/limits") if each["is_set"]]
    assert told == [("smtp", 7)]
    caller.call("PUT", "/limits", 204, json={"key": "smtp", "limit": None})
    assert not [each for each in caller.call("GET", "/limits") if each["is_set"]]


@pytest.mark.parametrize(
    "path",
    ["/jobs/none", "/batches/none", "/recurring/none", "/dead-letters/none", "/functions/none", "/bulk/none", "/none"],
)
def test_what_is_not_there_is_told(caller: Caller, path: str) -> None:
    caller.call("GET", path, 404)


def test_what_does_not_fit_is_told_without_repeating_it(caller: Caller) -> None:
    told = caller.call("POST", "/jobs", 422, json={"job": 7, "args": SECRET, "password": SECRET})
    assert {mistake["where"] for mistake in told["mistakes"]} == {"body.job", "body.args", "body.password"}
    assert SECRET not in str(told)
    caller.call("POST", "/jobs", 422, content=b"{", headers={"content-type": "application/json"})
    caller.call("POST", "/jobs", 422, content=b"\xff", headers={"content-type": "application/json"})
    caller.call("GET", "/jobs", 422, params={"colour": "red"})
    caller.call("GET", "/jobs", 422, params={"cursor": "nonsense"})


def test_what_the_coordinator_refuses_is_told(shop: Shop, caller: Caller, made: dict[str, Receipt[Any]]) -> None:
    del shop
    told = caller.call("POST", f"/jobs/{made['running'].id}/requeue", 409)
    assert told["detail"] == "it is running: delete it first, then requeue it"


def test_viewers_act_on_nothing_and_operators_not_on_all(shop: Shop) -> None:
    assert shop.context is not None
    document = build_api(lambda: shop.context).openapi()  # type: ignore[arg-type,return-value]  # asserted above
    viewer, operator = Caller(shop.context, Role.VIEWER), Caller(shop.context, Role.OPERATOR)
    acting = [(path, method) for path, of in document["paths"].items() for method in of if method != "get"]
    assert len(acting) > 15
    for path, method in acting:
        viewer.call(method.upper(), path.replace("{id}", "none").replace("{name}", "none"), 403)
    for path, method in (
        ("/jobs", "POST"),
        ("/limits", "PUT"),
        ("/dead-letters/x/replay", "POST"),
        ("/dead-letters/x", "DELETE"),
    ):
        assert "admin" in operator.call(method, path, 403)["detail"]


def test_a_read_only_dashboard_does_nothing(shop: Shop) -> None:
    assert shop.context is not None
    assert "read-only" in Caller(shop.context, read_only=True).call("POST", "/queues/mail/pause", 403)["detail"]


def test_who_does_not_come_in_is_told_how(shop: Shop) -> None:
    assert shop.context is not None
    access = Authentication(Credentials(token="right"), key=lambda: b"k" * 32, clock=SystemClock())
    client = TestClient(build_app(shop.context, access), base_url="http://localhost")
    for headers in ({}, {"authorization": "Bearer wrong"}):
        answer = client.get(f"{ROOT}/queues", headers=headers)
        assert (answer.status_code, answer.headers["content-type"]) == (401, "application/problem+json")
        assert "Bearer" in answer.json()["do"]
    right = {"authorization": "Bearer right"}
    assert client.get(f"{ROOT}/queues", headers=right).status_code == 200
    assert client.post(f"{ROOT}/queues/mail/resume", headers=right).status_code == 204
    assert client.post(f"{ROOT}/queues/mail/resume", headers=right | {"origin": "http://evil"}).status_code == 204


@pytest.mark.parametrize("error", [BrokerError("away"), StoreError("away"), ResultTimeout("nobody")])
def test_what_is_away_may_be_asked_again(error: Any) -> None:
    assert status_of(error) == 503


def test_when_no_coordinator_answers_it_says_when_to_ask_again(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    assert shop.context is not None

    def nobody(*_: object) -> None:
        raise ResultTimeout("no coordinator answered within 1 s")

    monkeypatch.setattr(shop.context.actions, "pause_queue", nobody)
    caller = Caller(shop.context)
    assert caller.call("POST", "/queues/mail/pause", 503)["detail"] == "no coordinator answered within 1 s"
    assert int(caller.client.post(f"{ROOT}/queues/mail/pause").headers["retry-after"]) > 0


def test_the_document_names_and_describes_every_operation(shop: Shop) -> None:
    assert shop.context is not None
    document = Caller(shop.context).call("GET", "/openapi.json")
    seen = []
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            seen.append(operation["operationId"])
            assert operation["tags"], (path, method)
            assert operation["description"], (path, method)
            assert {"401", "403", "503"} <= {*operation["responses"]}, (path, method)
            for status, response in operation["responses"].items():
                if status >= "400":
                    assert list(response["content"]) == ["application/problem+json"], (path, method, status)
    assert len(seen) == len(set(seen)) > 35
    assert "password" not in str(document["components"]["securitySchemes"])


def test_a_job_that_is_run_from_outside_is_tried_as_often_as_its_code_says(shop: Shop, caller: Caller) -> None:
    id = caller.call("POST", "/jobs", 201, json={"job": "charge", "args": [5]})["id"]
    eventually(lambda: shop.state(id) == "failed", what="it has failed for good, at once")
    assert caller.call("GET", f"/jobs/{id}")["retries"] == 0
    told = caller.call("POST", "/jobs", 422, json={"job": "charge", "args": ["five"]})
    assert told["detail"] == "charge: order must be int"
