"""Compares requested mail with delivered mail; the exit code of the demo follows from it. Pure."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from broker_jobs.clock import Instant
from broker_jobs.demo.smtp_server import Mail

DIGEST_SECONDS = 2
"""Between two digests; they fall on even seconds."""
DIGEST_CRON = f"*/{DIGEST_SECONDS} * * * * *"


@dataclass(frozen=True)
class Digest:
    """One run of the recurring job, from the store."""

    job_id: str
    planned_at: Instant
    ended_at: Instant | None


@dataclass(frozen=True)
class ResultLine:
    """One line of the final table: numbers of mails."""

    kind: str
    requested: int
    delivered: int
    retried: int


@dataclass(frozen=True)
class CheckResult:
    """The final table, and a sentence for each difference; none if the delivery is exact."""

    lines: tuple[ResultLine, ...]
    wrong: tuple[str, ...]


def missed_planned_times(digests: Sequence[Digest], since: Instant, until: Instant) -> list[Instant]:
    """The planned times without a digest in the store, although no earlier digest was still running.

    Args:
        digests: all digests in the store.
        since: an instant after the schedule was created.
        until: an instant at which it still existed, with all earlier planned times handled.
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


def compare(
    kinds: Sequence[str],
    requested: Collection[Mail],
    delivered: Counter[Mail],
    *,
    retried: Mapping[str, int],
    unsuccessful: Mapping[str, str] = MappingProxyType({}),
    missed_digests: Sequence[Instant] = (),
    readers: int = 0,
    at_once: Mapping[str, int] = MappingProxyType({}),
    limit: int = 0,
) -> CheckResult:
    """Make the table, and list the differences.

    Args:
        kinds: the kinds of mail, in the order of the table; the last is the digest.
        requested: the mails to expect, each once.
        delivered: the delivered mails, and how often each was delivered.
        retried: how many mails were refused once, by kind.
        unsuccessful: the reason why a job did not succeed, by its id.
        missed_digests: planned times without a job; for each, every reader lacks a mail.
        readers: the number of readers of the digest.
        at_once: the maximum of mails received at once, by domain.
        limit: the allowed maximum.
    """
    expected = set(requested)
    requested_by_kind = Counter(mail.kind for mail in expected)
    requested_by_kind[kinds[-1]] += len(missed_digests) * readers
    arrived_by_kind: Counter[str] = Counter()
    for mail, times in delivered.items():
        arrived_by_kind[mail.kind] += times
    lines = tuple(
        ResultLine(kind, requested_by_kind[kind], arrived_by_kind[kind], retried.get(kind, 0)) for kind in kinds
    )
    wrong = [f"the {kinds[-1]} of {at:.0f} was never enqueued" for at in missed_digests]
    wrong += [
        f"{_shown(mail)} is missing: {unsuccessful.get(mail.job_id, f'job {mail.job_id} succeeded')}"
        for mail in sorted(expected - {*delivered})
    ]
    explained = {mail.job_id for mail in expected - {*delivered}}
    wrong += [reason for job_id, reason in unsuccessful.items() if job_id not in explained]
    for mail, times in sorted(delivered.items()):
        if mail not in expected:
            wrong.append(f"{_shown(mail)} was delivered but not requested (job {mail.job_id})")
        elif times > 1:
            wrong.append(f"{_shown(mail)} was delivered {times} times (job {mail.job_id})")
    wrong += [
        f"{most} mails went to {domain} at once, the limit is {limit}"
        for domain, most in sorted(at_once.items())
        if most > limit
    ]
    return CheckResult(lines, tuple(wrong))


def _shown(mail: Mail) -> str:
    return f"{mail.kind} to {mail.address}{f' with the content {mail.content!r}' if mail.content else ''}"
