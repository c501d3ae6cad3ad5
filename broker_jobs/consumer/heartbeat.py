"""Sends the heartbeats of a worker, with the jobs it has, and notices when none was confirmed for too long."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from broker_jobs.clock import Clock
from broker_jobs.consumer.event_sender import EventSender
from broker_jobs.consumer.local_queue import LocalQueue
from broker_jobs.consumer.process_stats import ProcessStats
from broker_jobs.consumer.reporter import Reporter
from broker_jobs.consumer.revocations import Revocations
from broker_jobs.consumer.running import Running
from broker_jobs.messages.events import Heartbeat, event_json

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
        ready: Sequence[LocalQueue],
        fences: Revocations,
        reporter: Reporter,
        queues: Sequence[str],
        concurrency: int,
        period_seconds: float,
        version: str,
        busy: Callable[[], str] = str,
    ) -> None:
        """`busy`: what keeps jobs of this process from running; empty: nothing."""
        self._event_sender = event_sender
        self._clock = clock
        self._running = running
        self._ready = ready
        self._revocations = fences
        self._reporter = reporter
        self._queues = list(queues)
        self._concurrency = concurrency
        self._period_seconds = period_seconds
        self._version = version
        self._busy = busy
        self._process_stats = ProcessStats()
        self._next_monotonic = clock.monotonic()
        self._unconfirmed = False
        self._heard_monotonic = clock.monotonic()

    def look(self) -> None:
        """Beat if it is time."""
        now = self._clock.monotonic()
        if now >= self._next_monotonic and not self._unconfirmed:
            self._next_monotonic = now + self._period_seconds
            self.beat()

    def beat(self, *, leaving: bool = False) -> None:
        """Say now what this worker has."""
        cpu_percent, rss_bytes = self._process_stats.read()
        said_monotonic = self._clock.monotonic()
        heartbeat = Heartbeat(
            at=self._clock.now(),
            running=[(run.received.envelope.id, run.received.envelope.epoch) for run in self._running.all()],
            received=[received.envelope.id for ready in self._ready for received in ready.held()],
            queues=self._queues,
            concurrency=self._concurrency,
            control_version=self._revocations.version,
            done=self._reporter.done,
            cpu_percent=cpu_percent,
            rss_bytes=rss_bytes,
            version=self._version,
            busy=self._busy(),
            leaving=leaving,
        )
        self._unconfirmed = True

        def heard() -> None:
            self._unconfirmed = False
            self._heard_monotonic = said_monotonic  # a lease begins when the beat was said, not when it was confirmed

        self._event_sender.put(event_json(heartbeat), heard)

    def lease_is_ending(self) -> bool:
        """Whether what the coordinator owns may soon be started elsewhere."""
        return self._clock.monotonic() - self._heard_monotonic > LEASE_SECONDS - LEASE_MARGIN_SECONDS
