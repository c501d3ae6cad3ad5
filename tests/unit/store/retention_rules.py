"""The rules of what is forgotten and what is not, whatever database is behind it."""

from collections.abc import Iterable, Iterator
from typing import Any

import pytest
from sqlalchemy import text

from broker_jobs.messages.state import State
from broker_jobs.store import Publication, Reason, Row, Store, retention
from broker_jobs.store.lines import LimitLineRow, LineEntry, Stage
from broker_jobs.store.needed import MOST_CHILDREN
from broker_jobs.store.records import BatchRow, DependencyRow, SubmissionRow
from broker_jobs.store.retention import KEEP_UNCOMMITTED_SECONDS, PurgeProgress
from broker_jobs.store.unique_keys import UniqueKeyRow
from broker_jobs.store.write import Transaction

NOW, KEEP = 1_000.0, 100.0
OLD, YOUNG = 800.0, 950.0


def ended(id: str, state: State = State.SUCCEEDED, at: float = OLD, **more: Any) -> Row:
    return Row(id=id, state=state, ended_at=at, changed_at=at, **more)


def alias(id: str, group: str, **more: Any) -> Row:
    return ended(id, State.DELETED, reason_code=Reason.ALIAS, alias_group=group, **more)


def purge(tx: Transaction, *, limit: int = 100, progress: PurgeProgress | None = None, now: float = NOW) -> int:
    keep = {"keep_succeeded": KEEP, "keep_deleted": KEEP, "keep_failed": KEEP}
    return tx.purge(now=now, limit=limit, progress=progress, **keep)


def ids(tx: Transaction, table: str, column: str = "id") -> list[str]:
    query = text(f"SELECT {column} FROM {table} ORDER BY {column}")
    return list(tx._connection.execute(query).scalars())


class OnStore:
    """A store and a transaction. Subclasses give a fixture `url` (a fresh database for each test)."""

    @pytest.fixture
    def store(self, url: str) -> Iterator[Store]:
        store = Store(url)
        store.open()
        yield store
        store.close()

    @pytest.fixture
    def tx(self, store: Store) -> Iterator[Transaction]:
        with store.transaction() as tx:
            tx.meta.log_time = NOW
            yield tx

    def stays(self, tx: Transaction, rows: Iterable[Row], *, without: Iterable[str] = ()) -> None:
        tx.jobs.save(rows)
        purge(tx)
        assert ids(tx, "jobs") == sorted({row.id for row in rows} - set(without))


class RetentionRules(OnStore):
    """What is kept and what goes, by the settings."""

    # What is needed

    def test_what_something_waits_for_stays_though_the_waiting_one_has_ended(self, tx: Transaction) -> None:
        tx.dependencies.add(
            [
                DependencyRow("child", "job", "open", "succeeded", False, since=1.0),
                DependencyRow("child", "job", "ended otherwise", "succeeded", True, since=1.0),
            ]
        )
        rows = [ended("open"), ended("ended otherwise", State.FAILED), Row(id="child", state=State.AWAITING)]
        self.stays(tx, [*rows, ended("other")], without=["other"])

    @pytest.mark.parametrize("state", [state for state in State if not state.is_final])
    def test_a_parent_stays_until_its_child_has_ended(self, tx: Transaction, state: State) -> None:
        tx.dependencies.relate("child", [("parent", "succeeded")])
        self.stays(tx, [ended("parent"), Row(id="child", state=state, changed_at=OLD)])
        tx.jobs.save([ended("child", at=YOUNG)])
        assert purge(tx) == 1
        assert ids(tx, "jobs") == ["child"]

    def test_a_parent_of_many_stays_until_most_children_are_forgotten(self, tx: Transaction) -> None:
        children = [f"child-{n:03}" for n in range(MOST_CHILDREN + 1)]
        for child in children:
            tx.dependencies.relate(child, [("parent", "succeeded")])
        tx.jobs.save([ended("parent"), *(ended(child, at=YOUNG) for child in children[:-1])])
        tx.jobs.save([Row(id=children[-1], state=State.AWAITING)])
        assert purge(tx) == 0
        tx.jobs.save([ended(children[-1], at=YOUNG + 1)])
        assert purge(tx) == 0
        assert purge(tx, now=YOUNG + KEEP + 0.5) == MOST_CHILDREN
        assert purge(tx, now=YOUNG + KEEP + 0.5) == 1
        assert ids(tx, "jobs") == [children[-1]]

    def test_what_comes_back_with_a_failed_parent_stays_as_long_as_that(self, tx: Transaction) -> None:
        unsatisfied = {"child": "failed", "grandchild": "child", "of a batch": "b", "other": "deleted"}
        kinds = {"of a batch": "batch"}
        tx.dependencies.add(
            [
                DependencyRow(id, kinds.get(id, "job"), target, "succeeded", True, since=1.0)
                for id, target in unsatisfied.items()
            ]
        )
        tx.batches.save([BatchRow("b", state="failed", ended_at=OLD)])
        tx.jobs.save([ended(id, State.DELETED, reason_code=Reason.UNSATISFIED) for id in unsatisfied])
        tx.jobs.save([ended("failed", State.FAILED), ended("deleted", State.DELETED)])
        keep: dict[str, Any] = {"keep_succeeded": KEEP, "keep_deleted": KEEP, "keep_failed": 9 * KEEP}
        for _ in range(2):
            tx.purge(now=NOW, limit=100, **keep)
        assert ids(tx, "jobs") == ["child", "failed", "grandchild", "of a batch"]
        for _ in range(4):
            tx.purge(now=OLD + 9 * KEEP + 1, limit=100, **keep)
        assert ids(tx, "jobs") == []

    def test_the_holder_of_a_unique_key_stays(self, tx: Transaction) -> None:
        tx.unique_keys.save(UniqueKeyRow("a", "running key", "running"))
        tx.unique_keys.save(UniqueKeyRow("b", "window", "window", until=NOW + 1))
        tx.unique_keys.save(UniqueKeyRow("c", "window that waits", "window", until=NOW - 1, after="x"))
        tx.unique_keys.save(UniqueKeyRow("d", "window over", "window", until=NOW))
        holders = ["running key", "window", "window that waits", "window over"]
        self.stays(tx, [ended(id) for id in holders], without=["window over"])
        assert ids(tx, "unique_keys", "key") == ["a", "b", "c"]

    def test_an_alias_stays_while_its_root_runs_and_as_long_as_its_end_is_kept(self, tx: Transaction) -> None:
        tx.unique_keys.save_group("g", "root")
        self.stays(tx, [alias("alias", "g"), Row(id="root", state=State.SCHEDULED, alias_group="g", changed_at=OLD)])
        self.stays(tx, [ended("root", at=YOUNG, alias_group="g"), alias("alias", "g")])
        assert purge(tx, now=YOUNG + KEEP + 1) == 1
        assert ids(tx, "jobs") == ["root"]
        assert ids(tx, "alias_groups") == ["g"]
        assert purge(tx, now=YOUNG + KEEP + 1) == 1
        assert (ids(tx, "jobs"), ids(tx, "alias_groups")) == ([], [])

    def test_a_root_stays_while_one_of_its_aliases_does(self, tx: Transaction) -> None:
        tx.unique_keys.save_group("g", "root")
        tx.dependencies.add([DependencyRow("child", "job", "alias", "succeeded", False, since=1.0)])
        self.stays(tx, [ended("root", at=1.0, alias_group="g"), alias("alias", "g")])
        assert tx.unique_keys.root_of("g") == "root"

    def test_an_alias_whose_root_is_not_known_is_forgotten(self, tx: Transaction) -> None:
        self.stays(tx, [alias("alias", "g")], without=["alias"])

    def test_a_member_stays_while_its_batch_counts_it_as_open(self, tx: Transaction) -> None:
        rows = [ended("open", counted_as="open"), ended("counted", counted_as="succeeded")]
        self.stays(tx, rows, without=["counted"])

    @pytest.mark.parametrize(
        "more",
        [
            {"publication": Publication.PUBLISHED},
            {"publication": Publication.PUBLISHING},
            {"grace_until": NOW + 1},
            {"grace_until": NOW - 1},  # over, but the coordinator has not looked at it: it may have a slot
            {"copy_until": NOW + 1},
        ],
    )
    def test_a_job_with_something_on_its_way_stays(self, tx: Transaction, more: dict[str, Any]) -> None:
        self.stays(tx, [ended("job", **more)])

    # What goes with a job, and what does not

    def test_all_that_is_a_jobs_own_goes_with_it(self, tx: Transaction) -> None:
        tx.log_lines.add([("old", 1.0, 1, "x"), ("young", 1.0, 1, "x")])
        tx.dependencies.relate("old", [("parent", "succeeded")])
        tx.dependencies.add([DependencyRow("old", "job", "parent", "succeeded", True, since=1.0)])
        self.stays(tx, [ended("old"), ended("young", at=YOUNG)], without=["old"])
        assert ids(tx, "log_lines", "job_id") == ["young"]
        assert ids(tx, "relations", "child") == ids(tx, "dependencies", "holder") == []

    def test_the_starts_of_a_rate_count_on_without_the_job(self, tx: Transaction) -> None:
        tx.lines.save([LimitLineRow("rate:a", "rate", limit_code=1, rank=1, span=10 * KEEP)], (), (), ())
        tx.lines.add_starts([("rate:a", OLD, "old", 1)])
        self.stays(tx, [ended("old")], without=["old"])
        assert tx.lines.latest_starts("rate:a", 0, 9) == [OLD]
        assert [line.key for line in tx.lines.lines(["rate:a"])] == ["rate:a"]

    # Lines, batches, submissions

    def test_a_rate_goes_with_its_starts_when_they_count_no_more_and_nobody_waits(self, tx: Transaction) -> None:
        used = {"limit_code": 1, "rank": 1, "span": 10.0}
        lines = [
            LimitLineRow("concurrency:a", "concurrency", limit_code=1, rank=1),
            LimitLineRow("rate:idle", "rate", **used),  # type: ignore[arg-type]
            LimitLineRow("rate:recent", "rate", **used),  # type: ignore[arg-type]
            LimitLineRow("rate:set", "rate", **used, limit_set=5),  # type: ignore[arg-type]
            LimitLineRow("rate:waited for", "rate", **used),  # type: ignore[arg-type]
            LimitLineRow("rate:due", "rate", **used, next_at=NOW),  # type: ignore[arg-type]
        ]
        tx.lines.save(lines, (), [LineEntry("rate:waited for", "j", 1, Stage.PLACE)], ())
        tx.lines.add_starts([("rate:idle", NOW - 21, "i", 1), ("rate:recent", NOW - 20, "j", 1)])
        purge(tx)
        assert ids(tx, "lines", "key") == sorted({line.key for line in lines} - {"rate:idle"})
        assert ids(tx, "rate_starts", "key") == ["rate:recent"]

    def test_a_batch_stays_while_something_waits_for_it(self, tx: Transaction) -> None:
        batches = [("needed", OLD), ("old", OLD), ("young", YOUNG)]
        tx.batches.save([BatchRow(id, state="succeeded", ended_at=at) for id, at in batches])
        tx.batches.save([BatchRow("running")])
        for id, _ in batches:
            tx.dependencies.relate(f"batch:{id}", [("parent", "succeeded")])
        tx.dependencies.add([DependencyRow("child", "batch", "needed", "succeeded", False, since=1.0)])
        purge(tx)
        assert ids(tx, "batches") == ["needed", "running", "young"]
        assert ids(tx, "relations", "child") == ["batch:needed", "batch:young"]

    def test_a_submission_stays_until_it_is_open_and_all_inside_it_are(self, tx: Transaction) -> None:
        for row in (
            SubmissionRow("old", "b", opened=True, since=OLD, chunks=1),
            SubmissionRow("young", "b", opened=True, since=YOUNG, chunks=1),
            SubmissionRow("closed", "b", since=OLD),
            SubmissionRow("around", "b", opened=True, since=OLD, chunks=1),
            SubmissionRow("uncommitted", "b", opened=True, since=OLD),
            SubmissionRow("inside", "b", parent_submission="around", since=OLD),
        ):
            tx.submissions.save(row)
        purge(tx)
        assert ids(tx, "batch_submissions") == ["around", "closed", "inside", "uncommitted", "young"]
        tx.meta.log_time = OLD + KEEP  # wall time alone makes no submission old
        tx.submissions.save(SubmissionRow("old", "b", opened=True, since=OLD, chunks=1))
        purge(tx)
        assert "old" in ids(tx, "batch_submissions")
        tx.meta.log_time = OLD + KEEP_UNCOMMITTED_SECONDS + 1
        purge(tx)
        assert ids(tx, "batch_submissions") == ["around", "closed", "inside"]

    def test_a_batch_stays_while_a_block_of_it_may_be_open(self, tx: Transaction) -> None:
        names = ["open", "abandoned", "done"]
        tx.batches.save([BatchRow(id, state="deleted", ended_at=OLD) for id in names])
        tx.submissions.save(SubmissionRow("1", "open", since=OLD))
        tx.submissions.save(SubmissionRow("2", "abandoned", since=OLD, opened=True))
        tx.submissions.save(SubmissionRow("3", "done", since=YOUNG, opened=True, chunks=1))
        purge(tx)
        assert ids(tx, "batches") == ["abandoned", "open"]

    # Pages

    def test_a_page_looks_at_so_many_rows_and_the_next_goes_on_behind_them(self, tx: Transaction) -> None:
        for n in range(6):
            tx.dependencies.relate("child", [(f"needed-{n}", "succeeded")])
        tx.jobs.save([Row(id="child", state=State.AWAITING), *(ended(f"needed-{n}", at=OLD - 1) for n in range(6))])
        tx.jobs.save([ended(f"old-{n}") for n in range(5)])
        progress = PurgeProgress()
        removed = []
        while not progress.is_complete:
            removed.append(purge(tx, limit=4, progress=progress))
        assert removed == [0, 2, 3]
        tx.jobs.save([ended("child", at=OLD + 1)])
        assert purge(tx, progress=progress) == 1  # the child; its parents were passed by
        progress.restart()
        assert purge(tx, progress=progress) == 6

    def test_a_page_removes_so_many_lines_and_a_job_goes_with_its_last_one(
        self, tx: Transaction, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(retention, "MOST_LINES", 10)
        tx.jobs.save([ended("a"), ended("long", at=OLD + 1), ended("z", at=OLD + 2), ended("f", State.FAILED)])
        tx.log_lines.add(
            [(id, float(n), 1, "x") for id, count in (("a", 3), ("long", 25), ("f", 1)) for n in range(count)]
        )
        progress = PurgeProgress()
        lines = []
        while not progress.is_complete:
            purge(tx, progress=progress)
            lines.append(len(ids(tx, "log_lines", "n")))
        assert lines == [19, 9, 0]
        assert ids(tx, "jobs") == []

    def test_what_became_old_since_is_found_at_once(self, tx: Transaction) -> None:
        progress = PurgeProgress()
        tx.jobs.save([ended("a"), ended("b", at=YOUNG), ended("c", State.FAILED, at=YOUNG)])
        assert purge(tx, progress=progress) == 1
        assert purge(tx, progress=progress, now=YOUNG + KEEP + 1) == 2

    def test_a_purge_goes_on_while_windows_or_commands_are_left(self, tx: Transaction) -> None:
        for n in range(5):
            tx.unique_keys.save(UniqueKeyRow(f"k{n}", "gone", "window", until=1.0))
            tx.audit.add(f"c{n}", at=1.0, by="", kind="k", subject="s")
        progress = PurgeProgress()
        pages = 0
        while not progress.is_complete:
            purge(tx, limit=2, progress=progress)
            pages += 1
        assert (pages, ids(tx, "unique_keys", "key"), ids(tx, "audit")) == (3, [], [])
