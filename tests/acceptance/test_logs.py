"""What the commands log: the job of each record, JSON, a program's own logging, and an outage in a few lines."""

import json
import logging
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

from broker_jobs import BrokerJobs
from tests.acceptance.conftest import Running, Terminal
from tests.support.rabbitmq import Vhost
from tests.support.wait import eventually

pytestmark = pytest.mark.acceptance

DICT_CONFIG = """\
import logging.config

logging.config.dictConfig({
    "version": 1,
    "formatters": {"mine": {"format": "MINE %(levelname)s %(message)s"}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "mine"}},
    "root": {"handlers": ["stderr"], "level": "INFO"},
})
"""
LOGGING = """\
import logging
import subprocess
import sys

from broker_jobs import BrokerJobs

{set_up}
jobs = BrokerJobs()
logger = logging.getLogger("shop")


@jobs.job(retries=0, queue="default")
def plain():
    logger.warning("in a thread, amqp://me:secret@host/")
    raise ValueError("on purpose")


@jobs.job(retries=0)
async def on_the_loop():
    logger.warning("on the loop", extra={{"job_id": "mine", "order": 7}})


@jobs.job(retries=0, isolation="process")
def in_a_process():
    logger.warning("in a process")
    raise KeyError("far away")


jobs.recurring("plain", "*/1 * * * * *", plain.bind())
jobs.recurring("loop", "*/1 * * * * *", on_the_loop.bind())
jobs.recurring("process", "*/1 * * * * *", in_a_process.bind())
"""


def program(terminal: Terminal, set_up: str = "", *options: str) -> Running:
    """Run a program whose jobs log, in memory."""
    (terminal.folder / "loud.py").write_text(LOGGING.format(set_up=set_up))
    return terminal.start("run", "loud:jobs", "--url", "memory://", "--store", terminal.store, *options)


def lines(running: Running) -> list[dict[str, Any]]:
    """The complete lines of a log in JSON."""
    text = running.log
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


def test_json_has_one_object_on_a_line_with_the_job_and_the_traceback(terminal: Terminal) -> None:
    running = program(terminal, "", "--log-format", "json")

    def line(**fields: object) -> dict[str, Any]:
        return next((line for line in lines(running) if fields.items() <= line.items()), {})

    def job_of(line: dict[str, Any]) -> tuple[object, ...]:
        return line["job_name"], line["job_attempt"], line["job_queue"], len(line["job_id"]) > 20

    thread = eventually(lambda: line(message="in a thread, amqp://me:***@host/", level="WARNING"), 60)
    assert (thread["logger"], job_of(thread)) == ("shop", ("plain", 1, "default", True))
    loop = eventually(lambda: line(message="on the loop"), 60)
    assert (loop["job_id"], loop["job_name"], loop["order"]) == ("mine", "on_the_loop", 7)  # its own field wins
    child = eventually(lambda: line(message="in a process"), 60)
    assert job_of(child) == ("in_a_process", 1, "default", True)
    failed = eventually(lambda: line(level="ERROR", job_name="plain"), 60)
    assert failed["exception"].endswith("ValueError: on purpose")
    far = eventually(lambda: line(level="ERROR", job_name="in_a_process"), 60)
    assert 'raise KeyError("far away")' in far["exception"]
    assert {"time", "level", "logger", "message"} <= failed.keys()
    started = next(each for each in lines(running) if "job_id" not in each)
    assert started["logger"].startswith("broker_jobs")


def test_text_has_the_job_too(terminal: Terminal) -> None:
    running = program(terminal)
    line = eventually(lambda: next((line for line in running.log.splitlines() if "in a process" in line), ""), 60)
    assert "job_name=in_a_process job_attempt=1 job_queue=default" in line


@pytest.mark.parametrize(
    "set_up",
    [
        'logging.basicConfig(format="MINE %(levelname)s %(message)s", level=logging.INFO)',
        DICT_CONFIG,
    ],
    ids=["basicConfig", "dictConfig"],
)
def test_a_program_that_sets_logging_up_keeps_it(terminal: Terminal, set_up: str) -> None:
    running = program(terminal, set_up)
    running.said("MINE WARNING in a thread")
    running.said("MINE WARNING in a process")
    running.said("MINE ERROR plain")
    eventually(lambda: any("beat started" in line for line in running.log.splitlines()), 30)
    assert all("beat started" not in line or line.startswith("MINE INFO") for line in running.log.splitlines())


@pytest.fixture
def embedded() -> Iterator[BrokerJobs]:
    """A program that runs its parts itself."""
    jobs = BrokerJobs("memory://")
    yield jobs
    jobs.stop(0)


def test_an_embedded_program_gets_the_fields_and_no_handler_and_no_level(
    embedded: BrokerJobs, caplog: pytest.LogCaptureFixture
) -> None:
    @embedded.job
    def speak() -> None:
        logging.getLogger("shop").warning("inside")

    before = (list(logging.getLogger().handlers), logging.getLogger().level, logging.getLogger("broker_jobs").level)
    with embedded:
        receipt = speak.enqueue()
        receipt.result(timeout=60)
    after = (list(logging.getLogger().handlers), logging.getLogger().level, logging.getLogger("broker_jobs").level)
    assert after == before
    record: Any = next(record for record in caplog.records if record.getMessage() == "inside")
    assert (record.job_id, record.job_name, record.job_attempt, record.job_queue) == (receipt.id, "speak", 1, "default")
    logging.getLogger("shop").warning("outside")
    assert not hasattr(caplog.records[-1], "job_id")


OUTAGE_SECONDS = 25
MOST_LINES = 40
"""Of one process in such an outage; they were thousands. Its start of the broker may take long on a busy machine."""


@pytest.mark.rabbitmq
@pytest.mark.slow
def test_an_outage_is_said_every_ten_seconds_by_each_role_and_in_few_lines(terminal: Terminal, vhost: Vhost) -> None:
    where = ("--url", vhost.url)
    roles = {
        "coordinator": terminal.start("coordinator", *where, "--store", terminal.store),
        "worker": terminal.start("worker", "app:jobs", *where),
        "beat": terminal.start("beat", "app:jobs", *where),
        "run": terminal.start("run", "app:jobs", *where, "--store", terminal.store),
    }
    roles["coordinator"].said("coordinator")
    roles["worker"].said("serves the queues")
    roles["beat"].said("beat started")
    roles["run"].said("beat started")
    before = {name: len(running.log.splitlines()) for name, running in roles.items()}
    vhost.broker.stop()
    time.sleep(OUTAGE_SECONDS)  # the length of the outage is what is tested
    vhost.broker.start()
    still_works = {
        "coordinator": "the store can be read",
        "worker": "running jobs go on",
        "beat": "planned times are kept",
        "run": "running jobs go on",
    }
    for name, running in roles.items():
        running.said("takes messages again", 60)
        said = running.log.splitlines()[before[name] :]
        about = [line for line in said if "no connection to RabbitMQ" in line]
        processes = 2 if name == "worker" else 1  # and its supervisor
        assert len(about) >= 2, said
        assert any(still_works[name] in line for line in about), said
        assert not [line for line in said if " pika" in line or line.startswith(("Traceback", "  File"))], said
        assert len(said) <= MOST_LINES * processes, "\n".join(said)


CONFIGURED_IN_A_JOB = """
import logging.config
from broker_jobs import BrokerJobs, JobFailed

jobs = BrokerJobs("memory://")
CONFIG = {
    "version": 1,
    "handlers": {"out": {"class": "logging.StreamHandler", "stream": "ext://sys.stdout"}},
    "root": {"level": "INFO", "handlers": ["out"]},
}


@jobs.job(retries=0)
def migrate() -> None:
    logging.config.dictConfig(CONFIG)
    raise ValueError("on purpose")


with jobs:
    try:
        migrate.enqueue().result(timeout=60)
    except JobFailed:
        pass
"""


def test_a_job_that_configures_logging_silences_no_failure() -> None:
    done = subprocess.run(
        [sys.executable, "-c", CONFIGURED_IN_A_JOB], capture_output=True, text=True, timeout=120, check=True
    )
    assert "migrate" in done.stdout
    assert "ValueError: on purpose" in done.stdout
