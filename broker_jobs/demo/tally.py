"""Compares what was asked with what arrived. Pure; the demo's exit code is decided here."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from broker_jobs.clock import Instant
from broker_jobs.demo.mailbox import Mail

DIGEST_SECONDS = 2
"""Between two digests; they fall on even seconds."""
DIGEST_CRON = f"*/{DIGEST_SECONDS} * * * * *"


@dataclass(frozen=True)
class Digest:
    """One run of the recurring job as the store has it."""

    job_id: str
    planned_at: Instant
    ended_at: Instant | None


@dataclass(frozen=True)
class TallyLine:
    """One line of the table at the end, in mails."""

    kind: str
    asked: int
    delivered: int
    retried: int


@dataclass(frozen=True)
class Verdict:
    """What the demo ends with: a table, and every way in which it is not exact (empty: it is)."""

    lines: tuple[TallyLine, ...]
    wrong: tuple[str, ...]


def left_out(digests: Sequence[Digest], since: Instant, until: Instant) -> list[Instant]:
    """The planned times in a span of which the store has no digest, though none before was still running.

    Args:
        digests: all the store has.
        since: when the schedule certainly stood.
        until: the last instant at which it certainly still did, and was handled.
    """
    planned = {digest.planned_at for digest in digests}
    return [
        at
        for at in _even_seconds(since, until)
        if at not in planned
        and not any(each.planned_at < at and (each.ended_at is None or each.ended_at > at) for each in digests)
    ]


def _even_seconds(since: Instant, until: Instant) -> Iterable[Instant]:
    first = (math.floor(since / DIGEST_SECONDS) + 1) * DIGEST_SECONDS
    return (float(at) for at in range(first, math.floor(until) + 1, DIGEST_SECONDS))


def verdict(
    kinds: Sequence[str],
    asked: Collection[Mail],
    delivered: Counter[Mail],
    *,
    retried: Mapping[str, int],
    unsuccessful: Mapping[str, str] = MappingProxyType({}),
    missed_digests: Sequence[Instant] = (),
    readers: int = 0,
    at_once: Mapping[str, int] = MappingProxyType({}),
    limit: int = 0,
) -> Verdict:
    """The table, and what is wrong.

    Args:
        kinds: of mail, in the order of the table; the last is the digest.
        asked: each mail that is owed, once.
        delivered: each mail that arrived, and how often.
        retried: mails that were sent away once, by kind.
        unsuccessful: why a job did not succeed, by its id.
        missed_digests: planned times that made no job; each owes a mail to every reader.
        readers: how many want the digest.
        at_once: how many letters came at once, at most, by the domain they were for.
        limit: how many may.
    """
    owed = set(asked)
    asked_by_kind = Counter(mail.kind for mail in owed)
    asked_by_kind[kinds[-1]] += len(missed_digests) * readers
    arrived_by_kind: Counter[str] = Counter()
    for mail, times in delivered.items():
        arrived_by_kind[mail.kind] += times
    lines = tuple(TallyLine(kind, asked_by_kind[kind], arrived_by_kind[kind], retried.get(kind, 0)) for kind in kinds)
    wrong = [f"the {kinds[-1]} of {at:.0f} was never enqueued" for at in missed_digests]
    wrong += [
        f"{_shown(mail)} is missing: {unsuccessful.get(mail.job_id, f'job {mail.job_id} succeeded')}"
        for mail in sorted(owed - {*delivered})
    ]
    explained = {mail.job_id for mail in owed - {*delivered}}
    wrong += [why for job_id, why in unsuccessful.items() if job_id not in explained]
    for mail, times in sorted(delivered.items()):
        if mail not in owed:
            wrong.append(f"{_shown(mail)} came and nobody asked for it (job {mail.job_id})")
        elif times > 1:
            wrong.append(f"{_shown(mail)} came {times} times (job {mail.job_id})")
    wrong += [
        f"{most} letters went to {domain} at once, the limit is {limit}"
        for domain, most in sorted(at_once.items())
        if most > limit
    ]
    return Verdict(lines, tuple(wrong))


def _shown(mail: Mail) -> str:
    return f"{mail.kind} to {mail.address}{f', which says {mail.says!r},' if mail.says else ''}"
