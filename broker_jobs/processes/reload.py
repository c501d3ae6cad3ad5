"""Runs a command of this library again when a Python file changes: `--reload`, for development.

The command runs in a process of its own, so that it imports everything anew. This process imports nothing of the
program: an error in it ends the command and not the watch. Files are found by looking at all of them a few times a
second, which needs no library and works on every file system.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from broker_jobs.processes.signals import ShutdownSignals

logger = logging.getLogger(__name__)

LOOK_SECONDS = 0.3
KILL_AFTER_SECONDS = 15.0
"""What the command gets beyond the time of its jobs before it is killed."""
_SKIPPED = frozenset({"__pycache__", "node_modules", "site-packages"})
Files = Mapping[str, tuple[int, int]]
"""Path -> when it was changed (nanoseconds), and its size."""


def run_reloading(command: Sequence[str], folder: Path, shutdown_timeout: float) -> int:
    """Run a command until a signal stops it, and again after each change of a Python file; its last exit code.

    Args:
        command: the program and its arguments. It stops on SIGTERM (on Windows on Ctrl-Break), and when its stdin ends.
        folder: its Python files, and those in folders below it, are watched.
        shutdown_timeout: seconds that its running jobs get.
    """
    logger.warning(
        "--reload is for development, never for production: whenever a Python file in %s changes, this starts again, "
        "and jobs that still run after %g s are cut off and run again",
        folder,
        shutdown_timeout,
    )
    patience = shutdown_timeout + KILL_AFTER_SECONDS
    with ShutdownSignals() as signals:
        seen = python_files(folder)
        child: subprocess.Popen[bytes] | None = _start(command)
        while not signals.wait(LOOK_SECONDS):
            if child is not None and child.poll() is not None:
                logger.error("it ended with exit code %d; it starts again when a Python file changes", child.poll())
                child = None
            if python_files(folder) == seen:
                continue
            now = _settled(folder, signals)
            logger.info("%s: starting again", _changes(seen, now))
            _stop(child, signals, patience)
            seen, child = now, None if signals.wait(0) else _start(command)
        signals.get()
        return _stop(child, signals, patience)


def python_files(folder: Path) -> Files:
    """The Python files of a folder and the folders below it, but for hidden ones and those of installed packages."""
    found: dict[str, tuple[int, int]] = {}
    for root, folders, files in os.walk(folder):
        folders[:] = [
            name
            for name in folders
            if name not in _SKIPPED and name[0] != "." and not Path(root, name, "pyvenv.cfg").exists()
        ]
        for name in files:
            if name.endswith(".py"):
                path = os.path.join(root, name)  # noqa: PTH118  # thousands of them, a few times a second
                try:
                    status = os.stat(path)  # noqa: PTH116
                except OSError:  # removed meanwhile
                    continue
                found[path] = status.st_mtime_ns, status.st_size
    return found


def _settled(folder: Path, signals: ShutdownSignals) -> Files:
    """The files when they change no more: an editor, or git, writes several."""
    before = python_files(folder)
    while not signals.wait(LOOK_SECONDS) and (now := python_files(folder)) != before:
        before = now
    return before


def _changes(before: Files, now: Files) -> str:
    """Which files differ, in words."""
    names = sorted(os.path.relpath(path) for path in {*before, *now} if before.get(path) != now.get(path))
    if not names:
        return "a file changed and changed back"
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return f"{names[0]}{more} changed"


def _start(command: Sequence[str]) -> subprocess.Popen[bytes]:
    # Apart from the terminal's group: Ctrl-C reaches this process alone, which passes it on once. Compiled files are
    # not written, as two changes within a second would look like one to them.
    environment = os.environ | {"PYTHONDONTWRITEBYTECODE": "1"}
    if sys.platform == "win32":
        flags = subprocess.CREATE_NEW_PROCESS_GROUP
        return subprocess.Popen(command, stdin=subprocess.PIPE, env=environment, creationflags=flags)
    return subprocess.Popen(command, stdin=subprocess.PIPE, env=environment, start_new_session=True)


def _stop(child: subprocess.Popen[bytes] | None, signals: ShutdownSignals, patience: float) -> int:
    """Stop the command, and kill it if it has not stopped in `patience` seconds; its exit code.

    A signal that comes meanwhile is passed on, so that the command exits at once; it stays in the queue.
    """
    if child is None:
        return 0
    _ask_to_stop(child)
    deadline, is_urgent = time.monotonic() + patience, False
    while child.poll() is None and time.monotonic() < deadline:
        if is_urgent:
            time.sleep(LOOK_SECONDS / 10)
        elif signals.wait(LOOK_SECONDS / 10):
            is_urgent = True
            _ask_to_stop(child)
    if child.poll() is None:
        logger.warning("it did not stop in %.0f s and is killed", patience)
        child.kill()
    code = child.wait()
    if child.stdin is not None:
        child.stdin.close()
    return code if code >= 0 else 128 - code


def _ask_to_stop(child: subprocess.Popen[bytes]) -> None:
    if sys.platform == "win32":
        child.send_signal(signal.CTRL_BREAK_EVENT)
    else:
        child.send_signal(signal.SIGTERM)
