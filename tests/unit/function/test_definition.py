"""Which functions can be jobs, and the error messages for those that cannot."""

import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from broker_jobs import Depends
from broker_jobs.errors import DefinitionError, OptionError
from broker_jobs.function.definition import define
from broker_jobs.function.options import FunctionOptions, job_options
from broker_jobs.function.registry import Registry


class Connection:
    pass


class Mailer:
    def send(self, to: int) -> None: ...

    @staticmethod
    def clean(path: str) -> int:
        return len(path)


async def async_mailer() -> Mailer:
    return Mailer()


def refused(fn: Any, **options: Any) -> str:
    with pytest.raises((DefinitionError, OptionError)) as caught:
        define(fn, options)
    return str(caught.value)


METHOD = (
    "Mailer.send is a method: a message cannot carry its self. Make it a function or a @staticmethod; "
    "for what it needs use Depends"
)


def test_a_method_is_refused() -> None:
    assert refused(Mailer.send) == METHOD
    assert refused(Mailer().send) == METHOD


def test_a_static_method_is_a_job_in_either_order() -> None:
    assert define(Mailer.clean, {}).name == "clean"
    assert define(staticmethod(Mailer.clean), {}).name == "clean"


def test_generators_lambdas_classes_and_objects_are_refused() -> None:
    def rows() -> Iterator[int]:
        yield 1

    async def later() -> AsyncIterator[int]:
        yield 1

    assert refused(rows).startswith("rows is a generator")
    assert refused(later).startswith("later is a generator")
    assert refused(lambda: 1) == "a lambda has no name that a message could carry; write a def"
    assert refused(Mailer).startswith("Mailer is a class")
    assert "is not a function" in refused(3)


def test_a_name_in_place_of_the_function_is_explained() -> None:
    assert refused("mail") == "write @jobs.job(name='mail') or @jobs.job(queue='mail')"


def test_a_parameter_that_cannot_travel_is_refused_where_it_is_written() -> None:
    def welcome(conn: Connection) -> None: ...
    def call(back: Callable[[int], int]) -> None: ...

    assert refused(welcome) == (
        "welcome(conn: Connection): a Connection cannot be sent as JSON; pass its key, or make it Depends(…)"
    )
    assert "cannot be sent as JSON" in refused(call)


def test_what_is_provided_need_not_travel() -> None:
    def welcome(user_id: int, conn: Connection = Depends(Connection)) -> None: ...

    assert define(welcome, {}).provided.keys() == {"conn"}


def test_text_annotations_are_left_for_later() -> None:
    namespace: dict[str, Any] = {"__name__": "shop"}
    exec("from __future__ import annotations\ndef welcome(conn: Connection) -> None: ...", namespace)
    function = define(namespace["welcome"], {})
    namespace["Connection"] = Connection
    with pytest.raises(DefinitionError, match="a Connection cannot be sent as JSON"):
        function.signature.check()


def test_a_sync_job_has_no_async_provider() -> None:
    def welcome(mailer: Any = Depends(async_mailer)) -> None: ...
    async def fine(mailer: Any = Depends(async_mailer)) -> None: ...

    assert refused(welcome) == (
        "welcome: async_mailer, the provider of mailer, is async, and welcome runs in a thread; "
        "write async def welcome, or make the provider sync"
    )
    assert define(fine, {}).is_async


def test_an_async_function_with_a_process_of_its_own_is_not_run_on_the_loop() -> None:
    async def render(path: str) -> None: ...

    assert define(render, {}).on_loop
    isolated = define(render, {"isolation": "process", "memory_limit": 2**30})
    assert (isolated.options.isolation, isolated.options.memory_limit, isolated.on_loop) == ("process", 2**30, False)


def test_a_memory_limit_needs_a_process() -> None:
    assert option_refused(memory_limit=2**30) == (
        "memory_limit needs a process of its own: write @jobs.job(isolation='process', memory_limit=…)"
    )


def test_where_is_file_and_line() -> None:
    def welcome() -> None: ...

    assert define(welcome, {}).where.startswith("tests/unit/function/test_definition.py:")


def test_the_name_is_the_functions_or_given() -> None:
    def welcome() -> None: ...

    assert define(welcome, {}).name == "welcome"
    assert define(welcome, {"name": "shop.welcome"}).name == "shop.welcome"


def test_two_jobs_of_one_name_are_refused_with_both_places() -> None:
    def one() -> None: ...
    def two() -> None: ...

    registry = Registry()
    first, second = define(one, {"name": "send"}), define(two, {"name": "send"})
    registry.add(first)
    with pytest.raises(DefinitionError) as caught:
        registry.add(second)
    assert str(caught.value) == (
        f"two jobs are named 'send': {first.where}, {second.where}; give one @jobs.job(name=…)"
    )


def test_a_function_defined_again_replaces_itself() -> None:
    registry = Registry()
    for result in (1, 2):  # as a cell of a notebook that is run again
        cell: dict[str, Any] = {"__name__": "cell"}
        exec(f"def send() -> int:\n    return {result}", cell)
        registry.add(define(cell["send"], {}))
    assert (function := registry.get("send")) is not None
    assert function.fn() == 2
    assert registry.names() == ["send"]
    assert registry.get("other") is None


def test_of_two_functions_that_one_def_makes_the_second_is_refused() -> None:
    def make(result: int) -> Any:
        def send() -> int:
            return result

        return send

    registry = Registry()
    first = define(make(1), {})
    registry.add(first)
    registry.add(first)
    with pytest.raises(DefinitionError, match="two jobs are named 'send'"):
        registry.add(define(make(2), {}))


def python(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run Python in a folder from which it imports."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(folder), str(Path(__file__).parents[3])])}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


TWICE = """
from broker_jobs import BrokerJobs

jobs = BrokerJobs()


@jobs.job
def send() -> int:
    return 1


@jobs.job
def send() -> int:
    return 2
"""


@pytest.mark.parametrize("how", ["imported", "run"])
def test_of_two_functions_of_one_name_in_a_module_the_second_is_refused(tmp_path: Path, how: str) -> None:
    (tmp_path / "twice.py").write_text(TWICE)
    command = ["twice.py"] if how == "run" else ["-c", "import twice"]
    done = python(*command, folder=tmp_path)
    assert "DefinitionError: two jobs are named 'send': twice.py:7, twice.py:12" in done.stderr


RELOADED = """
import importlib
import once

importlib.reload(once)
print(once.jobs.registry.names())
"""


def test_a_module_that_is_reloaded_replaces_its_functions(tmp_path: Path) -> None:
    (tmp_path / "base.py").write_text("from broker_jobs import BrokerJobs\n\njobs = BrokerJobs()\n")
    (tmp_path / "once.py").write_text("from base import jobs\n\n\n@jobs.job\ndef send() -> int:\n    return 1\n")
    done = python("-c", RELOADED, folder=tmp_path)
    assert done.stdout == "['send']\n"


# ---- options ----


def option_refused(**options: Any) -> str:
    with pytest.raises(OptionError) as caught:
        job_options(options)
    return str(caught.value)


def call_refused(**options: Any) -> str:
    with pytest.raises(OptionError) as caught:
        FunctionOptions().changed(options)
    return str(caught.value)


def test_an_unknown_option_names_the_nearest() -> None:
    assert call_refused(quee="x") == (
        "no option 'quee'; did you mean 'queue'? "
        "Options of one call: backoff, expires, fail_fast, id, keep, keep_result, limit, priority, publish_timeout, "
        "queue, retries, tags, timeout, trace, unique"
    )
    assert option_refused(queue_name="x").startswith("no option 'queue_name'; did you mean 'queue'? Options of a job: ")
    assert option_refused(zzz=1).startswith("no option 'zzz'. Options of a job: backoff, ")


def test_options_of_the_function_are_refused_for_a_call() -> None:
    assert call_refused(isolation="process") == (
        "isolation is decided where the function is written: @jobs.job(isolation=…)"
    )
    assert call_refused(memory_limit=2**30) == "memory_limit belongs to the function: write @jobs.job(memory_limit=…)"


def test_an_id_is_refused_for_the_function() -> None:
    assert option_refused(id="x") == "id belongs to one call: write .using(id=…).enqueue(…)"


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("queue", "a b"), ("queue", 1), ("queue", ""), ("retries", "3"), ("retries", -1), ("retries", True),
        ("backoff", 5), ("backoff", []), ("backoff", [-1]), ("backoff", "15"), ("timeout", 0), ("timeout", "1"),
        ("timeout", float("nan")), ("expires", timedelta(0)), ("expires", timedelta(days=4000)), ("tags", "a"),
        ("tags", [1]), ("tags", ["x" * 101]), ("retry_on", 1), ("retry_on", [ValueError]), ("name", ""),
        ("isolation", "fibre"), ("isolation", None), ("memory_limit", 1000), ("memory_limit", "1 GB"),
    ],
)  # fmt: skip
def test_values_out_of_range_are_refused(option: str, value: object) -> None:
    text = option_refused(**{option: value})
    assert option in text or "is not a queue name" in text


@pytest.mark.parametrize("value", ["", "a b", "ü", 1, "x" * 101])
def test_an_id_has_few_characters(value: object) -> None:
    assert call_refused(id=value).startswith("id must be 1 to 100 of the characters")


def test_lengths_are_kept_as_seconds() -> None:
    options = job_options({
        "queue": "mail", "retries": 3, "backoff": [1, timedelta(minutes=1)], "timeout": timedelta(seconds=30),
        "expires": 60, "tags": ["a"], "retry_on": OSError,
    })  # fmt: skip
    assert options.policy.backoff == (1.0, 60.0)
    assert (options.timeout, options.expires, options.policy.retries) == (30.0, 60.0, 3)
    assert (options.queue, options.tags, options.retry_on) == ("mail", ("a",), (OSError,))


def test_a_call_changes_what_it_names_and_nothing_else() -> None:
    options = job_options({"retries": 3, "timeout": 5}).changed({"timeout": None, "id": "my-1"})
    assert (options.policy.retries, options.timeout, options.id) == (3, None, "my-1")
