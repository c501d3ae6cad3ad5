"""Keeps what programs declare: the functions that they can run, and which jobs events make."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any, NamedTuple

from pydantic_core import from_json, to_json
from sqlalchemy import delete, select, text

from broker_jobs.clock import Instant
from broker_jobs.store import schema
from broker_jobs.store.connections import Reading, WriteConnection, cleaned, upsert
from broker_jobs.store.records import SubscriptionRow
from broker_jobs.store.views import FunctionRow

KEPT_SECONDS = 7 * 86_400.0
"""How long it is kept that a declaration was removed."""
_NOTE_REMOVED = upsert(schema.removed_declarations, replace=True)
_FORGET_REMOVED = text("DELETE FROM removed_declarations WHERE at < :before")
_DECLARED_AGAIN = text("DELETE FROM removed_declarations WHERE service = :service AND kind = :kind AND name = :name")
_REMOVED = text("SELECT service, kind, name, at FROM removed_declarations ORDER BY service, kind, name")
_SUBSCRIBE = upsert(schema.subscriptions, replace=True)
_SAVE_FUNCTION = upsert(schema.functions, replace=True)
_FORGET_FUNCTIONS = text(
    "DELETE FROM functions WHERE service = :service AND seen_at < :before AND (service <> '' OR NOT EXISTS"
    " (SELECT 1 FROM code_jobs WHERE code_jobs.job = functions.name))"
)
"""Programs without a name share one: what a living worker knows stays."""
_FUNCTIONS = text(
    "SELECT name, service, queue, doc, parameters, seen_at FROM functions ORDER BY name, seen_at DESC, service"
)
_FUNCTION = text(
    "SELECT name, service, queue, doc, parameters, seen_at FROM functions WHERE name = :name"
    " ORDER BY seen_at DESC, service LIMIT 1"
)


class RemovedDeclaration(NamedTuple):
    """A recurring job or subscription that a program does not declare any more."""

    service: str
    kind: str
    """recurring job, or subscription."""
    name: str
    at: Instant


class DeclarationStore:
    """Functions and subscriptions, in a transaction."""

    __slots__ = ("_connection",)

    def __init__(self, connection: WriteConnection) -> None:
        self._connection = connection

    def subscriptions(self, event: str) -> list[SubscriptionRow]:
        """Who gets a job for an event."""
        query = select(schema.subscriptions).where(schema.subscriptions.c.event == event)
        return [SubscriptionRow(*row) for row in self._connection.execute(query.order_by("service", "job"))]

    def subscriptions_of(self, service: str) -> set[str]:
        """The subscriptions of a program, each as its event and job."""
        query = select(schema.subscriptions).where(schema.subscriptions.c.service == service)
        return {f"{row.event} → {row.job}" for row in self._connection.execute(query)}

    def note_removed(self, service: str, kind: str, before: set[str], now: set[str], at: Instant) -> set[str]:
        """Keep which of the names that a program declared before it does not declare now; these."""
        removed = before - now
        for name in removed:
            values = {"service": service, "kind": kind, "name": name, "at": at}
            self._connection.write(_NOTE_REMOVED, cleaned(values))
        for name in now - before:
            self._connection.write(_DECLARED_AGAIN, cleaned({"service": service, "kind": kind, "name": name}))
        if removed:
            self._connection.write(_FORGET_REMOVED, {"before": at - KEPT_SECONDS})
        return removed

    def save_subscriptions(self, service: str, rows: Iterable[SubscriptionRow]) -> None:
        """These are the subscriptions of a service, and no others."""
        self._connection.write(delete(schema.subscriptions).where(schema.subscriptions.c.service == service))
        for row in rows:
            self._connection.write(_SUBSCRIBE, cleaned(asdict(row)))

    def save_functions(self, service: str, functions: Iterable[FunctionRow], *, at: Instant, last: bool) -> None:
        """Keep functions a program's code can run, declared at an instant; with the last those declared before go."""
        for row in functions:
            described = to_json({"parameters": row.parameters, "options": row.options}).decode()
            values = asdict(row) | {"service": service, "seen_at": at, "parameters": described}
            del values["options"]
            self._connection.write(_SAVE_FUNCTION, cleaned(values))
        if last:
            self._connection.write(_FORGET_FUNCTIONS, cleaned({"service": service, "before": at}))


class DeclarationReader:
    """Functions and subscriptions, for a reader."""

    __slots__ = ("_reading",)

    def __init__(self, reading: Reading) -> None:
        self._reading = reading

    def functions(self) -> list[FunctionRow]:
        """What can be run as a job, by name; of a name that several programs declare, the newest."""
        with self._reading() as connection:
            rows = connection.execute(_FUNCTIONS).all()
        found: dict[str, FunctionRow] = {}
        for row in rows:
            if row.name not in found:
                found[row.name] = _function(row)
        return list(found.values())

    def function(self, name: str) -> FunctionRow | None:
        """One function, or None: no program has declared it."""
        with self._reading() as connection:
            row = connection.execute(_FUNCTION, {"name": name}).first()
        return None if row is None else _function(row)

    def removed(self) -> list[RemovedDeclaration]:
        """The declarations that programs have removed in the last days, by program."""
        with self._reading() as connection:
            return [RemovedDeclaration(*row) for row in connection.execute(_REMOVED)]

    def subscriptions(self) -> list[SubscriptionRow]:
        """Which jobs events make, by event."""
        query = select(schema.subscriptions).order_by("event", "service", "job")
        with self._reading() as connection:
            return [SubscriptionRow(*row) for row in connection.execute(query)]


def _function(row: Any) -> FunctionRow:
    return FunctionRow(**row._asdict() | from_json(row.parameters))
