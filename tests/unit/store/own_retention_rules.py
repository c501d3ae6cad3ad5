"""The rules of what says for itself how long it is kept (`keep`, `keep_result`), whatever database is behind it."""

from typing import Any

import pytest

from broker_jobs.messages.state import State
from broker_jobs.store import Publication, Reason, Row
from broker_jobs.store.records import DependencyRow
from broker_jobs.store.retention import RESULT_IS_OVER, PurgeProgress
from broker_jobs.store.write import Transaction
from tests.unit.store.retention_rules import KEEP, NOW, OLD, YOUNG, OnStore, alias, ended, ids, purge

ENDS = (State.SUCCEEDED, State.FAILED, State.DELETED)


class OwnRetentionRules(OnStore):
    """What is kept and what goes, by the jobs' own options."""

    @pytest.mark.parametrize("state", ENDS)
    def test_a_job_that_says_so_is_kept_longer_or_shorter_than_the_settings_say(
        self, tx: Transaction, state: State
    ) -> None:
        rows = [
            ended("longer", state, at=OLD, keep_until=NOW + 1),
            ended("shorter", state, at=YOUNG, keep_until=NOW - 1),
            ended("as the settings say", state, at=YOUNG),
            ended("old", state, at=OLD),
        ]
        self.stays(tx, rows, without=["shorter", "old"])
        assert purge(tx, now=NOW + 2) == 1
        assert ids(tx, "jobs") == ["as the settings say"]

    def test_a_job_that_may_go_goes_with_all_that_is_its_own(self, tx: Transaction) -> None:
        tx.jobs.save([ended("j", keep_until=NOW - 1)])
        tx.dependencies.relate("j", [("parent", "succeeded")])
        assert purge(tx) == 1
        assert (ids(tx, "jobs"), ids(tx, "relations", "child")) == ([], [])
        tx.jobs.write_counters()
        assert set(tx._connection.exec_driver_sql("SELECT n FROM counts").scalars()) <= {0}

    @pytest.mark.parametrize(
        "out",
        [
            {"publication": Publication.PUBLISHED},
            {"publication": Publication.PUBLISHING},
            {"grace_until": 1.0},
            {"copy_until": NOW + 1},
            {"counted_as": "open"},
        ],
    )
    def test_one_of_which_something_is_on_its_way_stays(self, tx: Transaction, out: dict[str, Any]) -> None:
        self.stays(tx, [ended("j", keep_until=NOW - 1, **out)])

    @pytest.mark.parametrize("state", [state for state in State if not state.is_final])
    def test_a_parent_stays_until_its_child_has_ended(self, tx: Transaction, state: State) -> None:
        tx.dependencies.relate("child", [("parent", "succeeded")])
        self.stays(tx, [ended("parent", keep_until=NOW - 1), Row(id="child", state=state, changed_at=OLD)])
        tx.jobs.save([ended("child", at=YOUNG)])
        assert purge(tx) == 1
        assert ids(tx, "jobs") == ["child"]

    def test_what_something_waits_for_stays(self, tx: Transaction) -> None:
        tx.dependencies.add([DependencyRow("child", "job", "j", "succeeded", False, since=1.0)])
        self.stays(tx, [ended("j", keep_until=NOW - 1)])

    def test_what_comes_back_with_a_failed_parent_stays_as_long_as_that(self, tx: Transaction) -> None:
        tx.dependencies.add([DependencyRow("child", "job", "failed", "succeeded", True, since=1.0)])
        tx.jobs.save([ended("failed", State.FAILED, keep_until=NOW + 10)])
        tx.jobs.save([ended("child", State.DELETED, reason_code=Reason.UNSATISFIED, keep_until=NOW - 1)])
        assert purge(tx) == 0
        assert purge(tx, now=NOW + 11) + purge(tx, now=NOW + 11) == 2

    def test_a_duplicate_stays_as_long_after_its_original_as_it_says(self, tx: Transaction) -> None:
        tx.unique_keys.save_group("g", "root")
        running = Row(id="root", alias_group="g", state=State.PROCESSING)
        self.stays(tx, [running, alias("a", "g", keep_until=OLD + 10)])
        self.stays(tx, [ended("root", at=NOW - 5, alias_group="g"), alias("a", "g", keep_until=OLD + 10)])
        assert purge(tx, now=NOW + 6) == 1
        assert ids(tx, "jobs") == ["root"]

    def test_a_result_goes_before_its_job_and_says_why(self, tx: Transaction) -> None:
        tx.jobs.save([ended("over", at=YOUNG, result="1", result_until=NOW - 1)])
        tx.jobs.save([ended("kept", at=YOUNG, result="2", result_until=NOW + 1)])
        assert purge(tx) == 0
        rows = tx.jobs.load(["over", "kept"])
        over = rows["over"]
        assert (over.result, over.result_lost, over.result_until) == (None, RESULT_IS_OVER, None)
        assert (rows["kept"].result, rows["kept"].result_lost) == ("2", None)

    def test_a_result_that_another_job_waits_for_stays(self, tx: Transaction) -> None:
        tx.jobs.save([ended(id, at=YOUNG, result="1", result_until=NOW - 1) for id in ("parent", "target")])
        tx.jobs.save([Row(id="child", state=State.SCHEDULED), Row(id="waits", state=State.AWAITING)])
        tx.dependencies.relate("child", [("parent", "succeeded")])
        tx.dependencies.add([DependencyRow("waits", "job", "target", "succeeded", False, since=1.0)])
        progress = PurgeProgress()
        purge(tx, progress=progress)
        assert [row.result for row in tx.jobs.load(["parent", "target"]).values()] == ["1", "1"]
        tx.jobs.save([ended("child", at=YOUNG)])
        progress.restart()
        purge(tx, progress=progress)
        assert tx.jobs.load(["parent"])["parent"].result is None

    def test_a_page_looks_at_no_more_than_its_limit_and_the_next_goes_on(self, tx: Transaction) -> None:
        tx.jobs.save([ended(f"j{n}", at=YOUNG, keep_until=NOW - 10 + n / 10) for n in range(30)])
        tx.jobs.save([ended(f"needed{n}", at=YOUNG, keep_until=NOW - 20, counted_as="open") for n in range(10)])
        progress = PurgeProgress()
        gone = []
        while not progress.is_complete:
            gone.append(purge(tx, limit=8, progress=progress))
        assert (sum(gone), max(gone) <= 8) == (30, True)
        assert len(ids(tx, "jobs")) == 10

    def test_what_is_kept_longer_does_not_keep_others(self, tx: Transaction) -> None:
        tx.jobs.save([ended(f"kept{n}", at=OLD - 1, keep_until=NOW + KEEP) for n in range(30)])
        tx.jobs.save([ended("old")])
        progress = PurgeProgress()
        while not progress.is_complete:
            purge(tx, limit=8, progress=progress)
        assert "old" not in ids(tx, "jobs")
        assert len(ids(tx, "jobs")) == 30
