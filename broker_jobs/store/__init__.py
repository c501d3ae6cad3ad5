"""The truth, as rows: tables, what the coordinator writes, what everybody reads, migrations, retention."""

from __future__ import annotations

from broker_jobs.store.kept import AuditRow as AuditRow
from broker_jobs.store.kept import LineRow as LineRow
from broker_jobs.store.kept import Meta as Meta
from broker_jobs.store.kept import ParkedRow as ParkedRow
from broker_jobs.store.kept import ScheduleRow as ScheduleRow
from broker_jobs.store.kept import WorkerRow as WorkerRow
from broker_jobs.store.open import Store as Store
from broker_jobs.store.read import Reader as Reader
from broker_jobs.store.row import Row as Row
from broker_jobs.store.row import Why as Why
from broker_jobs.store.row import Wire as Wire
from broker_jobs.store.write import Transaction as Transaction
