"""What each part loads: a producer no database and no web framework, a worker neither, the package next to nothing."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import broker_jobs

HEAVY = ("sqlalchemy", "starlette", "fastapi", "jinja2", "uvicorn", "typer", "click", "rich", "psycopg", "aiosmtpd")
PROGRAM = """
import sys
from broker_jobs import BrokerJobs

jobs = BrokerJobs("memory://")

@jobs.job
def add(a: int, b: int) -> int:
    return a + b

@jobs.job(retries=3, queue="mail")
async def fetch(url: str) -> str:
    return url
"""


def loaded_by(program: str, *, folder: Path | None = None) -> set[str]:
    """The packages and modules that a fresh interpreter has loaded after a program."""
    code = f"{program}\nimport json, sys\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    modules: list[str] = json.loads(done.stdout.splitlines()[-1])
    return set(modules)


def outside(modules: set[str]) -> set[str]:
    """The top-level packages among modules."""
    return {module.partition(".")[0] for module in modules}


def test_the_package_alone_loads_no_library() -> None:
    modules = loaded_by("import broker_jobs")
    assert not outside(modules) & {*HEAVY, "pydantic", "pika", "kombu", "croniter", "prometheus_client", "asyncio"}
    assert {module for module in modules if module.startswith("broker_jobs.")} == set()


def test_a_program_that_defines_jobs_loads_no_client_of_a_broker_and_reads_no_settings() -> None:
    libraries = outside(loaded_by(PROGRAM))
    assert not libraries & {*HEAVY, "pika", "kombu", "croniter", "prometheus_client", "pydantic_settings", "asyncio"}


def test_enqueueing_loads_no_database_and_no_web_framework() -> None:
    libraries = outside(loaded_by(PROGRAM + "add.enqueue(1, 2)\njobs.enqueue_many([fetch.bind('x')])\njobs.stop()"))
    assert not libraries & {*HEAVY, "pika", "croniter", "prometheus_client", "psutil"}
    assert "kombu" in libraries


def test_rabbitmq_loads_pika_and_no_kombu() -> None:
    program = PROGRAM.replace("memory://", "amqp://nobody@127.0.0.1:1/") + (
        "from broker_jobs import EnqueueError\n"
        "jobs.configure({'publish_timeout': 0.1})\n"
        "try:\n    add.enqueue(1, 2)\nexcept EnqueueError:\n    pass\n"
    )
    libraries = outside(loaded_by(program))
    assert not libraries & {*HEAVY, "kombu", "croniter"}
    assert "pika" in libraries


def test_the_command_line_loads_no_database_and_no_web_framework() -> None:
    modules = loaded_by("import broker_jobs.cli.commands")
    assert not outside(modules) & {"sqlalchemy", "starlette", "fastapi", "jinja2", "uvicorn", "aiosmtpd", "psutil"}


@pytest.mark.parametrize("metrics", ["", ", metrics_port=0"])
def test_a_worker_process_loads_no_database_and_no_web_framework(metrics: str) -> None:
    """With /metrics and /healthz too: they are scraped here."""
    program = f"""
import re, signal, threading, urllib.request
import broker_jobs.cli.commands  # it is started from here
from broker_jobs import BrokerJobs
from broker_jobs.consumer.worker import Worker
from broker_jobs.broker.memory import MemoryBroker
from broker_jobs.processes.http import HttpServer
from broker_jobs.processes.program import Program
from broker_jobs.settings import Settings

jobs = BrokerJobs("memory://")
done = threading.Event()

@jobs.job
def finish() -> None:
    done.set()

settings = Settings.load(url="memory://"{metrics})
program = Program(jobs.registry, settings, jobs._connection.broker(), roles=["worker"])
program.start()
finish.enqueue()
assert done.wait(30)
if settings.metrics_port is not None:
    server = HttpServer("127.0.0.1", 0, expose=program.expose, health=program.health)
    server.start()
    assert b"broker_jobs_" in urllib.request.urlopen(server.address + "/metrics", timeout=10).read()
    assert urllib.request.urlopen(server.address + "/healthz", timeout=10).status == 200
    server.stop()
program.stop()
jobs.stop()
"""
    modules = loaded_by(program)
    assert not outside(modules) & {"sqlalchemy", "starlette", "fastapi", "jinja2", "uvicorn", "aiosmtpd", "croniter"}
    assert not {module for module in modules if module.startswith("broker_jobs.store")}


def test_every_public_name_is_there_and_in_both_lists() -> None:
    tree = ast.parse(Path(broker_jobs.__file__).read_text(encoding="utf-8"))
    for_types = {
        (node.module, alias.asname)
        for block in tree.body
        if isinstance(block, ast.If)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    at_run_time = {(module, name) for module, names in broker_jobs._NAMES.items() for name in names}
    assert for_types == at_run_time
    for _, name in at_run_time:
        assert getattr(broker_jobs, name) is not None
        assert name in dir(broker_jobs)
    with pytest.raises(AttributeError, match="no attribute 'NoSuchName'"):
        broker_jobs.NoSuchName  # type: ignore[attr-defined]  # noqa: B018


def test_the_first_enqueues_may_come_from_many_threads_at_once() -> None:
    """What is imported and built by the first use is whole for all who were there."""
    program = PROGRAM + (
        "import threading\n"
        "sys.setswitchinterval(1e-6)\n"
        "start, ids = threading.Barrier(16), []\n"
        "def enqueue():\n"
        "    start.wait()\n"
        "    ids.append(add.enqueue(1, 2).id)\n"
        "threads = [threading.Thread(target=enqueue) for _ in range(16)]\n"
        "[thread.start() for thread in threads]\n"
        "[thread.join() for thread in threads]\n"
        "assert len(set(ids)) == 16, ids\n"
        "jobs.stop()\n"
    )
    loaded_by(program)
