"""The rules every store keeps, whatever database is behind it; run on SQLite here and on PostgreSQL in integration."""

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace
from typing import Any

import pytest
from sqlalchemy import Connection, inspect, text

from broker_jobs.clock import LogTime
from broker_jobs.errors import StoreError
from broker_jobs.messages.state import State
from broker_jobs.store import LogLineRow, Publication, Reason, Row, ScheduleRow, Store, WorkerRow, schema
from broker_jobs.store.columns import COLUMNS, HISTORY_MAX
from broker_jobs.store.migrations import STEPS
from broker_jobs.store.records import BatchRow, DependencyRow
from broker_jobs.store.row import Conditions, WaitReason

FULL = Row(
    id="job-1",
    job="shop.mail",
    queue="mail",
    state=State.PROCESSING,
    reason_code=Reason.CANCEL,
    publication=Publication.PUBLISHED,
    epoch=3,
    attempt=2,
    crashes=1,
    returns=4,
    fence=2,
    owner="worker-1",
    owned=True,
    sender="coordinator-1",
    due_at=1700000000.123456,
    grace_until=17.5,
    created_at=1700000001.25,
    changed_at=1700000002.5,
    released_at=1700000003.5,
    started_at=1700000004.5,
    ended_at=1700000005.5,
    copy_until=1700000006.5,
    retries=7,
    envelope='{"a":"\\u0000 \\" ü {x,NULL}"}',
    reason="retry 3 of 10: ValueError: \\ \"quoted\" 'and' {braces}, NULL \n 🙂",
    result="null",
    result_lost="too large",
    error='{"type":"E"}',
    parent="job-0",
    batch="batch-1",
    recurring="weekly",
    tags="a,b",
    progress="[1,2]",
    history=[(1.5, "enqueued", 'why "so"\x00'), (2.25, "processing", "")],
    unknowns=1,
    interruptions=2,
    lost_since=1,
    waits=WaitReason.LINE | WaitReason.DEPENDENCY,
    conditions=Conditions.UNIQUE | Conditions.RELEASED,
    alias_group="group-1",
    counted_as="open",
    gives_back=True,
    ran_on="worker-0",
    ran_host="node-0",
    priority="high",
    keep_until=1_000.5,
    result_until=900.5,
)


def ended(id: str, state: State = State.SUCCEEDED, at: float = 100.0, **more: Any) -> Row:
    return Row(id=id, state=state, ended_at=at, changed_at=at, **more)


def in_database(store: Store) -> Counter[tuple[str, str]]:
    return Counter((row.queue, row.state.value) for row in store.reader.jobs.newest(limit=100_000))


def kept(store: Store) -> Counter[tuple[str, str]]:
    by_queue = store.reader.queues.counts()
    return Counter({(queue, state.value): n for queue, states in by_queue.items() for state, n in states.items() if n})


class StoreRules:
    """Subclasses give a fixture `url` (a fresh database for each test)."""

    @pytest.fixture
    def store(self, url: str) -> Any:
        store = Store(url)
        store.open()
        yield store
        store.close()

    # Rows

    def test_every_column_comes_back_as_it_was_saved(self, store: Store) -> None:
        with store.transaction() as tx:
            tx.jobs.save([FULL])
        with store.transaction() as tx:
            loaded = tx.jobs.load(["job-1", "unknown"])
        assert list(loaded) == ["job-1"]
        for field in fields(Row):
            assert getattr(loaded["job-1"], field.name) == getattr(FULL, field.name), field.name
            default = Row(id="x")
            assert getattr(FULL, field.name) != getattr(default, field.name), f"{field.name} is not tried"
        assert store.reader.jobs.get("job-1") == FULL
        assert type(loaded["job-1"].state) is State
        assert type(loaded["job-1"].publication) is Publication
        assert loaded["job-1"].gives_back is True

    def test_a_row_of_defaults_comes_back_as_it_was_saved(self, store: Store) -> None:
        with store.transaction() as tx:
            tx.jobs.save([Row(id="plain")])
            assert tx.jobs.load(["plain"]) == {"plain": Row(id="plain")}

    def test_text_a_database_cannot_hold_is_replaced_not_refused(self, store: Store) -> None:
        bad = "nul \x00 and half \ud800"
        with store.transaction() as tx:
            history = [(1.0, "failed", bad)]
            tx.jobs.save([Row(id="good"), Row(id="bad", reason=bad, error=bad, tags=bad, history=history)])
            tx.log_lines.add([("bad", 1.0, 1, bad)])
            tx.dead_letters.add(
                "p", at=1.0, origin="log", reason=bad, body=b"\x00\xff", exchange="", key="", type="", message_id=""
            )
        row = store.reader.jobs.get("bad")
        assert row is not None
        assert row.reason.startswith("nul ")
        assert "\ud800" not in row.reason
        assert "\ud800" not in row.history[0][2]
        assert store.reader.jobs.get("good") == Row(id="good")
        assert store.reader.dead_letters.oldest()[0].body == b"\x00\xff"

    def test_a_history_keeps_its_newest_entries(self, store: Store) -> None:
        history = [(float(n), "scheduled", "x" * 5000) for n in range(HISTORY_MAX + 50)]
        with store.transaction() as tx:
            tx.jobs.save([Row(id="j", history=history)])
        row = store.reader.jobs.get("j")
        assert row is not None
        assert [at for at, _, _ in row.history] == [float(n) for n in range(50, HISTORY_MAX + 50)]
        assert sum(len(reason) for _, _, reason in row.history) < 100_000

    def test_a_release_is_confirmed_of_its_own_epoch_while_it_is_being_published(self, store: Store) -> None:
        sent: dict[str, Any] = {"state": State.ENQUEUED, "publication": Publication.PUBLISHING, "sender": "c1"}
        with store.transaction() as tx:
            tx.jobs.save([Row(id="a", epoch=1, **sent), Row(id="b", epoch=2, **sent), Row(id="c", epoch=2, **sent)])
            tx.jobs.save([Row(id="ended", epoch=1, state=State.SUCCEEDED)])
        with store.transaction() as tx:
            tx.jobs.confirm([("a", 1), ("b", 1), ("c", 2), ("ended", 1), ("unknown", 1)])
        with store.transaction() as tx:
            rows = tx.jobs.load(["a", "b", "c", "ended"])
        found = {id: (row.publication, row.sender) for id, row in rows.items()}
        published, publishing = (Publication.PUBLISHED, None), (Publication.PUBLISHING, "c1")
        assert found == {"a": published, "b": publishing, "c": published, "ended": (Publication.NONE, None)}

    def test_many_rows_are_saved_and_loaded_in_chunks(self, store: Store) -> None:
        ids = [f"j{n:05}" for n in range(4_501)]
        with store.transaction() as tx:
            tx.jobs.save(Row(id=id) for id in ids)
            assert sorted(tx.jobs.load(ids)) == ids
        assert store.reader.statistics.counts()[State.ENQUEUED] == 4_501

    def test_of_a_row_saved_twice_at_once_the_last_one_counts(self, store: Store) -> None:
        with store.transaction() as tx:
            tx.jobs.save([Row(id="j"), Row(id="j", state=State.FAILED, queue="other")])
        assert kept(store) == in_database(store) == Counter({("other", "failed"): 1})

    # The lock, the commit, the serial

    def test_an_exception_leaves_nothing(self, store: Store) -> None:
        with pytest.raises(ZeroDivisionError), store.transaction() as tx:  # noqa: PT012  # where it raises is the point
            tx.jobs.save([Row(id="j", queue="q")])
            tx.meta.log_time = 99.0
            tx.audit.add("c", at=1.0, by="", kind="k", subject="s")
            raise ZeroDivisionError
        assert store.reader.jobs.get("j") is None
        assert store.reader.statistics.counts()[State.ENQUEUED] == 0
        assert store.reader.queues.all() == {}
        assert store.reader.audit.newest() == []
        assert (store.reader.meta().serial, store.reader.meta().log_time) == (0, 0.0)

    def test_the_serial_grows_by_one_with_each_transaction_that_wrote(self, store: Store) -> None:
        def serial_after(write: Any) -> int:
            with store.transaction() as tx:
                write(tx)
            assert tx.meta == store.reader.meta()
            return tx.meta.serial

        assert serial_after(lambda tx: tx.jobs.load(["j"])) == 0
        assert serial_after(lambda tx: tx.jobs.save([Row(id="j"), Row(id="k")])) == 1
        assert serial_after(lambda tx: tx.jobs.save([])) == 1
        assert serial_after(lambda tx: setattr(tx.meta, "log_time", 5.0)) == 2
        assert serial_after(lambda tx: tx.audit.add("c", at=1.0, by="", kind="k", subject="s")) == 3
        assert serial_after(lambda tx: tx.audit.add("c", at=1.0, by="", kind="k", subject="s")) == 3

    def test_changed_fields_of_meta_are_kept(self, store: Store) -> None:
        with store.transaction() as tx:
            before = replace(tx.meta)
            tx.meta.log_time, tx.meta.last_tick_at = 1.5, 2.5
            tx.meta.control_version, tx.meta.schedules_version, tx.meta.accepted_serial = 3, 4, 5
        want = replace(
            before, log_time=1.5, last_tick_at=2.5, control_version=3, schedules_version=4, accepted_serial=5
        )
        assert store.reader.meta() == replace(want, serial=1)
        assert len(before.store_id) == 32

    def test_one_transaction_at_a_time(self, store: Store) -> None:
        inside = threading.Lock()

        def add(_: int) -> None:
            with store.transaction() as tx:
                assert inside.acquire(blocking=False), "two inside at once"
                row = tx.jobs.load(["j"]).get("j", Row(id="j"))
                tx.jobs.save([row.evolve(crashes=row.crashes + 1)])
                inside.release()

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(add, range(80)))
        row = store.reader.jobs.get("j")
        assert row is not None
        assert row.crashes == 80
        assert store.reader.meta().serial == 80

    # What the coordinator looks for

    def test_due_jobs_are_scheduled_and_off_the_wire_earliest_first(self, store: Store) -> None:
        with store.transaction() as tx:
            scheduled = State.SCHEDULED
            tx.jobs.save(
                [
                    Row(id="late", state=scheduled, due_at=30.0),
                    Row(id="second", state=scheduled, due_at=20.0, grace_until=5.0),
                    Row(id="first", state=scheduled, due_at=10.0),
                    Row(id="out", state=scheduled, due_at=10.0, publication=Publication.PUBLISHED),
                    Row(id="running", state=State.PROCESSING, due_at=10.0),
                    Row(id="timeless", state=scheduled),
                ]
            )
            assert tx.due.jobs(20.0, 10) == [(10.0, "first"), (20.0, "second")]
            assert tx.due.jobs(20.0, 1) == [(10.0, "first")]
            assert tx.due.graces(4.9, 10) == []
            assert tx.due.graces(5.0, 10) == ["second"]

    def test_what_is_on_the_wire_and_with_whom(self, store: Store) -> None:
        processing = State.PROCESSING
        with store.transaction() as tx:
            tx.jobs.save(
                [
                    Row(id="a", publication=Publication.PUBLISHING, sender="c1", fence=1),
                    Row(id="b", publication=Publication.PUBLISHED, fence=2, released_at=50.0),
                    Row(id="c", fence=3),
                    Row(id="d", publication=Publication.PUBLISHED, state=processing, owner="w1", created_at=1.0),
                    Row(
                        id="e",
                        publication=Publication.PUBLISHED,
                        state=processing,
                        owner="w2",
                        reason_code=Reason.CANCEL,
                        created_at=1.0,
                    ),
                    Row(id="f", publication=Publication.PUBLISHED, state=State.SUCCEEDED, owner="w3", created_at=10.0),
                    Row(id="g", publication=Publication.PUBLISHED, queue="other", created_at=10.0),
                ]
            )
            assert tx.in_flight.publishing() == [("a", "c1")]
            assert tx.in_flight.fences() == [("a", 1), ("b", 2), ("c", 3)]
            assert tx.in_flight.owners() == ["w1", "w2"]
            assert tx.in_flight.owned_by("w2") == ["e"]
            assert tx.in_flight.cancels() == ["e"]
            assert tx.in_flight.out_since("default", 49.0, 10) == ["f"]
            assert tx.in_flight.out_since("default", 50.0, 10) == ["f", "b"]
            assert tx.in_flight.out_since("default", 50.0, 1) == ["f"]

    def test_open_runs_of_a_recurring_job_are_counted_and_none_leaves_no_row(self, store: Store) -> None:
        with store.transaction() as tx:
            assert tx.schedules.open_runs("weekly") == 0
            tx.schedules.add_open_runs({"weekly": 2, "daily": 1, "hourly": 0})
            tx.schedules.add_open_runs({"weekly": 1, "daily": -1})
            assert [tx.schedules.open_runs(name) for name in ("weekly", "daily", "hourly")] == [3, 0, 0]
            assert tx._connection.execute(text("SELECT name FROM open_runs")).scalars().all() == ["weekly"]

    # The ledger

    def test_a_command_is_applied_once(self, store: Store) -> None:
        for applied in (True, False):
            with store.transaction() as tx:
                assert tx.audit.detail("c") == (None if applied else "d")
                assert tx.audit.add("c", at=1.0, by="me", kind="delete", subject="j", detail="d") is applied
        assert [(a.id, a.by, a.kind, a.subject, a.detail) for a in store.reader.audit.newest()] == [
            ("c", "me", "delete", "j", "d")
        ]

    def test_a_schedule_is_put_replaced_and_removed(self, store: Store) -> None:
        row = ScheduleRow(
            "weekly", "0 9 * * MON", "Europe/Istanbul", "all", "queue", '{"v":1}', "shop", 2, True, 3.5, "j", 1.5, 2.5
        )
        with store.transaction() as tx:
            tx.schedules.save(replace(row, version=1, paused=False))
            tx.schedules.save(row)
            assert tx.schedules.get("weekly") == row
            assert tx.schedules.all() == [row]
            assert tx.schedules.get("daily") is None
        assert store.reader.schedules.all() == [row]
        with store.transaction() as tx:
            assert tx.schedules.remove("weekly") is True
            assert tx.schedules.remove("weekly") is False

    def test_a_queue_is_known_once_seen_declared_or_paused(self, store: Store) -> None:
        with store.transaction() as tx:
            tx.jobs.save([Row(id="j", queue="seen")])
            tx.queues.declare(["declared", "seen"])
            assert tx.queues.pause("paused", False) is False
            assert tx.queues.pause("paused", True) is True
            assert tx.queues.pause("paused", True) is False
            assert tx.queues.paused() == ["paused"]
        assert store.reader.queues.all() == {"declared": False, "paused": True, "seen": False}
        with store.transaction() as tx:
            tx.jobs.save([Row(id="k", queue="paused")])
            assert tx.queues.names() == ["declared", "paused", "seen"]
            assert tx.queues.paused() == ["paused"]
            assert tx.queues.pause("paused", False) is True
            assert tx.queues.paused() == []

    def test_the_first_dead_lettered_message_of_an_id_stays(self, store: Store) -> None:
        with store.transaction() as tx:
            for body in (b"\xff\x00first", b"second"):
                tx.dead_letters.add(
                    "p", at=1.5, origin="log", reason="r", body=body, exchange="e", key="k", type="t", message_id="m"
                )
            (row,) = tx.dead_letters.oldest(10)
        assert (row.at, row.origin, row.body, row.exchange, row.key, row.type, row.message_id) == (
            (1.5, "log", b"\xff\x00first", "e", "k", "t", "m")
        )
        assert (store.reader.dead_letters.oldest(), store.reader.dead_letters.count()) == ([row], 1)
        with store.transaction() as tx:
            tx.dead_letters.drop("p")
        assert store.reader.dead_letters.oldest() == []

    def test_a_worker_is_saved_replaced_and_removed(self, store: Store) -> None:
        worker = WorkerRow(
            "w", "host", "0", 7, ("a", "b"), 16, 3, 9, 1.5, 2**33, "1.0", busy="busy", started_at=1.25, seen_at=2.25,
            silent_since=2.0, problem="may not read", served=("a:2", "b:1"), queue_limits={"a": 1}, lost=True,
        )  # fmt: skip
        with store.transaction() as tx:
            tx.processes.save_worker(WorkerRow("w"))
            tx.processes.save_worker(worker)
            assert tx.processes.workers() == [worker]
        assert store.reader.processes.workers() == [worker]
        with store.transaction() as tx:
            tx.processes.remove_worker("w")
        assert store.reader.processes.workers() == []

    def test_a_line_that_comes_twice_is_kept_once(self, store: Store) -> None:
        lines = [
            ("j", 2.0, 1, "b"),
            ("j", 1.0, 1, "a"),
            ("j", 1.0, 1, "a2"),
            ("j", 0.5, 2, "again"),
            ("k", 1.0, 1, "a"),
        ]
        for _ in range(2):
            with store.transaction() as tx:
                tx.log_lines.add(lines)
        assert store.reader.log_lines.of("j") == [
            LogLineRow(1.0, 1, "a"),
            LogLineRow(1.0, 1, "a2"),
            LogLineRow(2.0, 1, "b"),
            LogLineRow(0.5, 2, "again"),
        ]

    # Retention

    def test_only_what_ended_long_ago_and_has_nothing_on_its_way_is_purged(self, store: Store) -> None:
        gone = [
            ended("old"),
            ended("old failed", State.FAILED, at=50.0),
            ended("copy gone", copy_until=999.0),
            Row(id="tombstone", state=State.DELETED, changed_at=100.0),
        ]
        stay = [
            ended("new", at=901.0),
            ended("failed is kept longer", State.FAILED),
            ended("out", publication=Publication.PUBLISHED),
            ended("sending", publication=Publication.PUBLISHING),
            ended("in grace", grace_until=11.0),
            ended("grace over, and not looked at", grace_until=10.0),
            ended("copy in the delay queues", copy_until=1000.5),
            Row(id="requeued", state=State.SCHEDULED, ended_at=100.0),
        ]
        with store.transaction() as tx:
            tx.meta.log_time = 10.0
            tx.jobs.save(gone + stay)
            tx.log_lines.add([("old", 1.0, 1, "x"), ("new", 1.0, 1, "x")])
            tx.audit.add("ancient", at=1.0, by="", kind="k", subject="s")
            tx.audit.add("recent", at=900.0, by="", kind="k", subject="s")
        with store.transaction() as tx:
            keep = {"keep_succeeded": 100.0, "keep_deleted": 100.0, "keep_failed": 940.0}
            assert tx.purge(now=1000.0, limit=100, progress=None, **keep) == 4
            assert tx.purge(now=1000.0, limit=100, progress=None, **keep) == 0
        assert {row.id for row in store.reader.jobs.newest(limit=100)} == {row.id for row in stay}
        assert kept(store) == in_database(store)
        assert (store.reader.log_lines.of("old"), len(store.reader.log_lines.of("new"))) == ([], 1)
        assert [row.id for row in store.reader.audit.newest()] == ["recent"]

    def test_a_purged_id_may_come_again(self, store: Store) -> None:
        with store.transaction() as tx:
            tx.jobs.save([ended("j")])
            assert tx.purge(now=1000.0, keep_succeeded=1, keep_deleted=1, keep_failed=1, limit=10) == 1
            tx.jobs.save([Row(id="j")])
        assert kept(store) == in_database(store) == Counter({("default", "enqueued"): 1})

    # Reading

    def test_jobs_are_listed_newest_first_by_page_and_filter(self, store: Store) -> None:
        with store.transaction() as tx:
            tx.jobs.save(Row(id=f"j{n}", job=f"shop.j{n % 2}", queue="q" if n < 3 else "r") for n in range(6))
            tx.jobs.save([ended("k%", job="x_y", queue="q", tags="blue", parent="j1", batch="b", recurring="r")])

        def found(**filters: Any) -> list[str]:
            return [row.id for row in store.reader.jobs.newest(**filters)]

        assert found(limit=3) == ["k%", "j5", "j4"]
        assert found(limit=3, before_id="j4") == ["j3", "j2", "j1"]
        assert found(state="succeeded") == found(state=State.SUCCEEDED) == ["k%"]
        assert found(queue="q", name="shop.j0") == ["j2", "j0"]
        assert found(search="j3") == ["j3"]
        assert found(search="shop.j1") == ["j5", "j3", "j1"]
        assert found(search="k%") == found(search="_") == found(search="blue") == ["k%"]
        assert found(search="%") == found(search="j_") == []
        assert found(parent="j1") == found(batch="b") == found(recurring="r") == ["k%"]

    def test_outcomes_are_counted_by_minute_once(self, store: Store) -> None:
        with store.transaction() as tx:
            tx.jobs.save([ended("a", at=61.0), ended("b", at=119.9), ended("c", State.FAILED, at=120.0), Row(id="d")])
        with store.transaction() as tx:
            tx.jobs.save([ended("a", at=61.0)])
            tx.jobs.save([ended("d", at=125.0)])
        assert store.reader.statistics.throughput(0.0) == [
            (60.0, State.SUCCEEDED, 2),
            (120.0, State.FAILED, 1),
            (120.0, State.SUCCEEDED, 1),
        ]
        assert store.reader.statistics.throughput(120.0, 120.0) == []

    # Opening

    def test_the_steps_make_the_tables_this_version_names(self, url: str) -> None:
        store = Store(url)
        store.open()
        with store._reading() as connection:
            found = inspect(connection)
            assert set(found.get_table_names()) == set(schema.metadata.tables)
            for name, table in schema.metadata.tables.items():
                columns = {column["name"]: column["nullable"] for column in found.get_columns(name)}
                assert list(columns) == [column.name for column in table.columns], name
                assert found.get_pk_constraint(name)["constrained_columns"] == [c.name for c in table.primary_key], name
                for column in table.columns:
                    if not column.primary_key:
                        assert columns[column.name] == column.nullable, f"{name}.{column.name}"
        assert tuple(column.name for column in schema.jobs.columns) == COLUMNS
        store.close()

    def test_opening_and_closing_twice_is_tolerated(self, url: str) -> None:
        store = Store(url)
        store.close()
        store.open()
        store.open()
        store.close()
        store.close()

    def test_a_closed_store_says_so(self, url: str) -> None:
        store = Store(url)
        with pytest.raises(StoreError, match="is not open"), store.transaction():
            pass
        with pytest.raises(StoreError, match="is not open"):
            store.reader.statistics.counts()

    def test_a_broken_table_is_a_store_error(self, store: Store) -> None:
        with pytest.raises(StoreError, match="cannot be used"), store.transaction() as tx:
            tx._connection.execute(text("SELECT * FROM no_such_table"))
        with store.transaction() as tx:
            tx.jobs.save([Row(id="j")])
        assert store.reader.jobs.get("j") is not None

    def test_holds_on_what_is_not_there_are_found_by_their_age_whatever_time_an_id_tells(self, store: Store) -> None:
        old = "018bcfe5-6800-7000-8000-000000000000"
        dependencies = [
            DependencyRow("1", "job", "unknown", "succeeded", False, since=10.0),
            DependencyRow("2", "job", "unknown", "succeeded", False, since=30.0),
            DependencyRow("3", "job", "known", "succeeded", False, since=10.0),
            DependencyRow("4", "job", "unknown", "succeeded", True, since=10.0),
            DependencyRow("5", "job", old, "succeeded", False, since=30.0),
            DependencyRow("8", "batch", "unknown", "succeeded", False, since=10.0),
            DependencyRow("9", "batch", "known", "succeeded", False, since=10.0),
            DependencyRow("a", "open", "unknown", "opened", False, since=10.0),
        ]
        with store.transaction() as tx:
            tx.jobs.save([Row(id="known")])
            tx.batches.save([BatchRow("known")])
            tx.dependencies.add(dependencies)
        since = LogTime(20.0)
        found, last = store.reader.dependencies.unknown_parents(since=since, after=("", "", ""), limit=10)
        assert ([dependency.holder for dependency in found], last) == (["1", "8"], None)
        assert found[0] == dependencies[0]
        found, last = store.reader.dependencies.unknown_parents(since=since, after=("", "", ""), limit=3)
        assert ([dependency.holder for dependency in found], last) == (["1"], ("3", "job", "known"))
        found, last = store.reader.dependencies.unknown_parents(since=since, after=("3", "job", "known"), limit=10)
        assert ([dependency.holder for dependency in found], last) == (["8"], None)


class LastingStoreRules(StoreRules):
    """The rules of a store that outlives its process: several may open it."""

    def test_what_was_committed_is_there_after_opening_again(self, url: str) -> None:
        first = Store(url)
        first.open()
        with first.transaction() as tx:
            tx.jobs.save([FULL])
        first.close()
        second = Store(url)
        second.open()
        assert second.reader.jobs.get(FULL.id) == FULL
        assert second.reader.meta().serial == 1
        second.close()

    def test_several_that_start_at_once_make_one_store(self, url: str) -> None:
        together = threading.Barrier(5)

        def start(_: int) -> str:
            store = Store(url)
            together.wait()
            store.open()
            try:
                return store.reader.meta().store_id
            finally:
                store.close()

        with ThreadPoolExecutor(5) as pool:
            assert len(set(pool.map(start, range(5)))) == 1

    def test_the_lock_is_between_stores_too(self, url: str) -> None:
        stores = [Store(url) for _ in range(3)]
        for store in stores:
            store.open()

        def add(store: Store) -> None:
            for _ in range(20):
                with store.transaction() as tx:
                    row = tx.jobs.load(["j"]).get("j", Row(id="j"))
                    tx.jobs.save([row.evolve(crashes=row.crashes + 1)])

        with ThreadPoolExecutor(3) as pool:
            list(pool.map(add, stores))
        row = stores[0].reader.jobs.get("j")
        assert row is not None
        assert row.crashes == 60
        for store in stores:
            store.close()

    def test_reading_does_not_wait_for_the_writer(self, store: Store) -> None:
        with store.transaction() as tx:
            tx.jobs.save([Row(id="j")])
            with ThreadPoolExecutor(1) as pool:
                assert pool.submit(store.reader.jobs.get, "j").result(timeout=20) is None
        assert store.reader.jobs.get("j") is not None

    def test_a_missing_step_is_applied_and_the_data_stays(self, url: str) -> None:
        old = Store(url)
        old.open()
        with old.transaction() as tx:
            tx.jobs.save([FULL])

        def second(connection: Connection) -> None:
            connection.execute(text("CREATE TABLE added (id INTEGER)"))

        new = Store(url, steps=(*STEPS, second))
        new.open()
        assert new.reader.meta().schema == len(STEPS) + 1
        assert new.reader.jobs.get(FULL.id) == FULL
        with new.transaction() as tx:
            tx._connection.execute(text("INSERT INTO added VALUES (1)"))
        # One that was open all the time stops rather than write what it does not know.
        said = f"the store has schema {len(STEPS) + 1}, this program knows {len(STEPS)}: upgrade this program"
        with pytest.raises(StoreError, match=said), old.transaction():
            pass
        with pytest.raises(StoreError, match="upgrade this program"):
            Store(url).open()
        old.close()
        new.close()

    def test_a_step_that_fails_leaves_nothing(self, url: str) -> None:
        def broken(connection: Connection) -> None:
            connection.execute(text("CREATE TABLE half (id INTEGER)"))
            connection.execute(text("SELECT * FROM no_such_table"))

        with pytest.raises(StoreError, match="no_such_table"):
            Store(url, steps=(*STEPS, broken)).open()
        store = Store(url)
        store.open()
        with store._reading() as connection:
            assert not inspect(connection).has_table("half")
        store.close()
