"""Reads the state and result of an enqueued job, and deletes, requeues or reschedules it.

`result_of` and `results_of` pass the results of receipts on, as arguments of other jobs. Over 300 lines: each call that
waits has a twin for event loops beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Generic, TypeVar, cast

from pydantic_core import from_json

from broker_jobs.clock import Seconds, When, as_seconds
from broker_jobs.errors import ArgumentsError, BrokerJobsError, JobDeleted, JobFailed, ResultTimeout, UsageError
from broker_jobs.function.pending import Pending
from broker_jobs.messages.commands import NO_SUCH_JOB, Command, DeleteJob, JobReply, RequeueJob, RescheduleJob
from broker_jobs.messages.envelope import MAX_PARENTS
from broker_jobs.messages.state import State
from broker_jobs.producer.asyncio_support import warn_if_blocking
from broker_jobs.producer.batch_submission import BatchSubmission
from broker_jobs.producer.current_job import inside_job
from broker_jobs.producer.dependencies import DependencyTarget
from broker_jobs.producer.job_info import JobInfo, job_info
from broker_jobs.producer.requests import RequestClient
from broker_jobs.producer.routing import due_at_of

R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)


class Receipt(DependencyTarget, Generic[R_co]):
    """A job that was enqueued, known by its id.

    Creating a receipt sends nothing. All methods block until the coordinator has answered; on an event loop await their
    twins, `state_async` and so on. A receipt also works in another process: `welcome.receipt(id)`.

    print(receipt.state(), receipt.result(timeout=10))
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
        self._fresh = fresh  # enqueued just now: the coordinator may not have read it yet

    @property
    def job(self) -> str:
        """The job's name; empty if only its id is known."""
        return self._job

    @property
    def title(self) -> str:
        """Its name and id, for error messages: "fetch 0190…"."""
        return f"{self._job or 'job'} {self.id}"

    def __repr__(self) -> str:
        return f"Receipt({self._job + ' ' if self._job else ''}{self.id})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Receipt) and other.id == self.id

    def __hash__(self) -> int:
        return hash(self.id)

    def state(self) -> State:
        """The current state of the job.

        Raises:
            ResultTimeout: no coordinator answered within the publish timeout, or it does not know the job.
            BrokerError: RabbitMQ cannot be reached.
        """
        warn_if_blocking("receipt.state()", "receipt.state_async()", "the coordinator answers")
        if self._submission is not None and self._submission.is_open:
            return State.AWAITING
        return State(self._requests.job_view(self.id).state)

    async def state_async(self) -> State:
        """As `state`, without blocking the event loop."""
        if self._submission is not None and self._submission.is_open:
            return State.AWAITING
        return State((await self._requests.job_view_async(self.id)).state)

    def info(self) -> JobInfo:
        """What is known of the job now: its name, queue, state, error, runs and times.

        info = receipt.info()
        print(info.state, info.attempts, info.error and info.error.message, info.ended_at)

        Of a duplicate (`unique`) it tells what its original does.

        Raises:
            ResultTimeout: no coordinator answered within the publish timeout, or it does not know the job: it was
                never enqueued on this broker, or it is kept no longer.
            UsageError: called inside the block of its batch.
            BrokerError: RabbitMQ cannot be reached.
        """
        if self._submission is not None:
            self._submission.refuse_to_wait(self.title)
        warn_if_blocking("receipt.info()", "receipt.info_async()", "the coordinator answers")
        return job_info(self.id, self._requests.job_view(self.id))

    async def info_async(self) -> JobInfo:
        """As `info`, without blocking the event loop."""
        if self._submission is not None:
            self._submission.refuse_to_wait(self.title)
        return job_info(self.id, await self._requests.job_view_async(self.id))

    def result(self, timeout: Seconds | None = None) -> R_co:
        """Wait until the job has ended, and return its result.

        receipt.result(timeout=10)

        Args:
            timeout: seconds or a timedelta; None waits without end, as futures do.

        Raises:
            JobFailed: the job failed for good; the remote traceback is a note of the exception.
            JobDeleted: the job was deleted.
            ResultTimeout: the job has not ended in time, or no coordinator answered.
            UsageError: called inside a job, where waiting can stop every worker, or inside the block of its batch.
            BrokerError: RabbitMQ cannot be reached.
        """
        self._refuse_to_wait()
        warn_if_blocking("receipt.result()", "receipt.result_async()", "the job has ended")
        seconds = None if timeout is None else as_seconds(timeout)
        return self._result_or_error(self._requests.wait_for_job(self.id, seconds), seconds)

    async def result_async(self, timeout: Seconds | None = None) -> R_co:  # noqa: ASYNC109  # as result()
        """As `result`, without blocking the event loop."""
        self._refuse_to_wait()
        seconds = None if timeout is None else as_seconds(timeout)
        return self._result_or_error(await self._requests.wait_for_job_async(self.id, seconds), seconds)

    def delete(self) -> bool:
        """Delete the job. A running job is stopped: JobCancelled or CancelledError is raised in it.

        Returns:
            False if the job had already ended.

        Raises:
            ResultTimeout: no coordinator answered within the publish timeout.
            BrokerError: RabbitMQ cannot be reached.
        """
        warn_if_blocking("receipt.delete()", "receipt.delete_async()", "the coordinator answers")
        return not self._requests.command(self._delete_command()).detail.get("ended", False)

    async def delete_async(self) -> bool:
        """As `delete`, without blocking the event loop."""
        return not (await self._requests.command_async(self._delete_command())).detail.get("ended", False)

    def _delete_command(self) -> Command:
        return DeleteJob(**self._requests.command_fields(), job_id=self.id)

    def requeue(self) -> None:
        """Run an ended job again, or a waiting one now.

        Raises:
            UsageError: the job is running: delete it first; or its batch is not complete: leave the block first.
            ResultTimeout: no coordinator answered within the publish timeout.
            BrokerError: RabbitMQ cannot be reached.
        """
        warn_if_blocking("receipt.requeue()", "receipt.requeue_async()", "the coordinator answers")
        self._send_when_known(self._requeue_command)

    async def requeue_async(self) -> None:
        """As `requeue`, without blocking the event loop."""
        await self._send_when_known_async(self._requeue_command)

    def _requeue_command(self) -> Command:
        return RequeueJob(**self._requests.command_fields(), job_id=self.id)

    def reschedule(self, when: When, /) -> None:
        """Change the time of the job.

        receipt.reschedule(timedelta(hours=1))

        Args:
            when: a timedelta from now or an aware datetime, at most ten years ahead. A time in the past means now.

        Raises:
            ArgumentsError: `when` is a bare number, has no time zone, or is more than ten years ahead.
            UsageError: the job is running, waits for something other than time, or its batch is not complete.
            ResultTimeout: no coordinator answered within the publish timeout.
            BrokerError: RabbitMQ cannot be reached.
        """
        warn_if_blocking("receipt.reschedule()", "receipt.reschedule_async(…)", "the coordinator answers")
        self._send_when_known(self._reschedule_command(when))

    async def reschedule_async(self, when: When, /) -> None:
        """As `reschedule`, without blocking the event loop."""
        await self._send_when_known_async(self._reschedule_command(when))

    def _reschedule_command(self, when: When) -> Callable[[], Command]:
        now = self._requests.now()
        due_at = due_at_of(when, now, "reschedule") or now
        return lambda: RescheduleJob(**self._requests.command_fields(), job_id=self.id, due_at=due_at)

    def _send_when_known(self, make: Callable[[], Command]) -> None:
        """Send a command. Commands overtake the log, so a job enqueued just now may be unknown: wait for it."""
        try:
            self._requests.command(make())
        except UsageError as error:
            if not self._fresh or str(error) != NO_SUCH_JOB:
                raise
            self._requests.job_view(self.id)
            self._requests.command(make())

    async def _send_when_known_async(self, make: Callable[[], Command]) -> None:
        try:
            await self._requests.command_async(make())
        except UsageError as error:
            if not self._fresh or str(error) != NO_SUCH_JOB:
                raise
            await self._requests.job_view_async(self.id)
            await self._requests.command_async(make())

    def _refuse_to_wait(self) -> None:
        if inside_job():
            raise UsageError("a job that waits for a job can stop every worker; use child.after(receipt)")
        if self._submission is not None:
            self._submission.refuse_to_wait(self.title)

    def _result_or_error(self, view: JobReply, seconds: float | None) -> R_co:
        """The result in a reply, or the error that `result` raises."""
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


def result_of(parent: Receipt[R], /) -> R:
    """The result of a job that has not ended yet, as an argument of another job: a placeholder of that type.

    The other job waits until the parent has succeeded, so `after` is not needed. Every other use of the placeholder
    raises TypeError.

    image = fetch.enqueue(url)
    resize.enqueue(result_of(image), 100)

    Raises:
        ArgumentsError: `parent` is no receipt.
    """
    _check_receipt(parent, "result_of")
    return cast("R", Pending((parent.id,), parent.title, many=False))


def results_of(parents: Iterable[Receipt[R]], /) -> list[R]:
    """The results of several jobs, in their order, as one argument of another job: see `result_of`.

    total.enqueue(results_of([count.enqueue(page) for page in pages]))

    Raises:
        ArgumentsError: something is no receipt, or there are more than 1,000. For more, enqueue jobs that each sum up
            some of them.
    """
    if isinstance(parents, DependencyTarget | str) or not isinstance(parents, Iterable):
        raise ArgumentsError(f"results_of() takes receipts: write results_of([…]), not results_of({parents!r})")
    receipts = list(parents)
    for receipt in receipts:
        _check_receipt(receipt, "results_of")
    if len(receipts) > MAX_PARENTS:
        raise ArgumentsError(f"results_of() takes at most {MAX_PARENTS:_} receipts, not {len(receipts):_}")
    if not receipts:
        return []
    more = f" and {len(receipts) - 1} more" if len(receipts) > 1 else ""
    return cast("list[R]", Pending(tuple(receipt.id for receipt in receipts), receipts[0].title + more, many=True))


def _check_receipt(parent: Any, function: str) -> None:
    if isinstance(parent, Receipt):
        return
    if isinstance(parent, DependencyTarget):
        hint = "a batch has no result; take those of its jobs"
    elif isinstance(parent, list | tuple):
        hint = "for several write results_of([…])"
    elif isinstance(parent, str):
        hint = f'for a job known by its id write {function}(jobs.receipt("{parent}"))'
    else:
        hint = f"what enqueue() returns, not {parent!r}"
    raise ArgumentsError(f"{function}() takes a receipt; {hint}")
