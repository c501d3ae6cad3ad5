"""Finds the jobs a person means by their properties, a page at a time in the order of ids.

A page looks at a bounded number of jobs, however few of
them match, so no page holds the lock for long.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Select, and_, case, func, literal, or_, select, text, true, union_all

from broker_jobs.clock import Instant
from broker_jobs.messages.state import State
from broker_jobs.store import schema
from broker_jobs.store.connections import WriteConnection
from broker_jobs.store.row import Reason, WaitReason

SCAN = 10_000
"""Jobs one page looks at, of each state."""
_INSIDE = (
    "jobs.batch IN (WITH RECURSIVE inside (id) AS (SELECT id FROM batches WHERE parent = :wanted_batch"
    " UNION SELECT batches.id FROM batches JOIN inside ON batches.parent = inside.id) SELECT id FROM inside)"
)
_LAST = text("SELECT max(id) FROM jobs")
_NEWEST = text("SELECT created_at FROM jobs WHERE id < '1' ORDER BY id DESC LIMIT 1")
"""Generated ids sort by time and begin with 0."""


@dataclass(frozen=True, slots=True)
class JobSelection:
    """Which jobs are meant: all that is given must be so."""

    states: tuple[State, ...]
    queue: str | None = None
    job: str | None = None
    batch: str | None = None
    """Of this batch, or of a batch inside it."""
    recurring: str | None = None
    tag: str | None = None
    created_from: Instant | None = None
    created_before: Instant | None = None
    known_at: Instant | None = None
    """Not made later."""
    error_text: str | None = None
    """Part of the reason, or of the last error with its traceback; in capitals or not."""
    ids: tuple[str, ...] | None = None
    unknown: bool = False
    """Only those that are held, as no living worker knows them."""
    aliases: bool = True
    """Whether duplicates, which stand for another job, are meant too."""


@dataclass(frozen=True, slots=True)
class SelectionPage:
    """What a page found."""

    ids: list[str]
    after: str
    """The last id it looked at; the next page begins behind it."""
    done: bool


class JobSelector:
    """Jobs by their properties, in a transaction."""

    __slots__ = ("_connection",)

    def __init__(self, connection: WriteConnection) -> None:
        self._connection = connection

    def extent(self, now: Instant) -> tuple[str, Instant]:
        """(highest id, latest creation) of the jobs there are: what comes later lies behind one of the two.

        A producer's clock may be ahead of `now`; its newest job counts too.
        """
        newest = self._connection.execute(_NEWEST).scalar_one_or_none()
        return self._connection.execute(_LAST).scalar_one() or "", max(now, newest or now)

    def matching(self, wanted: JobSelection, *, after: str, until: str, limit: int) -> SelectionPage:
        """The next matching jobs with ids above `after` and up to `until`, at most `limit`."""
        looked = 0
        ids: list[str] = []
        for id, hit in self._connection.execute(_looked_at(wanted, after, until)):
            looked += 1
            after = id
            if hit:
                ids.append(id)
                if len(ids) == limit:
                    return SelectionPage(ids, after, done=False)
        return SelectionPage(ids, after, done=looked < SCAN)


def _looked_at(wanted: JobSelection, after: str, until: str) -> Select[Any, Any]:
    """(id, whether it matches) of the next jobs in these states: each state's from its index, then one order."""
    jobs = schema.jobs.c
    matches = case((and_(true(), *_conditions(wanted)), 1), else_=0).label("hit")
    span = [jobs.id > after, jobs.id <= until]
    if wanted.ids is not None:
        span.append(jobs.id.in_(wanted.ids))
    if wanted.batch is not None:
        span.append(or_(jobs.batch == wanted.batch, text(_INSIDE).bindparams(wanted_batch=wanted.batch)))
    parts = [
        select(jobs.id, matches).where(jobs.state == state.value, *span).order_by(jobs.id).limit(SCAN).subquery()
        for state in wanted.states
    ]
    whole = union_all(*(select(part.c.id, part.c.hit) for part in parts)).subquery()
    return select(whole.c.id, whole.c.hit).order_by(whole.c.id).limit(SCAN)


def _conditions(wanted: JobSelection) -> Iterator[ColumnElement[bool]]:
    jobs = schema.jobs.c
    for column, value in ((jobs.queue, wanted.queue), (jobs.job, wanted.job), (jobs.recurring, wanted.recurring)):
        if value is not None:
            yield column == value
    if wanted.tag is not None:
        yield (literal(" ") + func.coalesce(jobs.tags, "") + " ").contains(f" {wanted.tag} ", autoescape=True)
    if wanted.created_from is not None:
        yield jobs.created_at >= wanted.created_from
    if wanted.created_before is not None:
        yield jobs.created_at < wanted.created_before
    if wanted.known_at is not None:
        yield jobs.created_at <= wanted.known_at
    if wanted.error_text is not None:
        columns = (func.coalesce(jobs.reason, ""), func.coalesce(jobs.error, ""))
        yield or_(*(column.icontains(wanted.error_text, autoescape=True) for column in columns))
    if wanted.unknown:
        yield jobs.waits >= WaitReason.UNKNOWN
    if not wanted.aliases:
        yield func.coalesce(jobs.reason_code, "") != Reason.ALIAS
