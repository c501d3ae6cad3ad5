"""Background jobs on RabbitMQ: a call becomes a message, a worker runs it, a coordinator keeps the truth.

The way of one job, station by station:

    function/     what can be run: signature, options, registry, provided arguments, the job that runs now
    producer/     a call becomes an envelope, confirmed; what became of it is asked
    job/          what travels (pure values)
    exchange/     the broker holds it, moves and times it
    consumer/     a delivery becomes an attempt, an attempt an outcome
    outcome/      what is told to the coordinator (events and commands)
    coordinator/  records become truth, and what waits is released
    store/        the truth as rows, written by the coordinator alone, read by all
    beat/         time as a producer of recurring jobs
    processes/    worker, coordinator, beat, or all in one: wired, top to bottom
    dashboard/    what the store knows, seen and acted on: pages and a JSON API
    app.py        BrokerJobs, the object a program holds
    cli/          the command line;   demo/ a mail room that needs every kind of job
    testing/      for the tests of users, and ours;   metrics.py counts;   settings.py, clock.py, errors.py
    extras.py     which part needs which libraries

The public names are below. Each is imported when it is first asked for, so that importing the package, or one module of
it, costs nothing that is not used.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    # The object a program holds, and what it gives out.
    from broker_jobs.app import BrokerJobs as BrokerJobs

    # Words for lengths of time and instants.
    from broker_jobs.clock import Seconds as Seconds
    from broker_jobs.clock import When as When

    # Who may do what in the dashboard.
    from broker_jobs.dashboard.role import Role as Role
    from broker_jobs.dashboard.role import Visitor as Visitor

    # What goes wrong, by what a caller does about it; and what a job may raise.
    from broker_jobs.errors import ArgumentsError as ArgumentsError
    from broker_jobs.errors import BrokerError as BrokerError
    from broker_jobs.errors import BrokerJobsError as BrokerJobsError
    from broker_jobs.errors import DefinitionError as DefinitionError
    from broker_jobs.errors import EnqueueError as EnqueueError
    from broker_jobs.errors import GiveUp as GiveUp
    from broker_jobs.errors import JobDeleted as JobDeleted
    from broker_jobs.errors import JobFailed as JobFailed
    from broker_jobs.errors import MissingExtra as MissingExtra
    from broker_jobs.errors import OptionError as OptionError
    from broker_jobs.errors import ResultTimeout as ResultTimeout
    from broker_jobs.errors import Retry as Retry
    from broker_jobs.errors import StoreError as StoreError
    from broker_jobs.errors import UsageError as UsageError
    from broker_jobs.function.depends import Depends as Depends

    # How often jobs of one key may be there, run and start.
    from broker_jobs.function.keys import Concurrency as Concurrency
    from broker_jobs.function.keys import Ordered as Ordered
    from broker_jobs.function.keys import RateLimit as RateLimit
    from broker_jobs.function.keys import Unique as Unique

    # Options, for programs that keep them in variables.
    from broker_jobs.function.options import CallOptions as CallOptions
    from broker_jobs.function.options import JobOptions as JobOptions
    from broker_jobs.function.options import Options as Options
    from broker_jobs.messages.state import State as State
    from broker_jobs.producer.batch import Batch as Batch
    from broker_jobs.producer.call import Call as Call
    from broker_jobs.producer.counts import BatchCounts as BatchCounts

    # Inside a job.
    from broker_jobs.producer.current_job import CurrentJob as CurrentJob
    from broker_jobs.producer.current_job import JobCancelled as JobCancelled
    from broker_jobs.producer.current_job import current_job as current_job
    from broker_jobs.producer.errors import BatchUnknown as BatchUnknown
    from broker_jobs.producer.errors import EnqueueManyError as EnqueueManyError
    from broker_jobs.producer.errors import EnqueueUnknown as EnqueueUnknown
    from broker_jobs.producer.failure import Failure as Failure
    from broker_jobs.producer.job import AsyncJob as AsyncJob
    from broker_jobs.producer.job import Job as Job
    from broker_jobs.producer.job import SyncJob as SyncJob
    from broker_jobs.producer.receipt import Receipt as Receipt
    from broker_jobs.producer.recurring import RecurringOptions as RecurringOptions
    from broker_jobs.producer.remote import RemoteJob as RemoteJob

    # Results of jobs to come, as arguments of others.
    from broker_jobs.producer.results import result_of as result_of
    from broker_jobs.producer.results import results_of as results_of

_NAMES: dict[str, tuple[str, ...]] = {
    "broker_jobs.app": ("BrokerJobs",),
    "broker_jobs.clock": ("Seconds", "When"),
    "broker_jobs.dashboard.role": ("Role", "Visitor"),
    "broker_jobs.errors": (
        "ArgumentsError",
        "BrokerError",
        "BrokerJobsError",
        "DefinitionError",
        "EnqueueError",
        "GiveUp",
        "JobDeleted",
        "JobFailed",
        "MissingExtra",
        "OptionError",
        "ResultTimeout",
        "Retry",
        "StoreError",
        "UsageError",
    ),
    "broker_jobs.producer.current_job": ("CurrentJob", "JobCancelled", "current_job"),
    "broker_jobs.function.depends": ("Depends",),
    "broker_jobs.function.keys": ("Concurrency", "Ordered", "RateLimit", "Unique"),
    "broker_jobs.function.options": ("CallOptions", "JobOptions", "Options"),
    "broker_jobs.messages.state": ("State",),
    "broker_jobs.producer.batch": ("Batch",),
    "broker_jobs.producer.call": ("Call",),
    "broker_jobs.producer.counts": ("BatchCounts",),
    "broker_jobs.producer.errors": ("BatchUnknown", "EnqueueManyError", "EnqueueUnknown"),
    "broker_jobs.producer.failure": ("Failure",),
    "broker_jobs.producer.job": ("AsyncJob", "Job", "SyncJob"),
    "broker_jobs.producer.receipt": ("Receipt",),
    "broker_jobs.producer.recurring": ("RecurringOptions",),
    "broker_jobs.producer.remote": ("RemoteJob",),
    "broker_jobs.producer.results": ("result_of", "results_of"),
}
"""Module -> its public names, as above; tests/unit/test_imports.py compares the two."""

_HOMES = {name: module for module, names in _NAMES.items() for name in names}

if not TYPE_CHECKING:  # a type checker has the imports above, and must go on to refuse a name that is none
    __all__ = list(_HOMES)

    def __getattr__(name: str) -> object:
        """A public name, imported now (PEP 562)."""
        home = _HOMES.get(name)
        if home is None:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = globals()[name] = getattr(importlib.import_module(home), name)
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *_HOMES})
