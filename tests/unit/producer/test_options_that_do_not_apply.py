"""An option that does not apply where it is written is refused there, with what to write instead."""

from collections.abc import Callable
from typing import Any

import pytest

from broker_jobs import BrokerJobs, DefinitionError, OptionError, UsageError
from broker_jobs.errors import ArgumentsError


def send(user_id: int) -> None: ...


def options(**given: Any) -> dict[str, Any]:
    return given


jobs = BrokerJobs("memory://")
welcome: Any = jobs.job(send)
charge: Any = jobs.remote("billing.charge")
EACH = "* * * * *"

CASES: dict[str, tuple[type[Exception], str, Callable[[], Any]]] = {
    "memory_limit in a thread": (OptionError, "isolation='process'", lambda: jobs.job(memory_limit=2**24)(send)),
    "id of a function": (OptionError, "one call", lambda: jobs.job(**options(id="x"))),
    "id of a subscription": (OptionError, "one call", lambda: jobs.subscribe("e", **options(id="x"))),
    "id of a subscribed job": (DefinitionError, "leave out id", lambda: jobs.subscribe("e")(welcome.using(id="x"))),
    "id of a recurring call": (
        OptionError,
        "each job of a recurring one",
        lambda: jobs.recurring("r", EACH, welcome.using(id="x").bind(1)),
    ),
    "id of a recurring job": (
        OptionError,
        "each job of a recurring one",
        lambda: jobs.recurring("r", EACH, charge.using(id="x")),
    ),
    "options of a subscribed job": (DefinitionError, "a job already", lambda: jobs.subscribe("e", queue="q")(welcome)),
    "a job of a job": (DefinitionError, "is a job already", lambda: jobs.job(welcome)),
    "queue of a recurring job": (
        OptionError,
        "no option 'queue'",
        lambda: jobs.recurring("r", EACH, welcome.bind(1), **options(queue="x")),
    ),
    "queue of a binding": (ArgumentsError, "takes no 'queue'", lambda: welcome.bind(1, queue="x")),
    "name of one call": (OptionError, r"@jobs\.job\(name=", lambda: welcome.using(name="x")),
    "isolation of one call": (OptionError, r"@jobs\.job\(isolation=", lambda: welcome.using(isolation="process")),
    "memory_limit of one call": (OptionError, r"@jobs\.job\(memory_limit=", lambda: welcome.using(memory_limit=2**24)),
    "retry_on of one call": (OptionError, r"@jobs\.job\(retry_on=", lambda: welcome.using(retry_on=OSError)),
    "name of a remote call": (OptionError, "name belongs to the function", lambda: charge.using(name="x")),
    "retry_on of a remote call": (OptionError, "retry_on belongs", lambda: charge.using(retry_on=OSError)),
    "timeout of a stub": (TypeError, "timeout", lambda: jobs.remote("x", **options(timeout=3))),
    "queues without a worker": (
        UsageError,
        "queues is for a worker",
        lambda: jobs.start(roles=["coordinator", "beat"], queues=["mail"]),
    ),
    "concurrency without a worker": (
        UsageError,
        "concurrency is for a worker",
        lambda: jobs.start(roles=["beat"], concurrency=2),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_it_is_refused(case: str) -> None:
    error, message, call = CASES[case]
    with pytest.raises(error, match=message):
        call()
