"""Checks that the libraries of an extra are installed, and raises `MissingExtra` with the pip command if not.

The base package has what a producer needs. Each component that needs more has an extra of its name in pyproject.toml.
"""

from __future__ import annotations

from importlib.util import find_spec

from broker_jobs.errors import MissingExtra

LIBRARIES: dict[str, tuple[str, ...]] = {
    "worker": ("psutil",),
    "coordinator": ("sqlalchemy",),
    "dashboard": (
        *("a2wsgi", "fastapi", "itsdangerous", "jinja2", "jsonschema", "python_multipart"),
        *("sqlalchemy", "starlette", "uvicorn"),
    ),
    "cli": ("rich", "typer"),
    "postgres": ("psycopg", "sqlalchemy"),
    "testing": ("sqlalchemy",),
    "demo": (
        *("a2wsgi", "aiosmtpd", "fastapi", "itsdangerous", "jinja2", "jsonschema", "psutil", "python_multipart"),
        *("rich", "sqlalchemy", "starlette", "typer", "uvicorn"),
    ),
}
"""Extra -> the modules that it installs, by import name, without the base dependencies."""


def require(what: str, *extras: str) -> None:
    """Raise MissingExtra unless the libraries of these extras are installed. Imports none of them.

    Args:
        what: the component that needs them, for the message: "the dashboard".
        extras: names of extras.

    Raises:
        MissingExtra: names the missing ones and the pip command.
    """
    missing_from = {extra: [name for name in LIBRARIES[extra] if not _is_installed(name)] for extra in extras}
    missing = [extra for extra in extras if missing_from[extra]]
    if missing:
        raise MissingExtra(what, missing, sorted({name for names in missing_from.values() for name in names}))


def _is_installed(library: str) -> bool:
    try:
        return find_spec(library) is not None
    except ImportError:
        return False
    except ValueError:  # it is imported and has no spec, such as a module made by a test
        return True


def store_extras(url: str) -> tuple[str, ...]:
    """Return the extras that the store at this address needs."""
    return ("coordinator", "postgres") if url.startswith("postgres") else ("coordinator",)
