"""A short storm: it keeps the program of the long ones sound, and finds what breaks at once."""

from pathlib import Path

import pytest

from tests.conftest import made
from tests.storm.storm import storm
from tests.support.cluster import Cluster

pytestmark = [pytest.mark.rabbitmq, pytest.mark.slow]


def test_a_short_storm_finds_nothing(tmp_path: Path) -> None:
    cluster = made(lambda: Cluster(1))
    with cluster:
        result = storm(tmp_path, cluster, None, seconds=8, seed=1, per_second=10, pause=1)
    assert result.findings == []
    assert sum(result.figures["faults"].values()) >= 3
    assert result.figures["runs"] > 30
