"""Collects what the tests of a file left behind at the end of that file, and says what of it was not closed.

The environment of the process counts too: what a test leaves in it names the store of the next one.

Otherwise the cycle collector finds it at some later time, and a test that left nothing is blamed. Worse: the report of
what is not closed formats a traceback, for which Python parses source. Where the collector runs while another test
parses source (`ast.parse` of Python 3.11), that parse fails with a SystemError.
"""

from __future__ import annotations

import gc
import logging
import os
import sys
import traceback

import pytest


class _Noted(logging.Handler):
    """Notes what an object says when it is deleted: as an error that nobody can catch, or in asyncio's log."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())

    def unraisable(self, said: sys.UnraisableHookArgs, /) -> None:
        error = traceback.format_exception(said.exc_type, said.exc_value, said.exc_traceback)
        self.texts.append(f"{said.err_msg or 'in'} {said.object!r}\n{''.join(error)}".rstrip())


def collected() -> list[str]:
    """Delete what is left behind. Returns what was not closed, as it says itself."""
    noted, before, asyncio_log = _Noted(), sys.unraisablehook, logging.getLogger("asyncio")
    asyncio_log.addHandler(noted)
    sys.unraisablehook = noted.unraisable
    try:
        gc.collect()
    finally:
        sys.unraisablehook = before
        asyncio_log.removeHandler(noted)
    return noted.texts


class Environment:
    """The environment variables that tests begin with, and must leave."""

    def __init__(self) -> None:
        self._began_with = self._now()

    @staticmethod
    def _now() -> dict[str, str]:
        return {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"}

    def restore(self) -> list[str]:
        """Make it what it was. Returns the names that were not."""
        before, now = self._began_with, self._now()
        changed = sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))
        for name in changed:
            if name in before:
                os.environ[name] = before[name]
            else:
                del os.environ[name]
        return changed


def check_file_left_nothing(item: pytest.Item, nextitem: pytest.Item | None, environment: Environment) -> None:
    """Fail if a test is the last one of its file and something was left unclosed. Call it after its teardown."""
    if nextitem is not None and nextitem.path == item.path:
        return
    if isinstance(item, pytest.Function):
        item.funcargs.clear()  # else the values of its fixtures are still in use
    for name in ("last_exc", "last_type", "last_value", "last_traceback"):  # else what a failed test held is in use
        vars(sys).pop(name, None)
    changed = environment.restore()
    texts = collected()
    if changed:
        pytest.fail(
            f"{item.path.name} has left in the environment (monkeypatch.setenv takes it back): {', '.join(changed)}",
            pytrace=False,
        )
    if texts:
        pytest.fail(
            f"{item.path.name} has left unclosed (python -X tracemalloc=20 says where each was made):\n\n"
            + "\n\n".join(texts),
            pytrace=False,
        )
