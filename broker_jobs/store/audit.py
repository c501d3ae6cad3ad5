"""Keeps the commands that were applied: who sent them, and what came of them."""

from __future__ import annotations

from sqlalchemy import text

from broker_jobs.clock import Instant
from broker_jobs.store import schema
from broker_jobs.store.connections import WriteConnection, cleaned, upsert

_AUDIT = upsert(schema.audit, replace=False)
_DETAIL = text("SELECT detail FROM audit WHERE id = :id")
_NOTE = text("UPDATE audit SET detail = :detail WHERE id = :id")


class AuditStore:
    """Applied commands, in a transaction."""

    __slots__ = ("_connection",)

    def __init__(self, connection: WriteConnection) -> None:
        self._connection = connection

    def add(
        self,
        id: str,
        *,
        at: Instant,
        by: str,
        kind: str,
        subject: str,
        detail: str = "",
        user_id: str = "",
    ) -> bool:
        """Note that a command is applied now; False: it was before, so apply it no more."""
        values = {
            "id": id, "at": at, "by": by, "kind": kind, "subject": subject, "detail": detail, "user_id": user_id,
        }  # fmt: skip
        return self._connection.write(_AUDIT, cleaned(values))

    def detail(self, id: str) -> str | None:
        """The detail noted with a command when it was applied; None: it was not."""
        return self._connection.execute(_DETAIL, {"id": id}).scalar_one_or_none()

    def note(self, id: str, detail: str) -> None:
        """Replace the detail noted with a command that is still being worked off."""
        self._connection.write(_NOTE, cleaned({"id": id, "detail": detail}))
