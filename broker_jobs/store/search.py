"""Finds the jobs a page shows, by all that a person may ask, looking at a bounded number of them.

Two steps: first the ids in order, from an index that has the order in it; then the few rows that are shown. What no
index answers (part of a text, a tag among others) is tried on the jobs of the index one by one, until the page is full,
or so many were looked at, or it took so long; the page then says how far it came, and its cursor goes on from there.

Over 300 lines: which index is read, what is tried on each job and how far a page may look depend on each other.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, NamedTuple, TypeAlias

from pydantic_core import from_json
from sqlalchemy import Connection, text

from broker_jobs.clock import Instant
from broker_jobs.errors import UsageError
from broker_jobs.messages.state import State
from broker_jobs.store import columns
from broker_jobs.store.cursor import CursorPosition, cursor_of, fingerprint, place_of
from broker_jobs.store.row import Row, WaitReason

Sort = Literal["newest", "oldest", "changed", "due"]

LOOK_AT = 10_000
"""Jobs one page looks at, at most; ten times as many where the index alone answers."""
LOOK_SECONDS = 0.02
"""No new part of a page is begun after so long, and none that would take longer as the last one went."""
CHUNK = 5_000
FIRST_CHUNK = 100
FEW = 10_000
"""So few jobs in the wanted states are rather looked at than those of a name; ten times as many in an index alone."""
BRANCHES = 10
"""Of so many batches each is read in order; more are sorted."""
SORTED = 5_000
"""Jobs that may be read and sorted for one page; ten times as many where an index alone is read."""
RETRY = "state = 'scheduled' AND reason_code IN ('retry', 'crash')"
"""Runs again after a failure."""
NAMES = ("queue", "job", "recurring", "owner")
"""Columns that are asked for whole."""
TOLD = "(reason IS NOT NULL OR error IS NOT NULL)"
"""Has something to say for itself; a job that merely runs has not."""


@dataclass(frozen=True, slots=True)
class SearchQuery:
    """Which jobs: all that is given must be so."""

    states: tuple[State, ...] = ()
    """In one of these; none: in any."""
    unknown: bool = False
    """Held, as no living worker knows them."""
    retries: bool = False
    """Scheduled to run again after a failure, or after their worker died."""
    queue: str | None = None
    job: str | None = None
    """The job's name, whole."""
    text: str | None = None
    """Part of the id, the name, an argument, a tag, the reason or the error; in capitals or not."""
    error_text: str | None = None
    """Part of the reason, or of the last error with its traceback; in capitals or not."""
    tag: str | None = None
    batch: str | None = None
    """Of this batch, or of a batch inside it."""
    recurring: str | None = None
    owner: str | None = None
    """Running on this worker now."""
    created_after: Instant | None = None
    """At this instant or later."""
    created_before: Instant | None = None
    sort: Sort = "newest"
    """changed: what entered its state last comes first; due: what is due first, only scheduled jobs."""
    limit: int = 50
    cursor: str | None = None
    """Of the page before."""


Says: TypeAlias = Callable[[str, str, str], bool]
"""Of a job's name, queue and envelope: whether the text looked for is in an argument that may be shown."""


@dataclass(frozen=True, slots=True)
class Found:
    """A page of jobs. The rows are without `result` and `history`, which no list shows."""

    rows: list[Row]
    next: str | None
    """The cursor of the next page; None: there is none."""
    total: int | None
    """How many match, where counters tell."""
    looked_at: int
    complete: bool
    """False: only so many were looked at; the next page goes on from there, even if this one is empty."""


def search_page(connection: Connection, search: SearchQuery, says: Says | None) -> Found:
    """A page of the jobs that match. See `JobReader.search`."""
    return _Look(connection, search, says).page()


class _Source(NamedTuple):
    """Where candidates come from: parts of the table that an index has in the order of `key`."""

    order: str
    """The index. SQLite is told, as it takes an index of the states for as good as one of few jobs."""
    key: str
    parts: list[str]
    sure: frozenset[str]
    """The properties that all candidates have."""


class _Look:
    """One page's work."""

    def __init__(self, connection: Connection, search: SearchQuery, says: Says | None) -> None:
        self._connection = connection
        self._search = search
        self._says = says
        self._postgresql = connection.dialect.name == "postgresql"
        self._values: dict[str, Any] = {}
        self._down = search.sort in ("newest", "changed")
        _check(search)
        self._states = _states(search)

    def page(self) -> Found:
        search = self._search
        total = self._total()
        of = fingerprint(*(getattr(search, f.name) for f in fields(search) if f.name not in ("cursor", "limit")))
        if not self._states:
            place_of(of, search.cursor)
            return Found([], None, total, 0, complete=True)
        source = self._source()
        place = place_of(of, search.cursor, kind=str if source.key == "id" else float)
        conditions = list(self._conditions(source.sure))
        if not conditions and search.text is None:
            found = self._next(source, place, search.limit + 1)
            shown, over = found[: search.limit], len(found) > search.limit
            return Found(
                self._rows(shown), cursor_of(of, shown[-1] if over else None), total, len(shown), complete=True
            )
        shown, last, looked, complete = self._tried(source, place, conditions)
        if len(shown) > search.limit:
            shown, complete = shown[: search.limit], True
            last = shown[-1]
        return Found(self._rows(shown), cursor_of(of, last), total, looked, complete)

    # ---- what is looked at

    def _source(self) -> _Source:
        search, states = self._search, self._states
        scheduled = frozenset({"states", "retries"})
        if search.sort == "due":
            index, part = ("jobs_retry", RETRY) if search.retries else ("jobs_soon", _in(State.SCHEDULED))
            return _Source(index, "due_at", [f"{part} AND due_at IS NOT NULL"], scheduled)
        key = "changed_at" if search.sort == "changed" else "created_at"
        if search.owner is not None:
            part = f"{_in(State.PROCESSING)} AND owner = :owner"
            return _Source("jobs_owner", key, [part], frozenset({"states", "owner"}))
        if search.batch is not None and (source := self._of_batches(key)) is not None:
            return source
        if search.retries and self._kept(("retry",)) <= SORTED:
            return _Source("jobs_retry", key, [RETRY], scheduled)
        of_states = _Source("jobs_made", key, [_in(state) for state in states], frozenset({"states"}))
        if search.sort == "changed":
            return of_states._replace(order="jobs_changed")
        if search.recurring is not None:
            parts = [f"recurring = :recurring AND recurring IS NOT NULL AND {_in(state)}" for state in states]
            return _Source("jobs_recurring_made", key, parts, frozenset({"states", "recurring"}))
        return self._of_names(of_states)

    def _of_names(self, of_states: _Source) -> _Source:
        """From the jobs of a name, a queue, a tag, in trouble or some states: what is surely few, then the likely."""
        search = self._search
        states = tuple(state.value for state in self._states)
        in_states = self._kept(states) if search.states or search.retries else None
        in_queue = None if search.queue is None else self._kept(tuple(State), search.queue)
        of_queue = _Source("jobs_queue", of_states.key, ["queue = :queue"], frozenset({"queue"}))
        few = FEW * (1 if self._is_tried_on_rows() else 10)
        if in_states is not None and in_states <= min(few, few if in_queue is None else in_queue):
            return of_states
        if in_queue is not None and in_queue <= FEW:
            return of_queue
        if search.job is not None:
            return _Source("jobs_job", of_states.key, ["job = :job"], frozenset({"job"}))
        if in_queue is not None and (in_states is None or in_queue < in_states):
            return of_queue
        if search.tag is not None:
            return _Source("jobs_tagged", of_states.key, ["tags IS NOT NULL"], frozenset())
        if search.error_text is not None:
            return of_states._replace(order="jobs_told", parts=[f"{part} AND {TOLD}" for part in of_states.parts])
        return of_states

    def _of_batches(self, key: str) -> _Source | None:
        """From the members of a batch and those inside it; None: too many to sort them."""
        inside = self._connection.execute(_INSIDE, {"batch": self._search.batch, "limit": FEW}).all()
        ids = [id for id, _ in inside] or [self._search.batch]
        self._values |= {f"batch{n}": id for n, id in enumerate(ids)}
        of = [f"batch = :batch{n} AND batch IS NOT NULL" for n in range(len(ids))]
        sure = frozenset({"states", "batch"})
        key = "id" if key == "created_at" else key
        if len(ids) <= BRANCHES and key == "id":
            return _Source("jobs_batch", key, [f"{one} AND {_in(state)}" for one in of for state in self._states], sure)
        if sum(int(total or 0) for _, total in inside) <= SORTED * (10 if key == "id" else 1):
            names = ", ".join(f":batch{n}" for n in range(len(ids)))
            part = f"batch IN ({names}) AND batch IS NOT NULL AND {_in(*self._states)}"
            return _Source("jobs_batch", key, [part], sure)
        return None

    def _next(self, source: _Source, place: CursorPosition | None, count: int) -> list[CursorPosition]:
        """The next candidates behind a place."""
        rows = self._connection.execute(text(self._ordered(source, place)), self._values | {"count": count})
        return [CursorPosition(key, id) for key, id in rows]

    def _ordered(self, source: _Source, place: CursorPosition | None, more: str = "") -> str:
        key, (order, behind) = source.key, ("DESC", "<") if self._down else ("ASC", ">")
        span = ""
        if place is not None:
            self._values |= {"key": place.key, "id": place.id}
            span = f" AND (id {behind} :id)" if key == "id" else f" AND ({key}, id) {behind} (:key, :id)"
        if key == "created_at":
            span += "".join(f" AND {condition}" for condition in self._created())
        by = "" if self._postgresql else f" INDEXED BY {source.order}"
        parts = [
            f"SELECT {key} AS k, id AS i{more} FROM jobs{by} WHERE {part}{span}"  # noqa: S608  # words of ours; values are bound
            f" ORDER BY {key} {order}, id {order} LIMIT :count"
            for part in source.parts
        ]
        if len(parts) == 1:
            return parts[0]
        whole = " UNION ALL ".join(f"SELECT k, i FROM ({part}) AS p{n}" for n, part in enumerate(parts))  # noqa: S608
        return f"SELECT k, i FROM ({whole}) AS x ORDER BY k {order}, i {order} LIMIT :count"  # noqa: S608

    # ---- what is tried on each

    def _tried(
        self, source: _Source, place: CursorPosition | None, conditions: list[str]
    ) -> tuple[list[CursorPosition], CursorPosition | None, int, bool]:
        """(what matches, at most one more than is shown; the last one looked at, None: there are no more; how many were
        looked at; whether that was enough)."""
        now = time.monotonic()
        until = now + LOOK_SECONDS
        hits: list[CursorPosition] = []
        looked, count = 0, FIRST_CHUNK
        most = LOOK_AT * (10 if self._is_covered(source) else 1)
        while True:
            began, rows = now, self._hits(source, place, conditions, count)
            now = time.monotonic()
            looked += len(rows)
            hits += [at for at, hit in rows if hit]
            if len(rows) < count:
                return hits, None, looked, True
            place = rows[-1][0]
            if len(hits) > self._search.limit:
                return hits, place, looked, True
            if looked >= most or now >= until:
                return hits, place, looked, False
            at_this_speed = int(count * (until - now) / max(now - began, 1e-6))
            count = max(FIRST_CHUNK // 2, min(CHUNK, 4 * count, most - looked, at_this_speed))

    def _is_covered(self, source: _Source) -> bool:
        """Whether the index of the states alone says what matches."""
        return source.order == "jobs_made" and not self._is_tried_on_rows()

    def _is_tried_on_rows(self) -> bool:
        """Whether more is asked than what every index of states has: queue, name, creation."""
        search = self._search
        tried = (search.text, search.error_text, search.tag, search.batch, search.recurring, search.owner)
        return search.retries or search.unknown or any(tried)

    def _hits(
        self, source: _Source, place: CursorPosition | None, conditions: list[str], count: int
    ) -> list[tuple[CursorPosition, bool]]:
        """The next candidates, and whether each matches."""
        order = "DESC" if self._down else "ASC"
        every = " AND ".join(["1 = 1", *conditions])
        cases = f"CASE WHEN {every} THEN 1 ELSE 0 END"
        if self._search.text is not None:
            near, far = self._text()
            cases = f"CASE WHEN {every} THEN CASE WHEN {near} THEN 1 WHEN {far} THEN 2 ELSE 0 END ELSE 0 END"
        if len(source.parts) == 1:
            statement = self._ordered(source, place, f", {cases}")
        else:
            statement = (
                f"SELECT x.k, x.i, {cases} FROM ({self._ordered(source, place)}) AS x CROSS JOIN jobs"  # noqa: S608  # as above
                f" WHERE jobs.id = x.i ORDER BY x.k {order}, x.i {order}"
            )
        rows = self._connection.execute(text(statement), self._values | {"count": count}).all()
        unsure = [id for _, id, hit in rows if hit == 2]
        said = self._said_in_arguments(unsure) if unsure else frozenset()
        return [(CursorPosition(key, id), hit == 1 or id in said) for key, id, hit in rows]

    def _conditions(self, sure: frozenset[str]) -> Iterator[str]:
        search = self._search
        self._values |= {name: getattr(search, name) for name in NAMES if getattr(search, name) is not None}
        if "states" not in sure and len(self._states) < len(State):
            yield _in(*self._states)
        if search.retries and "retries" not in sure:
            yield RETRY
        if search.unknown:
            yield f"waits >= {WaitReason.UNKNOWN}"
        for name in NAMES:
            if getattr(search, name) is not None and name not in sure:
                yield f"{name} = :{name}"
        if search.batch is not None and "batch" not in sure:
            self._values["wanted_batch"] = search.batch
            yield _IN_BATCH
        if search.tag is not None:
            self._values["tag"] = f" {search.tag} "
            yield f"{'strpos' if self._postgresql else 'instr'}(' ' || coalesce(tags, '') || ' ', :tag) > 0"
        if search.error_text is not None:
            yield f"({self._has('error_text', search.error_text, 'reason', 'error')})"
        if search.sort in ("changed", "due") or search.batch is not None:
            yield from self._created()

    def _created(self) -> Iterator[str]:
        search = self._search
        if search.created_after is not None:
            self._values["created_after"] = search.created_after
            yield "created_at >= :created_after"
        if search.created_before is not None:
            self._values["created_before"] = search.created_before
            yield "created_at < :created_before"

    def _text(self) -> tuple[str, str]:
        """(what says that the text is in a column, what says that it may be in an argument)."""
        wanted = self._search.text or ""
        near = self._has("text", wanted, "id", "job", "tags", "reason", "error")
        return near, self._has("argument", _as_json(wanted), "envelope")

    def _has(self, name: str, wanted: str, *names: str) -> str:
        escaped = wanted.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
        self._values[name] = f"%{escaped}%"
        like = "ILIKE" if self._postgresql else "LIKE"
        return " OR ".join(f"coalesce({column}, '') {like} :{name} ESCAPE '\\'" for column in names)

    def _said_in_arguments(self, ids: Sequence[str]) -> frozenset[str]:
        """Which of these have the text in an argument, not elsewhere in the envelope."""
        wanted = _as_json(self._search.text or "").casefold()
        found = set()
        names = ", ".join(f":i{n}" for n in range(len(ids)))
        statement = text(f"SELECT id, job, queue, envelope FROM jobs WHERE id IN ({names})")  # noqa: S608  # names of ours
        rows = self._connection.execute(statement, {f"i{n}": id for n, id in enumerate(ids)})
        for id, job, queue, envelope in rows:
            try:
                call = from_json(envelope)
                said = json.dumps([call.get("args"), call.get("kwargs")], ensure_ascii=False)
            except (ValueError, AttributeError):
                continue
            if wanted in said.casefold() and (self._says is None or self._says(job, queue, envelope)):
                found.add(id)
        return frozenset(found)

    # ---- what is shown

    def _rows(self, shown: Sequence[CursorPosition]) -> list[Row]:
        return rows_of(self._connection, [place.id for place in shown])

    def _total(self) -> int | None:
        search = self._search
        others = (
            search.job, search.text, search.error_text, search.tag, search.batch, search.recurring, search.owner,
            search.created_after, search.created_before,
        )  # fmt: skip
        if search.unknown or any(other is not None for other in others):
            return None
        if search.retries:
            return self._kept(("retry",), search.queue) if self._states else 0
        return self._kept(tuple(state.value for state in self._states), search.queue)

    def _kept(self, states: Sequence[str], queue: str | None = None) -> int:
        """How many jobs are in these states, of one queue or of all, by the kept counters."""
        names = ", ".join(f"'{state}'" for state in states)
        of_queue = "" if queue is None else " AND queue = :queue"
        statement = text(f"SELECT coalesce(sum(n), 0) FROM counts WHERE state IN ({names}){of_queue}")  # noqa: S608
        return int(self._connection.execute(statement, {} if queue is None else {"queue": queue}).scalar_one())


_INSIDE = text(
    "WITH RECURSIVE inside (id) AS (SELECT id FROM batches WHERE id = :batch UNION"
    " SELECT batches.id FROM batches JOIN inside ON batches.parent = inside.id)"
    " SELECT inside.id, batches.total FROM inside LEFT JOIN batches ON batches.id = inside.id LIMIT :limit"
)
_IN_BATCH = (
    "(batch = :wanted_batch OR batch IN (WITH RECURSIVE inside (id) AS"
    " (SELECT id FROM batches WHERE parent = :wanted_batch UNION"
    " SELECT batches.id FROM batches JOIN inside ON batches.parent = inside.id) SELECT id FROM inside))"
)
_NOT_LISTED = {"result": "NULL", "history": "'[]'"}
LIST = ", ".join(_NOT_LISTED.get(name, name) for name in columns.COLUMNS)
"""The columns of rows in lists, in the order of all."""


def rows_of(connection: Connection, ids: Sequence[str]) -> list[Row]:
    """The rows of these ids in their order, as lists show them."""
    if not ids:
        return []
    names = ", ".join(f":i{n}" for n in range(len(ids)))
    statement = text(f"SELECT {LIST} FROM jobs WHERE id IN ({names})")  # noqa: S608  # names of ours
    rows = [columns.row_of(values) for values in connection.execute(statement, {f"i{n}": i for n, i in enumerate(ids)})]
    by_id = {row.id: row for row in rows}
    return [by_id[id] for id in ids if id in by_id]


def _in(*states: State) -> str:
    if len(states) == 1:
        return f"state = '{states[0].value}'"
    return f"state IN ({', '.join(repr(state.value) for state in states)})"


def _states(search: SearchQuery) -> tuple[State, ...]:
    """The states jobs of a search can be in."""
    states = tuple(dict.fromkeys(search.states)) or tuple(State)
    if search.sort == "due" and search.states and set(states) != {State.SCHEDULED}:
        raise UsageError("only scheduled jobs are sorted by when they are due: choose that state, or another sort")
    if search.retries or search.sort == "due":
        states = tuple(state for state in states if state is State.SCHEDULED)
    if search.unknown:
        states = tuple(state for state in states if state is State.AWAITING)
    if search.owner is not None:
        states = tuple(state for state in states if state is State.PROCESSING)
    return states


def _as_json(wanted: str) -> str:
    """Text as it stands inside a string in JSON."""
    return json.dumps(wanted, ensure_ascii=False)[1:-1]


MOST_CHARS = 1_000


def _check(search: SearchQuery) -> None:
    if not 1 <= search.limit <= MOST_LIMIT:
        raise UsageError(f"a page has 1 to {MOST_LIMIT} jobs, not {search.limit}")
    for field in fields(search):
        value = getattr(search, field.name)
        if isinstance(value, str) and field.name != "cursor":
            if len(value) > MOST_CHARS:
                raise UsageError(f"{field.name} is longer than {MOST_CHARS} characters")
            if "\x00" in value or (not value.isascii() and value.encode("utf-8", "replace").decode() != value):
                raise UsageError(f"{field.name} has characters that no job's text has")
    if search.sort not in ("newest", "oldest", "changed", "due"):
        raise UsageError(f"no sort {search.sort!r}: newest, oldest, changed or due")


MOST_LIMIT = 500
"""Jobs of one page."""
