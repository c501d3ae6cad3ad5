"""The rules that a sound store keeps notice each a store that is not."""

from __future__ import annotations

import contextlib

import pytest
from sqlalchemy import text

from broker_jobs.messages.envelope import LimitKey
from tests.support.invariants import broken
from tests.unit.coordinator.engine_harness import EngineHarness

ONE = LimitKey(kind="concurrency", key="k", limit=1)

BREAKS = [
    ("DELETE FROM dependencies WHERE holder = 'c'", "c waits for nothing"),
    ("UPDATE dependencies SET unsatisfied = 1 WHERE holder = 'c'", "c waits though p ended otherwise"),
    ("UPDATE dependencies SET holder = 'done' WHERE holder = 'c'", "done has succeeded and waits for p still"),
    ("UPDATE batches SET open = 7", "batch b keeps {'open': 7"),
    ("UPDATE batches SET state = 'succeeded'", "batch b is succeeded and its end is None"),
    ("UPDATE slots SET taken = 1", "2 slots of concurrency:k are taken, it has 1"),
    ("DELETE FROM slots WHERE taken = 1", "x is out (enqueued) and has no slot of concurrency:k"),
    (
        "UPDATE dependencies SET target = 'done' WHERE holder = 'c'",
        "c waits for job done, which is over, and nobody will",
    ),
    ("DELETE FROM slots WHERE taken = 0", "y waits for nothing"),
    ("UPDATE slots SET job_id = 'done' WHERE taken = 1", "done has succeeded and has or waits for a slot"),
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
    )
    assert broken(harness.store) == []
    with contextlib.suppress(PurposeError), harness.store.transaction() as tx:
        tx._connection.execute(text(statement))
        found = broken(harness.store)
        raise PurposeError
    assert any(says in sentence for sentence in found), found
    assert broken(harness.store) == []
