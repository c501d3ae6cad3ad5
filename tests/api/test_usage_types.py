"""What a user writes is checked by two type checkers: each wrong line is an error, and no right line is one."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = {"usage.py": 40, "clocks.py": 15}
"""File -> how many wrong lines it has at least."""
ERROR = re.compile(r"\.py:(\d+):\d+(?: -|:) error")
CHECKERS = {
    "mypy": ["mypy", "--strict", "--warn-unreachable"],
    "pyright": ["pyright"],
}


@pytest.mark.slow
@pytest.mark.parametrize("checker", CHECKERS)
@pytest.mark.parametrize("name", FILES)
def test_wrong_lines_are_errors_and_no_right_line_is_one(name: str, checker: str) -> None:
    file = Path(__file__).with_name(name)
    program, *options = CHECKERS[checker]
    run = subprocess.run(
        [Path(sys.executable).with_name(program), *options, file],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=110,
    )  # fmt: skip
    lines = file.read_text(encoding="utf-8").splitlines()
    wrong = {number for number, line in enumerate(lines, 1) if line.endswith("# E")}
    found = {int(number) for number in ERROR.findall(run.stdout)}
    assert len(wrong) > FILES[name]
    assert found == wrong, run.stdout[-4000:] + run.stderr[-1000:]


def test_public_names_are_gathered_by_hand_and_importable() -> None:
    import broker_jobs

    init = (ROOT / "broker_jobs" / "__init__.py").read_text(encoding="utf-8")
    public = set(re.findall(r"^ *from broker_jobs\S* import (\w+) as \1$", init, re.MULTILINE))
    assert public
    assert all(hasattr(broker_jobs, name) for name in public)
