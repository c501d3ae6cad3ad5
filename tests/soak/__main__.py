"""Runs soaks: `make soak ARGS="--minutes 15 --restarts"`."""

from __future__ import annotations

import argparse
import logging
import shutil
import sys
import tempfile
from pathlib import Path

from tests.soak.soak import Result, soak
from tests.support.cluster import Cluster

RESTART_SECONDS = 60.0


def main() -> int:
    """Run one soak and say what it found; 1 if it found something."""
    parser = argparse.ArgumentParser(prog="make soak", description="Jobs that do what no job should, beside others.")
    parser.add_argument("--minutes", type=float, default=15.0, help="how long jobs are enqueued")
    parser.add_argument("--rate", type=float, default=1_000, help="innocent jobs a minute")
    parser.add_argument("--guilty", type=float, default=40, help="other jobs a minute")
    parser.add_argument("--restarts", action="store_true", help="restart broker and coordinator every minute")
    parser.add_argument("--seed", type=int, default=0, help="of the order of the others")
    parser.add_argument("--folder", type=Path, help="where logs and the journal go; kept in any case")
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    logging.getLogger("pika").setLevel(logging.ERROR)
    folder = given.folder or Path(tempfile.mkdtemp(prefix="broker-jobs-soak-"))
    folder.mkdir(parents=True, exist_ok=True)
    with Cluster(1) as cluster:
        result = soak(
            folder, cluster, seconds=given.minutes * 60, a_minute=given.rate, guilty_a_minute=given.guilty,
            restart_every=RESTART_SECONDS if given.restarts else None, seed=given.seed,
        )  # fmt: skip
    if not result.findings and given.folder is None:
        shutil.rmtree(folder, ignore_errors=True)
    return _say(result)


def _say(result: Result) -> int:
    for title, figures in result.figures.items():
        sys.stdout.write(f"{title}: {figures}\n")
    for finding in result.findings:
        sys.stdout.write(f"FINDING {finding}\n")
    sys.stdout.write(f"{len(result.findings)} findings\n")
    return 1 if result.findings else 0


if __name__ == "__main__":
    sys.exit(main())
