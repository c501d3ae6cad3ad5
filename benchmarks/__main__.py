"""Runs the benchmark: `python -m benchmarks [--only row,row] [--quick]`."""

from __future__ import annotations

import argparse
import json
import sys
import time
import traceback
from pathlib import Path

from benchmarks import machine, table
from benchmarks.figure import Row, as_json
from benchmarks.harness import Harness, Scale
from benchmarks.rows import ROWS
from tests.support.process import ServerMissingError

RESULTS = Path(__file__).parent / "results"


def main() -> int:
    """Measure the chosen rows; the exit code is 0 if all of them could be measured."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", metavar="ROW,ROW", default=",".join(ROWS), help=f"of {', '.join(ROWS)}")
    parser.add_argument("--quick", action="store_true", help="fewer jobs, shorter rounds, one round per figure")
    options = parser.parse_args()
    chosen = [name.strip() for name in options.only.split(",")]
    if unknown := [name for name in chosen if name not in ROWS]:
        parser.error(f"unknown row {unknown[0]!r}; rows are {', '.join(ROWS)}")
    try:
        harness = Harness(Scale(options.quick))
    except ServerMissingError as missing:
        print(missing, file=sys.stderr)
        return 1
    failed: list[str] = []
    rows: dict[str, Row] = {}
    started = time.monotonic()
    with harness:
        facts = machine.facts(harness.broker.version)
        print(f"{facts['processor']}, {facts['cores']} cores, load {facts['load_at_start'][0]}, {facts['system']}")
        print(f"Python {facts['python']}, RabbitMQ {facts['rabbitmq']}, {_versions(facts['packages'])}\n")
        for name in chosen:
            try:
                rows[name] = ROWS[name](harness)
            except Exception:  # noqa: BLE001  # the other rows are still measured
                traceback.print_exc()
                failed.append(name)
            else:
                table.show(rows[name])
    facts |= {"load_at_end": machine.load(), "seconds": round(time.monotonic() - started), "quick": options.quick}
    written = _write({"machine": facts, "rows": {name: as_json(row) for name, row in rows.items()}})
    print(f"load {facts['load_at_start'][0]} to {facts['load_at_end'][0]}, {facts['seconds']} s, written to {written}")
    if failed:
        print(f"not measured: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def _versions(packages: dict[str, str | None]) -> str:
    return ", ".join(f"{name} {number}" for name, number in packages.items() if number)


def _write(everything: object) -> Path:
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / ".gitignore").write_text("*\n")
    path = RESULTS / f"{time.strftime('%Y%m%d-%H%M%S')}.json"
    path.write_text(json.dumps(everything, indent=1))
    return path


if __name__ == "__main__":
    sys.exit(main())
