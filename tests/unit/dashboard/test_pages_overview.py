"""The first page: counters that lead to their lists, what is wrong with what to do, and a word to who begins."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker_jobs import Receipt, State
from broker_jobs.dashboard.role import Role
from tests.support.wait import eventually
from tests.unit.dashboard.shop import Shop, filled, shop_in


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    with shop_in(tmp_path_factory.mktemp("shop")) as shop:
        yield shop


@pytest.fixture(scope="module")
def made(shop: Shop) -> dict[str, Receipt[object]]:
    return filled(shop)


def test_every_counter_leads_to_its_list(shop: Shop, made: dict[str, Receipt[object]]) -> None:
    person = shop.visitor(Role.VIEWER)
    page = person.see("/")
    tiles = page.partition('<div id="tiles"')[2].partition("</div>")[0]
    links = re.findall(r'href="([^"]+)"[^>]*><strong>([^<]+)</strong>', tiles)
    assert {href for href, _ in links} >= {f"/jobs?state={state.value}" for state in State} | {"/retries", "/workers"}
    counts = shop.store.reader.statistics.counts()
    for href, n in links:
        person.see(href)
        if "state=" in href:
            assert n == str(counts[State(href.rpartition("=")[2])])


def test_the_history_is_drawn_and_is_a_table_too(shop: Shop, made: dict[str, Receipt[object]]) -> None:
    person = shop.visitor(Role.VIEWER)
    ended = sum(
        shop.store.reader.statistics.counts()[state] for state in (State.SUCCEEDED, State.FAILED, State.DELETED)
    )
    for path, rows in (("/", 24), ("/?span=week", 24)):
        page = person.see(path)
        svg = page.partition('<svg class="graph"')[2].partition("</svg>")[0]
        assert 'class="series-failed"' in svg
        assert 'id="hatched"' in svg  # not by colour alone
        table = page.partition('<details class="numbers"')[2].partition("</table>")[0]
        body = table.partition("<tbody>")[2]
        assert body.count("<tr>") <= rows
        assert sum(int(n) for n in re.findall(r'class="number">(\d+)<', body)) == ended
        assert len(page.encode()) < 60_000


def test_what_is_wrong_says_what_to_do_and_where_to_look(shop: Shop, made: dict[str, Receipt[object]]) -> None:
    shop.welcome.using(queue="nobody-serves").enqueue(1)
    person = shop.visitor(Role.VIEWER)
    eventually(lambda: "nobody-serves" in person.see("/"))
    page = person.see("/").partition('<section id="alerts"')[2].partition("</section>")[0]
    assert "Warning" in page or "Error" in page
    assert "worker" in page
    (link,) = set(re.findall(r'href="([^"]+)"[^>]*>Show', page))
    person.see(link.replace("&amp;", "&"))


def test_an_empty_system_tells_how_to_begin(tmp_path: Path) -> None:
    with shop_in(tmp_path) as empty:
        page = empty.visitor().see("/")
        assert "enqueue the first one" in page
        assert 'welcome.enqueue("Ann")' in page.replace("&#34;", '"')
        receipt = empty.welcome.enqueue(1)
        empty.ends(receipt)
        assert "enqueue the first one" not in empty.visitor().see("/")


def test_what_is_live_is_marked(shop: Shop) -> None:
    page = shop.visitor().see("/")
    for id in ("alerts", "tiles", "latencies", "chart"):
        assert re.search(rf'<[^>]*id="{id}"[^>]*data-live', page), id
