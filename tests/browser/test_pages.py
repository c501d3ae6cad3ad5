"""Every page in a real browser: no error, no refusal by the policy, no hostile text that runs, readable by all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.browser.addresses import NAMES, pages_of
from tests.browser.conftest import MARKS, PHONE, WIDE, System

pytestmark = MARKS

MOST_BYTES = 100 * 1024
"""Of a page in all: HTML, style, scripts."""
AXE_RULES = {"resultTypes": ["violations"], "runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"]}
SERIOUS = {"serious", "critical"}


def test_the_list_of_pages_is_whole(system: System) -> None:
    assert set(pages_of(system)) == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_page_is_sound_in_light_and_dark_wide_and_on_a_phone(
    name: str, system: System, address: str, opened: Callable[..., Any]
) -> None:
    wanted = 404 if name == "not-found" else 200
    page = opened(size=WIDE)  # one for both themes: a page of its own costs as much time as looking at it
    bytes_of = _count(page)
    for theme in ("light", "dark"):
        page.emulate_media(color_scheme=theme)
        page.set_viewport_size({"width": WIDE[0], "height": WIDE[1]})
        before = bytes_of()
        answer = page.goto(address + pages_of(system)[name], wait_until="load")
        assert answer.status == wanted
        assert page.locator("h1").count() == 1
        page.wait_for_timeout(50)  # what is fetched by scripts at the load
        assert bytes_of() - before < MOST_BYTES, "the page in all"
        _assert_no_wider(page)
        if theme == "light":
            _assert_readable(page, f"{name}, light and wide")
        page.set_viewport_size({"width": PHONE[0], "height": PHONE[1]})
        _assert_no_wider(page)
        if theme == "dark":
            _assert_readable(page, f"{name}, dark and on a phone")


def test_nothing_comes_from_elsewhere(system: System, address: str, opened: Callable[..., Any]) -> None:
    page = opened()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    for path in pages_of(system).values():
        page.goto(address + path)
    assert [url for url in asked if not url.startswith(address)] == []


def _assert_no_wider(page: Any) -> None:
    """Nobody has to scroll sideways: what is wide scrolls inside its own frame."""
    wide = page.evaluate("() => [document.documentElement.scrollWidth, document.documentElement.clientWidth]")
    if wide[0] > wide[1]:
        culprits = page.evaluate(
            """() => [...document.querySelectorAll('main *, header *')]
                .filter(e => e.getBoundingClientRect().right > document.documentElement.clientWidth + 1
                    && !e.closest('.scroll'))
                .map(e => e.tagName + '.' + e.className + ': ' + e.textContent.slice(0, 60)).slice(0, 5)"""
        )
        raise AssertionError(f"wider than the window: {wide}, {culprits}")


def _assert_readable(page: Any, what: str) -> None:
    from axe_playwright_python.sync_playwright import Axe  # the browser's library, which one process needs

    found = Axe().run(page, options=AXE_RULES).response["violations"]
    bad = [
        f"{one['id']}: {one['help']}: {node['html'][:150]} {node['failureSummary'][:250]}"
        for one in found
        if one["impact"] in SERIOUS
        for node in one["nodes"][:3]
    ]
    assert not bad, f"{what}:\n" + "\n".join(bad)


def _count(page: Any) -> Callable[[], int]:
    """Count what comes over the network, as it comes: compressed or not."""
    session = page.context.new_cdp_session(page)
    session.send("Network.enable")
    session.send("Network.setCacheDisabled", {"cacheDisabled": True})
    seen = [0]
    again: set[str] = set()

    def asked(event: dict[str, Any]) -> None:
        if "X-Live" in event["request"]["headers"]:  # what is fetched because something has changed
            again.add(event["requestId"])

    def finished(event: dict[str, Any]) -> None:
        if event["requestId"] not in again:
            seen[0] += int(event["encodedDataLength"])

    session.on("Network.requestWillBeSent", asked)
    session.on("Network.loadingFinished", finished)
    return lambda: seen[0]
