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
from broker_jobs.store.related import error_line as error_line
from broker_jobs.store.row import Row as Row
from broker_jobs.store.row import Why as Why
from broker_jobs.store.row import Wire as Wire
from broker_jobs.store.search import Found as Found
from broker_jobs.store.search import Search as Search
from broker_jobs.store.shown import AuditFound as AuditFound
from broker_jobs.store.shown import BatchesFound as BatchesFound
from broker_jobs.store.shown import BondRow as BondRow
from broker_jobs.store.shown import EndedRow as EndedRow
from broker_jobs.store.shown import FailureRow as FailureRow
from broker_jobs.store.shown import FunctionRow as FunctionRow
from broker_jobs.store.shown import Latency as Latency
from broker_jobs.store.shown import ParkedFound as ParkedFound
from broker_jobs.store.shown import ParkedHead as ParkedHead
from broker_jobs.store.shown import PartRow as PartRow
from broker_jobs.store.shown import QueueRow as QueueRow
from broker_jobs.store.shown import UniqueRow as UniqueRow
from broker_jobs.store.write import Transaction as Transaction
