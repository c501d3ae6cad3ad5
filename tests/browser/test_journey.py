"""One journey with the keyboard alone: find a failed job by its error, see why, mend its argument, watch it succeed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from broker_jobs import State
from tests.browser.conftest import MARKS, System
from tests.support.wait import eventually

pytestmark = MARKS


def test_a_failed_job_is_found_mended_and_seen_to_succeed(
    opened: Callable[..., Any], address: str, system: System
) -> None:
    receipt = system.hostile.jobs["fail"].enqueue("the moon is not made of cheese")
    eventually(lambda: receipt.state() is State.FAILED)
    page = opened()
    keys = page.keyboard
    page.goto(address)
    keys.press("Tab")
    assert _focused(page) == "Skip to content", "the first stop leaps over the menu"
    _to(page, "Jobs")
    keys.press("Enter")
    page.wait_for_url("**/jobs")
    keys.press("/")  # to the search
    keys.type("made of cheese")
    keys.press("Enter")
    page.wait_for_url("**text=made+of+cheese*")
    _to(page, "the moon")
    keys.press("Enter")
    page.wait_for_url(f"{address}/jobs/{receipt.id}")
    assert "ValueError" in page.locator("main").inner_text()
    _to(page, "Edit arguments")
    keys.press("Enter")
    page.wait_for_url("**/edit")
    _to(page, '"the moon')
    keys.press("Control+a")
    keys.type('"fine"')
    _to(page, "Requeue with these")
    keys.press("Enter")
    page.wait_for_url(f"{address}/jobs/{receipt.id}")
    page.locator("#head").get_by_text("succeeded").wait_for()
    assert receipt.result(timeout=120) == "fine"


def _focused(page: Any) -> str:
    script = """() => {
        const element = document.activeElement;
        if (!element.matches('a, button, input, textarea, select, summary')) return '';
        return (element.value || element.innerText || '').trim();
    }"""
    return str(page.evaluate(script))


def _to(page: Any, words: str, most: int = 120) -> None:
    """Tab until what has these words is focused, and can be seen to be."""
    for _ in range(most):
        page.keyboard.press("Tab")
        if words in _focused(page):
            style = page.evaluate("() => getComputedStyle(document.activeElement).outlineStyle")
            assert style != "none", f"{words}: nobody sees where the focus is"
            return
    raise AssertionError(f"{words} is not reached by {most} tabs")
