"""Says which extra of the package brings a library, and refuses early, with the command to run, where one is missing.

A producer installs what a producer needs; each part that needs more has an extra of its name in pyproject.toml.
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
"""Extra -> the modules it brings, as they are imported. The base dependencies are in none of them."""


def require(what: str, *extras: str) -> None:
    """Refuse unless the libraries of these extras are installed. Imports none of them.

    Args:
        what: what needs them, for the message: "the dashboard".
        extras: their names.

    Raises:
        MissingExtra: says which of them to install, and how.
    """
    lacking = {extra: [name for name in LIBRARIES[extra] if not _is_installed(name)] for extra in extras}
    missing = [extra for extra in extras if lacking[extra]]
    if missing:
        raise MissingExtra(what, missing, sorted({name for names in lacking.values() for name in names}))


def _is_installed(library: str) -> bool:
    try:
        return find_spec(library) is not None
    except ImportError:
        return False
    except ValueError:  # it is loaded, and not from a file
        return True


def store_extras(url: str) -> tuple[str, ...]:
    """What opening the store at this address needs."""
    return ("coordinator", "postgres") if url.startswith("postgres") else ("coordinator",)
