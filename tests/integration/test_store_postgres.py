import random
import threading
from collections.abc import Callable

import pytest
from sqlalchemy import Connection, text

pytest.register_assert_rewrite(
    "tests.unit.store.store_rules",
    "tests.unit.store.attempt_rules",
    "tests.unit.store.reading_rules",
    "tests.unit.store.line_rules",
    "tests.unit.store.retention_rules",
    "tests.unit.store.plain_job_rules",
)

from broker_jobs.errors import StoreError  # noqa: E402
from broker_jobs.messages.state import State  # noqa: E402
from broker_jobs.store import (  # noqa: E402
    Row,
    Store,
    attempts,
    dependencies,
    due,
    jobs,
    lines,
    retention,
    schema,
    unique_keys,
)
from broker_jobs.store.lines import LimitLineRow, LineEntry, Stage  # noqa: E402
from broker_jobs.store.migrations import STEPS  # noqa: E402
from broker_jobs.store.open import StoreRefusedError  # noqa: E402
from broker_jobs.store.row import Publication  # noqa: E402
from broker_jobs.store.write import Transaction  # noqa: E402
from tests.support.postgres import Postgres  # noqa: E402
from tests.support.wait import eventually  # noqa: E402
from tests.unit.store.attempt_rules import AttemptRules  # noqa: E402
from tests.unit.store.line_rules import LineRules  # noqa: E402
from tests.unit.store.plain_job_rules import PlainJobRules  # noqa: E402
from tests.unit.store.plans import explained, statements_of  # noqa: E402
from tests.unit.store.reading_rules import ReadingRules  # noqa: E402
from tests.unit.store.retention_rules import RetentionRules  # noqa: E402
from tests.unit.store.store_rules import LastingStoreRules  # noqa: E402

pytestmark = pytest.mark.postgres

LONG = "".join(random.Random(1).choices("abcdefghijklmnopqrstuvwxyz0123456789", k=6_000))
"""A text that no compression makes short."""


class TestPostgresReading(ReadingRules):
    @pytest.fixture
    def url(self, postgres_url: str) -> str:
        return postgres_url


class TestPostgresAttempts(AttemptRules):
    @pytest.fixture
    def url(self, postgres_url: str) -> str:
        return postgres_url


class TestPostgresPlainJobs(PlainJobRules):
    @pytest.fixture
    def url(self, postgres_url: str) -> str:
        return postgres_url


class TestPostgresLines(LineRules):
    @pytest.fixture
    def url(self, postgres_url: str) -> str:
        return postgres_url


class TestPostgresRetention(RetentionRules):
    @pytest.fixture
    def url(self, postgres_url: str) -> str:
        return postgres_url


class TestPostgres(LastingStoreRules):
    @pytest.fixture
    def url(self, postgres_url: str) -> str:
        return postgres_url

    def test_tables_of_another_program_are_not_in_the_way(self, url: str) -> None:
        store = Store(url)
        store.open()
        with store._reading() as connection:
            assert connection.execute(text("SELECT current_schema()")).scalar_one() == "broker_jobs"
            assert connection.execute(text("SHOW synchronous_commit")).scalar_one() == "on"
        store.close()

    @pytest.mark.parametrize(
        "write",
        [
            # A key larger than a row of an index may be.
            lambda tx: tx.lines.save([LimitLineRow("concurrency:" + LONG, "concurrency")], [], [], []),
            lambda tx: tx.schedules.get("a null \x00 character"),
            lambda tx: tx.jobs.load(["a null \x00 character"]),
            lambda tx: tx.lines.save([], [], [LineEntry("k", "j", 10**30, Stage.SLOT)], []),
        ],
    )
    def test_a_value_it_cannot_hold_is_no_outage(self, store: Store, write: Callable[[Transaction], object]) -> None:
        with pytest.raises(Exception, match=r"index|NUL|range") as refused, store.transaction() as tx:
            write(tx)
        assert not isinstance(refused.value, StoreError)
        assert LONG[:100] not in str(refused.value)
        with store.transaction() as tx:  # and it goes on
            tx.lines.save([LimitLineRow("concurrency:k", "concurrency")], [], [], [])

    @pytest.mark.parametrize(
        ("statement", "refused"),
        [
            ("DO $$ BEGIN RAISE EXCEPTION 'no'; END $$", True),
            ("SET LOCAL statement_timeout = 50; SELECT pg_sleep(5)", True),
            ("SELECT 1 FROM no_such_table", False),
            ("SET TRANSACTION READ ONLY; UPDATE meta SET serial = 1", False),
            ("SELECT pg_terminate_backend(pg_backend_pid())", False),
        ],
    )
    def test_an_error_that_may_be_of_the_data_is_told_from_an_outage(
        self, store: Store, statement: str, refused: bool
    ) -> None:
        def run() -> None:
            with store.transaction() as tx:
                for part in [statement] if "$$" in statement else statement.split("; "):
                    tx._connection.exec_driver_sql(part)

        with pytest.raises(StoreError) as raised:
            run()
        assert isinstance(raised.value, StoreRefusedError) is refused

    def test_what_is_in_use_when_the_store_is_closed_is_closed_after_its_use(self, store: Store, url: str) -> None:
        other = Store(url)
        other.open()
        with other._reading() as reading, other.transaction() as tx:
            tx.jobs.save([Row(id="j", crashes=7)])
            reading.execute(text("SELECT 1"))
            other.close()
        with store._reading() as connection:
            there = text("SELECT count(*) FROM pg_stat_activity WHERE datname = :name AND pid <> pg_backend_pid()")
            name = connection.execute(text("SELECT current_database()")).scalar_one()
            # The one that is left is the store's own, which it writes with.
            assert eventually(lambda: connection.execute(there, {"name": name}).scalar_one() == 1)
            assert connection.execute(text("SELECT crashes FROM jobs WHERE id = 'j'")).scalar_one() == 7

    def test_the_second_waits_for_the_first_and_sees_what_it_wrote(self, store: Store, url: str) -> None:
        other = Store(url)
        other.open()
        seen: list[int] = []

        def second() -> None:
            with other.transaction() as tx:
                seen.append(tx.jobs.load(["j"])["j"].crashes)

        thread = threading.Thread(target=second)
        with store.transaction() as tx:
            tx.jobs.save([Row(id="j", crashes=7)])
            thread.start()
            waiting = text("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = :name")
            with store._reading() as connection:
                name = connection.execute(text("SELECT current_database()")).scalar_one()
                eventually(
                    lambda: connection.execute(waiting, {"name": name}).scalar_one() == 1, what="the second waits"
                )
            assert seen == []
        thread.join(timeout=20)
        assert seen == [7]
        other.close()

    def test_a_migration_takes_its_turn_before_it_touches_tables_a_coordinator_is_at(
        self, store: Store, url: str
    ) -> None:
        touched = threading.Event()

        def step(connection: Connection) -> None:
            connection.exec_driver_sql("ALTER TABLE jobs ADD COLUMN added BIGINT")
            touched.set()

        newer = Store(url, steps=(*STEPS, step))
        thread = threading.Thread(target=newer.open)
        with store.transaction() as tx:
            thread.start()
            waiting = text("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = :name")
            with store._reading() as connection:
                name = connection.execute(text("SELECT current_database()")).scalar_one()
                eventually(
                    lambda: connection.execute(waiting, {"name": name}).scalar_one() == 1, what="the newer one waits"
                )
            assert not touched.is_set()
            tx.jobs.save([Row(id="j")])
        thread.join(timeout=20)
        assert touched.is_set()
        assert newer.reader.jobs.get("j") is not None
        newer.close()

    def test_after_an_outage_the_store_works_again_by_itself(self, store: Store, postgres: Postgres) -> None:
        with store.transaction() as tx:
            tx.jobs.save([Row(id="before")])
        postgres.stop()
        with pytest.raises(StoreError, match=r"cannot be used"), store.transaction():
            pass
        with pytest.raises(StoreError, match=r"cannot be used"):
            store.reader.statistics.counts()
        postgres.start()
        assert store.reader.jobs.get("before") is not None
        with store.transaction() as tx:
            tx.jobs.save([Row(id="after")])
        assert store.reader.meta().serial == 2


SMALL = {"components"}
"""A row for each program."""


def test_every_query_under_the_lock_can_be_answered_by_an_index(postgres_url: str) -> None:
    store = Store(postgres_url)
    store.open()
    wrong: list[str] = []
    try:
        with store.transaction() as tx:
            # Of an empty table a scan is cheaper: only where no index serves is it chosen now.
            tx._connection.execute(text("SET LOCAL enable_seqscan = off"))
            for name, query in statements_of(due, lines, unique_keys, dependencies, retention, attempts):
                for (line,) in explained(tx._connection, "EXPLAIN", query, "1"):
                    scanned = line.partition("Seq Scan on ")[2].partition(" ")[0]
                    if scanned in schema.metadata.tables and scanned not in SMALL:
                        wrong.append(f"{name}: {line}")
    finally:
        store.close()
    assert wrong == []


def test_one_dependency_is_found_by_its_holder_not_among_all_that_wait_for_its_target(postgres_url: str) -> None:
    """PostgreSQL plans by what it knew of a table: of an empty one, before a large batch, each index is as good."""
    one = (dependencies._PHASE, dependencies._OPEN_AGAIN, dependencies._DROP_DEPENDENCY, dependencies._UNSATISFIED)
    store = Store(postgres_url)
    store.open()
    try:
        with store.transaction() as tx:
            tx._connection.execute(text("SET LOCAL enable_seqscan = off"))
            by_job = "\n".join(line for (line,) in explained(tx._connection, "EXPLAIN", lines._DROP_ENTRY, "1"))
            assert "Index Cond: (job_id = " in by_job
            for query in one:
                plan = "\n".join(line for (line,) in explained(tx._connection, "EXPLAIN", query, "1"))
                assert "Index Cond: (holder = " in plan, f"{query}: {plan}"
    finally:
        store.close()


def test_a_release_is_confirmed_by_its_job_not_among_all_that_are_being_published(postgres_url: str) -> None:
    store = Store(postgres_url)
    store.open()
    try:
        with store.transaction() as tx:
            many = [
                Row(f"j{n}", "", "default", State.ENQUEUED, publication=Publication.PUBLISHING) for n in range(2_000)
            ]
            tx.jobs.save(many)
            tx._connection.execute(text("SET LOCAL enable_seqscan = off"))
            explain = f"EXPLAIN {jobs._CONFIRM_POSTGRESQL}"
            plan = "\n".join(line for (line,) in tx._connection.exec_driver_sql(explain, (["j1", "j2"], 1)))
            assert "Index Cond: (id = ANY" in plan, plan
    finally:
        store.close()


def test_an_absent_server_is_a_store_error_without_the_password() -> None:
    store = Store("postgresql+psycopg://me:secret@127.0.0.1:1/db")
    with pytest.raises(StoreError, match=r"me:\*\*\*@127\.0\.0\.1:1/db cannot be used: connection failed") as caught:
        store.open()
    assert "secret" not in str(caught.value)
