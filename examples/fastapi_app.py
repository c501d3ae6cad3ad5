"""Enqueues from FastAPI, and runs worker and dashboard in the same process.

`uvicorn --app-dir examples fastapi_app:app`, then POST /greet/Ann. The dashboard is at /admin/jobs, for this machine
only. Leave out `lifespan` where workers run in processes of their own (`broker-jobs worker`).
"""

from __future__ import annotations

from fastapi import FastAPI

from broker_jobs import BrokerJobs

jobs = BrokerJobs()
app = FastAPI(lifespan=jobs.lifespan)
app.mount("/admin/jobs", jobs.dashboard(local=True))  # in production: authorize=…


@jobs.job
async def greet(name: str) -> str:
    """A job; async, so it runs on the worker's event loop."""
    return f"hello {name}"


@app.post("/greet/{name}")
async def enqueue(name: str) -> dict[str, str]:
    """Enqueue a job. The await returns when the broker has confirmed it."""
    return {"job": (await greet.enqueue_async(name)).id}


@app.get("/jobs/{job_id}")
async def state(job_id: str) -> dict[str, str]:
    """The state of a job."""
    return {"state": await jobs.receipt(job_id).state_async()}
