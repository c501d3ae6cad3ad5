"""Which files --reload looks at, and what it sees of a change."""

from pathlib import Path

import pytest

from broker_jobs.processes.reload import _changes, python_files


def put(folder: Path, *names: str) -> None:
    for name in names:
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("x = 1\n")


def test_only_python_files_of_the_program_are_looked_at(tmp_path: Path) -> None:
    put(tmp_path, "app.py", "shop/jobs.py", "shop/readme.txt")
    put(tmp_path, ".git/hook.py", "__pycache__/a.py", "node_modules/a.py", "env/site-packages/a.py")
    put(tmp_path, "venv/pyvenv.cfg", "venv/lib/a.py")
    assert sorted(python_files(tmp_path)) == [str(tmp_path / "app.py"), str(tmp_path / "shop" / "jobs.py")]


def test_a_change_an_addition_and_a_removal_are_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    put(tmp_path, "a.py", "b.py")
    before = python_files(tmp_path)
    assert python_files(tmp_path) == before
    (tmp_path / "a.py").write_text("x = 1_000\n")
    changed = python_files(tmp_path)
    assert _changes(before, changed) == "a.py changed"
    put(tmp_path, "c.py")
    (tmp_path / "b.py").unlink()
    assert _changes(before, python_files(tmp_path)) == "a.py and 2 more changed"
