"""Enqueues from Django when the transaction commits, and runs worker and dashboard in the same process.

`python examples/django_app.py`, then POST /greet/Ann. The dashboard is at /admin/jobs, for this machine only. PORT
sets the port, 8000 by default. In a project the settings, urls and views are in their usual files.
"""

from __future__ import annotations

import os
import uuid
from functools import partial
from typing import Any

import django
import uvicorn
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.db import transaction
from django.http import HttpRequest, JsonResponse
from django.urls import path

from broker_jobs import BrokerJobs

jobs = BrokerJobs()

settings.configure(
    ALLOWED_HOSTS=["localhost", "127.0.0.1"],
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
    ROOT_URLCONF=__name__,
    SECRET_KEY="only for this example",
)
django.setup()


@jobs.job
def greet(name: str) -> str:
    """A job; a plain function, so it runs in a thread of the worker."""
    return f"hello {name}"


def enqueue(request: HttpRequest, name: str) -> JsonResponse:
    """Enqueue a job when the transaction commits, so that the job finds the rows that it needs."""
    job_id = str(uuid.uuid4())
    with transaction.atomic():
        transaction.on_commit(partial(greet.using(id=job_id).enqueue, name))
    return JsonResponse({"job": job_id})


def state(request: HttpRequest, job_id: str) -> JsonResponse:
    """The state of a job."""
    return JsonResponse({"state": jobs.receipt(job_id).state()})


urlpatterns = [path("greet/<str:name>", enqueue), path("jobs/<str:job_id>", state)]
views = get_asgi_application()
dashboard = jobs.dashboard(local=True)  # in production: authorize=…


async def application(scope: Any, receive: Any, send: Any) -> None:
    """The dashboard below /admin/jobs, Django for all other requests."""
    if scope["type"] == "http" and scope["path"].startswith("/admin/jobs/"):
        await dashboard({**scope, "root_path": "/admin/jobs"}, receive, send)
    elif scope["type"] == "http":
        await views(scope, receive, send)


if __name__ == "__main__":
    with jobs:  # starts worker, coordinator and beat in this process
        uvicorn.run(application, port=int(os.environ.get("PORT", "8000")), lifespan="off")
