"""A short soak: it keeps the program of the long ones sound, and finds what breaks at once."""

from pathlib import Path

import pytest

from tests.conftest import made
from tests.soak.soak import guilty, soak
from tests.support.cluster import Cluster

pytestmark = [pytest.mark.rabbitmq, pytest.mark.slow]


def test_a_short_soak_finds_nothing(tmp_path: Path) -> None:
    cluster = made(lambda: Cluster(1))
    with cluster:
        result = soak(tmp_path, cluster, seconds=15, a_minute=600, guilty_a_minute=len(guilty()) * 4.4)
    assert result.findings == []
    assert set(result.figures["guilty"]) == set(guilty())
