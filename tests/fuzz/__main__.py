"""Runs the fuzzer: `make fuzz ARGS="--minutes 60 --database postgres --seed 7"`."""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from tests.fuzz.fuzz import Result, fuzz
from tests.support.postgres import Postgres

BODIES = 50_000
"""Messages for one store; the next ones go to a fresh one."""


def main() -> int:
    """Fuzz for as long as asked, and say what was found; 1 if something was."""
    parser = argparse.ArgumentParser(prog="make fuzz", description="Hostile messages of every type.")
    parser.add_argument("--minutes", type=float, default=5.0, help="how long")
    parser.add_argument("--database", choices=["sqlite", "postgres"], default="sqlite")
    parser.add_argument("--seed", type=int, default=random.randrange(1_000_000), help="of the first store; then + 1")
    parser.add_argument("--bodies", type=int, default=BODIES, help="messages for one store")
    parser.add_argument("--keep-going", action="store_true", help="go on with the next seed after a finding")
    given = parser.parse_args()
    until = time.monotonic() + given.minutes * 60
    total, found, seed = 0, 0, given.seed
    with ExitStack() as ends:
        next_store = _stores(given.database, ends)
        while time.monotonic() < until and (found == 0 or given.keep_going):
            url, forget = next_store()
            began = time.process_time()
            result = fuzz(url, seed, given.bodies, until)
            forget()
            total += result.bodies
            found += len(result.findings)
            _say(seed, given.database, result, time.process_time() - began)
            seed += 1
    _write(f"{total} messages, {found} findings")
    return 1 if found else 0


def _stores(database: str, ends: ExitStack) -> Callable[[], tuple[str, Callable[[], None]]]:
    """Makes fresh stores: an address, and what removes it."""
    if database == "sqlite":
        folder = Path(tempfile.mkdtemp(prefix="broker-jobs-fuzz-"))
        ends.callback(shutil.rmtree, folder, ignore_errors=True)

        def file() -> tuple[str, Callable[[], None]]:
            inside = Path(tempfile.mkdtemp(dir=folder))
            return f"sqlite:///{inside / 'store.db'}", lambda: shutil.rmtree(inside, ignore_errors=True)

        return file
    postgres = Postgres()
    ends.callback(postgres.dispose)
    postgres.start()

    def fresh() -> tuple[str, Callable[[], None]]:
        name = postgres.create_database()
        return postgres.url(name), lambda: postgres.drop_database(name)

    return fresh


def _say(seed: int, database: str, result: Result, seconds: float) -> None:
    _write(
        f"seed {seed}, {database}: {result.bodies} messages, {result.bodies / max(seconds, 0.001):.0f} in a second of "
        f"processor time, {result.jobs} jobs, {result.dead_letters} dead letters, slowest round {result.slowest:.2f} s"
    )
    for finding in result.findings:
        _write(f"FINDING seed {seed}: {finding}")


def _write(line: str) -> None:
    sys.stdout.write(line.encode("ascii", "backslashreplace").decode() + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
