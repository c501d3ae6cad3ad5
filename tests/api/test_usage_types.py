"""What a user writes is checked by two type checkers: each wrong line is an error, and no right line is one."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

USAGE = Path(__file__).with_name("usage.py")
ROOT = USAGE.parents[2]
ERROR = re.compile(r"usage\.py:(\d+):\d+(?: -|:) error")
CHECKERS = {
    "mypy": ["mypy", "--strict", "--warn-unreachable"],
    "pyright": ["pyright"],
}


@pytest.mark.slow
@pytest.mark.parametrize("checker", CHECKERS)
def test_wrong_lines_are_errors_and_no_right_line_is_one(checker: str) -> None:
    program, *options = CHECKERS[checker]
    run = subprocess.run(
        [Path(sys.executable).with_name(program), *options, USAGE],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=110,
    )  # fmt: skip
    lines = USAGE.read_text(encoding="utf-8").splitlines()
    wrong = {number for number, line in enumerate(lines, 1) if line.endswith("# E")}
    found = {int(number) for number in ERROR.findall(run.stdout)}
    assert len(wrong) > 40
    assert found == wrong, run.stdout[-4000:] + run.stderr[-1000:]


def test_public_names_are_gathered_by_hand_and_importable() -> None:
    import broker_jobs

    init = (ROOT / "broker_jobs" / "__init__.py").read_text(encoding="utf-8")
    public = set(re.findall(r"^ *from broker_jobs\S* import (\w+) as \1$", init, re.MULTILINE))
    assert public
    assert all(hasattr(broker_jobs, name) for name in public)
