"""Stores the functions of a program by the names of their jobs, and the hooks around each attempt."""

from __future__ import annotations

import importlib
import sys
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from broker_jobs.errors import DefinitionError
from broker_jobs.function.depends import Provided
from broker_jobs.function.hooks import Around, Hooks, joined
from broker_jobs.function.options import FunctionOptions
from broker_jobs.function.signature import Signature


@dataclass(frozen=True)
class Function:
    """A function that can be run as a job.

    `where` is its place in the source, "shop/mail.py:12". `provided` are the parameters with `Depends`:
    name -> (position, marker). `groups` are the hooks of the groups that it is in, the outermost first.
    """

    name: str
    fn: Callable[..., Any]
    is_async: bool
    signature: Signature
    options: FunctionOptions
    where: str
    provided: Mapping[str, tuple[int, Provided]] = field(default_factory=dict)
    groups: tuple[Hooks, ...] = ()

    @property
    def on_loop(self) -> bool:
        """Whether it runs on the event loop of its worker; else a thread runs it, or waits for its process."""
        return self.is_async and self.options.isolation == "thread"


_registries: weakref.WeakSet[Registry] = weakref.WeakSet()


def load_registry(modules: Sequence[str], names: Sequence[str]) -> Registry:
    """Import a program in a fresh process; the registry that has these jobs.

    Python itself imports the main module of a program in each process that it spawns.

    Raises:
        DefinitionError: no registry has them.
        Exception: whatever a module raises.
    """
    for module in modules:
        if module != "__main__":
            importlib.import_module(module)
    for registry in _registries:
        if set(names) <= set(registry.names()):
            return registry
    raise DefinitionError(
        f"a child process imports {', '.join(modules)} and does not find all of the jobs {', '.join(names)}: "
        "a job with isolation='process' is defined at the top level of a module, where an import runs its decorator"
    )


def loader_of(registry: Registry, modules: Sequence[str]) -> Callable[[], Registry]:
    """What returns this registry in a fresh process; it pickles. `modules`: those that the program imports first."""
    isolated = [function for function in registry if function.options.isolation == "process"]
    wanted = dict.fromkeys([*modules, *(function.fn.__module__ for function in isolated)])
    return partial(load_registry, tuple(wanted), tuple(function.name for function in isolated))


class Registry:
    """The functions of one `BrokerJobs`.

    `hooks` are those of the program, `groups` those of the groups that it includes. `batch_of` makes the batch with
    this id, for a running job.
    """

    def __init__(self) -> None:
        self._functions: dict[str, Function] = {}
        _registries.add(self)
        self.hooks = Hooks()
        self.groups: list[Hooks] = []
        self.batch_of: Callable[[str], Any] | None = None

    def add(self, function: Function) -> None:
        """Add a function. It replaces one of the same module and qualified name, after a reload or in Jupyter.

        Raises:
            DefinitionError: another function has this job name; the message names both places.
        """
        known = self._functions.get(function.name)
        if known is not None and not _is_again(known, function):
            raise DefinitionError(
                f"two jobs are named {function.name!r}: {known.where}, {function.where}; give one @jobs.job(name=…)"
            )
        self._functions[function.name] = function

    @property
    def around(self) -> list[Around]:
        """The program's hooks around each attempt, the outermost first."""
        return self.hooks.around

    def hooks_of(self, function: Function) -> Hooks:
        """The hooks of a job: those of the program and of its groups."""
        return joined([self.hooks, *function.groups])

    def all_hooks(self) -> Hooks:
        """The hooks of the program and of all its groups."""
        return joined([self.hooks, *self.groups])

    def get(self, name: str) -> Function | None:
        """The function with this job name, or None."""
        return self._functions.get(name)

    def names(self) -> list[str]:
        """All names, sorted."""
        return sorted(self._functions)

    def __iter__(self) -> Iterator[Function]:
        return iter(list(self._functions.values()))

    def __len__(self) -> int:
        return len(self._functions)


def source_place(fn: Callable[..., Any]) -> str:
    """The file and line of a function: "shop/mail.py:12", relative if it is below the working directory."""
    code = getattr(fn, "__code__", None)
    if code is None:
        return f"{getattr(fn, '__module__', '?')}.{getattr(fn, '__qualname__', '?')}"
    file = Path(code.co_filename)
    if file.is_absolute() and file.is_relative_to(Path.cwd()):
        file = file.relative_to(Path.cwd())
    return f"{file.as_posix()}:{code.co_firstlineno}"


def _is_again(known: Function, function: Function) -> bool:
    """Whether a function is a known one, defined again: its module was reloaded, or a cell runs once more.

    Not so a second function of that name in one import, nor what one `def` makes each time it runs, as in a factory or
    a loop: a call of the first would run the last.
    """
    old, new = known.fn, function.fn
    if old is new:
        return True
    if (old.__module__, old.__qualname__) != (new.__module__, new.__qualname__):
        return False
    code = getattr(old, "__code__", None)
    if code is not None and code is getattr(new, "__code__", None):
        return False
    return not (_runs_once(new) and getattr(old, "__globals__", None) is getattr(new, "__globals__", 0))


def _runs_once(fn: Callable[..., Any]) -> bool:
    """Whether the module of a function is in its first import, or is the file that Python runs as a program."""
    module = sys.modules.get(fn.__module__)
    if fn.__module__ != "__main__":
        return bool(getattr(getattr(module, "__spec__", None), "_initializing", False))
    file, code = getattr(module, "__file__", None), getattr(fn, "__code__", None)
    return file is not None and code is not None and Path(file).absolute() == Path(code.co_filename).absolute()
