"""What no command can mean, or no JSON can carry, is refused before anything is sent; the rest goes in a name."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest

from broker_jobs.clock import SystemClock
from broker_jobs.dashboard.actions import Actions
from broker_jobs.dashboard.argument_validation import argument_of, check_arguments
from broker_jobs.dashboard.masking import Masking
from broker_jobs.dashboard.queries import Queries
from broker_jobs.dashboard.views import FunctionView, JobsQuery, Parameter
from broker_jobs.errors import ArgumentsError, OptionError, UsageError
from broker_jobs.messages.commands import BulkDelete, BulkRequeue, Command, JobFilter, Reply
from broker_jobs.messages.state import State
from broker_jobs.producer.connection import Connection
from broker_jobs.producer.requests import RequestClient
from broker_jobs.settings import Settings
from broker_jobs.store import Store


class Heard(RequestClient):
    """Keeps what is asked instead of asking it."""

    def __init__(self) -> None:
        super().__init__(Connection(Settings.load, lambda _: pytest.fail("nothing is published here")))
        self.heard: list[Command] = []

    def on_behalf_of(self, user: str) -> RequestClient:
        self.by = user
        return self

    def command(self, command: Command) -> Reply:
        self.heard.append(command)
        return Reply(id=command.id)


@pytest.fixture
def requests() -> Heard:
    return Heard()


@pytest.fixture
def actions(requests: Heard) -> Iterator[Actions]:
    store = Store("sqlite://")
    store.open()
    yield Actions(requests, Queries(store.reader, Masking(()), SystemClock(), {}))
    store.close()


def test_all_that_match_is_one_command_in_a_name(requests: Heard, actions: Actions) -> None:
    query = JobsQuery(state=State.FAILED, queue="mail", error_text="card", sort="changed", limit=10)
    id = actions.requeue_matching("ann", query)
    (command,) = requests.heard
    assert isinstance(command, BulkRequeue)
    assert (command.id, command.by) == (id, "ann")
    assert command.filter == JobFilter(state=State.FAILED, queue="mail", error_text="card")


@pytest.mark.parametrize("given", [{"text": "x"}, {"worker": "w"}, {"reason_code": "retry"}])
def test_what_a_command_cannot_mean_is_refused(requests: Heard, actions: Actions, given: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match=next(iter(given))):
        actions.delete_matching("ann", JobsQuery(**given))
    assert requests.heard == []


def test_chosen_jobs_are_named_in_one_command(requests: Heard, actions: Actions) -> None:
    actions.delete_many("ann", ["a", "b"])
    (command,) = requests.heard
    assert isinstance(command, BulkDelete)
    assert command.filter == JobFilter(ids=["a", "b"])
    for wrong in ([], ["x"] * 1_001, ["no id"]):
        with pytest.raises(OptionError):
            actions.delete_many("ann", wrong)


@pytest.mark.parametrize("value", [math.nan, math.inf, "\ud800", {"deep": [math.nan]}])
def test_arguments_that_json_cannot_carry_are_refused(requests: Heard, actions: Actions, value: Any) -> None:
    with pytest.raises(ArgumentsError, match="cannot be sent as JSON"):
        actions.requeue_with("ann", "j", [value], {})
    with pytest.raises(ArgumentsError, match="cannot be sent as JSON"):
        actions.enqueue("ann", "job", [], {"x": value})
    assert requests.heard == []


def test_what_is_not_known_is_told(actions: Actions) -> None:
    with pytest.raises(UsageError, match="no recurring job"):
        actions.schedules.change("ann", "night", "0 0 * * *", tz="UTC", misfire="once", overlap="allow")
    with pytest.raises(UsageError, match="no bulk command"):
        actions.bulk_progress("ann", "none")


def parameter(name: str, kind: Any = "either", **given: Any) -> Parameter:
    fields: dict[str, Any] = {"required": True, "type": "int", "json_schema": {"type": "integer"}, "secret": False}
    return Parameter(name=name, kind=kind, **fields | given)


FUNCTION = FunctionView(
    name="pay",
    queue="default",
    service="shop",
    doc="",
    parameters=[
        parameter("order"),
        parameter("note", required=False, type="str", json_schema={"type": "string"}),
        parameter("pin", "keyword", required=False, secret=True),
        parameter("lines", "keyword", required=False, type="", json_schema={"type": "array", "items": {"enum": [1]}}),
        parameter("far", "keyword", required=False, json_schema={"$ref": "http://127.0.0.1:1/schema"}),
    ],
    seen_at="2026-01-01T00:00:00Z",  # type: ignore[arg-type]  # read as one
)


@pytest.mark.parametrize(
    ("args", "kwargs", "reason_code"),
    [
        ([], {}, "pay: order is missing"),
        (["7"], {}, "pay: order must be int"),
        ([7, "a", 3], {}, "pay takes 2 positional arguments, not 3"),
        ([7], {"order": 7}, "pay: order is given twice"),
        ([7], {"nte": ""}, "pay has no parameter 'nte'; did you mean 'note'?"),
        ([7], {"pin": "4711"}, "pay: pin must be int"),
        ([7], {"lines": [1, 2]}, "pay: lines[1] must have enum [1]"),
    ],
)
def test_arguments_are_checked_against_what_was_declared(
    args: list[Any], kwargs: dict[str, Any], reason_code: str
) -> None:
    with pytest.raises(ArgumentsError) as error:
        check_arguments(FUNCTION, args, kwargs)
    assert str(error.value) == reason_code


def test_arguments_that_fit_or_cannot_be_checked_here_pass() -> None:
    check_arguments(FUNCTION, [7, "a"], {"pin": 1, "far": "anything: a schema from elsewhere is not fetched"})


KEYED = FUNCTION.model_copy(
    update={
        "parameters": [
            parameter("account"),
            parameter("plan", required=False, default="free"),
            parameter("pin", "keyword", required=False, secret=True, default_left_out=True),
            parameter("more", "kwargs", required=False),
        ]
    }
)


def test_an_argument_is_found_by_its_place_its_name_or_its_default_and_a_hidden_default_is_not_guessed() -> None:
    assert argument_of(KEYED, "account", [7], {}) == 7
    assert argument_of(KEYED, "account", [], {"account": 8}) == 8
    assert argument_of(KEYED, "plan", [7], {}) == "free"
    assert argument_of(KEYED, "plan", [7, None], {}) is None
    assert argument_of(KEYED, "other", [7], {"other": [1]}) == [1]
    assert argument_of(KEYED, "pin", [7], {"pin": 1}) == 1
    for name in ("pin", "other"):
        with pytest.raises(ArgumentsError, match="needs it, and no default is known here"):
            argument_of(KEYED, name, [7], {})
