"""Who of the workers is taken for dead, and by what word."""

from __future__ import annotations

from broker_jobs.clock import LogTime, RemoteTime
from broker_jobs.coordinator.liveness import LEASE_SECONDS, LEFT, READ_SECONDS, REPLACED, VANISHED, Leases
from broker_jobs.messages.envelope import id_created_at, new_id
from broker_jobs.messages.events import WorkerRef

LOG_NOW = LogTime(100.0)
READ = LOG_NOW + READ_SECONDS
"""The log has been read beyond what was said at LOG_NOW."""


def _worker() -> tuple[WorkerRef, float]:
    """A worker, and when it began."""
    id = new_id()
    began_at = id_created_at(id)
    assert began_at is not None
    return WorkerRef(id=id, host="h", slot="1"), began_at


def _speaks(leases: Leases, worker: WorkerRef, at: float) -> None:
    leases.heard(worker.id, LOG_NOW, worker, RemoteTime(at))
    leases.replaced(worker, RemoteTime(at))


def test_who_falls_silent_before_another_begins_in_its_place_was_replaced() -> None:
    leases = Leases()
    (old, _), (new, began_at) = _worker(), _worker()
    _speaks(leases, old, began_at - 5.0)
    _speaks(leases, new, began_at + 1.0)
    assert leases.dead(LOG_NOW + (READ_SECONDS - 1.0)) == []
    assert leases.dead(READ) == [(old.id, REPLACED)]
    assert leases.living() == [new.id]


def test_two_that_live_in_one_place_do_not_end_each_other() -> None:
    leases = Leases()
    (one, _), (other, began_at) = _worker(), _worker()
    for turn in range(10):
        _speaks(leases, one, began_at + 10.0 * turn + 1.0)
        assert leases.dead(LOG_NOW) == []
        _speaks(leases, other, began_at + 10.0 * turn + 6.0)
        assert leases.dead(LOG_NOW) == []
    assert set(leases.living()) == {one.id, other.id}


def test_who_speaks_again_before_it_is_judged_was_not_replaced() -> None:
    leases = Leases()
    (one, _), (other, began_at) = _worker(), _worker()
    _speaks(leases, one, began_at - 5.0)
    _speaks(leases, other, began_at + 1.0)
    _speaks(leases, one, began_at + 2.0)
    assert leases.dead(READ) == []


def test_who_leaves_is_named_so_whoever_comes_after_it() -> None:
    leases = Leases()
    (old, _), (new, began_at) = _worker(), _worker()
    _speaks(leases, old, began_at - 5.0)
    leases.leaving(old.id, RemoteTime(began_at - 5.0))
    _speaks(leases, new, began_at + 1.0)
    assert leases.dead(READ) == [(old.id, LEFT)]


def test_each_is_named_once() -> None:
    leases = Leases()
    worker, began_at = _worker()
    _speaks(leases, worker, began_at + 1.0)
    leases.leaving(worker.id, RemoteTime(began_at + 2.0))
    assert leases.dead(LOG_NOW + LEASE_SECONDS) == [(worker.id, LEFT)]
    _speaks(leases, worker, began_at + 4.0)
    assert leases.dead(LOG_NOW + LEASE_SECONDS) == [(worker.id, VANISHED)]
