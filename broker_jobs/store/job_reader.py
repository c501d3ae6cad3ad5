"""Reads jobs for whoever shows them: one, a list of them, those that a search finds, those that run on a worker."""

from __future__ import annotations

from sqlalchemy import Connection, or_, select, text

from broker_jobs.messages.state import State
from broker_jobs.store import columns, schema
from broker_jobs.store.connections import Reading
from broker_jobs.store.row import Row
from broker_jobs.store.search import Found, Says, SearchQuery, rows_of, search_page

_JOB_COLUMNS = [schema.jobs.c[name] for name in columns.COLUMNS]
_ROOT = text("SELECT root FROM alias_groups WHERE id = :id")
_RUNNING = text(
    "SELECT id FROM jobs WHERE state = 'processing' AND owner = :worker ORDER BY started_at, id LIMIT :limit"
)
_RUNNING_EACH = text(
    "SELECT owner, id FROM (SELECT owner, id, row_number() OVER (PARTITION BY owner ORDER BY started_at, id) AS place"
    " FROM jobs WHERE state = 'processing' AND owner IS NOT NULL) AS running WHERE place <= :limit"
    " ORDER BY owner, place LIMIT :most"
)
MOST_RUNNING = 2_000


class JobReader:
    """Jobs, for a reader."""

    __slots__ = ("_reading",)

    def __init__(self, reading: Reading) -> None:
        self._reading = reading

    def get(self, id: str) -> Row | None:
        """One job, or None."""
        with self._reading() as connection:
            values = connection.execute(select(*_JOB_COLUMNS).where(schema.jobs.c.id == id)).first()
        return None if values is None else columns.row_of(values)

    def root_of(self, row: Row) -> Row:
        """The job that an alias stands for; any other job itself."""
        if not row.is_alias or row.alias_group is None:
            return row
        with self._reading() as connection:
            id = connection.execute(_ROOT, {"id": row.alias_group}).scalar_one_or_none()
        found = None if id is None else self.get(id)
        return row if found is None else found

    def newest(
        self,
        *,
        state: State | str | None = None,
        queue: str | None = None,
        name: str | None = None,
        search: str | None = None,
        limit: int = 50,
        before_id: str | None = None,
        recurring: str | None = None,
        parent: str | None = None,
        batch: str | None = None,
    ) -> list[Row]:
        """Jobs, the newest id first.

        Args:
            state, queue, name, recurring, parent, batch: only those equal; `name` is the job's.
            search: only those whose id begins with it, or whose name, tags or reason contain it.
            limit: at most so many.
            before_id: the last id of the page before.
        """
        jobs = schema.jobs.c
        equal = {
            jobs.state: None if state is None else State(state).value,
            jobs.queue: queue,
            jobs.job: name,
            jobs.recurring: recurring,
            jobs.parent: parent,
            jobs.batch: batch,
        }
        query = select(*_JOB_COLUMNS).where(*(column == value for column, value in equal.items() if value is not None))
        if search:
            begins = jobs.id.startswith(search, autoescape=True)
            within = [column.contains(search, autoescape=True) for column in (jobs.job, jobs.tags, jobs.reason)]
            query = query.where(or_(begins, *within))
        if before_id is not None:
            query = query.where(jobs.id < before_id)
        with self._reading() as connection:
            found = connection.execute(query.order_by(jobs.id.desc()).limit(limit)).all()
        return [columns.row_of(values) for values in found]

    def search(self, search: SearchQuery, says: Says | None = None) -> Found:
        """A page of the jobs that match.

        Args:
            search: what is looked for.
            says: whether a text that is in an argument counts. It is asked before anything is counted: what is left
                out afterwards would still be told by how far a page came, and whether there is another.

        Raises:
            UsageError: the cursor is bad or of another search, or the sort does not go with the states.
        """
        with self._reading() as connection:
            return search_page(connection, search, says)

    def running(self, worker: str, limit: int = 100) -> list[Row]:
        """Jobs that run on a worker now, the longest first, without `result` and `history`."""
        with self._reading() as connection:
            return _running(connection, worker, limit)

    def running_by_worker(self, limit: int = 10) -> dict[str, list[Row]]:
        """Of every worker that runs something its first jobs, as `running`."""
        with self._reading() as connection:
            of = connection.execute(_RUNNING_EACH, {"limit": limit, "most": MOST_RUNNING}).all()
            rows = {row.id: row for row in rows_of(connection, [id for _, id in of])}
        found: dict[str, list[Row]] = {}
        for owner, id in of:
            if id in rows:
                found.setdefault(owner, []).append(rows[id])
        return found


def _running(connection: Connection, worker: str, limit: int) -> list[Row]:
    ids = connection.execute(_RUNNING, {"worker": worker, "limit": limit}).scalars().all()
    return rows_of(connection, ids)
