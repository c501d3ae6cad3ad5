"""What RabbitBroker says when RabbitMQ refuses: each error names the cause and what to do, never a password."""

import time
from typing import Any
from urllib.parse import urlsplit

import pika
import pytest

from broker_jobs.broker import names
from broker_jobs.broker.interface import Delivery, Message, Unconfirmed
from broker_jobs.broker.rabbitmq import RabbitBroker
from broker_jobs.broker.rabbitmq.publisher import Publisher
from broker_jobs.broker.topology import fixed_topology, work_topology
from broker_jobs.errors import BrokerError
from tests.conformance.backends import applied, publish
from tests.support.callbacks import in_the_io_thread
from tests.support.process import free_port
from tests.support.rabbitmq import Vhost
from tests.support.wait import eventually

pytestmark = pytest.mark.rabbitmq


def refusal_at_start(url: str, timeout: float = 10) -> str:
    """Start an exchange that must be refused; return what it said."""
    broker = RabbitBroker(url)
    with pytest.raises(BrokerError) as caught:
        broker.start(timeout)
    assert not broker.connected
    broker.stop()
    return str(caught.value)


def test_a_wrong_password_is_said_at_once_and_never_shown(vhost: Vhost) -> None:
    said = refusal_at_start(vhost.broker.url(vhost.name, "guest", "s3cret"))
    assert "refused the user name or password" in said
    assert "guest:***@127.0.0.1" in said
    assert "s3cret" not in said


def test_a_virtual_host_that_does_not_exist_is_named(vhost: Vhost) -> None:
    said = refusal_at_start(vhost.broker.url("no-such-vhost"))
    assert "refused the virtual host" in said
    assert "no-such-vhost" in said
    assert "add_vhost" in said


def test_a_broker_that_is_down_is_tried_until_the_time_is_over() -> None:
    started = time.monotonic()
    said = refusal_at_start(f"amqp://guest:guest@127.0.0.1:{free_port()}/", timeout=0.5)
    assert 0.4 < time.monotonic() - started < 5
    assert "cannot be reached: connection refused" in said


def test_a_host_name_that_does_not_exist_is_said() -> None:
    assert "host name not found" in refusal_at_start("amqp://guest:guest@no-such-host.invalid/", timeout=5)


def test_tls_to_a_port_without_tls_is_said_at_once(vhost: Vhost) -> None:
    said = refusal_at_start(vhost.url.replace("amqp://", "amqps://"))
    assert "no TLS with amqps://guest:***@" in said


def test_http_is_no_broker(vhost: Vhost) -> None:
    said = refusal_at_start(vhost.broker.url(vhost.name, port=vhost.broker.http_port), timeout=1)
    assert "cannot be reached" in said
    assert "HTTP" in said


def test_an_address_that_cannot_be_read_is_refused_before_anything_is_tried() -> None:
    with pytest.raises(BrokerError, match="is not a broker address") as caught:
        RabbitBroker("amqp://guest:s3cret@host:notaport/")
    assert "s3cret" not in str(caught.value)
    with pytest.raises(BrokerError, match="the broker address is empty"):
        RabbitBroker(" , ")


@pytest.mark.slow
def test_a_start_that_failed_may_be_repeated(vhost: Vhost) -> None:
    broker = RabbitBroker(vhost.url)
    vhost.broker.stop()
    with pytest.raises(BrokerError):
        broker.start(0.2)
    [result] = broker.publish([Message("", "q", b"x")]).result(0)
    assert result is not None
    assert result.kind is Unconfirmed.NOT_SENT
    vhost.broker.start()
    broker.start()
    assert broker.connected
    broker.stop()


def test_a_queue_with_other_arguments_is_named_with_what_to_do(vhost: Vhost) -> None:
    with vhost.channel() as channel:
        channel.queue_declare(names.work_queue("mail"), durable=True)
    broker = RabbitBroker(vhost.url)
    broker.start()
    broker.apply(fixed_topology())
    with pytest.raises(BrokerError) as caught:
        broker.apply(work_topology("mail", "bulk"))
    said = str(caught.value)
    assert said.startswith("queue jobs.v1.work.mail exists with other arguments (broker says: PRECONDITION_FAILED")
    assert "use another vhost" in said
    assert broker.connected, "only the errand's channel was closed"
    assert publish(broker, Message("", names.LOG, b"x")) == [None]
    broker.stop()


def test_a_user_without_permission_is_named_with_what_to_do(vhost: Vhost) -> None:
    url = vhost.add_user("worker", "s3cret", configure="^$", write=".*", read=".*")
    broker = RabbitBroker(url)
    broker.start()
    with pytest.raises(BrokerError) as caught:
        broker.apply(fixed_topology())
    said = str(caught.value)
    assert f"the user 'worker-{vhost.name}' lacks a permission" in said
    assert "BROKER_JOBS_DECLARE=false" in said
    assert "s3cret" not in said
    broker.stop()


def test_with_declare_off_a_user_without_that_permission_works(vhost: Vhost) -> None:
    applied(admin := RabbitBroker(vhost.url))
    url = vhost.add_user("worker", "s3cret", configure="^$", write=".*", read=".*")
    broker = RabbitBroker(url, declare=False)
    applied(broker)
    came: list[object] = []
    broker.subscribe([names.work_queue("mail")], came.extend, prefetch=1)
    assert publish(broker, Message(names.SUBMIT, "mail", b"x")) == [None]
    eventually(lambda: came, what="the delivery")
    broker.stop()
    admin.stop()


def test_a_user_who_may_not_write_is_told_that_nothing_was_sent(vhost: Vhost) -> None:
    applied(admin := RabbitBroker(vhost.url))
    url = vhost.add_user("reader", "s3cret", configure="^$", write="^$", read=".*")
    broker = RabbitBroker(url, declare=False)
    broker.start()
    for _ in range(2):  # the second time on a new channel
        [result] = publish(broker, Message(names.SUBMIT, "mail", b"x"))
        assert result is not None
        assert result.kind is Unconfirmed.NOT_SENT
        assert "ACCESS_REFUSED" in result.reason
    broker.stop()
    admin.stop()


def test_a_user_whom_rabbitmq_knows_by_another_name_than_its_login_loses_no_message(
    vhost: Vhost, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with logins by token: RabbitMQ refuses the login's name in `user_id`, and says which one is right."""
    applied(admin := RabbitBroker(vhost.url))
    admin.stop()
    opened = Publisher.open

    def with_an_alias(self: Publisher, connection: Any, address: str) -> None:
        connection.params.credentials.username = "an alias"
        opened(self, connection, address)

    monkeypatch.setattr(Publisher, "open", with_an_alias)
    broker = RabbitBroker(vhost.url)
    broker.start()
    assert publish(broker, *[Message(names.SUBMIT, "mail", b"%d" % n) for n in range(20)]) == [None] * 20
    came: list[Delivery] = []
    broker.subscribe([names.work_queue("mail")], came.extend, prefetch=100)
    eventually(lambda: len(came) == 20, what="the deliveries")
    assert [each.body for each in came] == [b"%d" % n for n in range(20)]
    assert {each.user_id for each in came} == {urlsplit(vhost.url).username}
    broker.stop()


def test_the_blocking_calls_refuse_to_run_in_a_callback(vhost: Vhost) -> None:
    applied(broker := RabbitBroker(vhost.url))
    with pytest.raises(RuntimeError, match="waits for the I/O thread and was made in it"):
        in_the_io_thread(broker, Message("", names.LOG, b"x"), lambda: broker.depth(names.LOG))
    broker.stop()


def test_connections_carry_their_name(vhost: Vhost) -> None:
    broker = RabbitBroker(vhost.url, name="worker host-1")
    broker.start()

    def names_seen() -> set[str]:
        found = vhost.broker.http("GET", f"/vhosts/{vhost.name}/connections")
        return {each.get("client_properties", {}).get("connection_name", "") for each in found}

    eventually(lambda: names_seen() == {"worker host-1"}, what="the name on RabbitMQ's page")
    broker.stop()
    eventually(lambda: vhost.connections() == 0, what="no connection is left")


def test_what_is_published_is_persistent_and_carries_no_headers(vhost: Vhost) -> None:
    applied(broker := RabbitBroker(vhost.url))
    assert publish(broker, Message("", names.DUE, b"{}", "envelope", "id-1", "r", "c")) == [None]
    broker.stop()
    found = vhost.get(names.DUE)
    assert found is not None
    properties: pika.BasicProperties = found[1]
    assert properties.delivery_mode == 2
    assert properties.content_type == "application/json"
    assert {key for key in properties.headers or {} if not key.startswith("x-")} == set()
