"""The benchmark starts, measures and says what it has measured; its figures are nobody's business here."""

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.support.rabbitmq import Broker

ROOT = Path(__file__).parents[2]
PEERS = ("celery", "dramatiq", "taskiq", "taskiq_aio_pika")

pytestmark = [
    pytest.mark.acceptance,
    pytest.mark.rabbitmq,
    pytest.mark.slow,
    pytest.mark.skipif(not all(map(find_spec, PEERS)), reason="the peers are installed by make bench"),
]


def test_a_row_is_measured_beside_pika_and_the_peers(broker: Broker) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--only", "publish-one", "--quick"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for name in ("pika, two quorum queues", "broker_jobs enqueue()", "Celery", "Dramatiq", "taskiq"):
        assert name in done.stdout
