"""Makes ids. Apart from the envelope, so that a process that decodes no message needs no pydantic."""

from __future__ import annotations

import uuid_utils


def new_id() -> str:
    """Return a new job id: a UUIDv7, so that ids sort by time and are inserted at the end of an index."""
    return str(uuid_utils.uuid7())
