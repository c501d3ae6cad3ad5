"""Keeps one connection to RabbitMQ open: parameters, reconnects with back-off, and explanations of errors."""

from __future__ import annotations

import logging
import random
import socket
import ssl
from collections.abc import Callable, Iterator
from typing import TypeAlias

import pika
from pika import exceptions
from pika.connection import Parameters

from broker_jobs.broker.rabbitmq.io_loop import IoLoop, Timer, run_safely
from broker_jobs.broker.rabbitmq.receiving import ReceivingConnection
from broker_jobs.clock import Clock
from broker_jobs.errors import BrokerError, BrokerRefused, mask

logger = logging.getLogger(__name__)

FIRST_PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 5.0
CONNECT_SECONDS = 5.0
"""Time for TCP, TLS and the AMQP handshake with one host. Then the next host is tried."""

_RANDOM = random.Random()  # not the global one: reconnects must not disturb a program that seeds it

Host: TypeAlias = tuple[Parameters, str]
"""Parameters of a host, and its address without the password."""


def pause_seconds(failures: int) -> float:
    """Return the pause after so many failures in a row: 0.1 s doubled up to 5 s, minus a random part of up to half."""
    longest: float = min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2 ** min(failures - 1, 16))
    return longest * _RANDOM.uniform(0.5, 1.0)


def parse_hosts(urls: str, name: str, heartbeat: int) -> list[Host]:
    """Return the hosts of comma-separated amqp:// or amqps:// addresses. Raises BrokerRefused if one is not valid."""
    hosts: list[Host] = []
    for url in (part.strip() for part in urls.split(",") if part.strip()):
        try:
            if not url.startswith(("amqp://", "amqps://")):
                raise ValueError("it does not begin with amqp:// or amqps://")  # pika treats other schemes as amqp
            parameters = pika.URLParameters(url)
        except (ValueError, TypeError, OSError) as error:
            raise BrokerRefused(
                f"{mask(url)} is not a broker address ({error}); write amqp://user:password@host:5672/vhost"
            ) from None
        if "heartbeat=" not in url:
            parameters.heartbeat = heartbeat
        parameters.client_properties = {"connection_name": name} if name else None
        parameters.connection_attempts = 1
        parameters.retry_delay = 0
        parameters.socket_timeout = CONNECT_SECONDS
        parameters.stack_timeout = 2 * CONNECT_SECONDS
        parameters.blocked_connection_timeout = None  # messages wait until their deadlines
        hosts.append((parameters, mask(url).split("?", 1)[0]))
    if not hosts:
        raise BrokerRefused("the broker address is empty; write amqp://user:password@host:5672/vhost")
    return hosts


class RabbitConnection:
    """One connection of the broker, which reconnects after each loss. All methods run in the I/O thread.

    `on_up(connection)` is called at each connect, `on_down(reason)` at each loss of an open connection,
    `on_failed(error)` at each failed attempt.
    """

    def __init__(
        self,
        loop: IoLoop,
        hosts: list[Host],
        purpose: str,
        clock: Clock,
        *,
        on_up: Callable[[ReceivingConnection], None],
        on_down: Callable[[str], None],
        on_failed: Callable[[BaseException], None],
    ) -> None:
        self.pika_connection: ReceivingConnection | None = None
        """pika's connection while it is open."""
        self.address = hosts[0][1]
        """The address of the current or last attempt."""
        self.error: BaseException | None = None
        """Why it is not open."""
        self.failures = 0
        self._loop = loop
        self._hosts = _RANDOM.sample(hosts, len(hosts))
        self._next = 0
        self._purpose = purpose
        self._clock = clock
        self._on_up = on_up
        self._on_down = on_down
        self._on_failed = on_failed
        self._opening: ReceivingConnection | None = None
        self._up_at = 0.0
        self._announced = True
        self.reconnects = 0
        self._closing = False
        self._timer: Timer | None = None

    @property
    def closed(self) -> bool:
        """Whether it is closed for good."""
        return self._closing and self.pika_connection is None and self._opening is None

    def connect(self) -> None:
        """Connect to the next host, and again until `close`."""
        self._timer = None
        if self._closing:
            return
        parameters, self.address = self._hosts[self._next]
        self._next = (self._next + 1) % len(self._hosts)
        try:
            self._opening = ReceivingConnection(
                parameters,
                on_open_callback=lambda connection: run_safely(self._opened, connection),
                on_open_error_callback=lambda _, error: run_safely(self._not_opened, error),
                on_close_callback=lambda _, error: run_safely(self._lost, error),
                custom_ioloop=self._loop.ioloop,
            )
        except Exception as error:  # noqa: BLE001  # any error: the next attempt may succeed
            self._not_opened(error)

    def close(self) -> None:
        """Close for good. `closed` becomes true when it is done."""
        self._closing = True
        if self._timer is not None:
            self._loop.cancel_timer(self._timer)
            self._timer = None
        # pika raises an error if a connection is closed while it opens: its socket is shut down later.
        if self.pika_connection is not None and not self.pika_connection.is_closing:
            self.pika_connection.close()

    def _opened(self, connection: ReceivingConnection) -> None:
        self._opening = None
        self.pika_connection = connection
        self.error = None
        self._up_at = self._clock.monotonic()
        if self._closing:
            connection.close()
            return
        if not self._announced:
            self._announced = True
            self.reconnects += 1
            logger.info("reconnected to %s to %s", self.address, self._purpose)
        self._on_up(connection)

    def _not_opened(self, error: BaseException) -> None:
        self._opening = None
        self.error = error
        run_safely(self._on_failed, error)
        self._reconnect_later()

    def _lost(self, error: BaseException) -> None:
        self.pika_connection = None
        self.error = error
        reason = describe_error(error)
        if not self._closing:
            if self._clock.monotonic() - self._up_at > LONGEST_PAUSE_SECONDS:
                self.failures = 0
            if self._announced:
                self._announced = False
                logger.warning(
                    "lost the connection to %s to %s: %s; reconnecting every %g to %g s",
                    self.address,
                    self._purpose,
                    reason,
                    FIRST_PAUSE_SECONDS,
                    LONGEST_PAUSE_SECONDS,
                )
        run_safely(self._on_down, reason)
        self._reconnect_later()

    def _reconnect_later(self) -> None:
        if self._closing:
            return
        self.failures += 1
        self._timer = self._loop.call_later(pause_seconds(self.failures), self.connect)


def describe_error(error: BaseException) -> str:
    """Describe an error of pika in a few words, without Python notation where possible."""
    for cause in _causes(error):
        match cause:
            case exceptions.ConnectionClosed() | exceptions.ChannelClosed():
                return f"{cause.reply_code} {cause.reply_text}"
            case ssl.SSLCertVerificationError():
                return f"TLS certificate not accepted: {cause.verify_message}"
            case ssl.SSLError():
                return f"TLS: {cause.reason or cause}"
            case exceptions.IncompatibleProtocolError():
                return "it closed the connection before the AMQP handshake (is this the port of TLS, 5671, or of HTTP?)"
            case socket.gaierror():
                return f"host name not found ({cause.strerror})"
            case OSError() if cause.strerror:
                return cause.strerror.lower()
    match error:
        case exceptions.StreamLostError():
            return "the connection broke"
        case exceptions.AMQPHeartbeatTimeout():
            return "no heartbeat arrived"
        case _:
            return repr(error)


def refusal(error: BaseException, address: str) -> BrokerRefused | None:
    """Return what is wrong and what to do, for an error that a retry does not solve; else None.

    pika reports every connection that breaks during the handshake as a probable refusal. A broker that starts or stops
    breaks them too, so only an answer of the broker counts.
    """
    for cause in _causes(error):
        match cause:
            case exceptions.ProbableAuthenticationError() | exceptions.AuthenticationError() if "(403)" in str(
                cause.args
            ):
                return BrokerRefused(
                    f"RabbitMQ at {address} refused the user name or password; check both in BROKER_JOBS_URL "
                    "(the user guest may only connect from the broker's own host)"
                )
            case exceptions.ProbableAccessDeniedError() if "(530)" in str(cause.args):
                return BrokerRefused(
                    f"RabbitMQ at {address} refused the virtual host: it does not exist, or the user has no permission "
                    "in it; create it (rabbitmqctl add_vhost, set_permissions) or correct the address "
                    f"(broker says: {_broker_text(cause)})"
                )
            case ssl.SSLCertVerificationError():
                return BrokerRefused(
                    f"the TLS certificate of RabbitMQ at {address} is not accepted: {cause.verify_message}; correct "
                    "the host name or name the authority: amqps://…?ssl_options={'ca_certs':'/path/ca.pem'}"
                )
            case ssl.SSLError():
                return BrokerRefused(
                    f"no TLS with {address}: {cause.reason or cause}; is it the port without TLS (5672)?"
                )
            case exceptions.ConnectionClosedByBroker() if cause.reply_code in {403, 530}:
                return BrokerRefused(f"RabbitMQ at {address} refused: {cause.reply_text}")
    return None


def unreachable(error: BaseException | None, address: str) -> BrokerError:
    """Return the error for a broker that does not answer."""
    reason = "no answer" if error is None else describe_error(error)
    return BrokerError(
        f"RabbitMQ at {address} cannot be reached: {reason}; check that it is running and that the address is right"
    )


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and the errors inside it, outermost first."""
    yield error
    inner: list[object] = [*error.args, getattr(error, "exception", None), *getattr(error, "exceptions", ())]
    for each in inner:
        if isinstance(each, BaseException):
            yield from _causes(each)


def _broker_text(error: BaseException) -> str:
    """Return the broker's text in an error that pika has turned into a string."""
    text = str(error.args[0]) if error.args else str(error)
    return text.partition("(")[2].rstrip(")").strip("'\" ") or text
