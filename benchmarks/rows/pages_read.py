"""Measures the dashboard's reads of a filled store, and each of its pages, several times each."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from starlette.testclient import TestClient

from benchmarks.rows.pages_fill import fill
from broker_jobs.clock import SystemClock
from broker_jobs.dashboard.actions import Actions
from broker_jobs.dashboard.app import build_app
from broker_jobs.dashboard.auth import Authentication
from broker_jobs.dashboard.context import RequestContext
from broker_jobs.dashboard.credentials import Credentials
from broker_jobs.dashboard.masking import Masking
from broker_jobs.dashboard.queries import Queries
from broker_jobs.messages.state import State
from broker_jobs.settings import MASK
from broker_jobs.store import SearchQuery, Store

REPEATS = 15
Times = dict[str, list[tuple[float, float]]]
"""Seconds of each, and seconds of the processor in this process."""


def measure(url: str, what: str, chosen: str = "", repeats: int = REPEATS) -> Times:
    """Measure `reads` or `pages`."""
    store = Store(url)
    store.open()
    found: Times = {}
    for name, act in (_reads if what == "reads" else _pages)(store):
        if chosen not in name:
            continue
        found[name] = []
        for _ in range(repeats):
            start, cpu = time.perf_counter(), time.process_time()
            act()
            found[name].append((time.perf_counter() - start, time.process_time() - cpu))
    store.close()
    return found


def _pages(store: Store) -> Iterator[tuple[str, Callable[[], object]]]:
    clock = SystemClock()
    queries = Queries(store.reader, Masking(MASK), clock, {})
    nobody: Any = None  # pages that are looked at ask nothing of a coordinator
    authentication = Authentication(Credentials(), local=True, key=lambda: os.urandom(32), clock=clock)
    client = TestClient(
        build_app(RequestContext(queries, Actions(nobody, queries), clock), authentication),
        base_url="http://localhost",
        client=("127.0.0.1", 1),
    )
    failed = store.reader.jobs.search(SearchQuery(states=(State.FAILED,), limit=1)).rows[0].id
    batch = store.reader.batches.page(text="import 0").batches[-1].id
    paths = [
        *("/", "/jobs", "/jobs?sort=changed", *(f"/jobs?state={state.value}" for state in State)),
        *("/jobs?text=user777@example", "/jobs?text=zebra+crossing", "/jobs?state=failed&error_text=OutOfStock"),
        *("/jobs?job=mail.sync", "/jobs?queue=rare", "/jobs?tag=tenant-3", "/jobs?recurring=every-3"),
        *(
            "/retries",
            "/queues",
            "/recurring",
            "/recurring/every-3",
            "/batches",
            "/workers",
            "/limits",
            "/dead-letters",
        ),
        *("/audit", "/run"),
    ]

    def get(path: str) -> Callable[[], object]:
        def page() -> object:
            answer = client.get(path)
            if answer.status_code != 200:
                raise RuntimeError(f"{path}: {answer.status_code}\n{answer.text[:2_000]}")
            return answer

        return page

    for path in paths:
        yield path, get(path)
    yield "/jobs/{id}", get(f"/jobs/{failed}")
    yield "/batches/{id}", get(f"/batches/{batch}")
    yield "/jobs?batch={id}", get(f"/jobs?batch={batch}")


def _reads(store: Store) -> Iterator[tuple[str, Callable[[], object]]]:
    reader, now = store.reader, time.time()

    def walk(pages: int = 3, **search: Any) -> Callable[[], object]:
        """The first page, or one further on."""
        turns = iter(range(10**9))

        def read() -> object:
            if next(turns) % pages == 0 or cursors[-1] is None:
                cursors.append(None)
            found = reader.jobs.search(SearchQuery(**search, cursor=cursors[-1]))
            cursors.append(found.next)
            return found

        cursors: list[str | None] = [None]
        return read

    a_batch = reader.batches.page(limit=3).batches[0].id
    big_batch = reader.batches.page(text="import 0").batches[-1].id
    a_job = reader.jobs.search(SearchQuery(states=(State.FAILED,), limit=1)).rows[0].id
    yield "jobs", walk()
    yield "jobs limit 500", walk(limit=500)
    for state in State:
        yield f"jobs {state.value}", walk(states=(state,))
    yield "jobs oldest", walk(sort="oldest")
    yield "jobs changed", walk(sort="changed")
    yield "jobs due", walk(sort="due")
    yield "retries", walk(retries=True, sort="due")
    yield "retries newest", walk(retries=True)
    yield "jobs of a queue", walk(queue="mail")
    yield "jobs of a rare queue", walk(queue="rare")
    yield "failed jobs of a queue", walk(queue="billing", states=(State.FAILED,))
    yield "failed jobs of a rare queue", walk(queue="rare", states=(State.FAILED,))
    yield "jobs of a name", walk(job="mail.sync")
    yield "jobs of a rare name", walk(job="search.charge")
    yield "failed jobs of a name", walk(job="shop.sync", states=(State.FAILED,))
    yield "processing jobs of a name", walk(job="mail.sync", states=(State.PROCESSING,))
    yield "jobs of a tag", walk(tag="tenant-3")
    yield "jobs of no tag", walk(tag="nobody")
    yield "jobs of a batch", walk(batch=a_batch)
    yield "jobs of a big batch", walk(batch=big_batch)
    yield "failed jobs of a big batch", walk(batch=big_batch, states=(State.FAILED,))
    yield "jobs of a recurring one", walk(recurring="every-3")
    yield "jobs on a worker", walk(owner="worker-3")
    yield "jobs of a day", walk(created_after=now - 10 * 86_400, created_before=now - 9 * 86_400)
    yield (
        "failed jobs of a day",
        walk(states=(State.FAILED,), created_after=now - 10 * 86_400, created_before=now - 9 * 86_400),
    )
    yield "text, common", walk(text="order")
    yield "text, rare", walk(text="user777@example")
    yield "text, nowhere", walk(text="zebra crossing")
    yield "text, everywhere in envelopes", walk(text="retries")
    yield "text in failed", walk(text="zebra", states=(State.FAILED,))
    yield "error text", walk(error_text="OutOfStock")
    yield "error text in failed", walk(error_text="OutOfStock", states=(State.FAILED,))
    yield "error text nowhere", walk(error_text="zebra", states=(State.FAILED,))
    yield (
        "job",
        lambda: (
            reader.jobs.get(a_job),
            reader.log_lines.of(a_job, 500),
            reader.relations.parents(a_job),
            reader.relations.children(a_job),
        ),
    )
    yield (
        "waits of a job",
        lambda: (reader.dependencies.of(a_job), reader.limits.waited_for(a_job), reader.unique_keys.all(job_id=a_job)),
    )
    yield "counts", reader.statistics.counts
    yield "ended", reader.statistics.ended
    yield "retries count", reader.statistics.retries
    yield "history hour", lambda: reader.statistics.history(now - 3_600, now, 60)
    yield "history day", lambda: reader.statistics.history(now - 86_400, now, 3_600)
    yield "history week", lambda: reader.statistics.history(now - 7 * 86_400, now, 3_600)
    yield "latency", lambda: reader.statistics.latency(now - 3_600, now)
    yield "queue rows", lambda: reader.queues.rows(now)
    yield "workers", lambda: (reader.processes.workers(), reader.jobs.running_by_worker())
    yield "batches", reader.batches.page
    yield "batches of a state", lambda: reader.batches.page(state="processing")
    yield "batches text", lambda: reader.batches.page(text="zebra")
    yield "batch", lambda: (reader.batches.get(big_batch), reader.batches.tree(big_batch))
    yield "batch failures", lambda: reader.batches.failures(big_batch)
    yield "audit", reader.audit.page
    yield "audit of a person", lambda: reader.audit.page(by="person3")
    yield "audit text", lambda: reader.audit.page(text="zebra")
    yield "dead", reader.dead_letters.page
    yield "dead-lettered count", reader.dead_letters.count
    yield "limits", reader.limits.all
    yield "schedules", reader.schedules.all
    yield "functions", reader.declarations.functions
    yield "parts", reader.processes.components


def main() -> None:
    """`fill URL COUNT`, `reads URL [PART]` or `pages URL [PART]`."""
    what, url, *more = sys.argv[1:]
    if what == "fill":
        print(fill(url, int(more[0])))
        return
    for name, seconds in measure(url, what, more[0] if more else "").items():
        wall, cpu = (sorted(one) for one in zip(*seconds, strict=True))
        half, most = len(wall) // 2, int(len(wall) * 0.95)
        print(
            f"{name:40} min {wall[0] * 1000:7.1f} p50 {wall[half] * 1000:7.1f} p95 {wall[most] * 1000:7.1f} ms,"
            f" cpu p50 {cpu[half] * 1000:7.1f} p95 {cpu[most] * 1000:7.1f}"
        )


if __name__ == "__main__":
    main()
