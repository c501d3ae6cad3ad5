"""Background jobs for Python on RabbitMQ.

The path of a job:

    function/     what can be run: signatures, options, the registry, provided arguments
    producer/     turns a call into an envelope, publishes it and asks for its state and result
    messages/     what is sent: envelopes, events, commands, control and batch messages
    broker/       moves messages and delays them: RabbitMQ, or a broker in memory
    consumer/     the worker: receives deliveries, runs them, reports the outcome, acknowledges
    coordinator/  reads the log, decides the state of each job, releases the jobs that wait
    store/        the database: written by the coordinator, read by everything else
    beat/         fires recurring jobs at their planned times
    processes/    starts these components in processes, with signals, logs and metrics
    dashboard/    web pages and a JSON API on the store
    cli/          the command line
    testing/      a tester and a worker for unit tests
    demo/         an example program: a mail service
    app.py        BrokerJobs, the object that a program creates
    settings.py, served_queues.py, service_name.py, clock.py, errors.py, logs.py, metrics.py, extras.py

The public names are listed below. Each is imported when it is first used, so that importing the package costs nothing
that is not used.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    # The object that a program creates.
    from broker_jobs.app import BrokerJobs as BrokerJobs

    # Types of lengths of time and of instants.
    from broker_jobs.clock import Seconds as Seconds
    from broker_jobs.clock import When as When

    # Users of the dashboard.
    from broker_jobs.dashboard.role import Role as Role
    from broker_jobs.dashboard.role import Visitor as Visitor

    # Errors, and what a job may raise.
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

    # The pauses before retries.
    from broker_jobs.function.backoff import Backoff as Backoff
    from broker_jobs.function.depends import Depends as Depends

    # What hooks get.
    from broker_jobs.function.hooks import JobMessage as JobMessage

    # Unique keys and limits.
    from broker_jobs.function.keys import Concurrency as Concurrency
    from broker_jobs.function.keys import Ordered as Ordered
    from broker_jobs.function.keys import RateLimit as RateLimit
    from broker_jobs.function.keys import Unique as Unique

    # Types of options.
    from broker_jobs.function.options import CallOptions as CallOptions
    from broker_jobs.function.options import JobOptions as JobOptions
    from broker_jobs.function.options import Options as Options
    from broker_jobs.messages.state import State as State
    from broker_jobs.producer.batch import Batch as Batch
    from broker_jobs.producer.batch import BatchCounts as BatchCounts

    # Inside a job.
    from broker_jobs.producer.current_job import CurrentJob as CurrentJob
    from broker_jobs.producer.current_job import JobCancelled as JobCancelled
    from broker_jobs.producer.current_job import JobTimedOut as JobTimedOut
    from broker_jobs.producer.current_job import current_job as current_job
    from broker_jobs.producer.errors import BatchUnknown as BatchUnknown
    from broker_jobs.producer.errors import EnqueueManyError as EnqueueManyError
    from broker_jobs.producer.errors import EnqueueUnknown as EnqueueUnknown
    from broker_jobs.producer.failures import Failure as Failure

    # Groups of jobs.
    from broker_jobs.producer.group import Jobs as Jobs
    from broker_jobs.producer.job import AsyncJob as AsyncJob
    from broker_jobs.producer.job import Call as Call
    from broker_jobs.producer.job import Job as Job
    from broker_jobs.producer.job import SyncJob as SyncJob
    from broker_jobs.producer.job_info import JobError as JobError
    from broker_jobs.producer.job_info import JobInfo as JobInfo
    from broker_jobs.producer.receipt import Receipt as Receipt
    from broker_jobs.producer.receipt import result_of as result_of
    from broker_jobs.producer.receipt import results_of as results_of
    from broker_jobs.producer.recurring import RecurringOptions as RecurringOptions
    from broker_jobs.producer.remote import RemoteJob as RemoteJob

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
    "broker_jobs.producer.current_job": ("CurrentJob", "JobCancelled", "JobTimedOut", "current_job"),
    "broker_jobs.function.backoff": ("Backoff",),
    "broker_jobs.function.depends": ("Depends",),
    "broker_jobs.function.hooks": ("JobMessage",),
    "broker_jobs.function.keys": ("Concurrency", "Ordered", "RateLimit", "Unique"),
    "broker_jobs.function.options": ("CallOptions", "JobOptions", "Options"),
    "broker_jobs.messages.state": ("State",),
    "broker_jobs.producer.batch": ("Batch", "BatchCounts"),
    "broker_jobs.producer.errors": ("BatchUnknown", "EnqueueManyError", "EnqueueUnknown"),
    "broker_jobs.producer.failures": ("Failure",),
    "broker_jobs.producer.group": ("Jobs",),
    "broker_jobs.producer.job": ("AsyncJob", "Call", "Job", "SyncJob"),
    "broker_jobs.producer.job_info": ("JobError", "JobInfo"),
    "broker_jobs.producer.receipt": ("Receipt", "result_of", "results_of"),
    "broker_jobs.producer.recurring": ("RecurringOptions",),
    "broker_jobs.producer.remote": ("RemoteJob",),
}
"""Module -> its public names, as above. tests/unit/test_imports.py compares the two."""

_MODULES = {name: module for module, names in _NAMES.items() for name in names}

if not TYPE_CHECKING:  # a type checker uses the imports above, and must report unknown names
    __all__ = list(_MODULES)

    def __getattr__(name: str) -> object:
        """Import a public name on its first use (PEP 562)."""
        module = _MODULES.get(name)
        if module is None:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = globals()[name] = getattr(importlib.import_module(module), name)
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *_MODULES})
