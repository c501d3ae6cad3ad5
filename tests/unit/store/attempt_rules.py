"""The rules of attempts, errors and figures of kinds of jobs, whatever database is behind them."""

from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import text

from broker_jobs.messages.state import State
from broker_jobs.store import Row, Store, WorkerRow
from broker_jobs.store.attempts import KEPT, NEWEST
from broker_jobs.store.records import AttemptRow
from broker_jobs.store.retention import KEEP_KINDS_SECONDS, KEEP_RATES_SECONDS

FULL = AttemptRow("j", 3, 2, "raised", 100.5, 90.25, 99.75, "w1", "node-1", "1.2.3", "reason", '{"type":"E"}', "f" * 16)


def attempt(job_id: str = "j", epoch: int = 1, **more: Any) -> AttemptRow:
    values: dict[str, Any] = {"attempt": 1, "ended": "raised", "at": 1.0, "started_at": 1.0, "ended_at": 2.0}
    return AttemptRow(job_id, epoch, **values | more)


def ended(id: str, job: str = "shop.mail", state: State = State.SUCCEEDED, at: float = 600.0, **more: Any) -> Row:
    more = {"created_at": at - 3.0, "started_at": at - 2.0} | more
    return Row(id=id, job=job, state=state, changed_at=at, ended_at=at, **more)


class AttemptRules:
    """Subclasses give a fixture `url` (a fresh database for each test)."""

    @pytest.fixture
    def store(self, url: str) -> Iterator[Store]:
        store = Store(url)
        store.open()
        yield store
        store.close()

    # Attempts

    def test_every_column_comes_back_as_it_was_saved(self, store: Store) -> None:
        with store.transaction() as tx:
            tx.attempts.save([FULL, attempt("plain", started_at=None)])
        assert store.reader.attempts.of("j") == [FULL]
        assert store.reader.attempts.of("plain") == [attempt("plain", started_at=None)]
        assert store.reader.attempts.of("unknown") == []

    def test_what_was_saved_counts_as_written(self, store: Store) -> None:
        serial = store.reader.meta().serial
        with store.transaction() as tx:
            tx.attempts.save([])
        assert store.reader.meta().serial == serial
        with store.transaction() as tx:
            tx.attempts.save([FULL])
        assert store.reader.meta().serial == serial + 1

    def test_an_attempt_of_the_same_epoch_replaces_the_end_and_keeps_what_was_known(self, store: Store) -> None:
        with store.transaction() as tx:
            tx.attempts.save([FULL])
            tx.attempts.save([attempt(epoch=3, at=500.0, ended="succeeded", started_at=None, worker="w1")])
        (only,) = store.reader.attempts.of("j")
        assert (only.ended, only.error, only.fingerprint, only.reason) == ("succeeded", None, None, "")
        assert (only.at, only.started_at, only.host, only.release) == (100.5, 90.25, "node-1", "1.2.3")

    def test_the_release_is_that_of_the_worker_where_none_is_given(self, store: Store) -> None:
        with store.transaction() as tx:
            tx.processes.save_worker(WorkerRow("w1", version="2.0"))
            tx.attempts.save([attempt("known", worker="w1"), attempt("given", worker="w1", release="1.0")])
            tx.attempts.save([attempt("unknown", worker="w2")])
        found = [store.reader.attempts.of(id)[0].release for id in ("known", "given", "unknown")]
        assert found == ["2.0", "1.0", ""]

    def test_text_a_database_cannot_hold_is_replaced_not_refused(self, store: Store) -> None:
        bad = "nul \x00 and half \ud800"
        with store.transaction() as tx:
            tx.attempts.save([attempt(worker=bad, host=bad, reason=bad, error=bad)])
        (only,) = store.reader.attempts.of("j")
        for text_kept in (only.worker, only.host, only.reason, only.error or ""):
            assert text_kept.startswith("nul \ufffd and half ")
            assert "\ud800" not in text_kept

    def test_of_each_job_the_newest_attempts_stay(self, store: Store) -> None:
        with store.transaction() as tx:
            tx.attempts.save([attempt("many", epoch) for epoch in range(1, KEPT + 6)])
            tx.attempts.save([attempt("few", epoch) for epoch in (1, 2, KEPT * 10)])
        assert [one.epoch for one in store.reader.attempts.of("many")] == list(range(6, KEPT + 6))
        assert [one.epoch for one in store.reader.attempts.of("few")] == [1, 2, KEPT * 10]

    def test_attempts_go_with_their_job(self, store: Store) -> None:
        with store.transaction() as tx:
            tx.jobs.save([ended("old", at=1.0), ended("young", at=900.0)])
            tx.attempts.save([attempt("old"), attempt("young")])
            tx.purge(now=1_000.0, keep_succeeded=500.0, keep_deleted=500.0, keep_failed=500.0, limit=10)
        assert store.reader.attempts.of("old") == []
        assert len(store.reader.attempts.of("young")) == 1

    # Errors

    def test_errors_are_told_by_how_many_attempts_had_them_with_the_last_of_each(self, store: Store) -> None:
        with store.transaction() as tx:
            tx.attempts.save(
                [
                    *(attempt(f"a{n}", at=10.0 + n, fingerprint="often") for n in range(3)),
                    attempt("b0", at=50.0, fingerprint="later"),
                    attempt("b1", at=20.0, fingerprint="earlier"),
                    attempt("c", at=99.0, ended="crashed"),
                ]
            )
        found = store.reader.attempts.errors(10)
        assert [(one.fingerprint, one.count, one.last.job_id) for one in found] == [
            ("often", 3, "a2"), ("later", 1, "b0"), ("earlier", 1, "b1"),
        ]  # fmt: skip
        assert [one.fingerprint for one in store.reader.attempts.errors(1)] == ["often"]

    def test_errors_are_counted_among_the_newest_attempts(self, store: Store) -> None:
        with store.transaction() as tx:
            tx.attempts.save([attempt(f"old{n}", at=float(n), fingerprint="old") for n in range(5)])
            tx.attempts.save([attempt(f"new{n}", at=100.0 + n, fingerprint="new") for n in range(NEWEST - 2)])
        assert [(one.fingerprint, one.count) for one in store.reader.attempts.errors()] == [
            ("new", NEWEST - 2),
            ("old", 2),
        ]

    # Kinds of jobs

    def test_what_jobs_came_to_is_counted_by_their_name(self, store: Store) -> None:
        with store.transaction() as tx:
            tx.jobs.save([ended("a"), ended("b", at=661.0), ended("c", state=State.FAILED), ended("d", "shop.pay")])
            tx.jobs.save([ended("e", "shop.pay", State.DELETED), Row(id="f", job="shop.pay"), ended("g", "")])
        mail, pay = store.reader.statistics.kinds(600.0)
        assert (mail.job, mail.succeeded, mail.failed, mail.deleted, mail.latency.of) == ("shop.mail", 2, 1, 0, 3)
        assert (pay.job, pay.succeeded, pay.failed, pay.deleted, pay.latency.of) == ("shop.pay", 1, 0, 1, 1)
        assert mail.latency.run_p50 == pytest.approx(2.0, rel=0.15)
        assert mail.latency.wait_p95 == pytest.approx(1.0, rel=0.15)

    def test_a_kind_is_told_of_a_span_of_minutes(self, store: Store) -> None:
        with store.transaction() as tx:
            tx.jobs.save([ended("a", at=600.0), ended("b", at=660.0), ended("c", at=720.0)])
        assert [one.succeeded for one in store.reader.statistics.kinds(660.0)] == [2]
        assert [one.succeeded for one in store.reader.statistics.kinds(610.0, 670.0)] == [2]
        assert store.reader.statistics.kinds(780.0) == []

    def test_the_figures_of_all_kinds_together_are_those_of_all_jobs(self, store: Store) -> None:
        with store.transaction() as tx:
            tx.jobs.save([ended(f"{n}", f"shop.kind-{n % 3}", started_at=600.0 - n) for n in range(30)])
        kinds = store.reader.statistics.kinds(600.0)
        assert sum(one.latency.of for one in kinds) == store.reader.statistics.latency(600.0, 600.0).of == 30
        assert sum(one.succeeded for one in kinds) == store.reader.statistics.ended()[State.SUCCEEDED] == 30

    def test_figures_of_kinds_are_forgotten_when_they_are_old(self, store: Store) -> None:
        with store.transaction() as tx:
            tx.jobs.save([ended("a", at=600.0)])
        for now, left in (
            (600.0 + KEEP_RATES_SECONDS, [1, 2]),
            (660.0 + KEEP_RATES_SECONDS, [1, 0]),
            (660.0 + KEEP_KINDS_SECONDS, [0, 0]),
        ):
            with store.transaction() as tx:
                tx.purge(now=now, keep_succeeded=1e9, keep_deleted=1e9, keep_failed=1e9, limit=10)
            with store._reading() as connection:
                counted = [text("SELECT count(*) FROM kind_outcomes"), text("SELECT count(*) FROM kind_durations")]
                assert [connection.execute(one).scalar_one() for one in counted] == left
