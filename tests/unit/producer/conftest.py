import pytest

from broker_jobs import BrokerJobs
from tests.unit.producer.recording import RecordingBroker, program


@pytest.fixture
def broker() -> RecordingBroker:
    return RecordingBroker()


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch, broker: RecordingBroker) -> BrokerJobs:
    return program(monkeypatch, broker, publish_timeout=0.2, max_body=4096)
