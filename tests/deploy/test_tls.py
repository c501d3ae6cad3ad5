"""TLS as rabbitmq.conf shows it: with its lines taken in, parts work over amqps:// and believe no other certificate."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker_jobs.broker import names
from broker_jobs.broker.interface import Message
from broker_jobs.broker.rabbitmq import RabbitBroker
from broker_jobs.errors import BrokerRefused
from tests.conftest import made
from tests.support.process import free_port
from tests.support.shipped import ShippedBroker

pytestmark = [pytest.mark.rabbitmq, pytest.mark.slow]


def openssl(folder: Path, *words: str) -> None:
    subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True, timeout=60)


def certificates(folder: Path) -> None:
    """An authority, and what it signs for this machine."""
    request = ["req", "-newkey", "rsa:2048", "-nodes", "-days", "1"]
    openssl(folder, *request, "-x509", "-subj", "/CN=an authority", "-keyout", "ca.key", "-out", "ca.pem")
    openssl(folder, *request[:-2], "-subj", "/CN=localhost", "-keyout", "server.key", "-out", "server.csr")
    (folder / "names").write_text("subjectAltName = DNS:localhost, IP:127.0.0.1\n")
    openssl(
        folder,
        *("x509", "-req", "-days", "1", "-in", "server.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial"),
        *("-extfile", "names", "-out", "server.pem"),
    )


class TlsBroker(ShippedBroker):
    """The shipped RabbitMQ with the lines for TLS taken in."""

    def __init__(self) -> None:
        super().__init__()
        self.tls_port = free_port()
        self.authority = self._folder / "ca.pem"

    def tls_address(self, role: str, options: str) -> str:
        plain = self.address(role).replace("amqp://", "amqps://")
        return plain.replace(f":{self.amqp_port}/", f":{self.tls_port}/") + options

    def _configure(self) -> None:
        super()._configure()
        certificates(self._folder)
        here = self._installation.inside(self._folder)
        file = self._folder / "rabbitmq.conf"
        text, taken = re.subn(r"(?m)^# ((?:listeners\.ssl|ssl_options)\..* = .*)$", r"\1", file.read_text())
        assert taken >= 6
        text = text.replace("/etc/rabbitmq/tls", str(here))
        text = re.sub(r"(?m)^listeners\.ssl\.default = .*$", f"listeners.ssl.1 = 127.0.0.1:{self.tls_port}", text)
        file.write_text(text)


@pytest.fixture(scope="module")
def node() -> Iterator[TlsBroker]:
    broker = made(TlsBroker)
    try:
        broker.start()
        yield broker
    finally:
        broker.dispose()


def test_the_authority_is_named_in_the_address(node: TlsBroker) -> None:
    options = f"?ssl_options={{'ca_certs':'{node.authority}'}}"
    broker = RabbitBroker(node.tls_address("producer", options), declare=False)
    broker.start(30)
    try:
        sent = broker.publish([Message(names.SUBMIT, "default", b"x")], timeout=30).result(30)
        assert sent == [None]
    finally:
        broker.stop()


def test_a_certificate_of_an_unknown_authority_is_not_believed(node: TlsBroker) -> None:
    broker = RabbitBroker(node.tls_address("producer", ""), declare=False)
    with pytest.raises(BrokerRefused, match="is not accepted"):
        broker.start(30)
