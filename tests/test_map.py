"""Checks the structure of the package: which package imports which, where each outside library is used, no cycles.

The tables below are the rules. A failure names the file and the line, and prints the map as it is. The files are
read, not imported.
"""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "broker_jobs"

LOWEST = frozenset({"clock", "errors", "extras", "logs", "served_queues", "service_name", "settings"})
SHARED = LOWEST | {"messages", "broker"}

MAY_IMPORT: dict[str, frozenset[str]] = {
    "clock": frozenset(),
    "errors": frozenset(),
    "extras": frozenset({"errors"}),
    "logs": frozenset(),
    # The rule for names of queues is pure and has one place.
    "served_queues": frozenset({"broker.names"}),
    # The rule for names of programs is one for settings and messages.
    "service_name": frozenset(),
    "settings": frozenset({"clock", "errors", "served_queues", "service_name"}),
    "messages": frozenset({"clock", "errors", "service_name"}),
    "broker": LOWEST | {"messages"},
    "function": SHARED,
    "producer": SHARED | {"function", "beat.cron"},
    # A worker hands each job its `current_job()`, which has the batch of the job and so belongs to the producer.
    "consumer": SHARED | {"function", "producer.current_job"},
    "store": frozenset({"clock", "errors", "extras", "messages"}),
    "beat": SHARED,
    "coordinator": SHARED | {"store", "beat.cron"},
    "metrics": frozenset({"clock", "errors"}),
    "processes": SHARED | {"function", "consumer", "coordinator", "store", "beat", "metrics"},
    # The dashboard reads the store and sends commands to the coordinator. It decides nothing.
    "dashboard": SHARED | {"function", "producer", "store", "processes.connect", "beat.cron"},
    "app": SHARED | {"function", "producer", "processes", "beat", "metrics", "dashboard", "store"},
    "testing": SHARED | {"function", "producer", "consumer", "coordinator", "store", "beat", "processes", "app"},
    "demo": SHARED | {"function", "producer", "processes", "app", "store", "testing", "dashboard", ""},
    "cli": SHARED | {"function", "producer", "processes", "app", "store", "demo", "dashboard", "beat.cron"},
    # The package root: the public names.
    "": SHARED | {"function", "producer", "app", "dashboard.role"},
}
"""Package -> what it may import of ours. A dotted name allows that module alone. A package may import itself."""

HOMES: dict[str, tuple[str, ...]] = {
    "pika": ("broker.rabbitmq",),
    "kombu": ("broker.memory",),
    "croniter": ("beat.cron",),
    "prometheus_client": ("metrics",),
    "sqlalchemy": ("store",),
    "typer": ("cli",),
    "rich": ("cli", "demo"),
    "uvicorn": ("dashboard.server",),
    "starlette": ("dashboard",),
    "fastapi": ("dashboard.api",),
    "jinja2": ("dashboard.pages.rendering",),
    "itsdangerous": ("dashboard.auth",),
    "a2wsgi": ("dashboard.wsgi",),
    "jsonschema": ("dashboard.argument_validation",),
    "aiosmtpd": ("demo",),
    "uuid_utils": ("messages.new_id",),
    "pydantic_settings": ("settings",),
}
"""Outside library -> the packages or files that may import it."""

ONE_FILE = frozenset({"psutil"})
"""Libraries that one file may import, whichever it is."""


LATE: dict[tuple[str, str], str] = {
    ("processes.supervisor", "processes.http"): "only a process that serves metrics loads an HTTP server",
    ("processes.parent", "consumer.process_stats"): "only a worker process has psutil",
    ("app", "settings"): "importing a program reads no settings and loads no pydantic-settings",
    ("broker.factory", "broker.memory"): "only memory:// needs kombu",
    ("broker.factory", "broker.rabbitmq"): "only RabbitMQ needs pika",
    ("processes.program", "beat.beat"): "each part is imported by the process that runs it",
    ("processes.program", "consumer.worker"): "the same",
    ("processes.program", "coordinator.service"): "the same: a worker needs no coordinator",
    ("processes.program", "store"): "the same: a worker needs no database",
    ("processes.program", "store.installation"): "the same",
    ("cli", "cli.commands"): "the command exists with the base package too, and says which extra is missing",
    ("cli.connections", "store"): "only commands that read the store need SQLAlchemy, which may not be installed",
    ("cli.connections", "store.installation"): "the same",
    ("cli.store", "store.installation"): "the same",
    ("cli.recurring", "store.search"): "the same",
    ("app", "processes.program"): "a producer runs no part and needs no database",
    ("app", "dashboard.app"): "a producer shows no dashboard and needs no web framework",
    ("cli.dashboard", "dashboard.store_access"): "only this command needs the web framework",
    ("cli.dashboard", "dashboard.server"): "the same",
    ("cli.dashboard", "dashboard.app"): "the same",
    ("cli.jobs", "dashboard.views"): "models of pages take a while to make, and every command imports this file",
    ("cli.connections", "dashboard.queries"): "it reads the store, which not every command does",
    ("cli.demo", "demo.main"): "only this command needs a mail server",
}
"""(module, module) -> why the first imports the second inside a function. The test of cycles follows these too."""

STARTED: dict[str, str] = {
    "cli.__main__": "python -m broker_jobs.cli",
    "cli.reload_child": "processes.reload, the watcher of --reload",
    "processes.supervisor_main": "the command line, which it replaces",
}
"""Modules that no module imports -> what runs them."""


@dataclass(frozen=True)
class Import:
    """One import in a module of ours: where it is, what it imports, and how."""

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


@cache  # made by the first test that asks: every process of a test run reads this file
def trees() -> dict[str, ast.Module]:
    """Each of them, parsed."""
    return {module: ast.parse(file.read_text(encoding="utf-8"), str(file)) for module, file in MODULES.items()}


def package(module: str) -> str:
    """The package that a module belongs to; a file at the top is a package of its own."""
    return module.partition(".")[0]


def imports_of(module: str, file: Path) -> Iterator[Import]:
    """Every import of a module, absolute ones by name, relative ones resolved."""
    is_package = file.name == "__init__.py"
    yield from _walk(trees()[module], module, is_package=is_package, types_only=False, inside=False)


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
                # The package root imports its names at run time when they are asked for: its imports there count.
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


@cache
def all_imports() -> list[Import]:
    """The imports of all modules."""
    return [found for module, file in MODULES.items() for found in imports_of(module, file)]


def ours(found: Import) -> str | None:
    """The imported module of ours, or None for a library's."""
    if found.what == "broker_jobs":
        return ""
    return found.what.removeprefix("broker_jobs.") if found.what.startswith("broker_jobs.") else None


def the_map() -> str:
    """The map as it is: package, what it imports of ours, what it imports of others."""
    lines = ["", "The map as it is:"]
    for name in sorted({package(module) for module in MODULES}):
        inner = sorted(
            {package(o) for i in all_imports() if package(i.of) == name and (o := ours(i)) is not None} - {name}
        )
        outer = sorted(
            {i.what.partition(".")[0] for i in all_imports() if package(i.of) == name and ours(i) is None} & {*HOMES}
        )
        lines.append(
            f"  {name or '(root)':<12} {', '.join(inner) or '-'}" + (f"   [{', '.join(outer)}]" if outer else "")
        )
    return "\n".join(lines)


def fail_with(wrong: list[str], *, and_the_map: bool = True) -> None:
    """Fail with every offence, and the map where it helps."""
    if wrong:
        pytest.fail("\n".join([*wrong, *([the_map()] if and_the_map else [])]), pytrace=False)


def place(module: str, line: int) -> str:
    """File and line in a module."""
    return f"broker_jobs/{MODULES[module].relative_to(ROOT).as_posix()}:{line}"


def where(found: Import) -> str:
    """File and line of an import."""
    return place(found.of, found.line)


def allowed(found: Import, target: str) -> bool:
    """Whether the table has this import."""
    mine = package(found.of)
    if package(target) == mine:
        return True
    rules = MAY_IMPORT[mine]
    return any(target == rule or (rule and target.startswith(f"{rule}.")) for rule in rules)


def test_every_package_has_a_row_in_the_table() -> None:
    fail_with([f"{name!r} has no row in MAY_IMPORT" for name in sorted({package(m) for m in MODULES} - {*MAY_IMPORT})])


def test_the_tables_name_only_what_exists() -> None:
    rules = [rule for row in MAY_IMPORT.values() for rule in row]
    homes = [home for row in HOMES.values() for home in row]
    late = {(found.of, ours(found)) for found in all_imports() if found.inside_function and not found.types_only}
    libraries = {found.what.partition(".")[0] for found in all_imports()}
    fail_with(
        [
            *(f"MAY_IMPORT: there is no {name!r}" for name in sorted({*rules, *MAY_IMPORT} - {*MODULES})),
            *(f"HOMES: there is no {name!r}" for name in sorted({*homes} - {*MODULES})),
            *(f"HOMES: {name} is not imported" for name in sorted({*HOMES} - libraries)),
            *(f"LATE: {of} does not import {what} inside a function" for of, what in sorted({*LATE} - late)),
            *(f"STARTED: there is no {name!r}" for name in sorted({*STARTED} - {*MODULES})),
        ]
    )


def test_no_import_is_outside_the_table() -> None:
    # Imports for the type checker count as well: what the types of a package need, the package depends on.
    fail_with(
        [
            f"{where(found)}: {package(found.of) or 'the package root'} must not import {target or 'broker_jobs'}"
            + (", not even for the type checker" if found.types_only else "")
            for found in all_imports()
            if (target := ours(found)) is not None and package(found.of) in MAY_IMPORT and not allowed(found, target)
        ]
    )


def test_errors_imports_nothing_of_ours() -> None:
    fail_with(
        [
            f"{where(found)}: errors.py must import nothing of ours, as every file may import it; not {found.what}"
            for found in all_imports()
            if found.of == "errors" and ours(found) is not None
        ]
    )


def test_each_outside_library_has_one_home() -> None:
    wrong = []
    for found in all_imports():
        library = found.what.partition(".")[0]
        if library not in HOMES:
            continue
        if not any(found.of == home or found.of.startswith(f"{home}.") for home in HOMES[library]):
            wrong.append(f"{where(found)}: only {' and '.join(HOMES[library])} may import {library}")
    for library in ONE_FILE:
        files = sorted({found.of for found in all_imports() if found.what.partition(".")[0] == library})
        if len(files) > 1:
            wrong.append(f"more than one file imports {library}: {', '.join(files)}")
    fail_with(wrong)


def test_no_module_imports_itself_in_a_cycle() -> None:
    edges: dict[str, set[str]] = {module: set() for module in MODULES}
    for found in all_imports():
        target = ours(found)
        if target is not None and target in MODULES and not found.types_only and target != found.of:
            edges[found.of].add(target)
    done: set[str] = set()
    path: list[str] = []
    cycles: list[str] = []

    def visit(module: str) -> None:
        if module in path:
            cycles.append(" → ".join([*path[path.index(module) :], module]))
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
    fail_with([f"a cycle: {cycle}" for cycle in cycles])


def test_no_import_of_ours_hides_in_a_function() -> None:
    fail_with(
        [
            f"{where(found)}: {found.what} is imported inside a function; move it up, or give the reason in LATE"
            for found in all_imports()
            if found.inside_function
            and not found.types_only
            and (target := ours(found)) is not None
            and (found.of, target) not in LATE
        ]
    )


def test_every_module_is_used() -> None:
    targets = {ours(found) for found in all_imports()}
    # A package counts as used when one of its modules is.
    used = {".".join(parts[:n]) for t in targets if t for parts in [t.split(".")] for n in range(1, len(parts) + 1)}
    used |= {
        ".".join(parts[:n]) for module in STARTED for parts in [module.split(".")] for n in range(1, len(parts) + 1)
    }
    fail_with(
        [
            f"{place(module, 1)}: no module imports it; remove it, or name in STARTED what runs it"
            for module in MODULES
            if module and module not in used
        ],
        and_the_map=False,
    )


def test_no_class_name_is_used_twice() -> None:
    found = defaultdict(list)
    for module, tree in trees().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                found[node.name].append(place(module, node.lineno))
    fail_with(
        [
            f"{places[1]}: the class {name} exists at {places[0]} already; give one of the two another name"
            for name, places in sorted(found.items())
            if len(places) > 1
        ],
        and_the_map=False,
    )


def test_every_logger_of_a_module_is_named_logger() -> None:
    wrong = []
    for module, tree in trees().items():
        for node in tree.body:
            if not isinstance(node, ast.Assign | ast.AnnAssign) or node.value is None:
                continue
            if "getLogger" not in ast.unparse(node.value):
                continue
            if ast.unparse(node) != "logger = logging.getLogger(__name__)":
                wrong.append(f"{place(module, node.lineno)}: write: logger = logging.getLogger(__name__)")
    fail_with(wrong, and_the_map=False)


def test_the_docstring_of_the_package_names_every_folder_and_file() -> None:
    doc = ast.get_docstring(trees()[""]) or ""
    folders = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    files = {path.name for path in ROOT.glob("*.py")} - {"__init__.py"}
    missing = [f"{name}/" for name in sorted(folders) if not re.search(rf"\b{name}(/|\.py)", doc)]
    missing += [name for name in sorted(files) if name not in doc]
    fail_with([f"broker_jobs/__init__.py: the docstring has no line on {name}" for name in missing], and_the_map=False)


def test_every_file_has_a_docstring() -> None:
    fail_with(
        [f"{place(module, 1)}: no docstring" for module, tree in trees().items() if not ast.get_docstring(tree)],
        and_the_map=False,
    )


MOST_METHODS = 20
"""A class with more does several things; split it into objects, or functions of the module."""
LARGE_CLASSES: dict[str, tuple[int, str]] = {
    "app.BrokerJobs": (28, "the public object of a program: each of its methods is documented API"),
    "producer.batch.Batch": (29, "documented API, and the steps of its block, sync and async, on one state"),
    "broker.rabbitmq.broker.RabbitBroker": (26, "the methods of the Broker interface, and the order of start and stop"),
    "broker.memory.broker.MemoryBroker": (21, "the methods of the Broker interface, and those by which tests break it"),
    "broker.memory.consumer.MemoryConsumer": (23, "the methods of the Consumer interface, and those for the server"),
    "broker.rabbitmq.consumer.RabbitConsumer": (31, "the methods of the Consumer interface; see the head of its file"),
    "broker.rabbitmq.publisher.Publisher": (23, "the path of every message; see the head of its file"),
    "producer.job.Job": (21, "documented API, sync and async, and the steps of an enqueue on one state"),
    "producer.receipt.Receipt": (21, "documented API: each of its calls has a twin for event loops"),
    "producer.requests.RequestClient": (24, "what a program asks, sync and async"),
}
"""module.class -> the most methods it may have, and the reason."""


def methods_of(node: ast.ClassDef) -> set[str]:
    """The methods and properties that a class defines, private ones too; an overloaded one once, without dunders."""
    names = {child.name for child in node.body if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)}
    return {name for name in names if not (name.startswith("__") and name.endswith("__"))}


def test_no_class_has_too_many_methods() -> None:
    sizes = {
        f"{module}.{node.name}": (len(methods_of(node)), place(module, node.lineno))
        for module, tree in trees().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
    }
    wrong = [f"LARGE_CLASSES: there is no {name}" for name in sorted({*LARGE_CLASSES} - {*sizes})]
    for name, (size, at) in sorted(sizes.items()):
        most, _ = LARGE_CLASSES.get(name, (MOST_METHODS, ""))
        if size > most:
            wrong.append(f"{at}: {name} has {size} methods, more than {most}: split it by what its methods are for")
        elif name in LARGE_CLASSES and size <= MOST_METHODS:
            wrong.append(f"LARGE_CLASSES: {name} has {size} methods, which needs no exception any more")
    fail_with(wrong, and_the_map=False)


MOST_LINES = 300


def test_a_long_file_gives_its_reason_in_its_head() -> None:
    fail_with(
        [
            f"{place(module, 1)}: over {MOST_LINES} lines: split it, or say why in its docstring: Over 300 lines: ..."
            for module, file in MODULES.items()
            if len(file.read_text(encoding="utf-8").splitlines()) > MOST_LINES
            and not re.search(r"over 300\s+lines", ast.get_docstring(trees()[module]) or "", re.IGNORECASE)
        ],
        and_the_map=False,
    )
