"""Stands for a job that was enqueued: its state, its result, and what may still be done with it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

from pydantic_core import from_json

from broker_jobs.clock import Seconds, When, as_seconds
from broker_jobs.errors import BrokerJobsError, JobDeleted, JobFailed, ResultTimeout, UsageError
from broker_jobs.messages.commands import NO_SUCH_JOB, Command, DeleteJob, JobReply, RequeueJob, RescheduleJob
from broker_jobs.messages.envelope import new_id
from broker_jobs.messages.state import State
from broker_jobs.producer.batch_submission import BatchSubmission
from broker_jobs.producer.blocking import warn_if_blocking
from broker_jobs.producer.current_job import inside_job
from broker_jobs.producer.dependencies import DependencyTarget
from broker_jobs.producer.requests import RequestClient
from broker_jobs.producer.routing import due_after

R_co = TypeVar("R_co", covariant=True)


class Receipt(DependencyTarget, Generic[R_co]):
    """A job that was enqueued, by its id. Nothing is asked before a method is called.

    All methods but `state_async` and `result_async` block until the coordinator has answered.
    """

    def __init__(
        self,
        id: str,
        requests: RequestClient,
        job: str = "",
        decode: Callable[[str], Any] = from_json,
        *,
        fresh: bool = False,
        submission: BatchSubmission | None = None,
    ) -> None:
        self.id = id
        self._requests = requests
        self._job = job
        self._decode = decode
        self._submission = submission
        self._fresh = fresh  # enqueued just now: the coordinator may not have read of it yet

    @property
    def job(self) -> str:
        """The job's name; empty when only its id is known."""
        return self._job

    @property
    def title(self) -> str:
        """What a message calls it: "fetch 0190…"."""
        return f"{self._job or 'job'} {self.id}"

    def __repr__(self) -> str:
        return f"Receipt({self._job + ' ' if self._job else ''}{self.id})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Receipt) and other.id == self.id

    def __hash__(self) -> int:
        return hash(self.id)

    def state(self) -> State:
        """Where the job stands.

        Raises:
            ResultTimeout: no coordinator answered within the publish timeout, or none knows the job.
            BrokerError: RabbitMQ cannot be reached.
        """
        warn_if_blocking("receipt.state()", "receipt.state_async()", "the coordinator answers")
        if self._submission is not None and self._submission.is_open:
            return State.AWAITING
        return State(self._requests.view(self.id).state)

    async def state_async(self) -> State:
        """As `state`; the event loop goes on meanwhile."""
        if self._submission is not None and self._submission.is_open:
            return State.AWAITING
        return State((await self._requests.view_async(self.id)).state)

    def result(self, timeout: Seconds | None = None) -> R_co:
        """Wait for the job to end and return what it returned.

        Args:
            timeout: seconds or a timedelta; None waits for ever, as futures do.

        Raises:
            JobFailed: it failed for good; the remote traceback is a note.
            JobDeleted: it was deleted.
            ResultTimeout: it has not ended in time, or no coordinator answered.
            UsageError: asked inside a job, or inside the block of its batch.
            BrokerError: RabbitMQ cannot be reached.
        """
        self._refuse_to_wait()
        warn_if_blocking("receipt.result()", "receipt.result_async()", "the job has ended")
        seconds = None if timeout is None else as_seconds(timeout)
        return self._outcome(self._requests.ended(self.id, seconds), seconds)

    async def result_async(self, timeout: Seconds | None = None) -> R_co:  # noqa: ASYNC109  # as result()
        """As `result`; the event loop goes on meanwhile."""
        self._refuse_to_wait()
        seconds = None if timeout is None else as_seconds(timeout)
        return self._outcome(await self._requests.ended_async(self.id, seconds), seconds)

    def delete(self) -> bool:
        """Delete the job; one that runs is asked to stop (`current_job().cancelled()`). False: it had already ended.

        Raises:
            ResultTimeout: no coordinator answered within the publish timeout.
            BrokerError: RabbitMQ cannot be reached.
        """
        requests = self._requests
        reply = requests.command(DeleteJob(id=new_id(), at=requests.now(), by=requests.by, job_id=self.id))
        return not reply.detail.get("ended", False)

    def requeue(self) -> None:
        """Run the job again, or now if it waits.

        Raises:
            UsageError: it runs: delete it first; or its batch is not complete: leave the block first.
            ResultTimeout: no coordinator answered within the publish timeout.
            BrokerError: RabbitMQ cannot be reached.
        """
        requests = self._requests
        self._on_known(lambda: RequeueJob(id=new_id(), at=requests.now(), by=requests.by, job_id=self.id))

    def reschedule(self, when: When, /) -> None:
        """Give the job another time: a timedelta from now, or an aware datetime; a past one means now.

        Raises:
            ArgumentsError: a bare number, a datetime without a time zone, over ten years.
            UsageError: it runs, waits for something other than time, or its batch is not complete.
            ResultTimeout: no coordinator answered within the publish timeout.
            BrokerError: RabbitMQ cannot be reached.
        """
        requests = self._requests
        now = requests.now()
        due_at = due_after(when, now, "reschedule") or now
        self._on_known(lambda: RescheduleJob(id=new_id(), at=now, by=requests.by, job_id=self.id, due_at=due_at))

    def _on_known(self, make: Callable[[], Command]) -> None:
        """Have a command carried out; commands overtake the log, so a job enqueued just now is first waited for."""
        try:
            self._requests.command(make())
        except UsageError as error:
            if not self._fresh or str(error) != NO_SUCH_JOB:
                raise
            self._requests.view(self.id)
            self._requests.command(make())

    def _refuse_to_wait(self) -> None:
        if inside_job():
            raise UsageError("a job that waits for a job can stop every worker; use child.after(receipt)")
        if self._submission is not None:
            self._submission.refuse_to_wait(self.title)

    def _outcome(self, view: JobReply, seconds: float | None) -> R_co:
        """What `result` returns or raises for an answer."""
        title = f"{view.job or self._job or 'job'} {self.id}"
        match view.state:
            case State.SUCCEEDED:
                if view.result_lost is not None:
                    raise BrokerJobsError(f"{title} succeeded, but its result was not kept: {view.result_lost}")
                value: R_co = self._decode("null" if view.result is None else view.result)
                return value
            case State.FAILED:
                runs = f"{view.attempt} run{'' if view.attempt == 1 else 's'}"
                why = f"{view.error.type}: {view.error.message}" if view.error is not None else view.reason
                failed = JobFailed(f"{title} failed after {runs}: {why}")
                if view.error is not None and view.error.traceback:
                    failed.add_note(view.error.traceback)
                raise failed
            case State.DELETED:
                raise JobDeleted(f"{title} was deleted{': ' + view.reason if view.reason else ''}")
            case _:
                run = f" (run {view.attempt})" if view.state == State.PROCESSING else ""
                raise ResultTimeout(f"{title} is still {view.state}{run} after {0 if seconds is None else seconds:g} s")
