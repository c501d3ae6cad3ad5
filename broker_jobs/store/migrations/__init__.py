"""The steps that make and change the tables, in order; the number of a step is the schema version it leads to.

A released step never changes: a change of tables is a new step at the end of the list. A step gets a connection inside
a transaction, so it is applied whole or not at all, on SQLite as on PostgreSQL.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from sqlalchemy import Connection

from broker_jobs.store.migrations import step_0001

Step: TypeAlias = Callable[[Connection], None]

STEPS: tuple[Step, ...] = (step_0001.apply,)
