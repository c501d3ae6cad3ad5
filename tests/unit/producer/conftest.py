import pytest

from broker_jobs import BrokerJobs
from tests.unit.producer.recording import RecordingExchange, program


@pytest.fixture
def broker() -> RecordingExchange:
    return RecordingExchange()


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch, broker: RecordingExchange) -> BrokerJobs:
    return program(monkeypatch, broker, publish_timeout=0.2, max_body=4096)
