"""Reads the statistics that are kept while jobs are saved: what ended when, how long jobs waited and ran.

Nothing is counted here: every read adds a few rows of one minute each.
"""

from __future__ import annotations

from collections import Counter, defaultdict

from sqlalchemy import func, select, text

from broker_jobs.clock import Instant
from broker_jobs.messages.state import FINAL, State
from broker_jobs.store import schema
from broker_jobs.store.buckets import quantile
from broker_jobs.store.connections import Reading
from broker_jobs.store.counters import MINUTE_SECONDS, STATES
from broker_jobs.store.views import EndedRow, KindRow, Latency

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


class Statistics:
    """Figures, for a reader."""

    __slots__ = ("_reading",)

    def __init__(self, reading: Reading) -> None:
        self._reading = reading

    def counts(self) -> dict[State, int]:
        """How many jobs are in each state: the kept counters."""
        query = select(schema.counts.c.state, func.sum(schema.counts.c.n)).group_by(schema.counts.c.state)
        query = query.where(schema.counts.c.state.in_(STATES))
        with self._reading() as connection:
            kept = {State(state): int(n) for state, n in connection.execute(query)}
        return {state: kept.get(state, 0) for state in State}

    def throughput(self, since: Instant, until: Instant | None = None) -> list[tuple[Instant, State, int]]:
        """(start of the minute, final state, jobs that came to it) of each minute in a span, oldest first."""
        kept = schema.outcomes.c
        query = select(kept.minute, kept.state, kept.n).where(kept.minute >= since).order_by(kept.minute, kept.state)
        if until is not None:
            query = query.where(kept.minute < until)
        with self._reading() as connection:
            return [(float(minute), State(state), int(n)) for minute, state, n in connection.execute(query)]

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


def _minute(at: Instant) -> int:
    return int(at // MINUTE_SECONDS) * MINUTE_SECONDS


def _latency(buckets: dict[str, Counter[int]]) -> Latency:
    wait, run = buckets["wait"], buckets["run"]
    return Latency(
        quantile(wait, 0.5), quantile(wait, 0.95), quantile(run, 0.5), quantile(run, 0.95), sum(run.values())
    )
