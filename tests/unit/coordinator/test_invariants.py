"""The rules that a sound store keeps notice each a store that is not."""

from __future__ import annotations

import contextlib

import pytest
from sqlalchemy import text

from broker_jobs.messages.envelope import LimitKey, UniqueKey
from tests.support.invariants import broken
from tests.unit.coordinator.engine_harness import EngineHarness

ONE = LimitKey(kind="concurrency", key="k", limit=1)

BREAKS = [
    ("DELETE FROM dependencies WHERE holder = 'c'", "c waits for a dependency, and has none"),
    ("UPDATE dependencies SET unsatisfied = 1 WHERE holder = 'c'", "c waits though p ended otherwise"),
    ("UPDATE dependencies SET holder = 'done' WHERE holder = 'c'", "done has succeeded and waits for p still"),
    ("UPDATE batches SET open = 7", "batch b keeps {'open': 7"),
    ("UPDATE batches SET state = 'succeeded'", "batch b is succeeded and its end is None"),
    ("UPDATE line_entries SET stage = 3", "concurrency:k counts 1 slots and 0 turns, its entries are"),
    ("UPDATE lines SET taken = 2", "2 slots and 0 turns of concurrency:k, which has 1"),
    ("DELETE FROM line_entries WHERE stage = 3", "x is out (enqueued) and has no slot of concurrency:k"),
    ("UPDATE unique_keys SET job_id = 'done'", "the key u has done, which is gone"),
    ("UPDATE unique_keys SET after = 'done'", "z waits for its key behind done, which runs nowhere"),
    ("UPDATE jobs SET counted_as = 'failed' WHERE id = 'm'", "m is enqueued and counted as failed"),
    ("UPDATE jobs SET waits = 4 WHERE id = 'x'", "x is enqueued and waits for"),
    ("UPDATE alias_groups SET root = 'gone'", "zz is an alias of"),
    (
        "UPDATE dependencies SET target = 'done' WHERE holder = 'c'",
        "c waits for job done, which is over, and nobody will",
    ),
    ("DELETE FROM line_entries WHERE stage = 1", "y waits for 8 and stands in []"),
    ("UPDATE line_entries SET job_id = 'done' WHERE stage = 3", "done has a slot of concurrency:k and runs nowhere"),
    ("UPDATE line_entries SET job_id = 'done' WHERE stage = 1", "done is succeeded and waits in concurrency:k"),
]


class PurposeError(Exception):
    """Ends a transaction without what it wrote."""


@pytest.mark.parametrize(("statement", "says"), BREAKS)
def test_a_store_that_is_not_sound_is_noticed(statement: str, says: str) -> None:
    harness = EngineHarness()
    harness.apply(harness.ready("p"), harness.child("c", "p"), harness.ready("done"), harness.succeeded("done"))
    harness.apply(
        harness.chunk("b", ["m"]),
        harness.commit("b"),
        harness.held("x", limits=(ONE,)),
        harness.held("y", limits=(ONE,)),
        harness.held("z", unique=UniqueKey(key="u")),
        harness.held("zz", unique=UniqueKey(key="u")),
    )
    assert broken(harness.store) == []
    with contextlib.suppress(PurposeError), harness.store.transaction() as tx:
        tx._connection.execute(text(statement))
        found = broken(harness.store)
        raise PurposeError
    assert any(says in sentence for sentence in found), found
    assert broken(harness.store) == []
