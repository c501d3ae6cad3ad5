"""Runs storms: `make storm ARGS="--minutes 15 --database postgres --nodes 3 --seed 7"`."""

from __future__ import annotations

import argparse
import logging
import random
import shutil
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from broker_jobs.store import Store
from tests.storm.check import Seen, findings, summary
from tests.storm.storm import Result, storm
from tests.support.cluster import Cluster
from tests.support.postgres import Postgres


def main() -> int:
    """Run one storm and say what it found; 1 if it found something."""
    parser = argparse.ArgumentParser(prog="make storm", description="The whole system under faults at random.")
    parser.add_argument("--minutes", type=float, default=5.0, help="how long faults are caused")
    parser.add_argument("--database", choices=["sqlite", "postgres"], default="sqlite")
    parser.add_argument("--nodes", type=int, choices=[1, 3], default=1, help="nodes of RabbitMQ")
    parser.add_argument("--seed", type=int, default=random.randrange(1_000_000))
    parser.add_argument("--rate", type=float, default=20.0, help="calls of the producers in a second")
    parser.add_argument("--pause", type=float, default=3.0, help="mean seconds between two faults")
    parser.add_argument("--folder", type=Path, help="where logs and journals go; kept in any case")
    parser.add_argument("--look", type=Path, help="cause nothing: look again at the folder of a storm on SQLite")
    given = parser.parse_args()
    if given.look:
        store = Store(f"sqlite:///{given.look / 'store.db'}")
        store.open()
        again = Seen(given.look, store)
        return _say(Result(findings(again), summary(again)))
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    logging.getLogger("pika").setLevel(logging.ERROR)
    folder = given.folder or Path(tempfile.mkdtemp(prefix="broker-jobs-storm-"))
    folder.mkdir(parents=True, exist_ok=True)
    _write(f"storm: seed {given.seed}, {given.database}, {given.nodes} node(s), {given.minutes:g} min; in {folder}")
    with Cluster(given.nodes) as cluster, ExitStack() as ends:
        postgres: Postgres | None = None
        if given.database == "postgres":
            postgres = Postgres()
            ends.callback(postgres.dispose)
            postgres.start()
        result = storm(
            folder, cluster, postgres, seconds=given.minutes * 60, seed=given.seed, per_second=given.rate,
            pause=given.pause,
        )  # fmt: skip
    if not result.findings and given.folder is None:
        shutil.rmtree(folder, ignore_errors=True)
    return _say(result)


def _write(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _say(result: Result) -> int:
    for title, figures in result.figures.items():
        _write(f"{title}: {figures}")
    for finding in result.findings:
        _write(f"FINDING {finding}")
    _write(f"{len(result.findings)} findings")
    return 1 if result.findings else 0


if __name__ == "__main__":
    sys.exit(main())
