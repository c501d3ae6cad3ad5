"""Sends the heartbeats of a worker, with the jobs it has, and notices when none was confirmed for too long."""

from __future__ import annotations

from collections.abc import Callable

from broker_jobs.clock import Clock
from broker_jobs.consumer.event_sender import EventSender
from broker_jobs.consumer.process_stats import ProcessStats
from broker_jobs.consumer.program_code import ProgramCode
from broker_jobs.consumer.received_delivery import ReceivedDelivery
from broker_jobs.consumer.reporter import Reporter
from broker_jobs.consumer.revocations import Revocations
from broker_jobs.consumer.running import Running
from broker_jobs.messages.events import MAX_REASON_CHARS, Heartbeat, event_json
from broker_jobs.served_queues import ServedQueues

LEASE_SECONDS = 30.0
"""What the coordinator grants (rule R7); it counts log time, which is never faster than ours."""
LEASE_MARGIN_SECONDS = 10.0


class HeartbeatSender:
    """Puts a heartbeat among the events every `period_seconds`; one at a time, as an unheard one needs no second."""

    def __init__(
        self,
        *,
        event_sender: EventSender,
        clock: Clock,
        running: Running,
        held: Callable[[], list[ReceivedDelivery]],
        fences: Revocations,
        reporter: Reporter,
        serves: Callable[[], tuple[ServedQueues, int]],
        period_seconds: float,
        version: str,
        code: ProgramCode,
        problem: Callable[[], str] | None = None,
        busy: Callable[[], str] = str,
    ) -> None:
        """
        Args:
            problem: why the worker takes no jobs; an empty text: it does.
            busy: what keeps jobs of this process from running; an empty text: nothing.
        """
        self._event_sender = event_sender
        self._clock = clock
        self._running = running
        self._held = held
        self._revocations = fences
        self._reporter = reporter
        self._serves = serves
        self._period_seconds = period_seconds
        self._version = version
        self._code = code
        self._problem = problem
        self._busy = busy
        self._process_stats = ProcessStats()
        self._next_monotonic = clock.monotonic()
        self._unconfirmed = False
        self._heard_monotonic = clock.monotonic()
        self._confirmed_monotonic: float | None = None
        """When the last of its own heartbeats that was confirmed was sent."""

    def look(self) -> None:
        """Beat if it is time."""
        now = self._clock.monotonic()
        if now >= self._next_monotonic and not self._unconfirmed:
            self._next_monotonic = now + self._period_seconds
            self.beat()

    def beat_soon(self) -> None:
        """Beat at the next look."""
        self._next_monotonic = self._clock.monotonic()

    def beat(self, *, leaving: bool = False) -> None:
        """Say now what this worker has."""
        cpu_percent, rss_bytes = self._process_stats.read()
        said_monotonic = self._clock.monotonic()
        queues, concurrency = self._serves()
        heartbeat = Heartbeat(
            at=self._clock.now(),
            running=self._running.ids(),
            received=[received.envelope.id for received in self._held()],
            queues=list(queues.names),
            served=queues.written() if queues.weights else [],
            queue_limits=dict(queues.limits),
            concurrency=concurrency,
            control_version=self._revocations.version,
            done=self._reporter.done,
            cpu_percent=cpu_percent,
            rss_bytes=rss_bytes,
            version=self._version,
            service=self._code.service,
            code=self._code.digest,
            problem="" if self._problem is None else self._problem()[:MAX_REASON_CHARS],
            busy=self._busy(),
            leaving=leaving,
        )
        self._unconfirmed = True

        def heard() -> None:
            self._unconfirmed = False
            self._confirmed_monotonic = said_monotonic
            self._lease_begins(said_monotonic)  # when the beat was said, not when it was confirmed

        self._event_sender.put(event_json(heartbeat), heard)

    @property
    def confirmed_seconds_ago(self) -> float | None:
        """How old the last own heartbeat is that was confirmed; None: there was none."""
        confirmed = self._confirmed_monotonic
        return None if confirmed is None else self._clock.monotonic() - confirmed

    def supervised(self, seconds_ago: float) -> None:
        """The supervisor of this process has sent a heartbeat for it so many seconds ago, which was confirmed."""
        self._lease_begins(self._clock.monotonic() - seconds_ago)

    def _lease_begins(self, monotonic: float) -> None:
        self._heard_monotonic = max(self._heard_monotonic, monotonic)

    def lease_is_ending(self) -> bool:
        """Whether what the coordinator owns may soon be started elsewhere."""
        return self._clock.monotonic() - self._heard_monotonic > LEASE_SECONDS - LEASE_MARGIN_SECONDS
