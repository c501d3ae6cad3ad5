"""Fills a store with the jobs of a busy month, by bulk inserts of rows and counters."""

from __future__ import annotations

import json
import random
import time
from collections import Counter
from typing import Any

from sqlalchemy import Connection, text

from broker_jobs.messages.envelope import new_id
from broker_jobs.messages.state import State
from broker_jobs.store import Publication, Row, Store, columns, schema
from broker_jobs.store.buckets import bucket_of

BATCH = 5_000
NAMES = tuple(
    f"{service}.{action}"
    for service in ("mail", "shop", "image", "billing", "search")
    for action in ("welcome", "sync", "resize", "charge")
)
QUEUES = ("default", "mail", "slow", "images", "billing", "search", "reports", "rare")
QUEUE_SHARES = (45, 20, 8, 10, 8, 5, 3.99, 0.01)
STATES = (
    (State.SUCCEEDED, 85.0),
    (State.FAILED, 4.0),
    (State.DELETED, 1.0),
    (State.SCHEDULED, 5.0),
    (State.ENQUEUED, 4.0),
    (State.AWAITING, 0.95),
    (State.PROCESSING, 0.05),
)
ERRORS = ("ValueError", "ConnectionError", "KeyError", "TimeoutError", "shop.errors.OutOfStock")
MONTH = 30 * 86_400.0
BATCHES = 200
WORKERS = 20


def fill(url: str, count: int, seed: int = 7) -> dict[str, Any]:
    """Make a store with so many jobs, and all that belongs to them, by bulk inserts."""
    start = time.perf_counter()
    store = Store(url)
    store.open()
    with store.transaction() as tx:
        connection = tx._connection  # noqa: SLF001  # a month is not written a job at a time
        _fill_jobs(connection, count, random.Random(seed), time.time())
        tx.meta.serial += 1
    with store._opened()[0].connect() as connection:  # noqa: SLF001  # as above
        connection.exec_driver_sql("ANALYZE" if connection.dialect.name == "postgresql" else "PRAGMA optimize")
        connection.commit()
    store.close()
    return {"seconds": time.perf_counter() - start}


def _fill_jobs(connection: Connection, count: int, chance: random.Random, now: float) -> None:
    counts: Counter[tuple[str, str]] = Counter()
    outcomes: Counter[tuple[int, str]] = Counter()
    of_queues: Counter[tuple[int, str]] = Counter()
    durations: Counter[tuple[int, str, int]] = Counter()
    batches: Counter[tuple[str, str]] = Counter()
    rows: list[Row] = []
    lines: list[dict[str, Any]] = []
    bonds: list[dict[str, Any]] = []
    batch_ids = [new_id() for _ in range(BATCHES)]
    for n in range(count):
        row = _row(n, count, chance, now, batch_ids)
        counts[row.queue, row.state.value] += 1
        if row.state is State.SCHEDULED and row.reason_code in ("retry", "crash"):
            counts[row.queue, "retry"] += 1
        if row.batch is not None:
            batches[row.batch, row.state.value] += 1
        if row.ended_at is not None and now - row.ended_at < 8 * 86_400:
            minute = int(row.ended_at // 60) * 60
            outcomes[minute, row.state.value] += 1
            if now - row.ended_at < 7_200 and row.started_at is not None:
                of_queues[minute, row.queue] += 1
                durations[minute, "wait", bucket_of(row.started_at - row.created_at)] += 1
                durations[minute, "run", bucket_of(row.ended_at - row.started_at)] += 1
        if n % 50 == 0:
            lines += [
                {"job_id": row.id, "attempt": 1, "at": row.changed_at, "digest": k, "text": f"step {k} of 5 done"}
                for k in range(5)
            ]
        if row.state is State.AWAITING and rows:
            bonds.append({"child": row.id, "parent": rows[-1].id, "on_end": "succeeded"})
        rows.append(row)
        if len(rows) == BATCH:
            _insert(connection, rows, lines, bonds)
            rows, lines, bonds = [], [], []
    _insert(connection, rows, lines, bonds)
    _fill_rest(connection, chance, now, batch_ids, batches)
    many = connection.execute
    many(schema.counts.insert(), [{"queue": q, "state": s, "n": n} for (q, s), n in counts.items()])
    many(schema.queues.insert(), [{"name": queue, "paused": int(queue == "slow")} for queue in QUEUES])
    many(schema.outcomes.insert(), [{"minute": m, "state": s, "n": n} for (m, s), n in outcomes.items()])
    many(schema.queue_outcomes.insert(), [{"minute": m, "queue": q, "n": n} for (m, q), n in of_queues.items()])
    many(
        schema.durations.insert(),
        [{"minute": m, "kind": k, "bucket": b, "n": n} for (m, k, b), n in durations.items()],
    )
    ended = {
        state.value: sum(n for (_, s), n in counts.items() if s == state.value) for state in State if state.is_final
    }
    many(schema.ended.insert(), [{"state": state, "n": n} for state, n in ended.items()])


def _insert(connection: Connection, rows: list[Row], lines: list[dict[str, Any]], bonds: list[dict[str, Any]]) -> None:
    if rows:
        values = [columns.values_of(row) for row in rows]
        if connection.dialect.name == "postgresql":
            connection.exec_driver_sql(columns.SAVE_POSTGRESQL, columns.arrays_of(values))
        else:
            connection.exec_driver_sql(columns.SAVE_SQLITE, [tuple(one) for one in values])
    if lines:
        connection.execute(
            text(
                "INSERT INTO log_lines (job_id, attempt, at, digest, text)"
                " VALUES (:job_id, :attempt, :at, :digest, :text)"
            ),
            lines,
        )
    if bonds:
        connection.execute(schema.relations.insert(), bonds)


def _row(n: int, count: int, chance: random.Random, now: float, batch_ids: list[str]) -> Row:
    created_at = now - MONTH * (1 - n / count) - chance.random()
    state = chance.choices([state for state, _ in STATES], [share for _, share in STATES])[0]
    queue = chance.choices(QUEUES, QUEUE_SHARES)[0]
    id = _id(created_at, chance)
    name = NAMES[min(len(NAMES) - 1, int(chance.expovariate(0.2)))]
    envelope = {
        "v": 1, "id": id, "job": name, "args": [n, f"user{n}@example.org"],
        "kwargs": {"note": f"order {n} of {n % 977}", "body": "lorem ipsum " * chance.randint(0, 40)},
        "queue": queue, "epoch": 1, "attempt": 1, "careful": False, "created_at": "2026-01-01T00:00:00.000000Z",
        "policy": {"retries": 10}, "tags": [],
    }  # fmt: skip
    row = Row(
        id=id, job=name, queue=queue, state=state, epoch=1, created_at=created_at, changed_at=created_at + 1,
        envelope=json.dumps(envelope, separators=(",", ":")),
    )  # fmt: skip
    history = [(created_at, "enqueued", "")]
    if state in (State.SUCCEEDED, State.FAILED, State.PROCESSING):
        row.started_at = created_at + chance.expovariate(2.0)
        history.append((row.started_at, "processing", ""))
        row.changed_at = row.started_at
    if state.is_final:
        row.ended_at = row.changed_at = (row.started_at or created_at) + chance.expovariate(1.0)
    if state is State.SUCCEEDED:
        row.result = json.dumps({"sent": n, "text": "x" * chance.randint(0, 300)})
    if state is State.PROCESSING:
        row.owner = f"worker-{n % WORKERS}"
    if state is State.ENQUEUED:
        row.publication = Publication.PUBLISHED
        row.released_at = created_at
    if state is State.SCHEDULED:
        row.due_at = now + chance.random() * MONTH
        if n % 20 == 0:
            row.reason_code, row.reason, row.attempt = "retry", "retry 2 of 10: ConnectionError: refused", 2
    if state is State.FAILED or row.reason_code == "retry":
        kind = chance.choice(ERRORS)
        trace = "Traceback (most recent call last):\n" + '  File "shop/mail.py", line 12, in send\n    raise\n' * 12
        error = {"type": kind, "message": f"could not do {n % 37}", "traceback": trace}
        row.error, row.reason = json.dumps(error), row.reason or f"failed: {kind}"
    if state is State.DELETED:
        row.reason = "deleted, as asked"
    if n % 25 == 0:
        row.batch = batch_ids[(n // 25) % BATCHES if n % 100 else 0]
    if n % 40 == 0:
        row.recurring = f"every-{n % 1000 // 40}"
    if n % 200 == 0:
        row.tags = f"tenant-{n % 7000 // 200} import"
    history.append((row.changed_at, state.value, row.reason))
    row.history = history
    return row


def _id(at: float, chance: random.Random) -> str:
    """A UUIDv7 of an instant."""
    ms, rest = int(at * 1000), chance.getrandbits(74)
    text = f"{ms:012x}7{rest >> 62:03x}{0x8 | (rest >> 60 & 3):x}{rest & (1 << 60) - 1:015x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def _fill_rest(
    connection: Connection, chance: random.Random, now: float, ids: list[str], counted: Counter[tuple[str, str]]
) -> None:
    batches = []
    for n, id in enumerate(ids):
        states = {state: counted[id, state.value] for state in State}
        total, open_ = sum(states.values()), sum(m for state, m in states.items() if not state.is_final)
        batches.append({
            "id": id, "title": f"import {n}", "parent": ids[n - 10] if n % 10 == 5 and n > 10 else None,
            "state": "processing" if open_ else "succeeded", "total": total, "open": open_,
            "succeeded": states[State.SUCCEEDED], "failed": states[State.FAILED], "deleted": states[State.DELETED],
            "created_at": now - MONTH * (1 - n / BATCHES), "ended_at": None if open_ else now,
        })  # fmt: skip
    connection.execute(schema.batches.insert(), batches)
    connection.execute(
        schema.workers.insert(),
        [
            {
                "id": f"worker-{n}", "host": f"host{n % 4}", "slot": str(n), "pid": 100 + n, "queues": ",".join(QUEUES),
                "concurrency": 16, "running": 5, "done": 10_000, "cpu_percent": 20.0, "rss_bytes": 90_000_000,
                "version": "1", "started_at": now - 9_000, "seen_at": now, "lost": 0,
            }
            for n in range(WORKERS)
        ],
    )  # fmt: skip
    connection.execute(
        schema.audit.insert(),
        [
            {
                "id": new_id(), "at": now - n * 20, "by": f"person{n % 9}", "user_id": "",
                "kind": chance.choice(["requeue", "delete"]),
                "subject": new_id(), "detail": '{"id":"x","ok":true,"detail":{"state":"scheduled"}}',
            }
            for n in range(50_000)
        ],
    )  # fmt: skip
    connection.execute(
        schema.dead_letters.insert(),
        [
            {
                "id": new_id(), "at": now - n * 60, "origin": "log", "reason": "no JSON", "body": b"\xff" * 2_000,
                "exchange": "", "key": "", "type": "job", "message_id": "", "user_id": "", "dead_lettered": 0,
                "size": 2_000,
            }
            for n in range(2_000)
        ],
    )  # fmt: skip
    lines = [
        {
            "key": f"concurrency:tenant-{n}", "kind": "concurrency", "limit_code": 2, "limit_set": None, "rank": 2,
            "span": None, "fixed": 0, "taken": 2, "turns": 0, "tail": 50, "next_at": None,
        }
        for n in range(200)
    ]  # fmt: skip
    connection.execute(schema.lines.insert(), lines)
    entries = [
        {"key": f"concurrency:tenant-{n % 200}", "job_id": f"s{n}", "place": n, "stage": 3 if n < 400 else 1}
        for n in range(10_000)
    ]
    connection.execute(schema.line_entries.insert(), entries)
    connection.execute(
        schema.schedules.insert(),
        [
            {
                "name": f"every-{n}", "cron": "*/5 * * * *", "tz": "UTC", "misfire": "once", "overlap": "allow",
                "call": '{"job":"mail.sync"}', "origin": "shop", "version": 1, "paused": 0, "last_planned_at": now,
                "last_job_id": None, "created_at": now, "changed_at": now,
            }
            for n in range(25)
        ],
    )  # fmt: skip
