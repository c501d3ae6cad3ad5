"""Turns outcomes into events: one clause per outcome, each with the place that is acknowledged after its confirm."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import assert_never

from broker_jobs import logs
from broker_jobs.broker.interface import Delivery
from broker_jobs.broker.names import queue_of
from broker_jobs.clock import Clock
from broker_jobs.consumer.event_sender import DeliveryTag, EventSender, Then
from broker_jobs.consumer.job_records import job_fields
from broker_jobs.consumer.observer import WorkerObserver
from broker_jobs.consumer.outcome import (
    Completed,
    Interruption,
    NotRun,
    Outcome,
    Raised,
    can_be_written,
    clip,
    remote_exception,
    timed_out,
)
from broker_jobs.consumer.received_delivery import ReceivedDelivery
from broker_jobs.consumer.running import Run
from broker_jobs.messages.envelope import Envelope
from broker_jobs.messages.events import (
    Failed,
    Interrupted,
    LogLine,
    Overrun,
    Progress,
    Returned,
    ReturnReason,
    Started,
    event_json,
    succeeded_json,
)

logger = logging.getLogger(__name__)

_FAILURE = "%s %s attempt %d failed: %s: %s; %s"

MAX_LINES = 100
MAX_LINE_CHARS = 2_000
MAX_CARRIED_BYTES = 6 * 1024 * 1024
"""A longer body does not travel in an event: as text inside JSON it may double, and RabbitMQ 4 refuses 16 MiB by
closing the channel, which would bring the same delivery back for ever. The coordinator has its own copy."""


class Reporter:
    """Reports to the coordinator how each delivery ended."""

    def __init__(
        self,
        event_sender: EventSender,
        clock: Clock,
        observer: WorkerObserver,
        ran: Callable[[float], None],
        *,
        volatile: bool = False,
    ) -> None:
        """`volatile`: the broker ends with this process."""
        self._event_sender = event_sender
        self._clock = clock
        self._observer = observer
        self._ran = ran
        self._volatile = volatile
        self.done = 0
        """Attempts ended since the worker started (approximate: counted without a lock)."""
        self.interrupted = 0
        """Attempts reported as interrupted."""

    def ended(self, run: Run, outcome: Outcome) -> None:
        """An attempt ended: tell it; the delivery is acknowledged when that is confirmed."""
        if run.cut_off and not isinstance(outcome, Completed):
            return
        envelope = run.received.envelope
        now = self._clock.now()
        if run.progress is not None:
            self.progress(run)
        self.done += 1
        match outcome:
            case Completed(result, lost):
                event = succeeded_json(
                    envelope.id, envelope.epoch, started_at=run.started_at, ended_at=now, result=result, lost=lost
                )
                self._event_sender.put(event, run.received.place)
                self._count(run, "succeeded", now)
                self._log_success(run, now, lost)
            case Raised():
                failed = Failed(
                    id=envelope.id,
                    epoch=envelope.epoch,
                    started_at=run.started_at,
                    ended_at=now,
                    error=outcome.error,
                    final=outcome.final,
                    ended=outcome.ended,
                    runs_on=outcome.runs_on,
                    retry_after=outcome.retry_after,
                    envelope=_text(run.received.delivery),
                )
                self._event_sender.put(event_json(failed), run.received.place)
                self._count(run, outcome.ended, now)
                _log_failure(envelope, outcome, deleted=run.cancel_reason == "deleted")
            case Interruption():
                interrupted = Interrupted(
                    id=envelope.id,
                    epoch=envelope.epoch,
                    started_at=run.started_at,
                    ended_at=now,
                    acknowledged=self._volatile,
                    envelope=_text(run.received.delivery),
                )
                # Not acknowledged where the broker outlives us: the return of the delivery says that we have ended.
                self._event_sender.put(event_json(interrupted), run.received.place if self._volatile else None)
                self._count(run, "interrupted", now)
                self.interrupted += 1
                _log_interruption(envelope)
            case NotRun(reason, redelivered):
                self.returned(run.received.delivery, envelope, reason, redelivered=redelivered)
            case _:
                assert_never(outcome)

    def cut_off(self, run: Run) -> None:
        """Report an attempt that still runs while the worker stops and that nothing can stop: later is too late."""
        if run.cut_off or run.ended:
            return
        timeout = run.received.envelope.policy.timeout if run.cancel_reason == "timeout" else None
        self.ended(run, Interruption() if timeout is None else timed_out(timeout, runs_on=True))
        run.cut_off = True

    def returned(
        self, delivery: Delivery, envelope: Envelope, reason: ReturnReason, *, redelivered: bool = False
    ) -> None:
        """Report a delivery that is not run; the coordinator decides how its job continues."""
        queue = queue_of(delivery.queue)
        event = Returned(
            id=envelope.id,
            epoch=envelope.epoch,
            at=self._clock.now(),
            reason=reason,
            redelivered=redelivered,
            envelope=_text(delivery),
        )
        self._event_sender.put(event_json(event), DeliveryTag(delivery.channel, delivery.tag))
        self._observer.returned(reason, queue)
        report = logger.warning if reason == "unknown job" else logger.debug
        report(
            "%s %s of queue %s is returned: %s; the coordinator decides when it runs",
            envelope.job,
            envelope.id,
            queue,
            reason,
        )

    def return_delivery(self, received: ReceivedDelivery, reason: ReturnReason) -> None:
        """A delivery that waited here is not run."""
        self.returned(received.delivery, received.envelope, reason)

    def started(self, run: Run, then: Then, *, owned: bool = False) -> None:
        """An attempt runs; `then` follows the confirm."""
        envelope = run.received.envelope
        run.announced = True
        event = Started(id=envelope.id, epoch=envelope.epoch, at=run.started_at, owned=owned)
        self._event_sender.put(event_json(event), then)

    def overrun(self, run: Run) -> None:
        """An attempt goes on after its timeout."""
        envelope = run.received.envelope
        self._event_sender.put(event_json(Overrun(id=envelope.id, epoch=envelope.epoch, at=self._clock.now())))

    def progress(self, run: Run) -> None:
        """Tell the last progress of a run, if there is any news."""
        progress, run.progress = run.progress, None
        if progress is not None:
            envelope = run.received.envelope
            done, total = progress
            event = Progress(id=envelope.id, epoch=envelope.epoch, at=self._clock.now(), done=done, total=total)
            self._event_sender.put(event_json(event))

    def line(self, run: Run, text: str) -> None:
        """Tell a line the function wrote; the hundredth says that it is the last."""
        run.lines += 1
        if run.lines > MAX_LINES or run.ended:
            return
        envelope = run.received.envelope
        shown = text if run.lines < MAX_LINES else f"{text} (the last line that is kept: {MAX_LINES} an attempt)"
        event = LogLine(id=envelope.id, epoch=envelope.epoch, at=self._clock.now(), text=clip(shown, MAX_LINE_CHARS))
        self._event_sender.put(event_json(event))

    def _count(self, run: Run, outcome: str, now: float) -> None:
        envelope = run.received.envelope
        waited_since = (envelope.due_at or envelope.created_at).timestamp()
        run_seconds = max(0.0, now - run.started_at)
        self._ran(run_seconds)
        self._observer.finished(
            outcome,
            envelope.job,
            run.received.queue,
            run_seconds=run_seconds,
            wait_seconds=max(0.0, run.started_at - waited_since),
            attempt=envelope.attempt,
        )

    def _log_success(self, run: Run, now: float, lost: str | None) -> None:
        envelope = run.received.envelope
        if lost is not None:
            logger.warning("%s %s succeeded, but its result is not kept: %s", envelope.job, envelope.id, lost)
        if run.cancel_reason == "timeout":
            logger.log(
                logging.WARNING if run.outlived else logging.ERROR,  # once as an error
                "%s %s attempt %d took %.3f s, its timeout is %s s; it returned and counts as succeeded. "
                "To stop it in time, ask current_job().cancelled() in it",
                envelope.job,
                envelope.id,
                envelope.attempt,
                now - run.started_at,
                envelope.policy.timeout,
            )
        elif logger.isEnabledFor(logging.DEBUG):
            logger.debug(
                "%s %s attempt %d of queue %s succeeded in %.3f s; report the outcome, then acknowledge",
                envelope.job,
                envelope.id,
                envelope.attempt,
                run.received.queue,
                now - run.started_at,
            )


def _text(delivery: Delivery) -> str:
    if len(delivery.body) > MAX_CARRIED_BYTES:
        return ""
    return delivery.body.decode("utf-8", "replace")


def _log_interruption(envelope: Envelope) -> None:
    logger.warning(
        "%s %s attempt %d is interrupted, as this worker has to leave; it runs again when this process has ended",
        envelope.job,
        envelope.id,
        envelope.attempt,
        extra=job_fields(envelope),
    )


def _log_failure(envelope: Envelope, outcome: Raised, *, deleted: bool) -> None:
    if outcome.ended == "cancelled":
        logger.info("%s %s attempt %d stopped, as it was deleted", envelope.job, envelope.id, envelope.attempt)
        return
    retries = envelope.policy.retries
    final = not deleted and (outcome.final or envelope.attempt > retries)
    if final:
        logs.enable_again()
    if deleted:
        level, what_follows = logging.WARNING, "it was deleted while it ran and is not retried"
    elif final:
        level, what_follows = logging.ERROR, "it is not retried; correct the cause, then requeue it"
    elif outcome.retry_after is not None:
        what_follows = f"retry {envelope.attempt} of {retries} follows in {outcome.retry_after:g} s, as it asked"
        level = logging.WARNING
    else:
        level, what_follows = logging.WARNING, f"retry {envelope.attempt} of {retries} follows after its backoff"
    arguments = (envelope.job, envelope.id, envelope.attempt, outcome.error.type, outcome.error.message, what_follows)
    shown: BaseException | None = None
    if final:
        shown = remote_exception(outcome.error) if outcome.exception is None else outcome.exception
        shown = shown if can_be_written(shown) else None
    logger.log(level, _FAILURE, *arguments, exc_info=shown, extra=job_fields(envelope))
