"""Addresses, pauses and errors of RabbitMQ connections, without a connection."""

import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pika import exceptions

from broker_jobs.broker.rabbitmq.connection import (
    FIRST_PAUSE_SECONDS,
    LONGEST_PAUSE_SECONDS,
    describe_error,
    parse_hosts,
    pause_seconds,
    refusal,
    unreachable,
)
from broker_jobs.errors import BrokerError


@given(st.integers(min_value=1, max_value=10**6))
def test_a_pause_grows_to_its_limit_with_a_random_part(failures: int) -> None:
    longest = min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2 ** min(failures - 1, 16))
    assert longest / 2 <= pause_seconds(failures) <= longest


def test_every_address_is_a_host_shown_without_its_password() -> None:
    hosts = parse_hosts("amqp://me:s3cret@one/v?heartbeat=7, amqps://me:s3cret@two:5999/v", "worker", 20)
    assert [shown for _, shown in hosts] == ["amqp://me:***@one/v", "amqps://me:***@two:5999/v"]
    assert [(parameters.host, parameters.port) for parameters, _ in hosts] == [("one", 5672), ("two", 5999)]
    assert [parameters.heartbeat for parameters, _ in hosts] == [7, 20], "the address overrides the setting"
    assert hosts[1][0].ssl_options is not None


@pytest.mark.parametrize("urls", ["", " , ", "amqp://me:s3cret@host:port/", "http://me:s3cret@host/"])
def test_an_address_that_cannot_be_read_is_refused_without_its_password(urls: str) -> None:
    with pytest.raises(BrokerError) as caught:
        parse_hosts(urls, "", 20)
    assert "s3cret" not in str(caught.value)


def test_only_an_answer_of_the_broker_is_a_refusal() -> None:
    broke = exceptions.StreamLostError("Transport indicated EOF")
    for probably in (exceptions.ProbableAuthenticationError, exceptions.ProbableAccessDeniedError):
        assert refusal(probably(repr(broke)), "amqp://host") is None
    refused = exceptions.ConnectionClosedByBroker(403, "ACCESS_REFUSED - Login was refused")
    assert "password" in str(refusal(exceptions.ProbableAuthenticationError(repr(refused)), "amqp://host"))
    missing = exceptions.ConnectionClosedByBroker(530, "NOT_ALLOWED - vhost v not found")
    text = str(refusal(exceptions.ProbableAccessDeniedError(repr(missing)), "amqp://host"))
    assert "virtual host" in text
    assert "NOT_ALLOWED - vhost v not found" in text
    assert refusal(exceptions.IncompatibleProtocolError("x"), "amqp://host") is None


def test_an_error_is_described_by_its_innermost_cause() -> None:
    packed = exceptions.AMQPConnectionError(
        exceptions.AMQPConnectionError(ConnectionRefusedError(111, "Connection refused"))
    )
    assert describe_error(packed) == "connection refused"
    assert describe_error(socket.gaierror(-2, "Name or service not known")).startswith("host name not found")
    assert describe_error(exceptions.ChannelClosedByBroker(404, "NOT_FOUND - no queue")) == "404 NOT_FOUND - no queue"
    assert str(unreachable(None, "amqp://host")).startswith("RabbitMQ at amqp://host cannot be reached: no answer")
