import gc
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from sqlalchemy import TextClause, text

pytest.register_assert_rewrite("tests.unit.store.store_rules")

from broker_jobs.errors import StoreError  # noqa: E402
from broker_jobs.store import (  # noqa: E402
    Row,
    Store,
    attempts,
    database,
    dependencies,
    dependency_graph,
    due,
    lines,
    retention,
    schema,
    unique_keys,
)
from tests.unit.store.plans import explained, statements_of  # noqa: E402
from tests.unit.store.store_rules import LastingStoreRules, StoreRules  # noqa: E402


class TestInMemory(StoreRules):
    @pytest.fixture
    def url(self) -> str:
        return "sqlite://"

    def test_two_stores_in_memory_are_apart(self, store: Store) -> None:
        other = Store("sqlite://")
        other.open()
        with other.transaction() as tx:
            tx.jobs.save([Row(id="j")])
        assert store.reader.jobs.get("j") is None
        other.close()

    def test_reading_inside_a_transaction_of_the_same_thread_works(self, store: Store) -> None:
        with store.transaction() as tx:
            tx.jobs.save([Row(id="j")])
            assert store.reader.jobs.get("j") == Row(id="j")
        assert store.reader.jobs.get("j") == Row(id="j")


class TestFile(LastingStoreRules):
    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return f"sqlite:///{tmp_path / 'new folder' / 'store.db'}"

    def test_a_commit_survives_a_power_cut(self, store: Store) -> None:
        with store._engines[0].connect() as connection:  # type: ignore[index]
            raw: Any = connection.connection.dbapi_connection
            assert raw.execute("PRAGMA synchronous").fetchone() == (2,)
            assert raw.execute("PRAGMA journal_mode").fetchone() == ("wal",)
            assert raw.execute("PRAGMA foreign_keys").fetchone() == (0,)

    def test_the_lock_is_between_processes_too(self, store: Store, url: str) -> None:
        program = (
            "import sys; from broker_jobs.store import Store, Row\n"
            "store = Store(sys.argv[1]); store.open()\n"
            "for _ in range(25):\n"
            "    with store.transaction() as tx:\n"
            "        row = tx.jobs.load(['j']).get('j', Row(id='j'))\n"
            "        tx.jobs.save([row.evolve(crashes=row.crashes + 1)])\n"
            "store.close()\n"
        )
        started = [subprocess.Popen([sys.executable, "-c", program, url]) for _ in range(3)]
        assert [process.wait(timeout=60) for process in started] == [0, 0, 0]
        row = store.reader.jobs.get("j")
        assert row is not None
        assert row.crashes == 75

    def test_a_transaction_inside_another_is_refused(self, store: Store) -> None:
        with store.transaction() as tx:
            tx.jobs.save([Row(id="j")])
            with pytest.raises(RuntimeError, match="inside a transaction"), store.transaction():
                pass
        assert store.reader.jobs.get("j") is not None

    def test_readers_cannot_write(self, store: Store) -> None:
        with pytest.raises(StoreError, match="readonly"), store._reading() as connection:
            connection.execute(text("DELETE FROM jobs"))

    def test_a_file_that_is_no_database_is_a_store_error(self, tmp_path: Path) -> None:
        path = tmp_path / "letter.txt"
        path.write_text("Dear sir or madam, " * 100)
        with pytest.raises(StoreError, match="not a database"):
            Store(f"sqlite:///{path}").open()

    def test_a_folder_that_cannot_be_made_is_a_store_error(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(StoreError, match="cannot be made"):
            Store(f"sqlite:///{tmp_path}/file/store.db").open()


@pytest.fixture
def connection() -> Iterator[Any]:
    store = Store("sqlite://")
    store.open()
    with store.transaction() as tx:
        yield tx._connection
    store.close()


OWN = (retention._OVER, retention._RESULTS_OVER)


@pytest.mark.parametrize(
    ("query", "index"),
    [
        (due._DUE, "jobs_soon"),
        (due._GRACE_OVER, "jobs_grace"),
        (due._PUBLISHING, "jobs_publishing"),
        (due._OWNED_BY, "jobs_owner"),
        (due._OWNERS, "jobs_owner"),
        (due._FENCES, "jobs_fence"),
        (due._CANCELS, "jobs_cancel"),
        (due._OUT_SINCE, "jobs_out"),
        *((query, "jobs_changed") for query in retention._OLD.values()),
        (retention._OVER, "jobs_keep"),
        (retention._RESULTS_OVER, "jobs_result"),
        (text("SELECT id FROM jobs WHERE state = :state ORDER BY id DESC LIMIT 50"), "jobs_state"),
    ],
)
def test_what_the_coordinator_looks_for_is_found_by_an_index(connection: Any, query: Any, index: str) -> None:
    values = dict.fromkeys(query._bindparams, 1)
    plan = [row[3] for row in connection.execute(text(f"EXPLAIN QUERY PLAN {query.text}"), values)]
    assert any(f"INDEX {index}" in line for line in plan), plan
    if query not in (due._GRACE_OVER, due._OUT_SINCE, due._DUE, *retention._OLD.values(), *OWN):
        assert not any("TEMP B-TREE" in line for line in plan), plan


SCANS = {
    "due._PUBLISHING": "jobs_publishing",
    "due._FENCES": "jobs_fence",
    "dependencies._ANY_DEPENDENCY": "dependencies_holder",
    "dependencies._WORK_ITEMS": "work_items_target",
    "retention._FORGET_COMPONENTS": "components",
    "attempts._ERRORS": "attempts_at",
}
"""What reads an index from its beginning: all of a small one, or as much as the limit says."""
SORTS = {"due._DUE", "lines._STARTS_OF", "retention._OLD", "retention._OLD_RATES", "retention._OVER"} | {
    "retention._OLD_BATCHES",
    "retention._RESULTS_OVER",
    "attempts._ERRORS",
    "dependencies.UNKNOWN_PARENTS",
    "lines._WAITED_FOR",
}
"""What sorts a page that a limit has cut, or drops what it found twice."""


@pytest.mark.parametrize(
    ("name", "query"), statements_of(due, lines, unique_keys, dependencies, dependency_graph, retention, attempts)
)
def test_every_query_under_the_lock_is_a_seek(connection: Any, name: str, query: TextClause) -> None:
    for line in (row[3] for row in explained(connection, "EXPLAIN QUERY PLAN", query)):
        if line.startswith("SCAN ") and line.split()[1] in schema.metadata.tables:
            assert SCANS.get(name) in line.split(), f"{name}: {line}"
        assert "TEMP B-TREE" not in line or name in SORTS, f"{name}: {line}"


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("nonsense", "cannot be understood"),
        ("mysql://user:secret@host/db", "no store of kind 'mysql'"),
        ("sqlite:///file:x?mode=memory&uri=true", "not supported"),
    ],
)
def test_an_address_of_something_else_is_refused_with_an_example(url: str, said: str) -> None:
    with pytest.raises(StoreError, match=said) as caught:
        Store(url)
    assert "sqlite:///" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_what_is_in_use_when_the_store_is_closed_is_closed_after_its_use(tmp_path: Path) -> None:
    file = tmp_path / "store.db"
    store = Store(f"sqlite:///{file}")
    store.open()
    gc.disable()  # it would close what is left behind
    try:
        with store._reading() as reading, store.transaction() as tx:
            tx.jobs.save([Row(id="j")])
            reading.execute(text("SELECT 1"))
            store.close()
        assert str(file) not in {opened.path for opened in psutil.Process().open_files()}
    finally:
        gc.enable()


def test_passwords_are_masked() -> None:
    assert Store("postgresql://me:secret@host/db").url_masked == "postgresql+psycopg://me:***@host/db"


def test_a_store_on_a_network_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(
        "/dev/sda / ext4 rw 0 0\nserver:/x /home nfs4 rw 0 0\n/dev/sdb /home/local\\040disk ext4 rw 0 0\nbroken\n"
    )
    assert database.file_system_of(Path("/var/lib"), mounts) == "ext4"
    assert database.file_system_of(Path("/home/me"), mounts) == "nfs4"
    assert database.file_system_of(Path("/homeless"), mounts) == "ext4"
    assert database.file_system_of(Path("/home/local disk/me"), mounts) == "ext4"
    assert database.file_system_of(Path("/x"), tmp_path / "missing") == ""
    monkeypatch.setattr(database, "file_system_of", lambda _folder: "nfs4")
    with pytest.raises(StoreError, match="local disk, or use PostgreSQL"):
        Store(f"sqlite:///{tmp_path}/store.db").open()
