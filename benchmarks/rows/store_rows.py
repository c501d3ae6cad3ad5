"""Writes rows of jobs, through our store or with plain SQLAlchemy, in a process of its own."""

from __future__ import annotations

import time
from typing import Any

from sqlalchemy import create_engine, insert

from broker_jobs.messages.envelope import new_id
from broker_jobs.messages.state import State
from broker_jobs.store import Row, Store, columns, schema

BATCH = 2_000
ENVELOPE = (
    '{"v":1,"id":"01890000-0000-7000-8000-000000000000","job":"empty","args":[],"kwargs":{},"queue":"default",'
    '"epoch":1,"attempt":1,"careful":false,"created_at":"2026-01-01T00:00:00.000000Z","policy":{"retries":10},"tags":[]}'
)


def write(url: str, count: int, how: str, rounds: int) -> dict[str, Any]:
    """Insert `count` rows a round, 2,000 a transaction; `how` is "store", "update" or "core"."""
    seconds: list[float] = []
    store = Store(url)
    store.open()
    for _ in range(rounds):
        rows = [_row() for _ in range(count)]
        if how == "update":
            _through_store(store, rows)
            now = time.time()
            for row in rows:
                row.state, row.ended_at = State.SUCCEEDED, now
        start = time.perf_counter()
        if how == "core":
            _past_store(url, rows)
        else:
            _through_store(store, rows)
        seconds.append(time.perf_counter() - start)
    store.close()
    return {"count": count, "seconds": seconds}


def _row() -> Row:
    now = time.time()
    return Row(
        id=new_id(), job="empty", state=State.ENQUEUED, epoch=1, created_at=now, changed_at=now, released_at=now,
        envelope=ENVELOPE, history=[(now, "enqueued", "submitted")],
    )  # fmt: skip


def _through_store(store: Store, rows: list[Row]) -> None:
    for start in range(0, len(rows), BATCH):
        with store.transaction() as transaction:
            transaction.jobs.save(rows[start : start + BATCH])


def _past_store(url: str, rows: list[Row]) -> None:
    """What SQLAlchemy Core does at best: plain inserts of ready values into the same table."""
    values = [dict(zip(columns.COLUMNS, columns.values_of(row), strict=True)) for row in rows]
    engine = create_engine(
        url, connect_args={} if url.startswith("sqlite") else {"options": "-csearch_path=broker_jobs"}
    )
    if url.startswith("sqlite"):
        with engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA journal_mode=WAL")
    statement = insert(schema.jobs)
    for start in range(0, len(values), BATCH):
        with engine.begin() as connection:
            connection.execute(statement, values[start : start + BATCH])
    engine.dispose()
