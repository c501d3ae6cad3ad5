"""Opens what one command needs, and closes it again: the store, the broker, a client of the coordinator."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from broker_jobs.app import BrokerJobs
from broker_jobs.broker.factory import broker_for
from broker_jobs.broker.interface import Broker
from broker_jobs.clock import SystemClock
from broker_jobs.dashboard.masking import Masking
from broker_jobs.errors import UsageError
from broker_jobs.extras import require, store_extras
from broker_jobs.producer.connection import Connection
from broker_jobs.producer.requests import RequestClient
from broker_jobs.settings import Settings, mask

if TYPE_CHECKING:
    from broker_jobs.dashboard.queries import Queries
    from broker_jobs.store import Reader, Store


@contextmanager
def open_store(settings: Settings, *, any_installation: bool = False) -> Iterator[Store]:
    """The store.

    Args:
        settings: where it is, and the broker it must belong to, where one is given.
        any_installation: accept a store that belongs to another broker.

    Raises:
        UsageError: the store is in the memory of another process, or the file is not there.
        MissingExtra: the libraries that read it are not installed.
        StoreError: it cannot be reached, or belongs to another broker.
    """
    url = settings.store_url()
    require("to read the store", *store_extras(url))
    if url.removeprefix("sqlite://") in {"", "/:memory:"}:
        raise UsageError(
            "the store is in the memory of the process that runs on memory://, and cannot be read from here; "
            "give --store sqlite:///path there and here"
        )
    if url.startswith("sqlite:///") and not Path(url.removeprefix("sqlite:///")).expanduser().exists():
        raise UsageError(
            f"no store at {mask(url)}: a coordinator creates it; if it runs with another --store, "
            "give that one here (or BROKER_JOBS_STORE)"
        )
    # Imported here, so that only the commands that read the store load SQLAlchemy.
    from broker_jobs.store import Store  # noqa: PLC0415
    from broker_jobs.store.installation import check  # noqa: PLC0415

    store = Store(url)
    store.open()
    try:
        if settings.names_broker and not any_installation:
            check(store, settings.url)
        yield store
    finally:
        store.close()


@contextmanager
def open_reader(settings: Settings) -> Iterator[Reader]:
    """The store's reader. Raises as `open_store`."""
    with open_store(settings) as store:
        yield store.reader


def queries_of(reader: Reader, settings: Settings, *, unmasked: bool) -> Queries:
    """The dashboard's queries over a reader: secrets are masked as there, unless `unmasked`."""
    from broker_jobs.dashboard.queries import Queries  # noqa: PLC0415  # it loads SQLAlchemy, as above

    masking = Masking((), types=False) if unmasked else Masking(settings.mask)
    keep = {"succeeded": settings.keep_succeeded, "failed": settings.keep_failed, "deleted": settings.keep_deleted}
    return Queries(reader, masking, SystemClock(), keep)


def body_text(queries: Queries, body: bytes, *, unmasked: bool) -> str:
    """A message or call from the store as text, masked unless `unmasked`."""
    return body.decode(errors="replace") if unmasked else queries.system.mask_body(body)


@contextmanager
def open_jobs(settings: Settings) -> Iterator[BrokerJobs]:
    """A BrokerJobs without code, for commands about one job, queue or recurring job.

    Raises:
        UsageError: memory:// belongs to another process.
    """
    _refuse_memory(settings)
    jobs = BrokerJobs()
    jobs.configure(settings.model_dump(include={"url", "declare", "heartbeat", "publish_timeout"}))
    jobs._requests.end_commands(partial(_was_applied, settings))  # noqa: SLF001  # a program cannot ask for the audit
    try:
        yield jobs
    finally:
        jobs.stop()


@contextmanager
def open_request_client(settings: Settings) -> Iterator[RequestClient]:
    """A client of the coordinator, for all other commands.

    Raises:
        UsageError: memory:// belongs to another process.
    """
    _refuse_memory(settings)
    connection = Connection(lambda: settings, lambda given: broker_for(given, "command line"))
    requests = RequestClient(connection, audit=partial(_was_applied, settings))
    try:
        yield requests
    finally:
        requests.close()
        connection.close()


@contextmanager
def open_broker(settings: Settings, name: str) -> Iterator[Broker]:
    """A connected broker; `name` is shown in RabbitMQ's list of connections.

    Raises:
        UsageError: memory:// belongs to another process.
        BrokerError: it cannot be reached, or refuses.
    """
    _refuse_memory(settings)
    broker = broker_for(settings, name)
    try:
        broker.start()
        yield broker
    finally:
        broker.stop()


def _was_applied(settings: Settings, id: str) -> bool:
    """Whether the audit has a command. Raises BrokerJobsError if the store cannot be read from here."""
    with open_store(settings) as store:
        return store.reader.audit.get(id) is not None


def _refuse_memory(settings: Settings) -> None:
    if settings.in_memory:
        raise UsageError(
            "memory:// lives inside one process and cannot be reached from another; "
            "give --url amqp://user:password@host:5672/ (or BROKER_JOBS_URL)"
        )
