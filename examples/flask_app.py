"""Enqueues from Flask, and runs worker and dashboard in the same process.

`python examples/flask_app.py`, then POST /greet/Ann. The dashboard is at /admin/jobs, for this machine only. PORT
sets the port, 5000 by default. Under gunicorn call `jobs.start()` in `post_fork` if the web processes are to run jobs.
"""

from __future__ import annotations

import os
from collections.abc import Generator

from flask import Flask, current_app
from werkzeug.middleware.dispatcher import DispatcherMiddleware

from broker_jobs import BrokerJobs

jobs = BrokerJobs()
app = Flask(__name__)
dashboard = jobs.dashboard(local=True)  # in production: authorize=…
app.wsgi_app = DispatcherMiddleware(app.wsgi_app, {"/admin/jobs": dashboard.wsgi})  # type: ignore[method-assign]


@jobs.around
def app_context() -> Generator[None]:
    """Run every job in an application context, so that jobs can use extensions of Flask."""
    with app.app_context():
        yield


@jobs.job
def greet(name: str) -> str:
    """A job; a plain function, so it runs in a thread of the worker."""
    return f"hello {name} from {current_app.name}"


@app.post("/greet/<name>")
def enqueue(name: str) -> dict[str, str]:
    """Enqueue a job. The call returns when the broker has confirmed it."""
    return {"job": greet.enqueue(name).id}


@app.get("/jobs/<job_id>")
def state(job_id: str) -> dict[str, str]:
    """The state of a job."""
    return {"state": jobs.receipt(job_id).state()}


if __name__ == "__main__":
    with jobs:  # starts worker, coordinator and beat in this process
        app.run(port=int(os.environ.get("PORT", "5000")))
