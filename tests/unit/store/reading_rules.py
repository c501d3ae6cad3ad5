"""The rules of what the dashboard reads, whatever database is behind it; run as those of the store."""

import json
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import text

from broker_jobs.errors import UsageError
from broker_jobs.messages.state import State
from broker_jobs.store import (
    ComponentRow,
    FunctionRow,
    Latency,
    Publication,
    RelationRow,
    Row,
    SearchQuery,
    Store,
    WorkerRow,
    retention,
)
from broker_jobs.store import (
    search as searching,
)
from broker_jobs.store.lines import LineEntry, Stage
from broker_jobs.store.records import BatchRow, DependencyRow, ScheduleRow
from broker_jobs.store.unique_keys import UniqueKeyRow

MINUTE = 60.0
NAMES = ("mail.send", "shop.sync", "image.resize")
QUEUES = ("default", "mail", "slow")
BATCHES = ("b-1", "b-2", "b-2a", "b-2b", "nowhere")
WORDS = ("apple", "Pear", 'quo"te', "50%", "under_score", "back\\slash")


def a_row(n: int, chance: random.Random) -> Row:
    """Any job, of few kinds, so that searches find some."""
    state = chance.choice(list(State))
    word = chance.choice(WORDS)
    row = Row(
        id=f"{chance.choice(['01a', 'own'])}-{n:04}",
        job=chance.choice(NAMES),
        queue=chance.choice(QUEUES),
        state=state,
        created_at=float(chance.randint(0, 40)),
        changed_at=float(chance.randint(0, 40)),
        batch=chance.choice([None, None, *BATCHES]),
        recurring=chance.choice([None, None, "nightly"]),
        tags=chance.choice(["", "", "vip", "vip import", "vips"]),
        reason=chance.choice(["", f"because of {chance.choice(WORDS)}"]),
    )
    call = {"id": row.id, "args": [word], "kwargs": {"n": n}, "queue": row.queue, "policy": {"retries": 10}}
    row.envelope = json.dumps(call)
    if state is State.PROCESSING:
        row.owner = chance.choice(["w1", "w2"])
    if state is State.SCHEDULED:
        row.due_at = float(chance.randint(0, 40))
        row.reason_code = chance.choice(["", "retry", "crash", "now"])
    if chance.random() < 0.3:
        row.error = json.dumps({"type": "ValueError", "message": f"bad {chance.choice(WORDS)}\nmore", "traceback": ""})
    return row


def a_search(chance: random.Random) -> SearchQuery:
    """Any search."""

    def maybe(*values: Any) -> Any:
        return chance.choice([*[None] * (2 * len(values) + 2), *values])

    sort: Any = chance.choice(["newest", "newest", "oldest", "changed", "due"])
    states = tuple(chance.sample(list(State), chance.choice([0, 0, 1, 2])))
    return SearchQuery(
        states=(State.SCHEDULED,) if sort == "due" and states else states,
        retries=chance.random() < 0.1,
        queue=maybe(*QUEUES),
        job=maybe(*NAMES),
        text=maybe("apple", "pEAR", 'quo"te', "50%", "under_score", "back\\slash", "own-", "retries", "nothing"),
        error_text=maybe("bad", "because", "50%", "nothing"),
        tag=maybe("vip", "import"),
        batch=maybe("b-1", "b-2", "nowhere"),
        recurring=maybe("nightly"),
        owner=maybe("w1"),
        created_after=maybe(10.0, 20.0),
        created_before=maybe(30.0),
        sort=sort,
        limit=chance.choice([2, 40, 500]),
    )


def expected(rows: list[Row], search: SearchQuery) -> set[str]:
    """The ids a search means, by reading everything."""
    inside = {"b-2": {"b-2", "b-2a", "b-2b"}}.get(search.batch or "", {search.batch})
    retrying = {row.id for row in rows if row.state is State.SCHEDULED and row.reason_code in ("retry", "crash")}

    def said(row: Row, wanted: str) -> bool:
        call = json.loads(row.envelope)
        texts = [row.id, row.job, row.tags, row.reason, row.error or ""]
        arguments = json.dumps([call["args"], call["kwargs"]], ensure_ascii=False)
        inner = json.dumps(wanted, ensure_ascii=False)[1:-1]
        return any(wanted.lower() in one.lower() for one in texts) or inner.lower() in arguments.lower()

    return {
        row.id
        for row in rows
        if (not search.states or row.state in search.states)
        and (not search.retries or row.id in retrying)
        and search.queue in (None, row.queue)
        and search.job in (None, row.job)
        and (search.text is None or said(row, search.text))
        and (
            search.error_text is None
            or any(search.error_text.lower() in one.lower() for one in (row.reason, row.error or ""))
        )
        and (search.tag is None or search.tag in row.tags.split())
        and (search.batch is None or row.batch in inside)
        and search.recurring in (None, row.recurring)
        and (search.owner is None or (row.state is State.PROCESSING and row.owner == search.owner))
        and (search.created_after is None or row.created_at >= search.created_after)
        and (search.created_before is None or row.created_at < search.created_before)
        and (search.sort != "due" or row.state is State.SCHEDULED)
    }


def walk(store: Store, search: SearchQuery) -> list[Row]:
    """All pages, one after the other."""
    found: list[Row] = []
    cursor = None
    for _ in range(5_000):
        page = store.reader.jobs.search(
            SearchQuery(**{name: getattr(search, name) for name in SearchQuery.__slots__} | {"cursor": cursor})
        )
        assert len(page.rows) <= search.limit
        found += page.rows
        cursor = page.next
        if cursor is None:
            assert page.complete
            return found
        assert len(page.rows) == search.limit or not page.complete
    raise AssertionError("it has no end")


class ReadingRules:
    """Subclasses give a fixture `url` (a fresh database for each test)."""

    @pytest.fixture
    def store(self, url: str) -> Iterator[Store]:
        store = Store(url)
        store.open()
        yield store
        store.close()

    # Search

    @pytest.mark.parametrize("seed", range(3))
    def test_the_pages_of_any_search_are_all_that_match_in_order(
        self, store: Store, seed: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(searching, "LOOK_AT", 30)
        monkeypatch.setattr(searching, "FIRST_CHUNK", 7)
        monkeypatch.setattr(searching, "FEW", 20)
        chance = random.Random(seed)
        rows = [a_row(n, chance) for n in range(250)]
        with store.transaction() as tx:
            tx.jobs.save(rows)
            tx.batches.save([BatchRow("b-1", total=9), BatchRow("b-2", total=9)])
            tx.batches.save([BatchRow("b-2a", parent="b-2"), BatchRow("b-2b", parent="b-2a")])
        key = {"newest": "created_at", "oldest": "created_at", "changed": "changed_at", "due": "due_at"}
        tried: Counter[str] = Counter()
        for _ in range(100):
            search = a_search(chance)
            found = walk(store, search)
            ids = [row.id for row in found]
            assert len(ids) == len(set(ids)), search
            assert set(ids) == expected(rows, search), search
            tried[search.sort] += bool(ids)
            if search.batch is None:
                keys = [(getattr(row, key[search.sort]), row.id) for row in found]
                assert keys == sorted(keys, reverse=search.sort in ("newest", "changed")), search
        assert min(tried.values()) > 5

    def test_members_of_more_inner_batches_than_are_read_apart_are_found(
        self, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with store.transaction() as tx:
            tx.batches.save([BatchRow("b", total=15), *(BatchRow(f"b{n}", parent="b", total=1) for n in range(15))])
            tx.jobs.save([Row(id=f"j{n:02}", batch=f"b{n}", created_at=n) for n in range(15)] + [Row(id="no")])
        search = SearchQuery(batch="b", limit=4)
        assert [row.id for row in walk(store, search)] == [f"j{n:02}" for n in reversed(range(15))]
        monkeypatch.setattr(searching, "SORTED", 1)  # too many to sort: looked for among all
        assert {row.id for row in walk(store, search)} == {f"j{n:02}" for n in range(15)}

    def test_jobs_that_come_and_go_between_pages_neither_repeat_nor_hide_one(self, store: Store) -> None:
        with store.transaction() as tx:
            tx.jobs.save([Row(id=f"j{n}", created_at=n) for n in range(6)])
        first = store.reader.jobs.search(SearchQuery(limit=3))
        with store.transaction() as tx:
            tx.jobs.save([Row(id="newer", created_at=9.0), Row(id="j3", created_at=3.0, state=State.FAILED)])
        second = store.reader.jobs.search(SearchQuery(limit=3, cursor=first.next))
        assert [row.id for row in first.rows + second.rows] == ["j5", "j4", "j3", "j2", "j1", "j0"]
        assert (second.next, second.complete) == (None, True)

    def test_a_list_has_the_call_and_the_error_but_not_results_and_histories(self, store: Store) -> None:
        row = Row(id="j", envelope="{}", error="{}", result="1" * 99, history=[(1.0, "failed", "")], state=State.FAILED)
        with store.transaction() as tx:
            tx.jobs.save([row])
        assert store.reader.jobs.search(SearchQuery()).rows == [row.evolve(result=None, history=[])]

    @pytest.mark.parametrize(
        "cursor",
        ["x", "💥", "bnVsbA", "WyJhIiwxLCJiIl0", "A" * 5_000, "W10", "WzEsMiwzXQ", "//", "=", "WyJhIixOYU4sIiJd"],
    )
    def test_a_bad_cursor_is_refused_with_what_to_do(self, store: Store, cursor: str) -> None:
        for ask in (
            lambda: store.reader.jobs.search(SearchQuery(cursor=cursor)),
            lambda: store.reader.batches.page(cursor=cursor),
            lambda: store.reader.audit.page(cursor=cursor),
            lambda: store.reader.dead_letters.page(cursor=cursor),
        ):
            with pytest.raises(UsageError, match="begin without one"):
                ask()

    def test_a_cursor_of_another_search_is_refused(self, store: Store) -> None:
        with store.transaction() as tx:
            tx.jobs.save([Row(id=f"j{n}", created_at=n) for n in range(3)])
        cursor = store.reader.jobs.search(SearchQuery(limit=1)).next
        assert store.reader.jobs.search(SearchQuery(limit=2, cursor=cursor)).rows  # the size of a page may change
        with pytest.raises(UsageError, match="same search"):
            store.reader.jobs.search(SearchQuery(limit=1, queue="mail", cursor=cursor))
        with pytest.raises(UsageError, match="same search"):
            store.reader.jobs.search(SearchQuery(limit=1, states=(State.FAILED,), cursor=cursor))

    def test_what_cannot_be_searched_for_is_refused_in_words(self, store: Store) -> None:
        for search in (
            SearchQuery(text="a\x00b"),
            SearchQuery(job="\ud800"),
            SearchQuery(text="x" * 1_001),
            SearchQuery(limit=0),
            SearchQuery(limit=501),
            SearchQuery(sort="due", states=(State.FAILED,)),
            SearchQuery(sort="random"),  # type: ignore[arg-type]
        ):
            with pytest.raises(UsageError):
                store.reader.jobs.search(search)

    def test_states_that_exclude_each_other_find_nothing(self, store: Store) -> None:
        with store.transaction() as tx:
            tx.jobs.save([Row(id="j", state=State.PROCESSING, owner="w")])
        page = store.reader.jobs.search(SearchQuery(states=(State.FAILED,), owner="w"))
        assert (page.rows, page.next, page.complete) == ([], None, True)

    def test_the_total_is_told_where_counters_know_it(self, store: Store) -> None:
        with store.transaction() as tx:
            tx.jobs.save([Row(id=f"f{n}", state=State.FAILED, queue="mail") for n in range(3)])
            tx.jobs.save([Row(id="r", state=State.SCHEDULED, reason_code="retry"), Row(id="s", state=State.SCHEDULED)])
        total = {
            (): store.reader.jobs.search(SearchQuery()).total,
            "failed": store.reader.jobs.search(SearchQuery(states=(State.FAILED,), queue="mail")).total,
            "other queue": store.reader.jobs.search(SearchQuery(states=(State.FAILED,), queue="slow")).total,
            "retries": store.reader.jobs.search(SearchQuery(retries=True)).total,
            "text": store.reader.jobs.search(SearchQuery(text="f")).total,
        }
        assert total == {(): 5, "failed": 3, "other queue": 0, "retries": 1, "text": None}

    # Statistics

    def test_what_ended_is_kept_by_stretches_without_gaps_and_for_ever(self, store: Store) -> None:
        ends = [(0.0, State.SUCCEEDED), (30.0, State.SUCCEEDED), (130.0, State.FAILED), (3_700.0, State.DELETED)]
        with store.transaction() as tx:
            tx.jobs.save(
                [Row(id=f"j{n}", state=state, ended_at=at, changed_at=at) for n, (at, state) in enumerate(ends)]
            )
        minutes = store.reader.statistics.history(0.0, 180.0, 60)
        assert [(one.at, one.succeeded, one.failed, one.deleted) for one in minutes] == [
            (0.0, 2, 0, 0),
            (60.0, 0, 0, 0),
            (120.0, 0, 1, 0),
        ]
        hours = store.reader.statistics.history(0.0, 7_200.0, 3_600)
        assert [(one.at, one.succeeded, one.failed, one.deleted) for one in hours] == [
            (0.0, 2, 1, 0),
            (3600.0, 0, 0, 1),
        ]
        assert store.reader.statistics.ended() == {State.SUCCEEDED: 2, State.FAILED: 1, State.DELETED: 1}
        with store.transaction() as tx:
            tx.purge(now=1e9, keep_succeeded=1.0, keep_deleted=1.0, keep_failed=1.0, limit=100)
        assert store.reader.statistics.history(0.0, 7_200.0, 3_600)[0].succeeded == 0
        assert store.reader.statistics.ended()[State.SUCCEEDED] == 2
        with pytest.raises(ValueError, match="multiple"):
            store.reader.statistics.history(0.0, 60.0, 90)

    def test_waits_and_runs_are_told_to_about_a_tenth(self, store: Store) -> None:
        rows = []
        for n in range(1, 101):
            ended_at = 1_000.0 + n
            started_at = ended_at - n / 10  # runs of 0.1 to 10 s
            row = Row(
                id=f"j{n}",
                state=State.SUCCEEDED if n % 2 else State.FAILED,
                due_at=started_at - n,  # waits of 1 to 100 s
                created_at=0.0,
                started_at=started_at,
                ended_at=ended_at,
                changed_at=ended_at,
            )
            rows.append(row)
        rows.append(Row(id="deleted", state=State.DELETED, started_at=1.0, ended_at=1_000.0))
        rows.append(Row(id="never ran", state=State.FAILED, ended_at=1_000.0))
        with store.transaction() as tx:
            tx.jobs.save(rows)
            tx.jobs.save([rows[0].evolve(reason="saved again")])
        told = store.reader.statistics.latency(960.0, 1_200.0)
        assert told.of == 100
        assert told.wait_p50 == pytest.approx(50, rel=0.1)
        assert told.wait_p95 == pytest.approx(95, rel=0.1)
        assert told.run_p50 == pytest.approx(5, rel=0.1)
        assert told.run_p95 == pytest.approx(9.5, rel=0.1)
        assert store.reader.statistics.latency(2_000.0, 3_000.0) == Latency(None, None, None, None, 0)

    def test_a_queue_tells_its_rate_its_oldest_and_its_pause(self, store: Store) -> None:
        ended = [
            Row(id=f"e{n}", state=State.SUCCEEDED, queue="mail", ended_at=610.0 + n, changed_at=610.0)
            for n in range(10)
        ]
        with store.transaction() as tx:
            tx.jobs.save(ended)
            waits = Row(id="w1", queue="mail", publication=Publication.PUBLISHED, released_at=500.0, created_at=1.0)
            tx.jobs.save([waits, replace(waits, id="w2", released_at=400.0, created_at=2.0)])
            tx.jobs.save(
                [Row(id="w3", queue="mail", publication=Publication.PUBLISHED, released_at=3.0, state=State.SCHEDULED)]
            )
            tx.queues.pause("slow", paused=True)
        mail, slow = store.reader.queues.rows(now=900.0)
        assert (mail.name, mail.paused, mail.oldest, mail.ended_per_minute) == ("mail", False, 400.0, 2.0)
        assert (mail.counts[State.SUCCEEDED], mail.counts[State.ENQUEUED]) == (10, 2)
        assert (slow.name, slow.paused, slow.oldest, slow.ended_per_minute) == ("slow", True, None, 0.0)
        assert store.reader.queues.rows(now=2_000.0)[0].ended_per_minute == 0.0

    def test_retries_are_counted_as_they_come_and_go(self, store: Store) -> None:
        retrying = Row(id="r", state=State.SCHEDULED, reason_code="retry")
        with store.transaction() as tx:
            tx.jobs.save(
                [retrying, Row(id="c", state=State.SCHEDULED, reason_code="crash"), Row(id="s", state=State.SCHEDULED)]
            )
        assert store.reader.statistics.retries() == 2
        assert store.reader.statistics.counts()[State.SCHEDULED] == 3
        assert store.reader.queues.counts()["default"][State.SCHEDULED] == 3
        with store.transaction() as tx:
            tx.jobs.save([retrying.evolve(reason_code="now")])
        assert store.reader.statistics.retries() == 1
        with store.transaction() as tx:
            tx.jobs.save([retrying.evolve(queue="mail")])
        assert store.reader.statistics.retries() == 2
        with store.transaction() as tx:
            tx.jobs.save([retrying.evolve(state=State.ENQUEUED, queue="mail", reason_code="retry")])
        assert store.reader.statistics.retries() == 1

    def test_old_statistics_and_silent_parts_are_forgotten(self, store: Store) -> None:
        with store.transaction() as tx:
            tx.jobs.save([Row(id="j", state=State.FAILED, started_at=1.0, ended_at=2.0, changed_at=2.0)])
            tx.processes.save_component(ComponentRow("b", "beat", "host", 1, "1", active=True, seen_at=10.0))
        keep = {"keep_succeeded": 1e9, "keep_deleted": 1e9, "keep_failed": 1e9}
        for kept, *of in (
            (retention.KEEP_COMPONENTS_SECONDS, "components"),
            (retention.KEEP_RATES_SECONDS, "queue_outcomes", "durations"),
            (retention.KEEP_OUTCOMES_SECONDS, "outcomes"),
        ):
            with store.transaction() as tx:
                counts = [text(f"SELECT count(*) FROM {table}") for table in of]  # names above
                tx.purge(now=kept - 1, limit=10, progress=None, **keep)
                assert all(tx._connection.execute(count).scalar_one() > 0 for count in counts), of
                tx.purge(now=kept + 11, limit=10, progress=None, **keep)
                assert not any(tx._connection.execute(count).scalar_one() for count in counts), of

    # What belongs together

    def test_a_continuation_is_told_at_both_ends_also_after_it_was_met(self, store: Store) -> None:
        with store.transaction() as tx:
            tx.jobs.save([Row(id="parent", job="make"), Row(id="child", job="use", state=State.AWAITING)])
            tx.batches.save([BatchRow("b", title="import", state="succeeded")])
            tx.dependencies.relate("child", [("parent", "succeeded"), ("batch:b", "finished"), ("gone", "failed")])
            tx.dependencies.relate("child", [("parent", "succeeded")])
            tx.dependencies.add([DependencyRow("child", "job", "gone", "failed", unsatisfied=True, since=1.0)])
            tx.dependencies.relate("batch:b", [("parent", "failed")])
        assert store.reader.relations.parents("child") == [
            RelationRow("b", is_batch=True, title="import", state="succeeded", on="finished", unsatisfied=False),
            RelationRow("gone", is_batch=False, title="", state="unknown", on="failed", unsatisfied=True),
            RelationRow("parent", is_batch=False, title="make", state="enqueued", on="succeeded", unsatisfied=False),
        ]
        assert [(one.id, one.is_batch, one.on) for one in store.reader.relations.children("parent")] == [
            ("b", True, "failed"),
            ("child", False, "succeeded"),
        ]
        assert [one.id for one in store.reader.relations.children("b", is_batch=True)] == ["child"]
        assert [one.id for one in store.reader.relations.parents("b", is_batch=True)] == ["parent"]
        assert [(one.id, one.unsatisfied) for one in store.reader.relations.children("gone")] == [("child", True)]

    def test_a_bond_goes_with_its_child(self, store: Store) -> None:
        gone = Row(id="child", state=State.SUCCEEDED, ended_at=1.0, changed_at=1.0)
        with store.transaction() as tx:
            tx.jobs.save([gone, Row(id="parent")])
            tx.batches.save([BatchRow("b", ended_at=1.0)])
            tx.dependencies.relate("child", [("parent", "succeeded")])
            tx.dependencies.relate("batch:b", [("parent", "succeeded")])
            tx.purge(now=100.0, keep_succeeded=1.0, keep_deleted=1.0, keep_failed=1.0, limit=10)
        assert store.reader.relations.children("parent") == []

    def test_batches_go_by_pages_newest_first_by_state_and_text(self, store: Store) -> None:
        with store.transaction() as tx:
            tx.batches.save(
                BatchRow(f"b{n}", title=f"import {n} 10%", state="processing" if n % 2 else "failed", created_at=n)
                for n in range(7)
            )

        def all_of(**asked: Any) -> list[str]:
            found, cursor = [], None
            while True:
                page = store.reader.batches.page(cursor=cursor, limit=2, **asked)
                found += [batch.id for batch in page.batches]
                cursor = page.next
                if cursor is None:
                    return found

        assert all_of() == [f"b{n}" for n in reversed(range(7))]
        assert all_of(state="failed") == ["b6", "b4", "b2", "b0"]
        assert all_of(text="IMPORT 3") == ["b3"]
        assert all_of(text="0%") == all_of()
        assert all_of(text="1%") == []
        assert all_of(text="b5", state="processing") == ["b5"]

    def test_pages_of_a_text_go_on_where_so_many_were_looked_at(
        self, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for module in ("batch_reader", "audit"):
            monkeypatch.setattr(f"broker_jobs.store.{module}.LOOK_AT", 3)
        with store.transaction() as tx:
            tx.batches.save(BatchRow(f"b{n}", title="old" if n == 0 else "new", created_at=n) for n in range(8))
            for n in range(8):
                tx.audit.add(f"c{n}", at=float(n), by="ann" if n == 0 else "bob", kind="delete", subject="s")
        for ask in (
            lambda cursor: store.reader.batches.page(text="old", cursor=cursor),
            lambda cursor: store.reader.audit.page(by="ann", cursor=cursor),
            lambda cursor: store.reader.audit.page(text="ANN", cursor=cursor),
        ):
            pages: list[Any] = [ask(None)]
            while pages[-1].next is not None:
                pages.append(ask(pages[-1].next))
            assert len(pages) == 3
            found = [one for page in pages for one in getattr(page, "batches", None) or getattr(page, "audit", [])]
            assert len(found) == 1

    def test_a_tree_of_batches_has_each_behind_the_one_it_is_in(self, store: Store) -> None:
        with store.transaction() as tx:
            tx.batches.save([BatchRow("c", parent="b"), BatchRow("a"), BatchRow("b", parent="a"), BatchRow("other")])
            tx.batches.save([BatchRow("round", parent="round")])
        assert [batch.id for batch in store.reader.batches.tree("a")] == ["a", "b", "c"]
        assert [batch.id for batch in store.reader.batches.tree("b")] == ["b", "c"]
        assert [batch.id for batch in store.reader.batches.tree("round")] == ["round"]
        assert store.reader.batches.tree("unknown") == []

    def test_failures_of_a_batch_are_grouped_by_their_first_line(self, store: Store) -> None:
        def failed(id: str, batch: str, message: str) -> Row:
            return Row(id=id, batch=batch, state=State.FAILED, error=json.dumps({"type": "E", "message": message}))

        with store.transaction() as tx:
            tx.batches.save([BatchRow("b", failed=2), BatchRow("in", parent="b", failed=2)])
            tx.jobs.save([failed("1", "b", "no\nat 1"), failed("2", "in", "no\nat 2"), failed("3", "in", "yes")])
            tx.jobs.save([Row(id="4", batch="b", state=State.FAILED, reason="its worker died"), Row(id="5", batch="b")])
        groups, read = store.reader.batches.failures("b")
        assert read == 4
        assert (groups[0].error, groups[0].count, groups[0].example) == ("E: no", 2, "1")
        assert {(group.error, group.count) for group in groups[1:]} == {("E: yes", 1), ("its worker died", 1)}
        assert store.reader.batches.failures("b", limit=2)[1] == 2

    def test_the_jobs_a_worker_runs_are_told_the_longest_first(self, store: Store) -> None:
        with store.transaction() as tx:
            tx.processes.save_worker(WorkerRow("w1"))
            tx.jobs.save(
                Row(id=f"j{n}", state=State.PROCESSING, owner=f"w{n % 2}", started_at=10.0 - n, envelope="{}")
                for n in range(6)
            )
            tx.jobs.save([Row(id="ended", state=State.FAILED, owner="w1")])
        assert [row.id for row in store.reader.jobs.running("w1")] == ["j5", "j3", "j1"]
        assert [row.id for row in store.reader.jobs.running("w1", limit=1)] == ["j5"]
        both = store.reader.jobs.running_by_worker(limit=2)
        assert {owner: [row.id for row in rows] for owner, rows in both.items()} == {
            "w0": ["j4", "j2"],
            "w1": ["j5", "j3"],
        }

    # The rest

    def test_commands_and_dead_lettered_messages_go_by_pages_newest_first(self, store: Store) -> None:
        with store.transaction() as tx:
            for n in range(5):
                tx.audit.add(f"c{n}", at=float(n // 2), by=f"p{n % 2}", kind="delete", subject=f"job-{n}")
                tx.dead_letters.add(
                    f"m{n}", at=float(n // 2), origin="log", reason="no JSON", body=b"\x00" * n, exchange="e", key="k",
                    type="t", message_id="i",
                )  # fmt: skip
        audit, dead_letters, at, behind = [], [], None, None
        while True:
            page = store.reader.audit.page(cursor=at, limit=2)
            audit += [row.id for row in page.audit]
            heads = store.reader.dead_letters.page(cursor=behind, limit=2)
            dead_letters += [(head.id, head.size) for head in heads.dead_letters]
            at, behind = page.next, heads.next
            if at is None:
                assert behind is None
                break
        assert audit == ["c4", "c3", "c2", "c1", "c0"]
        assert dead_letters == [("m4", 4), ("m3", 3), ("m2", 2), ("m1", 1), ("m0", 0)]
        assert [row.id for row in store.reader.audit.page(by="p1").audit] == ["c3", "c1"]
        assert [row.id for row in store.reader.audit.page(text="JOB-2").audit] == ["c2"]
        message = store.reader.dead_letters.get("m2")
        assert message is not None
        assert (message.body, message.exchange) == (b"\x00\x00", "e")
        assert store.reader.dead_letters.get("m9") is None

    def test_what_a_job_stands_in_line_for_and_its_keys_are_told(self, store: Store) -> None:
        with store.transaction() as tx:
            tx.lines.save(
                [],
                [],
                [
                    LineEntry("concurrency:a", "j", 1, Stage.TURN),
                    LineEntry("concurrency:b", "j", 1, Stage.WAITS),
                    LineEntry("ordered:d", "j", 1, Stage.PLACE),  # it asks for nothing there
                    LineEntry("ordered:e", "j", 1, Stage.SLOT),
                    LineEntry("concurrency:c", "k", 1, Stage.WAITS),
                ],
                [],
            )
            tx.unique_keys.save(UniqueKeyRow("key", "j", "queued", after="i"))
            tx.unique_keys.save(UniqueKeyRow("other", "k", "window", 9.0))
        assert store.reader.limits.waited_for("j") == ["concurrency:b"]
        assert [(one.key, one.until) for one in store.reader.unique_keys.all()] == [("key", None), ("other", 9.0)]
        assert [one.key for one in store.reader.unique_keys.all(job_id="j")] == ["key"]

    def test_of_the_lines_of_a_job_the_last_are_told_in_order(self, store: Store) -> None:
        with store.transaction() as tx:
            tx.log_lines.add([("j", float(n), 1, f"line {n}") for n in range(5)])
        assert [line.text for line in store.reader.log_lines.of("j", limit=2)] == ["line 3", "line 4"]
        assert len(store.reader.log_lines.of("j")) == 5

    def test_one_recurring_job_is_told_by_its_name(self, store: Store) -> None:
        with store.transaction() as tx:
            tx.schedules.save(ScheduleRow("a/b", "* * * * *", paused=True))
        found = store.reader.schedules.get("a/b")
        assert found is not None
        assert found.paused
        assert (store.reader.schedules.get("c"), store.reader.schedules.count()) == (None, 1)

    def test_a_declaration_of_functions_replaces_the_one_before_of_its_origin_only(self, store: Store) -> None:
        send = FunctionRow("send", "shop", "mail", "Sends.", [{"name": "to", "default": None}], 1.0)
        with store.transaction() as tx:
            tx.declarations.save_functions("shop", [send, FunctionRow("old", "shop", "default", "")], at=1.0, last=True)
            tx.declarations.save_functions("billing", [FunctionRow("charge", "", "default", "")], at=1.0, last=True)
        assert store.reader.declarations.function("send") == send
        with store.transaction() as tx:
            tx.declarations.save_functions("shop", [send], at=2.0, last=False)
            tx.declarations.save_functions("shop", [FunctionRow("new", "", "default", "")], at=2.0, last=True)
        assert [(one.name, one.service) for one in store.reader.declarations.functions()] == [
            ("charge", "billing"),
            ("new", "shop"),
            ("send", "shop"),
        ]
        with store.transaction() as tx:
            tx.declarations.save_functions("billing", [FunctionRow("send", "", "other", "Newer.")], at=3.0, last=True)
        told = store.reader.declarations.function("send")
        assert told is not None
        assert (told.service, told.queue) == ("billing", "other")
        assert [one.name for one in store.reader.declarations.functions()] == ["new", "send"]
        assert store.reader.declarations.function("charge") is None

    def test_one_coordinator_at_most_is_shown_as_active(self, store: Store) -> None:
        def part(id: str, active: bool, at: float, kind: str = "coordinator") -> ComponentRow:
            return ComponentRow(id, kind, "host", 7, "1.0", active=active, seen_at=at)

        with store.transaction() as tx:
            tx.processes.save_component(part("c1", True, 1.0))
            tx.processes.save_component(part("c1", True, 1.0, "beat"))  # of the same program
            tx.processes.save_component(part("c2", True, 2.0))
            tx.processes.save_component(part("c2", True, 1.5))  # read late
        assert {(one.kind, one.id, one.active, one.seen_at) for one in store.reader.processes.components()} == {
            ("beat", "c1", True, 1.0),
            ("coordinator", "c1", False, 1.0),
            ("coordinator", "c2", True, 2.0),
        }
