"""The jobs that enqueue.mjs enqueues."""

from __future__ import annotations

from broker_jobs import BrokerJobs

jobs = BrokerJobs()


@jobs.job
def greet(name: str) -> str:
    """The result of the first job is the argument of the one after it."""
    return f"hello {name}"
