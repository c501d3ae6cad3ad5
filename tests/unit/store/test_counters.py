from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.register_assert_rewrite("tests.unit.store.store_rules")

from broker_jobs.messages.state import FINAL, State  # noqa: E402
from broker_jobs.store import Publication, Row, Store  # noqa: E402
from tests.unit.store.store_rules import in_database, kept  # noqa: E402

ids = st.sampled_from([f"j{n}" for n in range(6)])
rows = st.builds(
    Row,
    id=ids,
    queue=st.sampled_from(["a", "b"]),
    state=st.sampled_from(State),
    reason_code=st.sampled_from(["", "retry", "crash", "now"]),
    priority=st.sampled_from([None, None, "high", "low"]),
    publication=st.sampled_from([Publication.NONE, Publication.NONE, Publication.PUBLISHED]),
    changed_at=st.floats(0, 600),
    ended_at=st.none() | st.floats(0, 600),
)
step = (
    st.tuples(st.just("save"), st.lists(rows, max_size=5))
    | st.tuples(st.just("load and save"), st.lists(rows, max_size=5))
    | st.tuples(st.just("purge"), st.floats(0, 600))
)
transactions = st.lists(st.tuples(st.lists(step, max_size=4), st.booleans()), max_size=6)


class Undo(Exception):
    pass


@settings(max_examples=150, deadline=None)
@given(transactions)
def test_every_kept_counter_is_its_count_after_any_saves_purges_and_rollbacks(history: Any) -> None:
    store = Store("sqlite://")
    store.open()
    outcomes: Counter[State] = Counter()
    try:
        for steps, commits in history:
            before = dict(outcomes)
            states = {row.id: row.state for row in store.reader.jobs.newest(limit=100)}
            try:
                with store.transaction() as tx:
                    for kind, value in steps:
                        if kind == "purge":
                            tx.purge(now=600.0, keep_succeeded=value, keep_deleted=value, keep_failed=601.0, limit=3)
                            states = {id: row.state for id, row in tx.jobs.load([f"j{n}" for n in range(6)]).items()}
                            continue
                        if kind == "load and save":
                            tx.jobs.load([row.id for row in value])
                        tx.jobs.save(value)
                        for row in {row.id: row for row in value}.values():
                            if row.state in FINAL and states.get(row.id) is not row.state:
                                outcomes[row.state] += 1
                            states[row.id] = row.state
                    if not commits:
                        raise Undo
            except Undo:
                outcomes = Counter(before)
            assert kept(store) == in_database(store)
            again = [row for row in store.reader.jobs.newest(limit=100) if row.reason_code in ("retry", "crash")]
            assert store.reader.statistics.retries() == sum(row.state is State.SCHEDULED for row in again)
            waiting = Counter(
                (row.queue, row.priority)
                for row in store.reader.jobs.newest(limit=100)
                if row.state is State.ENQUEUED and row.priority is not None
            )
            shown = {(row.name, of): n for row in store.reader.queues.rows(600.0) for of, n in row.waiting.items() if n}
            assert shown == waiting
            assert store.reader.statistics.counts() == {
                state: sum(n for (_, of), n in in_database(store).items() if of == state) for state in State
            }
        recorded: Counter[State] = Counter()
        for _, state, n in store.reader.statistics.throughput(0.0):
            recorded[state] += n
        assert recorded == outcomes
        assert store.reader.statistics.ended() == {state: outcomes[state] for state in State if state in FINAL}
    finally:
        store.close()
