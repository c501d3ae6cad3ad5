"""Finds what programs lack or do to each other: unknown jobs, shared names and queues, removed declarations."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

from broker_jobs.clock import Instant, as_datetime

if TYPE_CHECKING:
    from broker_jobs.store import Reader
    from broker_jobs.store.declarations import RemovedDeclaration
    from broker_jobs.store.known_jobs import HeldJobs, KnowingWorker

SHOWN_SECONDS = 86_400.0
"""How long a removed declaration is shown."""
MOST_HELD = 10_000
"""Held jobs that are counted one by one."""
MAX_NAMES = 5
"""Names listed in one sentence."""


@dataclass(frozen=True)
class Programs:
    """What is known of programs and their jobs."""

    now: Instant
    workers: Sequence[KnowingWorker] = ()
    jobs: Mapping[str, frozenset[str]] | None = None
    """Code of living workers -> its jobs."""
    held: Sequence[HeldJobs] = ()
    removed: Sequence[RemovedDeclaration] = ()


@dataclass(frozen=True)
class ProgramProblem:
    """A problem, what to do about it, and the page of the dashboard with details."""

    is_error: bool
    subject: str
    what: str
    do: str
    page: str


def programs_of(reader: Reader, now: Instant) -> Programs:
    """What a store knows of programs."""
    known = reader.known_jobs
    return Programs(now, known.workers(), known.jobs_by_code(), known.held(MOST_HELD), reader.declarations.removed())


def find_problems(programs: Programs) -> list[ProgramProblem]:
    """The current problems, errors first."""
    return [*_held(programs), *_different_code(programs), *_shared_queues(programs), *_removed(programs)]


def _held(programs: Programs) -> Iterator[ProgramProblem]:
    if programs.held:
        total = sum(one.n for one in programs.held)
        more = "more than " if total >= MOST_HELD else ""
        kinds = _list_names([f"{one.job} in queue {one.queue} ({one.n})" for one in programs.held])
        yield ProgramProblem(
            is_error=True,
            subject="unknown jobs",
            what=f"{more}{_count(total, 'job')} that no living worker knows: {kinds}",
            do="start a worker whose code has them: they go on by themselves. To give them up: broker-jobs jobs fail "
            "--all-matching, or broker-jobs jobs delete --all-matching --unknown",
            page="jobs?state=awaiting&unknown=true",
        )


def _different_code(programs: Programs) -> Iterator[ProgramProblem]:
    known = programs.jobs or {}
    codes: dict[str, set[str]] = {}
    for worker in programs.workers:
        if worker.service and worker.code in known:
            codes.setdefault(worker.service, set()).add(worker.code)
    for service, own in sorted(codes.items()):
        if len(own) > 1:
            everywhere = frozenset.intersection(*(known[code] for code in own))
            anywhere = frozenset.union(*(known[code] for code in own))
            yield ProgramProblem(
                is_error=False,
                subject=f"program {service}",
                what=f"workers of {service} have different code: not all of them know "
                f"{_list_names(sorted(anywhere - everywhere))}",
                do="during a deployment this passes by itself. Otherwise two programs have one name, and remove each "
                "other's recurring jobs and subscriptions: give each its own, BrokerJobs(service=…)",
                page="workers",
            )


def _shared_queues(programs: Programs) -> Iterator[ProgramProblem]:
    known = programs.jobs or {}
    shared: dict[tuple[str, str], set[str]] = {}
    for one, other in combinations({(w.service, w.code, w.queues) for w in programs.workers if w.code in known}, 2):
        is_one_program = one[0] == other[0] and (one[0] or one[1] == other[1])
        if not is_one_program and known[one[1]] != known[other[1]]:
            first, second = sorted((_title(one[0]), _title(other[0])))
            shared.setdefault((first, second), set()).update(one[2] & other[2])
    for (first, second), queues in sorted(shared.items()):
        if queues:
            plural = "s" if len(queues) > 1 else ""
            yield ProgramProblem(
                is_error=False,
                subject=f"queue{plural} {_list_names(sorted(queues))}",
                what=f"{first} and {second} share the queue{plural} {_list_names(sorted(queues))} and do not know each "
                "other's jobs: each job may reach the wrong worker first, which gives it back",
                do='give each program a queue of its own: @jobs.job(queue="billing"), broker-jobs worker -Q billing',
                page="workers",
            )


def _removed(programs: Programs) -> Iterator[ProgramProblem]:
    by_program: dict[tuple[str, str], list[RemovedDeclaration]] = {}
    for one in programs.removed:
        if programs.now - one.at <= SHOWN_SECONDS:
            by_program.setdefault((one.service, one.kind), []).append(one)
    for (service, kind), removed in sorted(by_program.items()):
        names = _list_names(sorted(one.name for one in removed))
        at = as_datetime(max(one.at for one in removed))
        yield ProgramProblem(
            is_error=False,
            subject=f"program {service}",
            what=f"{_count(len(removed), kind)} of {service} removed, as its code does not declare "
            f"{'it' if len(removed) == 1 else 'them'} any more: {names}; last {at:%Y-%m-%d %H:%M:%S} UTC",
            do="if its code should, two programs have this name, or an old version was started: start the right one "
            "again. Otherwise nothing: this is shown for a day",
            page="recurring",
        )


def _title(service: str) -> str:
    return service or "a program without a name"


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}{'' if n == 1 else 's'}"


def _list_names(names: Sequence[str]) -> str:
    listed = ", ".join(names[:MAX_NAMES])
    return listed if len(names) <= MAX_NAMES else f"{listed} and {len(names) - MAX_NAMES} more"
