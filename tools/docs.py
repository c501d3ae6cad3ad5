# ruff: noqa: INP001 - a script
"""Writes the parts of docs/ that are made from the code.

make docs                        write them
python tools/docs.py --check     print what differs, and exit with 1 if something does
"""

from __future__ import annotations

import argparse
import ast
import difflib
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from broker_jobs import metrics  # noqa: E402
from broker_jobs.cli.commands import app as command_line  # noqa: E402
from broker_jobs.settings import Settings  # noqa: E402

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


def settings_table() -> str:
    """A row for each setting: name, default and description."""
    rows = ["| setting | default | means |", "|---|---|---|"]
    for name, field in Settings.model_fields.items():
        given = field.default
        default = ",".join(given) if isinstance(given, tuple | dict) else json.dumps(given).strip('"')
        rows.append(f"| `{name}` | {f'`{default}`' if default not in ('', 'null') else 'none'} | {field.description} |")
    return "\n".join(rows)


def metrics_table() -> str:
    """A row for each metric: name, kind, labels and description."""
    rows = ["| metric | kind | labels | means |", "|---|---|---|---|"]
    for family in metrics.FAMILIES:
        labels = ", ".join(f"`{label}`" for label in family.labels) or "none"
        rows.append(f"| `{metrics.PREFIX}{family.name}` | {family.kind} | {labels} | {family.help} |")
    return "\n".join(rows)


def commands(command: Any, path: tuple[str, ...] = ("broker-jobs",)) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Each command that can be run, with the words that call it."""
    if getattr(command, "invoke_without_command", True):
        yield path, command
    for name, inner in getattr(command, "commands", {}).items():
        yield from commands(inner, (*path, name))


def _metavar(argument: Any) -> str:
    name = argument.name.upper() + ("…" if argument.nargs != 1 else "")
    return name if argument.required else f"[{name}]"


def commands_list() -> str:
    """A table of all commands, and a section for each: its help, arguments and options, as `--help` shows them."""
    table = ["| command | does |", "|---|---|"]
    parts = []
    for path, command in commands(typer.main.get_command(command_line)):
        if len(path) == 1:
            continue
        name, text = " ".join(path), " ".join((command.help or "").split())
        table.append(f"| [`{name}`](#{name.replace(' ', '-')}) | {text.partition('. ')[0].rstrip('.')} |")
        arguments = [part for part in command.params if part.param_type_name == "argument"]
        call = " ".join([name, *(_metavar(part) for part in arguments)])
        lines = [f"### {name}", "", f"```\n{call}\n```", "", text, ""]
        options = [part for part in command.params if part.param_type_name == "option" and not part.hidden]
        if options:
            lines += ["| option | means |", "|---|---|"]
        for option in options:
            names = ", ".join(f"`{name}`" for name in (*option.opts, *option.secondary_opts))
            plain = isinstance(option.default, str | int | float) and not isinstance(option.default, bool)
            default = f" Default: `{option.default}`." if plain else ""
            lines.append(f"| {names} | {(option.help or '').replace('|', chr(92) + '|')}{default} |")
        parts.append("\n".join(lines).rstrip())
    return "\n\n".join(["\n".join(table), *parts])


BETWEEN = re.compile(r"(<!-- made by `make docs`: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
PARTS = {"settings": settings_table, "metrics": metrics_table, "commands": commands_list}


def pages() -> Iterator[tuple[Path, str]]:
    """Each page that is made from the code, whole or between two marks, as it has to be."""
    yield FILES, files_page()
    for path in sorted((ROOT / "docs" / "reference").glob("*.md")):
        there = path.read_text(encoding="utf-8")
        text = BETWEEN.sub(lambda found: found.group(1) + PARTS[found.group(2)]() + "\n" + found.group(3), there)
        if text != there or BETWEEN.search(there):
            yield path, text


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
