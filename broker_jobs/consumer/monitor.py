"""Looks after what runs, ten times a second: timeouts, hand-over of long runs, progress."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import UTC, datetime

from broker_jobs.clock import Clock
from broker_jobs.consumer.acknowledger import Acknowledger
from broker_jobs.consumer.heartbeat import HeartbeatSender
from broker_jobs.consumer.overdue import OverdueRuns
from broker_jobs.consumer.reporter import Reporter
from broker_jobs.consumer.running import Run, Running

logger = logging.getLogger(__name__)

ANNOUNCE_AFTER_SECONDS = 1.0
PROGRESS_SECONDS = 1.0
OUTLIVED_AFTER_SECONDS = 1.0
"""What a job gets to notice its timeout and to end before it is said to outlive it."""


class Monitor:
    """Walks over the runs; each look is short and touches only what is due."""

    def __init__(
        self,
        *,
        running: Running,
        reporter: Reporter,
        acknowledger: Acknowledger,
        heartbeat_sender: HeartbeatSender,
        clock: Clock,
        handover_after: float,
        handed_over: Callable[[], None],
        timeout_grace: float,
        overdue: OverdueRuns,
    ) -> None:
        self._running = running
        self._reporter = reporter
        self._acknowledger = acknowledger
        self._heartbeat_sender = heartbeat_sender
        self._clock = clock
        self._handover_after = handover_after
        self._handed_over = handed_over
        self._timeout_grace = timeout_grace
        self._overdue = overdue

    def look(self) -> None:
        """One look at everything."""
        now = self._clock.monotonic()
        lease_is_ending = self._heartbeat_sender.lease_is_ending()
        for run in self._running.all():
            self._look_at(run, now)
            if run.cancel_reason is not None:
                self._ask_again(run, now)
            if run.owned and lease_is_ending and run.cancel_reason is None and _runs_alone(run):
                logger.error(
                    "%s %s: no heartbeat was confirmed for 20 s, so another job of its limit may be started; "
                    "it is asked to stop",
                    run.received.envelope.job,
                    run.received.envelope.id,
                )
                run.cancel("lease")
        self._overdue.look()

    def _look_at(self, run: Run, now: float) -> None:
        if run.deadline_monotonic is not None and now >= run.deadline_monotonic:
            run.cancel("timeout")
            outlived_after = min(OUTLIVED_AFTER_SECONDS, self._timeout_grace)
            if now >= run.deadline_monotonic + outlived_after and not (run.outlived or run.isolated):
                self._say_outlived(run, now)
            if now >= run.deadline_monotonic + self._timeout_grace and not run.overdue:
                run.overdue = True
                self._overdue.add(run, self._timeout_grace)
        age = now - run.started_monotonic
        if age >= self._handover_after and not run.handed_over:
            self._hand_over(run)
        elif age >= ANNOUNCE_AFTER_SECONDS and not run.announced:
            self._reporter.started(run, None)
        if run.progress is not None and now - run.progress_monotonic >= PROGRESS_SECONDS:
            run.progress_monotonic = now
            self._reporter.progress(run)

    def _ask_again(self, run: Run, now: float) -> None:
        if run.asked_monotonic is None:
            run.asked_monotonic = now
        elif run.interrupt.waits:
            run.stop()
        elif now >= run.asked_monotonic + self._timeout_grace and not run.asked_again:
            run.ask_again()

    def _say_outlived(self, run: Run, now: float) -> None:
        """A job outlives its timeout: a person has to know."""
        run.outlived = True
        if run.ended:
            return
        if not run.announced:
            self._reporter.started(run, None)
        self._reporter.overrun(run)
        envelope = run.received.envelope
        if run.task is None:
            advice = (
                "it caught JobTimedOut and goes on, or it is in a call that Python cannot end. Let JobTimedOut pass, "
                "and give its calls timeouts of their own"
            )
        else:
            advice = (
                "it caught CancelledError and goes on, or it blocks the event loop. Let CancelledError pass, and put "
                "what blocks into a thread"
            )
        logger.error(
            "%s %s attempt %d outlives its timeout of %g s: it has run since %s (%.1f s) and was asked to stop: %s",
            envelope.job,
            envelope.id,
            envelope.attempt,
            envelope.policy.timeout,
            datetime.fromtimestamp(run.started_at, UTC).isoformat(timespec="seconds"),
            now - run.started_monotonic,
            advice,
        )

    def _hand_over(self, run: Run) -> None:
        """Report that the coordinator owns the run from now on; acknowledge the delivery when that is confirmed."""
        run.handed_over = True

        def confirmed() -> None:
            run.owned = True
            self._handed_over()
            self._acknowledger.acknowledge((run.received.place,))

        self._reporter.started(run, confirmed, owned=True)


def _runs_alone(run: Run) -> bool:
    """Whether few jobs or none may run beside it. Others go on while this worker is cut off: it is told when it is
    connected again whether they were given to another one.
    """
    return any(limit.kind in {"concurrency", "ordered"} for limit in run.received.envelope.limits)
