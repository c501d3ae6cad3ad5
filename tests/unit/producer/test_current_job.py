"""The job that runs now, as its function sees it."""

import threading

import pytest

from broker_jobs import CurrentJob, JobCancelled, JobTimedOut, current_job
from broker_jobs.errors import UsageError
from broker_jobs.producer.current_job import inside_job, running


def test_outside_a_job_reporting_does_nothing() -> None:
    job = current_job()
    job.progress(3, 10)
    job.log("step", number=3)
    job.raise_if_cancelled()
    assert job.cancelled() is False
    assert not inside_job()


def test_outside_a_job_there_is_no_id() -> None:
    with pytest.raises(UsageError, match="the function was called directly"):
        _ = current_job().id
    with pytest.raises(UsageError, match="the function was called directly"):
        _ = current_job().attempt


def test_inside_a_job_what_is_reported_reaches_the_sinks() -> None:
    progress: list[tuple[float, float | None]] = []
    lines: list[str] = []
    asked: type[JobCancelled] | None = None
    job = CurrentJob(
        "0190", 2, on_progress=lambda *p: progress.append(p), on_line=lines.append, asked_to_stop=lambda: asked
    )
    with running(job):
        assert inside_job()
        assert (current_job().id, current_job().attempt) == ("0190", 2)
        current_job().progress(3, 10)
        current_job().progress(4)
        current_job().log("step", number=3, of="x")
        current_job().raise_if_cancelled()
        asked = JobTimedOut
        with pytest.raises(JobTimedOut, match="longer than its timeout"):
            current_job().raise_if_cancelled()
    assert not inside_job()
    assert progress == [(3, 10), (4, None)]
    assert lines == ["step number=3 of=x"]


def test_except_exception_in_a_job_does_not_swallow_the_cancel() -> None:
    assert not issubclass(JobCancelled, Exception)


def test_it_does_not_follow_into_threads() -> None:
    seen: list[bool] = []
    with running(CurrentJob("0190", 1)):
        thread = threading.Thread(target=lambda: seen.append(inside_job()))
        thread.start()
        thread.join()
    assert seen == [False]
