"""The jobs that the files beside this folder run, until yours stand in their place."""

from __future__ import annotations

import random
import time

from broker_jobs import BrokerJobs

jobs = BrokerJobs(service="greetings")


@jobs.job(retries=5, backoff=[1, 5, 30])
def greet(name: str) -> str:
    """Takes a moment, and fails now and then."""
    time.sleep(random.uniform(0.01, 0.5))
    if random.random() < 0.1:
        raise ConnectionError("the line was busy")
    return f"hello {name}"


jobs.recurring("greeting", "*/10 * * * * *", greet.bind("world"))
