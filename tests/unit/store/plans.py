"""Finds the statements of a module, and asks a database how it would run one."""

from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import Any

from sqlalchemy import Connection, TextClause, bindparam, text


def statements_of(*modules: ModuleType) -> list[tuple[str, TextClause]]:
    """(module and name, statement) of all that modules keep, alone or in a tuple or a dict."""
    found = [
        (f"{module.__name__.rpartition('.')[2]}.{name}", statement)
        for module in modules
        for name, value in vars(module).items()
        for statement in _statements(value)
    ]
    of_one_name: dict[int, tuple[str, TextClause]] = {}
    for name, statement in found:
        of_one_name.setdefault(id(statement), (name, statement))
    return list(of_one_name.values())


def _statements(value: object) -> Iterator[TextClause]:
    if isinstance(value, TextClause):
        yield value
    elif isinstance(value, Mapping):
        for one in value.values():
            yield from _statements(one)
    elif isinstance(value, tuple):
        for one in value:
            yield from _statements(one)


def explained(connection: Connection, explain: str, query: TextClause, value: Any = 1) -> list[Any]:
    """The rows of the plan of a statement, with some value for each of its parameters."""
    several: list[Any] = [bindparam(name, expanding=True) for name, one in query._bindparams.items() if one.expanding]
    values = {name: [value, value] if one.expanding else value for name, one in query._bindparams.items()}
    return list(connection.execute(text(f"{explain} {query.text}").bindparams(*several), values))
