# ruff: noqa: INP001 - a script
"""Writes the parts of docs/ that are made from the code.

make docs                        write them
python tools/docs.py --check     print what differs, and exit with 1 if something does
"""

from __future__ import annotations

import argparse
import ast
import difflib
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

FILES = ROOT / "docs" / "internals" / "files.md"
PACKAGE = ROOT / "broker_jobs"
FOLDERS = [
    *("", "messages", "function", "producer", "broker", "broker/memory", "broker/rabbitmq", "consumer"),
    *("coordinator", "store", "store/migrations", "beat", "processes"),
    *("dashboard", "dashboard/queries", "dashboard/forms", "dashboard/pages", "dashboard/api", "cli", "testing"),
]
"""In the order in which a job meets them. A folder that is not listed comes at the end."""
FILES_HEAD = """\
# Every file in one sentence

`make docs` writes this page: each sentence is the first line of its file's docstring. The folders come in the order in
which a job meets them. [Architecture](architecture.md) says what each folder is for, and how to follow a job.
"""


def sentence(file: Path) -> str | None:
    """The first line of a file's docstring. None for an `__init__.py` that holds nothing but its docstring."""
    module = ast.parse(file.read_text(encoding="utf-8"))
    if file.name == "__init__.py" and len(module.body) < 2:
        return None
    return (ast.get_docstring(module) or "").partition("\n")[0]


def files_page() -> str:
    """The page with a table for each folder of the package."""
    rows: dict[str, list[str]] = {}
    for file in sorted(PACKAGE.rglob("*.py")):
        if (said := sentence(file)) is not None:
            folder = file.parent.relative_to(PACKAGE).as_posix().removeprefix(".")
            rows.setdefault(folder, []).append(f"| `{file.relative_to(ROOT).as_posix()}` | {said} |")
    parts = [FILES_HEAD]
    for folder in [*(name for name in FOLDERS if name in rows), *sorted(set(rows) - set(FOLDERS))]:
        title = f"broker_jobs/{folder}".rstrip("/")
        parts.append("\n".join([f"## {title}\n", "| file | what it does |", "|---|---|", *rows[folder], ""]))
    return "\n".join(parts)


def pages() -> Iterator[tuple[Path, str]]:
    """Each page that is made from the code, as it has to be."""
    yield FILES, files_page()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; print what differs")
    check = parser.parse_args().check
    differ = 0
    for path, text in pages():
        there = path.read_text(encoding="utf-8") if path.exists() else ""
        if there == text:
            continue
        differ += 1
        name = path.relative_to(ROOT).as_posix()
        if check:
            diff = difflib.unified_diff(
                there.splitlines(), text.splitlines(), name, "made from the code", n=0, lineterm=""
            )
            print(*diff, sep="\n")  # noqa: T201
        else:
            path.write_text(text, encoding="utf-8")
            print("wrote", name)  # noqa: T201
    if check and differ:
        print("Run `make docs`.")  # noqa: T201
    return 1 if check and differ else 0


if __name__ == "__main__":
    sys.exit(main())
