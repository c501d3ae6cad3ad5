"""Collects what the tests of a file left behind at the end of that file, and says what of it was not closed.

Otherwise the cycle collector finds it at some later time, and a test that left nothing is blamed. Worse: the report of
what is not closed formats a traceback, for which Python parses source. Where the collector runs while another test
parses source (`ast.parse` of Python 3.11), that parse fails with a SystemError.
"""

from __future__ import annotations

import gc
import logging
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


def check_file_left_nothing(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """Fail if a test is the last one of its file and something was left unclosed. Call it after its teardown."""
    if nextitem is not None and nextitem.path == item.path:
        return
    if isinstance(item, pytest.Function):
        item.funcargs.clear()  # else the values of its fixtures are still in use
    for name in ("last_exc", "last_type", "last_value", "last_traceback"):  # else what a failed test held is in use
        vars(sys).pop(name, None)
    if texts := collected():
        pytest.fail(
            f"{item.path.name} has left unclosed (python -X tracemalloc=20 says where each was made):\n\n"
            + "\n\n".join(texts),
            pytrace=False,
        )
