import pytest

from broker_jobs import BrokerJobs
from tests.unit.producer.recording import RecordingExchange, program


@pytest.fixture
def exchange() -> RecordingExchange:
    return RecordingExchange()


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch, exchange: RecordingExchange) -> BrokerJobs:
    return program(monkeypatch, exchange, publish_timeout=0.2, max_body=4096)
