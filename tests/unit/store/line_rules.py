"""The rules of lines, rates and unique keys in the store, whatever database is behind it."""

from collections.abc import Iterator

import pytest

from broker_jobs.store import Row, Store
from broker_jobs.store.lines import LimitLineRow, LineEntry, Stage
from broker_jobs.store.unique_keys import UniqueKeyRow


class LineRules:
    """Subclasses give a fixture `url` (a fresh database for each test)."""

    @pytest.fixture
    def store(self, url: str) -> Iterator[Store]:
        store = Store(url)
        store.open()
        yield store
        store.close()

    # Lines

    def test_every_column_of_a_line_comes_back_as_it_was_saved(self, store: Store) -> None:
        full = LimitLineRow("rate:api", "rate", 3, 2, 5, 60.0, True, 1, 4, 9, 1_700_000_000.25)
        plain = LimitLineRow("concurrency:smtp", "concurrency")
        with store.transaction() as tx:
            tx.lines.save([full, plain], (), (), ())
        with store.transaction() as tx:
            found = {line.key: line for line in tx.lines.lines(["rate:api", "concurrency:smtp", "unknown"])}
        assert found == {"rate:api": full, "concurrency:smtp": plain}
        assert found["rate:api"].fixed is True

    def test_a_line_is_replaced_and_dropped(self, store: Store) -> None:
        with store.transaction() as tx:
            tx.lines.save(
                [LimitLineRow("ordered:a", "ordered", tail=1), LimitLineRow("ordered:b", "ordered")], (), (), ()
            )
            tx.lines.save([LimitLineRow("ordered:a", "ordered", tail=2)], ["ordered:b"], (), ())
            assert [(line.key, line.tail) for line in tx.lines.lines(["ordered:a", "ordered:b"])] == [("ordered:a", 2)]

    def test_the_limit_that_a_person_set_counts_even_if_it_is_0(self) -> None:
        assert LimitLineRow("k", "concurrency", limit_code=3).capacity == 3
        assert LimitLineRow("k", "concurrency", limit_code=3, limit_set=5).capacity == 5
        assert LimitLineRow("k", "concurrency", limit_code=3, limit_set=0).capacity == 0

    def test_entries_are_found_by_job_and_those_that_wait_by_place(self, store: Store) -> None:
        entries = [
            LineEntry("a", "j1", 3, Stage.WAITS),
            LineEntry("a", "j2", 1, Stage.SLOT),
            LineEntry("a", "j3", 2, Stage.WAITS),
            LineEntry("a", "j4", 4, Stage.TURN),
            LineEntry("a", "j5", 5, Stage.PLACE),
            LineEntry("b", "j1", 1, Stage.TURN),
        ]
        with store.transaction() as tx:
            tx.lines.save((), (), entries, ())
        with store.transaction() as tx:
            of = tx.lines.entries_of(["j1", "j2", "unknown"])
            assert sorted((entry.key, entry.job_id) for entry in of) == [("a", "j1"), ("a", "j2"), ("b", "j1")]
            assert {entry.stage for entry in of} == {Stage.WAITS, Stage.SLOT, Stage.TURN}
            assert type(of[0].stage) is Stage
            assert tx.lines.waiting("a", 0, 10) == [entries[2], entries[0]]
            assert tx.lines.waiting("a", 0, 1) == [entries[2]]
            assert tx.lines.waiting("a", 2, 10) == [entries[0]]
            assert (tx.lines.has_entries("a"), tx.lines.has_entries("c")) == (True, False)
            assert (tx.lines.count("a", 10), tx.lines.count("a", 2), tx.lines.count("c", 2)) == (5, 2, 0)

    def test_an_entry_is_moved_and_dropped(self, store: Store) -> None:
        with store.transaction() as tx:
            tx.lines.save((), (), [LineEntry("a", "j", 1, Stage.PLACE), LineEntry("a", "k", 2, Stage.PLACE)], ())
            tx.lines.save((), (), [LineEntry("a", "j", 1, Stage.SLOT)], [("a", "k")])
            assert tx.lines.entries_of(["j", "k"]) == [LineEntry("a", "j", 1, Stage.SLOT)]

    def test_more_keys_and_jobs_than_one_statement_takes_are_read(self, store: Store) -> None:
        with store.transaction() as tx:
            tx.lines.save(
                [LimitLineRow(f"k{n}", "ordered") for n in range(1_201)],
                (),
                [LineEntry(f"k{n}", f"j{n}", 1, Stage.PLACE) for n in range(1_201)],
                (),
            )
            assert len(tx.lines.lines([f"k{n}" for n in range(1_201)])) == 1_201
            assert len(tx.lines.entries_of([f"j{n}" for n in range(1_201)])) == 1_201

    def test_a_line_with_a_next_start_is_due_then_between_the_jobs(self, store: Store) -> None:
        with store.transaction() as tx:
            tx.lines.save(
                [
                    LimitLineRow("rate:a", "rate", next_at=20.0),
                    LimitLineRow("rate:b", "rate", next_at=40.0),
                    LimitLineRow("rate:c", "rate"),
                ],
                (),
                (),
                (),
            )
            assert tx.due.jobs(30.0, 10) == [(20.0, "#rate:a")]

    # The starts of rates

    def test_starts_are_counted_given_back_and_forgotten(self, store: Store) -> None:
        with store.transaction() as tx:
            tx.lines.add_starts([("r", float(n), f"j{n}", 1) for n in range(1, 6)])
            tx.lines.add_starts([("s", 5.0, "j5", 1)])
            assert tx.lines.latest_starts("r", 0, 2) == [5.0, 4.0]
            assert tx.lines.latest_starts("r", 3, 9) == [2.0, 1.0]
            assert (tx.lines.starts_since("r", 3.0), tx.lines.starts_since("t", 0.0)) == (3, 0)
            assert tx.lines.give_back_start("j5", 2) == []  # another release than the one that started
            assert sorted(tx.lines.give_back_start("j5", 1)) == ["r", "s"]
            assert tx.lines.latest_starts("r", 0, 9) == [4.0, 3.0, 2.0, 1.0]
            tx.lines.forget_starts("r", 4.0, 2)
            assert tx.lines.latest_starts("r", 0, 9) == [4.0, 3.0]
            tx.lines.forget_starts("r", 4.0, 2)
            assert tx.lines.latest_starts("r", 0, 9) == [4.0]

    def test_starts_of_the_same_moment_are_all_kept(self, store: Store) -> None:
        with store.transaction() as tx:
            tx.lines.add_starts([("r", 1.0, "j", 1), ("r", 1.0, "k", 1), ("r", 1.0, "k", 2)])
            assert tx.lines.starts_since("r", 1.0) == 3

    def test_starts_of_a_clock_that_was_ahead_count_as_starts_of_now(self, store: Store) -> None:
        with store.transaction() as tx:
            tx.lines.add_starts([("r", 9.0, "j", 1), ("r", 900.0, "k", 1), ("s", 900.0, "l", 1)])
            tx.lines.bring_back_starts("r", 10.0, 10.0)
            assert tx.lines.latest_starts("r", 0, 9) == [10.0, 9.0]
            assert tx.lines.latest_starts("s", 0, 9) == [900.0]

    # Unique keys and groups

    def test_a_key_is_kept_replaced_and_free_again(self, store: Store) -> None:
        window = UniqueKeyRow("k", "j", "window", until=1_700_000_000.25, after="i")
        with store.transaction() as tx:
            assert tx.unique_keys.of("k") is None
            tx.unique_keys.save(window)
            assert tx.unique_keys.of("k") == window
            tx.unique_keys.save(UniqueKeyRow("k", "l", "queued"))
            assert tx.unique_keys.of("k") == UniqueKeyRow("k", "l", "queued", None, None)
            tx.unique_keys.drop("k")
            assert tx.unique_keys.of("k") is None

    def test_who_waits_for_a_key_is_found_by_the_job_that_had_it(self, store: Store) -> None:
        waiting = [UniqueKeyRow("k", "j", "queued", after="i"), UniqueKeyRow("l", "m", "running", after="i")]
        with store.transaction() as tx:
            for row in (*waiting, UniqueKeyRow("n", "o", "queued"), UniqueKeyRow("p", "q", "queued", after="r")):
                tx.unique_keys.save(row)
            assert sorted(tx.unique_keys.waiting_for("i"), key=lambda row: row.key) == waiting
            assert tx.unique_keys.waiting_for("j") == []

    def test_a_group_has_one_root_and_is_read_by_pages(self, store: Store) -> None:
        with store.transaction() as tx:
            assert tx.unique_keys.root_of("g") is None
            tx.unique_keys.save_group("g", "j1")
            tx.unique_keys.save_group("g", "j2")
            assert tx.unique_keys.root_of("g") == "j2"
            tx.jobs.save([Row(id=f"j{n}", alias_group="g") for n in range(5)])
            tx.jobs.save([Row(id="other", alias_group="h"), Row(id="none")])
            assert tx.unique_keys.in_group("g", "", 3) == ["j0", "j1", "j2"]
            assert tx.unique_keys.in_group("g", "j2", 3) == ["j3", "j4"]

    def test_what_lines_and_keys_write_moves_the_serial(self, store: Store) -> None:
        def serial() -> int:
            return store.reader.meta().serial

        with store.transaction() as tx:
            tx.lines.save([LimitLineRow("a", "ordered")], (), (), ())
        assert serial() == 1
        with store.transaction() as tx:
            tx.unique_keys.save(UniqueKeyRow("k", "j", "queued"))
        assert serial() == 2
        with store.transaction() as tx:
            tx.lines.save((), (), (), ())
            tx.lines.lines(["a"])
            tx.unique_keys.of("k")
            tx.lines.forget_starts("r", 1.0, 1)
        assert serial() == 2
        with store.transaction() as tx:
            tx.schedules.add_open_runs({"weekly": 1})
        assert serial() == 3
