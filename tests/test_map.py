"""The map of the house is true: who may import whom, which library lives where, no cycles, nothing hidden in functions.

The tables below are the rules; a failure prints the whole map as it is. Read without importing anything.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "broker_jobs"

LOWEST = frozenset({"clock", "errors", "extras", "settings"})
TRAVELS = LOWEST | {"job", "outcome", "exchange"}

MAY_IMPORT: dict[str, frozenset[str]] = {
    "clock": frozenset(),
    "errors": frozenset({"clock"}),
    "extras": frozenset({"errors"}),
    # A queue's name is checked where settings are: the rule of names is pure and has one home.
    "settings": frozenset({"clock", "errors", "exchange.names"}),
    "job": frozenset({"clock", "errors"}),
    "outcome": LOWEST | {"job"},
    "exchange": LOWEST | {"job"},
    "function": TRAVELS,
    "producer": TRAVELS | {"function", "beat.schedule"},
    "consumer": TRAVELS | {"function"},
    "store": frozenset({"clock", "errors", "extras", "job"}),
    "beat": TRAVELS,
    "coordinator": TRAVELS | {"store", "beat.schedule"},
    "metrics": frozenset({"clock", "errors"}),
    "processes": TRAVELS | {"function", "consumer", "coordinator", "store", "beat", "metrics"},
    # What people see and do: it reads the store and asks the coordinator, and never decides.
    "dashboard": TRAVELS | {"function", "producer", "store", "processes.connect", "beat.schedule"},
    "app": TRAVELS | {"function", "producer", "processes", "beat", "metrics", "dashboard"},
    "testing": TRAVELS | {"function", "producer", "consumer", "coordinator", "store", "beat", "processes", "app"},
    "demo": TRAVELS | {"function", "producer", "processes", "app", "store", "testing", "dashboard", ""},
    "cli": TRAVELS | {"function", "producer", "processes", "app", "store", "demo", "dashboard", "beat.schedule"},
    # The door: the public names, gathered by hand.
    "": TRAVELS | {"function", "producer", "app", "dashboard.role"},
}
"""Package -> what it may import of ours; a dotted name allows that module alone. Itself is always allowed."""

ROOMS: dict[str, tuple[str, ...]] = {
    "pika": ("exchange.rabbit",),
    "kombu": ("exchange.embedded",),
    "croniter": ("beat.schedule",),
    "prometheus_client": ("metrics",),
    "sqlalchemy": ("store",),
    "psycopg": ("store",),
    "typer": ("cli", "demo"),
    "click": ("cli",),
    "rich": ("cli", "demo"),
    "uvicorn": ("dashboard.server",),
    "starlette": ("dashboard",),
    "fastapi": ("dashboard.api",),
    "jinja2": ("dashboard.pages.frame",),
    "itsdangerous": ("dashboard.access",),
    "a2wsgi": ("dashboard.wsgi",),
    "jsonschema": ("dashboard.runnable",),
    "aiosmtpd": ("demo",),
    "uuid_utils": ("job.envelope",),
    "pydantic_settings": ("settings",),
}
"""Outside library -> the rooms it lives in. One library, one room; a second room is there for show only."""

ONE_FILE = frozenset({"psutil"})
"""Libraries of which one file, wherever it is, may know."""


LATE: dict[tuple[str, str], str] = {
    ("app", "settings"): "importing a program reads no settings, and costs nothing of what reads them",
    ("exchange.open", "exchange.embedded"): "kombu costs only who opens memory://",
    ("exchange.open", "exchange.rabbit"): "pika costs only who opens RabbitMQ",
    ("processes.program", "beat.tick"): "each part is imported by the process that runs it",
    ("processes.program", "consumer.worker"): "the same",
    ("processes.program", "coordinator.coordinator"): "the same: a worker needs no coordinator",
    ("processes.program", "store"): "the same: a worker needs no database",
    ("processes.program", "store.installation"): "the same",
    ("cli", "cli.commands"): "the script is there with the base package too, and says what is missing",
    ("cli.reach", "store"): "its library should cost no worker its memory, and may not be installed",
    ("cli.reach", "store.installation"): "the same",
    ("cli.store", "store.installation"): "the same",
    ("cli.recurring", "store.search"): "the same",
    ("app", "processes.program"): "a producer needs no database: only who runs a part imports what it is made of",
    ("app", "dashboard.dashboard"): "a producer needs no web framework: only who shows the dashboard imports it",
    ("cli.dashboard", "dashboard.house"): "its web framework should cost no other command its start",
    ("cli.dashboard", "dashboard.server"): "its web framework should cost no worker its memory",
    ("cli.dashboard", "dashboard.dashboard"): "the same",
    ("cli.masked", "dashboard.lookup"): "it reads the store, which not every command does",
    ("cli.demo", "demo.main"): "its mail server should cost no other command its start",
}
"""(module, module) -> why the one imports the other inside a function. None of them hides a circle: they are looked at
in the test of circles too."""


@dataclass(frozen=True)
class Import:
    """One import statement of ours: in which module, of which module, and how it stands."""

    of: str
    what: str
    line: int
    types_only: bool
    inside_function: bool


def modules() -> dict[str, Path]:
    """Dotted name without `broker_jobs` -> file."""
    found = {}
    for file in sorted(ROOT.rglob("*.py")):
        parts = file.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return found


MODULES = modules()
"""All of ours."""


def package(module: str) -> str:
    """The station a module belongs to."""
    return module.partition(".")[0]


def imports_of(module: str, file: Path) -> Iterator[Import]:
    """Every import of a module, absolute ones by name, relative ones resolved."""
    tree = ast.parse(file.read_text(encoding="utf-8"), str(file))
    is_package = file.name == "__init__.py"
    # The door imports its names when they are asked for; its imports for the type checker are what it then imports.
    yield from _walk(tree, module, is_package=is_package, types_only=False, inside=False)


def _walk(node: ast.AST, module: str, *, is_package: bool, types_only: bool, inside: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            for alias in child.names:
                yield Import(module, alias.name, child.lineno, types_only, inside)
        elif isinstance(child, ast.ImportFrom):
            base = _absolute(child, module, is_package=is_package)
            for alias in child.names:
                # `from package import module` imports the module.
                whole = f"{base}.{alias.name}"
                named = whole.removeprefix("broker_jobs.")
                what = whole if base.startswith("broker_jobs") and named in MODULES else base
                yield Import(module, what, child.lineno, types_only, inside)
        else:
            deeper = inside or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            if isinstance(child, ast.If) and _is_type_checking(child.test):
                for part in child.body:
                    holder = ast.Module([part], [])
                    yield from _walk(holder, module, is_package=is_package, types_only=module != "", inside=deeper)
                for part in child.orelse:
                    holder = ast.Module([part], [])
                    yield from _walk(holder, module, is_package=is_package, types_only=types_only, inside=deeper)
                continue
            yield from _walk(child, module, is_package=is_package, types_only=types_only, inside=deeper)


def _absolute(node: ast.ImportFrom, module: str, *, is_package: bool) -> str:
    if not node.level:
        return node.module or ""
    parts = ["broker_jobs", *module.split(".")] if module else ["broker_jobs"]
    up = node.level - 1 if is_package else node.level
    base = parts[: len(parts) - up] if up else parts
    return ".".join([*base, *([node.module] if node.module else [])])


def _is_type_checking(test: ast.expr) -> bool:
    return (isinstance(test, ast.Name) and test.id == "TYPE_CHECKING") or (
        isinstance(test, ast.Attribute) and test.attr == "TYPE_CHECKING"
    )


ALL = [found for module, file in MODULES.items() for found in imports_of(module, file)]


def ours(found: Import) -> str | None:
    """The imported module of ours, or None for a library's."""
    if found.what == "broker_jobs":
        return ""
    return found.what.removeprefix("broker_jobs.") if found.what.startswith("broker_jobs.") else None


def the_map() -> str:
    """The map as it is: package, what it imports of ours, what it imports of others."""
    lines = ["", "The map as it is:"]
    for name in sorted({package(module) for module in MODULES}):
        inner = sorted({package(o) for i in ALL if package(i.of) == name and (o := ours(i)) is not None} - {name})
        outer = sorted({i.what.partition(".")[0] for i in ALL if package(i.of) == name and ours(i) is None} & {*ROOMS})
        lines.append(
            f"  {name or '(door)':<12} {', '.join(inner) or '-'}" + (f"   [{', '.join(outer)}]" if outer else "")
        )
    return "\n".join(lines)


def fail_with(wrong: list[str]) -> None:
    """Fail naming every offence, and the map."""
    if wrong:
        pytest.fail("\n".join([*wrong, the_map()]), pytrace=False)


def where(found: Import) -> str:
    """File and line of an import."""
    return f"broker_jobs/{MODULES[found.of].relative_to(ROOT).as_posix()}:{found.line}"


def allowed(found: Import, target: str) -> bool:
    """Whether the table has this import."""
    mine = package(found.of)
    if package(target) == mine:
        return True
    rules = MAY_IMPORT[mine]
    return any(target == rule or (rule and target.startswith(f"{rule}.")) for rule in rules)


def test_every_package_has_a_row_in_the_table() -> None:
    fail_with([f"{name!r} has no row in MAY_IMPORT" for name in sorted({package(m) for m in MODULES} - {*MAY_IMPORT})])


def test_nobody_imports_what_the_table_does_not_allow() -> None:
    wrong = []
    for found in ALL:
        target = ours(found)
        # Names for the type checker tie nothing at run time (an exception that carries a receipt).
        if target is None or found.types_only or package(found.of) not in MAY_IMPORT:
            continue
        if not allowed(found, target):
            wrong.append(f"{where(found)}: {package(found.of) or 'the door'} must not import {target or 'broker_jobs'}")
    fail_with(wrong)


def test_each_outside_library_lives_in_one_room() -> None:
    wrong = []
    for found in ALL:
        library = found.what.partition(".")[0]
        if library not in ROOMS:
            continue
        if not any(found.of == room or found.of.startswith(f"{room}.") for room in ROOMS[library]):
            wrong.append(f"{where(found)}: {library} lives in {' and '.join(ROOMS[library])} only")
    for library in ONE_FILE:
        files = sorted({found.of for found in ALL if found.what.partition(".")[0] == library})
        if len(files) > 1:
            wrong.append(f"{library} is known in more than one file: {', '.join(files)}")
    fail_with(wrong)


def test_no_module_imports_itself_in_a_circle() -> None:
    edges: dict[str, set[str]] = {module: set() for module in MODULES}
    for found in ALL:
        target = ours(found)
        if target is not None and target in MODULES and not found.types_only and target != found.of:
            edges[found.of].add(target)
    done: set[str] = set()
    path: list[str] = []
    circles: list[str] = []

    def visit(module: str) -> None:
        if module in path:
            circles.append(" → ".join([*path[path.index(module) :], module]))
            return
        if module in done:
            return
        path.append(module)
        for target in sorted(edges[module]):
            visit(target)
        path.pop()
        done.add(module)

    for module in MODULES:
        visit(module)
    fail_with([f"a circle: {circle}" for circle in circles])


def test_no_import_of_ours_hides_in_a_function() -> None:
    fail_with(
        [
            f"{where(found)}: {found.what} is imported inside a function"
            for found in ALL
            if found.inside_function
            and not found.types_only
            and (target := ours(found)) is not None
            and (found.of, target) not in LATE
        ]
    )


def test_the_door_names_every_folder() -> None:
    doc = ast.get_docstring(ast.parse((ROOT / "__init__.py").read_text(encoding="utf-8"))) or ""
    folders = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    files = {path.name for path in ROOT.glob("*.py")} - {"__init__.py"}
    missing = [f"{name}/" for name in sorted(folders) if not re.search(rf"\b{name}(/|\.py)", doc)]
    missing += [name for name in sorted(files) if name not in doc]
    fail_with([f"broker_jobs/__init__.py does not say what {name} is" for name in missing])


def test_every_file_says_its_duty_first() -> None:
    silent = [file for file in MODULES.values() if not ast.get_docstring(ast.parse(file.read_text(encoding="utf-8")))]
    fail_with([f"broker_jobs/{file.relative_to(ROOT).as_posix()}: no docstring" for file in silent])
