"""Reads the statistics that are kept while jobs are saved: what ended when, how long jobs waited and ran, rates, ages.

Nothing is counted here: every read adds a few rows of one minute or one queue each.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable
from contextlib import AbstractContextManager

from sqlalchemy import Connection, text

from broker_jobs.clock import Instant
from broker_jobs.messages.state import FINAL, State
from broker_jobs.store.buckets import quantile
from broker_jobs.store.counters import MINUTE_SECONDS, RETRY
from broker_jobs.store.views import EndedRow, KindRow, Latency, QueueRow

RATE_MINUTES = 5
"""A queue's rate is that of so many whole minutes."""

_RETRIES = text("SELECT coalesce(sum(n), 0) FROM counts WHERE state = 'retry'")
_ENDED = text("SELECT state, n FROM ended")
_HISTORY = text(
    "SELECT (minute - :since) / :step, state, sum(n) FROM outcomes WHERE minute >= :since AND minute < :until"
    " GROUP BY 1, 2"
)
_DURATIONS = text(
    "SELECT kind, bucket, sum(n) FROM durations WHERE minute >= :since AND minute < :until GROUP BY kind, bucket"
)
_KINDS = text(
    "SELECT job, state, sum(n) FROM kind_outcomes WHERE minute >= :since AND minute < :until GROUP BY job, state"
)
_KIND_DURATIONS = text(
    "SELECT job, kind, bucket, sum(n) FROM kind_durations WHERE minute >= :since AND minute < :until"
    " GROUP BY job, kind, bucket"
)
_RATES = text("SELECT queue, sum(n) FROM queue_outcomes WHERE minute >= :since AND minute < :until GROUP BY queue")
_QUEUES = text("SELECT name, paused FROM queues ORDER BY name")
_COUNTS = text("SELECT queue, state, n FROM counts")
OLDEST = text(
    "SELECT coalesce(released_at, created_at) FROM jobs WHERE publication = 2 AND queue = :queue"
    " AND coalesce(state, '') = 'enqueued' ORDER BY coalesce(released_at, created_at) LIMIT 1"
)
"""Written so that SQLite takes the index of what is out, not that of the states."""


class Statistics:
    """The part of a reader that tells figures."""

    def __init__(self, reading: Callable[[], AbstractContextManager[Connection]]) -> None:
        self._reading = reading

    def retries(self) -> int:
        """How many jobs are scheduled to run again after a failure, or after their worker died."""
        with self._reading() as connection:
            return int(connection.execute(_RETRIES).scalar_one())

    def ended(self) -> dict[State, int]:
        """How many jobs came to each final state, ever; a job that was run again and ended again counts again."""
        with self._reading() as connection:
            kept = {State(state): int(n) for state, n in connection.execute(_ENDED)}
        return {state: kept.get(state, 0) for state in State if state in FINAL}

    def history(self, since: Instant, until: Instant, step_seconds: int) -> list[EndedRow]:
        """What ended in equal stretches from `since` (taken down to its minute) to `until`, oldest first, without gaps.

        Args:
            since: not more than eight days ago, as minutes are kept so long.
            until: the last stretch may reach beyond it.
            step_seconds: the length of one, a multiple of 60.

        Raises:
            ValueError: the step is no multiple of a minute.
        """
        if step_seconds < MINUTE_SECONDS or step_seconds % MINUTE_SECONDS:
            raise ValueError(f"a step is a multiple of {MINUTE_SECONDS} seconds, not {step_seconds}")
        start = int(since // MINUTE_SECONDS) * MINUTE_SECONDS
        steps = max(0, -int((start - until) // step_seconds))
        values = {"since": start, "until": start + steps * step_seconds, "step": step_seconds}
        found: dict[int, dict[str, int]] = defaultdict(dict)
        with self._reading() as connection:
            for place, state, n in connection.execute(_HISTORY, values):
                found[int(place)][state] = int(n)
        return [EndedRow(float(start + place * step_seconds), **found.get(place, {})) for place in range(steps)]

    def latency(self, since: Instant, until: Instant) -> Latency:
        """How long the jobs that ended in a span (in whole minutes) waited for a worker and ran."""
        values = {"since": _minute(since), "until": _minute(until) + MINUTE_SECONDS}
        buckets: dict[str, Counter[int]] = {"wait": Counter(), "run": Counter()}
        with self._reading() as connection:
            for kind, bucket, n in connection.execute(_DURATIONS, values):
                buckets[kind][int(bucket)] += int(n)
        return _latency(buckets)

    def kinds(self, since: Instant, until: Instant | None = None) -> list[KindRow]:
        """What the jobs of each name came to in a span (in whole minutes), by name.

        Args:
            since: not more than a day ago, as minutes of kinds are kept so long; how long they waited and ran is known
                of the last two hours.
            until: None: up to now.
        """
        values = {"since": _minute(since), "until": 2**62 if until is None else _minute(until) + MINUTE_SECONDS}
        ended: dict[str, Counter[str]] = defaultdict(Counter)
        buckets: dict[str, dict[str, Counter[int]]] = defaultdict(lambda: {"wait": Counter(), "run": Counter()})
        with self._reading() as connection:
            for job, state, n in connection.execute(_KINDS, values):
                ended[job][state] += int(n)
            for job, kind, bucket, n in connection.execute(_KIND_DURATIONS, values):
                buckets[job][kind][int(bucket)] += int(n)
        return [
            KindRow(job, of["succeeded"], of["failed"], of["deleted"], _latency(buckets[job]))
            for job, of in sorted(ended.items())
        ]

    def queue_rows(self, now: Instant) -> list[QueueRow]:
        """Every known queue as it stands, by name."""
        until = _minute(now)
        values = {"since": until - RATE_MINUTES * MINUTE_SECONDS, "until": until}
        with self._reading() as connection:
            paused = {name: bool(flag) for name, flag in connection.execute(_QUEUES)}
            counts = {name: dict.fromkeys(State, 0) for name in paused}
            for queue, state, n in connection.execute(_COUNTS):
                if state != RETRY:
                    counts.setdefault(queue, dict.fromkeys(State, 0))[State(state)] = int(n)
            rates = {queue: int(n) / RATE_MINUTES for queue, n in connection.execute(_RATES, values)}
            oldest = {
                queue: connection.execute(OLDEST, {"queue": queue}).scalar_one_or_none()
                for queue, states in counts.items()
                if states[State.ENQUEUED]
            }
        return [
            QueueRow(name, paused.get(name, False), counts[name], oldest.get(name), rates.get(name, 0.0))
            for name in sorted(counts)
        ]


def _minute(at: Instant) -> int:
    return int(at // MINUTE_SECONDS) * MINUTE_SECONDS


def _latency(buckets: dict[str, Counter[int]]) -> Latency:
    wait, run = buckets["wait"], buckets["run"]
    return Latency(
        quantile(wait, 0.5), quantile(wait, 0.95), quantile(run, 0.5), quantile(run, 0.95), sum(run.values())
    )
