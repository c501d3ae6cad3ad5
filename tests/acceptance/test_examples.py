"""The examples run as their file heads say: the quickstart to its end, the web applications with a job over HTTP."""

import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.process import Lodging, free_port
from tests.support.wait import eventually

pytestmark = [pytest.mark.acceptance, pytest.mark.slow]

EXAMPLES = Path(__file__).parents[2] / "examples"
ENV = {name: value for name, value in os.environ.items() if not name.startswith("BROKER_JOBS_")} | {
    "PYTHONPATH": str(EXAMPLES.parent)
}
WEB = {
    "fastapi": ["-m", "uvicorn", "--app-dir", str(EXAMPLES), "fastapi_app:app", "--port", "{port}"],
    "flask": [str(EXAMPLES / "flask_app.py")],
    "django": [str(EXAMPLES / "django_app.py")],
}


@pytest.fixture
def lodging() -> Iterator[Lodging]:
    lodging = Lodging("examples")
    try:
        yield lodging
    finally:
        lodging.close()


def fetch(url: str, method: str = "GET") -> dict[str, Any] | None:
    """The JSON that a URL answers; None: it does not answer yet."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method=method), timeout=30) as answer:
            found: dict[str, Any] = json.load(answer)
            return found
    except urllib.error.HTTPError:
        raise
    except OSError:
        return None


def test_the_quickstart_prints_the_results_of_its_jobs(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / "quickstart.py")],
        cwd=tmp_path, env=ENV, capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    now, later, after, batch, failed, recurring = done.stdout.splitlines()
    assert now == "now: 3"
    assert later == "later: a delayed result is 3"
    assert after == "after: the sum is 3"
    assert batch == "batch: [0, 2, 4] the size of the batch is 3"
    assert failed.endswith("failed after 3 runs: ValueError: on purpose")
    assert recurring == "recurring: the tick is 1"


@pytest.mark.parametrize("framework", WEB)
def test_a_web_application_enqueues_a_job_and_shows_that_it_succeeded(lodging: Lodging, framework: str) -> None:
    port = free_port()
    command = [sys.executable, *(part.format(port=port) for part in WEB[framework])]
    lodging.start(command, log=lodging.folder / "log", env=ENV | {"PORT": str(port)})
    address = f"http://127.0.0.1:{port}"
    posted = eventually(lambda: fetch(f"{address}/greet/Ann", "POST"), 60, f"{framework} answers")
    assert posted
    job_id = posted["job"]
    eventually(
        lambda: (fetch(f"{address}/jobs/{job_id}") or {}).get("state") == "succeeded", 60, f"{framework}: it succeeded"
    )
    with urllib.request.urlopen(f"{address}/admin/jobs/jobs/{job_id}", timeout=30) as page:
        assert "succeeded" in page.read().decode()
