"""The truth, as rows: tables, what the coordinator writes, what everybody reads, migrations, retention."""

from __future__ import annotations

from broker_jobs.store.batch_reader import error_line as error_line
from broker_jobs.store.open import Store as Store
from broker_jobs.store.read import Reader as Reader
from broker_jobs.store.records import AttemptRow as AttemptRow
from broker_jobs.store.records import AuditRow as AuditRow
from broker_jobs.store.records import DeadLetterRow as DeadLetterRow
from broker_jobs.store.records import LogLineRow as LogLineRow
from broker_jobs.store.records import Meta as Meta
from broker_jobs.store.records import ScheduleRow as ScheduleRow
from broker_jobs.store.records import WorkerRow as WorkerRow
from broker_jobs.store.row import Publication as Publication
from broker_jobs.store.row import Reason as Reason
from broker_jobs.store.row import Row as Row
from broker_jobs.store.search import Found as Found
from broker_jobs.store.search import SearchQuery as SearchQuery
from broker_jobs.store.views import AuditFound as AuditFound
from broker_jobs.store.views import BatchesFound as BatchesFound
from broker_jobs.store.views import ComponentRow as ComponentRow
from broker_jobs.store.views import DeadLettersFound as DeadLettersFound
from broker_jobs.store.views import DeadLetterSummary as DeadLetterSummary
from broker_jobs.store.views import EndedRow as EndedRow
from broker_jobs.store.views import ErrorRow as ErrorRow
from broker_jobs.store.views import FailureRow as FailureRow
from broker_jobs.store.views import FunctionRow as FunctionRow
from broker_jobs.store.views import KindRow as KindRow
from broker_jobs.store.views import Latency as Latency
from broker_jobs.store.views import QueueRow as QueueRow
from broker_jobs.store.views import RelationRow as RelationRow
from broker_jobs.store.views import UniqueRow as UniqueRow
from broker_jobs.store.write import Transaction as Transaction
