"""Loads the program that a process runs, named "module:attribute" as with uvicorn and gunicorn."""

from __future__ import annotations

import difflib
import importlib
import sys
import traceback
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from broker_jobs.app import BrokerJobs
from broker_jobs.errors import BrokerJobsError, UsageError
from broker_jobs.processes.run import Application


def load_target(target: str) -> BrokerJobs:
    """Import the BrokerJobs that "module:attribute" names, and the modules it lists.

    The current directory is searched first, as with `python -m`.

    Raises:
        UsageError: no such module or attribute, not a BrokerJobs, or the module cannot be imported.
    """
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    module_name, colon, attribute = target.partition(":")
    if module_name.endswith(".py"):
        raise UsageError(f"write {module_name.removesuffix('.py').replace('/', '.')}:{attribute or 'jobs'}, not a file")
    module = _import(module_name, target)
    found = {name: value for name, value in vars(module).items() if isinstance(value, BrokerJobs)}
    suggestion = f"; did you mean {module_name}:{next(iter(found))}?" if len(found) == 1 else ""
    if not colon or not attribute:
        raise UsageError(f"{target!r} has no attribute: write module:attribute, for example shop.jobs:jobs{suggestion}")
    value: object = module
    for part in attribute.split("."):
        if not hasattr(value, part):
            near = difflib.get_close_matches(part, [*found, *dir(value)], n=1)
            hint = suggestion or (f"; did you mean {module_name}:{near[0]}?" if near else "")
            raise UsageError(f"module {module_name} has no {attribute!r}{hint}")
        value = getattr(value, part)
    if not isinstance(value, BrokerJobs):
        raise UsageError(f"{target} is a {type(value).__name__}, not a BrokerJobs{suggestion}")
    value.load_modules()
    return value


def _import(name: str, target: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not (name == error.name or name.startswith(f"{error.name}.")):
            raise UsageError(f"module {name} cannot be imported: {_where(error)}") from error
        here = [path.stem for path in Path.cwd().glob("*.py")]
        here += [path.parent.name for path in Path.cwd().glob("*/__init__.py")]
        near = difflib.get_close_matches(error.name.rpartition(".")[2], here, n=1)
        hint = f"; did you mean {target.replace(error.name, near[0], 1)!r}?" if near else ""
        raise UsageError(f"no module {error.name!r} in {Path.cwd()} or among the installed packages{hint}") from None
    except BrokerJobsError:
        raise
    except Exception as error:
        raise UsageError(f"module {name} cannot be imported: {_where(error)}") from error


def _where(error: Exception) -> str:
    """The error, with the file and line of the user's code that raised it."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "importlib" not in f.filename]
    place = f" ({frames[-1].filename}:{frames[-1].lineno})" if frames and frames[-1].filename != __file__ else ""
    return f"{type(error).__name__}: {error}{place}"


def load_application(target: str, given: Mapping[str, Any]) -> Application:
    """Load what a process needs of the program that "module:attribute" names. Spawned children import this function.

    Args:
        target: "module:attribute".
        given: the settings of the command line; they override those in code and environment.

    Raises:
        UsageError, DefinitionError, OptionError: the program must be corrected.
    """
    return application_of(load_target(target), target, given)


def application_of(jobs: BrokerJobs, target: str, given: Mapping[str, Any]) -> Application:
    """As load_application, of a program that is already loaded."""
    jobs.configure(given)
    for function in jobs.registry:
        function.signature.check()
    return Application(
        jobs.registry,
        jobs.recurring.declared(jobs.settings.declared_by),
        jobs.subscriptions.declared(),
        close=jobs.stop,
        load=partial(load_application, target, dict(given)),
    )
