"""Turns a row into the tuple a database takes and back, and holds the two statements of the hot path.

Tens of thousands of rows a second go through here, so it is positional and knows both databases by heart: SQLite takes
one tuple a row (executemany), PostgreSQL one array a column (a single statement with unnest).
Empty text is kept as NULL, which costs nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import fields
from functools import cache
from operator import attrgetter
from typing import Any

from pydantic_core import PydanticSerializationError, from_json, to_json

from broker_jobs.messages.state import State
from broker_jobs.store.row import Publication, Row

COLUMNS = tuple(field.name for field in fields(Row))
EMPTY_AS_NULL = ("job", "reason_code", "envelope", "reason", "tags")
HISTORY_MAX = 200
"""Transitions a row keeps; the oldest go first."""
HISTORY_CHARS = 65_536
"""A history longer than this as JSON has its reasons shortened."""
REASON_CHARS = 200

_PLACE = {name: place for place, name in enumerate(COLUMNS)}
_STATE, _PUBLICATION, _OWNED, _HISTORY = (_PLACE[name] for name in ("state", "publication", "owned", "history"))
_WAITS, _CONDITIONS, _GIVES_BACK = (_PLACE[name] for name in ("waits", "conditions", "gives_back"))
_EMPTY = tuple(_PLACE[name] for name in EMPTY_AS_NULL)
_get = attrgetter(*COLUMNS)
_STATES = {state.value: state for state in State}
_STATE_TEXT: dict[State, str] = {state: state.value for state in State}
_PUBLICATIONS = (Publication.NONE, Publication.PUBLISHING, Publication.PUBLISHED)


def values_of(row: Row) -> list[Any]:
    """The columns of a row, in the order of COLUMNS, as both databases take them."""
    values = list(_get(row))
    values[_STATE] = _STATE_TEXT[row.state]
    values[_PUBLICATION] = int(row.publication)
    values[_OWNED] = 1 if row.owned else 0
    values[_GIVES_BACK] = 1 if row.gives_back else 0
    values[_HISTORY] = None if row.history == usual_history(row) else history_text(row.history)
    for place in _EMPTY:
        if values[place] == "":
            values[place] = None
    return values


def changed(before: Row, row: Row) -> tuple[int, ...]:
    """The places in COLUMNS of what has changed of a row."""
    pairs = zip(_get(before), _get(row), strict=True)
    places = [place for place, (old, new) in enumerate(pairs) if old is not new and old != new]
    if _HISTORY not in places and usual_history(before) != usual_history(row):
        places.append(_HISTORY)  # NULL says another history when other columns change
    return tuple(places)


def row_of(values: Sequence[Any]) -> Row:
    """The row of a tuple in the order of COLUMNS."""
    changed = list(values)
    changed[_STATE] = _STATES[changed[_STATE]]
    changed[_PUBLICATION] = _PUBLICATIONS[changed[_PUBLICATION]]
    changed[_OWNED] = bool(changed[_OWNED])
    changed[_GIVES_BACK] = bool(changed[_GIVES_BACK])
    history = changed[_HISTORY]
    changed[_HISTORY] = [] if history is None else [*map(tuple, from_json(history))]
    for place in _EMPTY:
        if changed[place] is None:
            changed[place] = ""
    row = Row(*changed)
    if history is None:
        row.history = usual_history(row)
    return row


def usual_history(row: Row) -> list[tuple[float, str, str]]:
    """The history of most jobs in the row's state, which its other columns say; it is stored as NULL."""
    if row.state is State.ENQUEUED:
        return [(row.created_at, State.ENQUEUED.value, "")]
    if row.state is State.SUCCEEDED and row.started_at is not None and row.ended_at is not None:
        return [
            (row.created_at, State.ENQUEUED.value, ""),
            (row.started_at, State.PROCESSING.value, ""),
            (row.ended_at, State.SUCCEEDED.value, ""),
        ]
    return []


def clean_text(text: str) -> str:
    """Text with NUL and half surrogates replaced by a question mark in a box."""
    return text.replace("\x00", "\ufffd").encode("utf-8", "surrogatepass").decode("utf-8", "replace")


def arrays_of(rows: Iterable[Sequence[Any]]) -> tuple[str, ...]:
    """The columns of many rows as array literals of PostgreSQL.

    Written here, as the driver's own arrays take three times as long.
    """
    return tuple(map(_array, zip(*rows, strict=True)))


def _array(column: Sequence[Any]) -> str:
    return "{" + ",".join(map(_element, column)) + "}"


def _element(value: Any) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return repr(value)


def history_text(history: list[tuple[float, str, str]]) -> str:
    """A history as JSON, within its bounds (pydantic's JSON takes a third of the time of json's)."""
    kept = history[-HISTORY_MAX:] if len(history) > HISTORY_MAX else history
    try:
        text = to_json(kept).decode()
    except PydanticSerializationError:  # half a surrogate
        return history_text([(at, clean_text(state), clean_text(reason)) for at, state, reason in kept])
    if len(text) > HISTORY_CHARS:
        text = to_json([(at, state, reason[:REASON_CHARS]) for at, state, reason in kept]).decode()
    return text


def with_run(history: str, started_at: float, ended_at: float) -> str:
    """The stored history of a job that waits for a worker, with its run and success."""
    run = ((started_at, State.PROCESSING.value, ""), (ended_at, State.SUCCEEDED.value, ""))
    return f"{history[:-1]}{',' if len(history) > 2 else ''}{to_json(run).decode()[1:]}"


def type_of(column: str) -> str:
    """The type of a column in PostgreSQL."""
    if column in {"publication", "epoch", "attempt", "fence", "owned", "retries"}:
        return "int8"
    if column in {"crashes", "returns", "unknowns", "interruptions", "lost_since", "waits", "conditions", "gives_back"}:
        return "int8"
    return "float8" if column.endswith(("_at", "_until")) else "text"


_NAMES = ", ".join(COLUMNS)
_ASSIGN = ", ".join(f"{name} = excluded.{name}" for name in COLUMNS if name != "id")

SELECT = f"SELECT {_NAMES} FROM jobs"  # noqa: S608  # names of our own columns
LOAD_SQLITE = f"{SELECT} WHERE id IN (SELECT value FROM json_each(?))"  # noqa: S608  # as above
LOAD_POSTGRESQL = f"{SELECT} WHERE id = ANY(%s)"
KNOWN_SQLITE = "SELECT id, state, queue, reason_code, priority FROM jobs WHERE id IN (SELECT value FROM json_each(?))"
KNOWN_POSTGRESQL = "SELECT id, state, queue, reason_code, priority FROM jobs WHERE id = ANY(%s)"
SAVE_SQLITE = (
    f"INSERT INTO jobs ({_NAMES}) VALUES ({', '.join('?' * len(COLUMNS))})"  # noqa: S608  # as above
    f" ON CONFLICT (id) DO UPDATE SET {_ASSIGN}"
)
SAVE_POSTGRESQL = (
    f"INSERT INTO jobs ({_NAMES}) SELECT * FROM unnest("  # noqa: S608  # as above
    f"{', '.join(f'%s::{type_of(name)}[]' for name in COLUMNS)}) ON CONFLICT (id) DO UPDATE SET {_ASSIGN}"
)


@cache
def updates(places: tuple[int, ...]) -> tuple[str, str]:
    """The statements that write these columns of a row, whose id comes last: for SQLite, for PostgreSQL."""
    names = [COLUMNS[place] for place in places]
    arrays = ", ".join(f"%s::{type_of(name)}[]" for name in (*names, "id"))
    assigned = ", ".join(f"{name} = given.{name}" for name in names)
    sqlite = f"UPDATE jobs SET {', '.join(f'{name} = ?' for name in names)} WHERE id = ?"  # noqa: S608  # as above
    given = f"unnest({arrays}) AS given ({', '.join((*names, 'id'))})"
    return sqlite, f"UPDATE jobs SET {assigned} FROM {given} WHERE jobs.id = given.id"  # noqa: S608  # as above
