"""What the log says of jobs that fail, so that a person and an error tracker see what there is to do."""

import asyncio
import io
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any

import pytest

from broker_jobs import BrokerJobs, GiveUp, JobFailed, JobTimedOut, Receipt, ResultTimeout, Retry, current_job
from tests.acceptance.conftest import Terminal
from tests.support.wait import eventually

pytestmark = pytest.mark.acceptance


@pytest.fixture
def jobs() -> Iterator[BrokerJobs]:
    program = BrokerJobs("memory://")
    yield program
    program.stop(0)


def said_of(caplog: pytest.LogCaptureFixture, receipt: Receipt[Any], text: str = "") -> list[logging.LogRecord]:
    """The warnings and errors with the id of a job."""
    return [
        record
        for record in caplog.records
        if record.levelno >= logging.WARNING and receipt.id in record.getMessage() and text in record.getMessage()
    ]


def missing_key() -> None:
    dict[str, int]()["missing"]


async def missing_key_async() -> None:
    dict[str, int]()["missing"]


@pytest.mark.parametrize("function", [missing_key, missing_key_async])
def test_a_final_failure_is_an_error_with_its_traceback(
    jobs: BrokerJobs, caplog: pytest.LogCaptureFixture, function: Callable[..., Any]
) -> None:
    job = jobs.job(retries=1, backoff=[0])(function)
    with jobs:
        receipt = job.enqueue()
        with pytest.raises(JobFailed):
            receipt.result(timeout=120)
        eventually(lambda: len(said_of(caplog, receipt)) == 2, 10)
        first, second = said_of(caplog, receipt)
    assert (first.levelname, first.exc_info) == ("WARNING", None)
    assert "KeyError: 'missing'" in first.getMessage()
    assert "retry 1 of 1 follows" in first.getMessage()
    assert second.levelname == "ERROR"
    assert second.exc_info is not None
    assert second.exc_info[0] is KeyError
    assert "not retried" in second.getMessage()
    assert not [record for record in (first, second) if "coordinator" in record.getMessage()]


def test_a_failure_that_is_not_retried_is_an_error_at_once(jobs: BrokerJobs, caplog: pytest.LogCaptureFixture) -> None:
    @jobs.job
    def give_up() -> None:
        raise GiveUp("no such user")

    @jobs.job(retry_on=OSError)
    def fail() -> None:
        raise ValueError("no such order")

    with jobs:
        receipts = [give_up.enqueue(), fail.enqueue()]
        for receipt, kind in zip(receipts, (GiveUp, ValueError), strict=True):
            with pytest.raises(JobFailed):
                receipt.result(timeout=120)
            (record,) = eventually(lambda receipt=receipt: said_of(caplog, receipt), 10)  # type: ignore[misc]
            assert record.levelname == "ERROR"
            assert record.exc_info is not None
            assert record.exc_info[0] is kind


def test_a_retry_that_is_asked_for_says_when(jobs: BrokerJobs, caplog: pytest.LogCaptureFixture) -> None:
    @jobs.job(retries=3)
    def closed() -> None:
        raise Retry(after=timedelta(minutes=2), reason="the shop is closed")

    with jobs:
        receipt = closed.enqueue()
        (record,) = eventually(lambda: said_of(caplog, receipt), 30)
    assert record.levelname == "WARNING"
    assert "retry 1 of 3 follows in 120 s" in record.getMessage()


class Hostile(Exception):
    def __str__(self) -> str:
        raise SystemExit

    __repr__ = __str__


def test_an_exception_that_cannot_be_written_is_logged_and_harms_no_other_job(
    jobs: BrokerJobs, caplog: pytest.LogCaptureFixture
) -> None:
    @jobs.job(retries=0)
    def fail() -> None:
        raise Hostile

    @jobs.job(retries=0)
    def fine() -> str:
        return "fine"

    handler = logging.StreamHandler(stream := io.StringIO())  # one that formats a traceback
    logging.getLogger().addHandler(handler)
    jobs.start(concurrency=1)
    try:
        receipt = fail.enqueue()
        with pytest.raises(JobFailed):
            receipt.result(timeout=120)
        eventually(lambda: said_of(caplog, receipt), 10)
        eventually(lambda: f"{receipt.id} attempt 1 failed" in stream.getvalue(), 10)
        assert fine.enqueue().result(timeout=120) == "fine"
    finally:
        logging.getLogger().removeHandler(handler)
        jobs.stop(5)


class Broken(logging.Handler):
    """Raises whenever it is called, as one that sends the record away and catches nothing."""

    def emit(self, record: logging.LogRecord) -> None:
        raise SystemExit if record.levelno == logging.ERROR else OSError("the sink is down")


@contextmanager
def handled(handler: logging.Handler) -> Iterator[None]:
    """Have a handler at the root."""
    logging.getLogger().addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)


def test_a_log_handler_that_raises_ends_no_thread_of_a_worker(jobs: BrokerJobs) -> None:
    release = threading.Event()

    @jobs.job(retries=0)
    def fail() -> None:
        raise ValueError

    @jobs.job(retries=0)
    async def fail_async() -> None:
        raise ValueError

    @jobs.job(retries=0, timeout=0.1)
    def outlive() -> str:
        with suppress(JobTimedOut):  # it comes when the wait, a call of C, is over
            release.wait(30)
        return "late"

    @jobs.job(retries=0, timeout=0.1)
    async def hang() -> None:
        await asyncio.sleep(60)

    jobs.start(concurrency=2)
    with handled(Broken()):
        for job in (fail, fail, fail, fail_async, fail_async, fail_async):
            with pytest.raises(JobFailed, match="ValueError"):
                job.enqueue().result(timeout=120)
        late = outlive.enqueue()
        with pytest.raises(ResultTimeout):
            late.result(timeout=2.5)  # meanwhile the thread that looks after all says that it outlives its timeout
        release.set()
        assert late.result(timeout=120) == "late"
        with pytest.raises(JobFailed, match="TimedOut"):
            hang.enqueue().result(timeout=120)
        jobs.stop(5)


class Redact(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = record.getMessage().replace("hunter2", "***"), ()
        return "drop me" not in record.msg


def test_a_filter_of_the_program_sees_every_record(jobs: BrokerJobs, caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("broker_jobs.consumer.reporter")
    redact = Redact()
    jobs.start()
    logger.addFilter(redact)  # after the start, and what is returned is said in the I/O thread
    try:
        for name in ("hunter2 a", "drop me", "hunter2 b"):
            jobs.remote(name).enqueue()
        eventually(lambda: "*** b" in caplog.text, 30)
    finally:
        logger.removeFilter(redact)
    assert "*** a" in caplog.text
    assert "hunter2" not in caplog.text
    assert "drop me" not in caplog.text


def test_a_thread_that_outlives_its_timeout_is_an_error_while_it_runs(
    jobs: BrokerJobs, caplog: pytest.LogCaptureFixture
) -> None:
    gate = threading.Event()

    @jobs.job(timeout=0.2)
    def hang() -> str:
        with suppress(JobTimedOut):
            gate.wait(60)
        return "late"

    with jobs:
        receipt = hang.enqueue()
        (record,) = eventually(lambda: said_of(caplog, receipt, "outlives its timeout of 0.2 s"), 30)
        assert record.levelname == "ERROR"
        assert record.getMessage().startswith("hang ")
        assert "it has run since 20" in record.getMessage()
        assert "Let JobTimedOut pass" in record.getMessage()
        gate.set()
        assert receipt.result(timeout=120) == "late"
    assert [record.levelname for record in said_of(caplog, receipt)] == ["ERROR", "WARNING"]


def test_a_thread_that_returns_soon_after_its_timeout_is_an_error_once(
    jobs: BrokerJobs, caplog: pytest.LogCaptureFixture
) -> None:
    @jobs.job(timeout=0.2)
    def late() -> str:
        with suppress(JobTimedOut):
            time.sleep(0.5)
        return "late"

    with jobs:
        receipt = late.enqueue()
        assert receipt.result(timeout=120) == "late"
        (record,) = eventually(lambda: said_of(caplog, receipt), 10)
    assert record.levelname == "ERROR"
    assert "its timeout is 0.2 s" in record.getMessage()


def test_a_coroutine_that_outlives_its_timeout_is_an_error(jobs: BrokerJobs, caplog: pytest.LogCaptureFixture) -> None:
    gate = threading.Event()

    @jobs.job(timeout=0.2)
    async def stubborn() -> str:
        while not gate.is_set():
            try:
                await asyncio.sleep(0.05)
            except asyncio.CancelledError:
                continue
        return "late"

    @jobs.job(timeout=0.2)
    async def blocking() -> None:
        gate.wait(60)

    with jobs:
        for job in (stubborn, blocking):
            receipt: Any = job.enqueue()
            record = eventually(lambda: said_of(caplog, receipt, "outlives its timeout"), 30)[0]  # noqa: B023
            assert record.levelname == "ERROR"
            assert "CancelledError" in record.getMessage()
            gate.set()
            eventually(lambda: receipt.state().is_final, 30, "ended")  # noqa: B023
            gate.clear()


def test_a_job_that_ends_at_its_timeout_outlives_nothing(jobs: BrokerJobs, caplog: pytest.LogCaptureFixture) -> None:
    @jobs.job(timeout=0.2, retries=0)
    def polite() -> None:
        while not current_job().cancelled():
            time.sleep(0.01)

    with jobs:
        receipt = polite.enqueue()
        with pytest.raises(JobFailed, match="TimedOut"):
            receipt.result(timeout=120)
        (record,) = eventually(lambda: said_of(caplog, receipt), 10)
    assert record.levelname == "ERROR"
    assert "timed out after 0.2 s" in record.getMessage()


def test_the_command_line_writes_the_traceback(terminal: Terminal) -> None:
    (terminal.folder / "failing.py").write_text(
        'from broker_jobs import BrokerJobs\n\njobs = BrokerJobs(service="tests")\n\n\n@jobs.job(retries=0)\n'
        "def fail():\n"
        '    raise ValueError("on purpose")\n\n\njobs.recurring("often", "*/1 * * * * *", fail.bind())\n'
    )
    running = terminal.start("run", "failing:jobs", "--url", "memory://", "--store", terminal.store)
    running.said("not retried")
    running.said('    raise ValueError("on purpose")\nValueError: on purpose')
