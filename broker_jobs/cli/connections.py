"""Reaches the store to read, the broker to look and the coordinator to ask, for one command, and lets go again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from broker_jobs.app import BrokerJobs
from broker_jobs.broker.factory import broker_for
from broker_jobs.broker.interface import Broker
from broker_jobs.errors import UsageError
from broker_jobs.extras import require, store_extras
from broker_jobs.producer.connection import Connection
from broker_jobs.producer.requests import RequestClient
from broker_jobs.settings import Settings, mask

if TYPE_CHECKING:
    from broker_jobs.store import Reader, Store


@contextmanager
def opened(settings: Settings, *, any_installation: bool = False) -> Iterator[Store]:
    """The store.

    Args:
        settings: where it is, and the broker it must belong to, where one is given.
        whosever: it may belong to another broker.

    Raises:
        UsageError: the store is in the memory of another process, or the file is not there.
        MissingExtra: the libraries that read it are not installed.
        StoreError: it cannot be reached, or belongs to another broker.
    """
    url = settings.store_url()
    require("to read the store", *store_extras(url))
    if url.removeprefix("sqlite://") in {"", "/:memory:"}:
        raise UsageError(
            "the store is in memory and belongs to the process that runs on memory://; "
            "give --store sqlite:///path there and here"
        )
    if url.startswith("sqlite:///") and not Path(url.removeprefix("sqlite:///")).expanduser().exists():
        raise UsageError(
            f"no store at {mask(url)}: a coordinator makes it; if that runs elsewhere, "
            "give its --store (or BROKER_JOBS_STORE)"
        )
    # Only the commands that read the store pay for its library, and no worker does.
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
def reading(settings: Settings) -> Iterator[Reader]:
    """The store's reader. Raises as `opened`."""
    with opened(settings) as store:
        yield store.reader


@contextmanager
def asking(settings: Settings) -> Iterator[BrokerJobs]:
    """An object to ask the coordinator with.

    Raises:
        UsageError: memory:// belongs to another process.
    """
    _refuse_memory(settings)
    jobs = BrokerJobs()
    jobs.configure(settings.model_dump(include={"url", "declare", "heartbeat", "publish_timeout"}))
    try:
        yield jobs
    finally:
        jobs.stop()


@contextmanager
def commanding(settings: Settings) -> Iterator[RequestClient]:
    """What takes commands to the coordinator, for those that are not about one job, queue or recurring job.

    Raises:
        UsageError: memory:// belongs to another process.
    """
    _refuse_memory(settings)
    connection = Connection(lambda: settings, lambda given: broker_for(given, "command line"))
    requests = RequestClient(connection)
    try:
        yield requests
    finally:
        requests.close()
        connection.close()


@contextmanager
def connected(settings: Settings, name: str) -> Iterator[Broker]:
    """An exchange that is connected.

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


def _refuse_memory(settings: Settings) -> None:
    if settings.embedded:
        raise UsageError(
            "memory:// lives inside one process and nobody else can ask it; "
            "give --url amqp://user:password@host:5672/ (or BROKER_JOBS_URL)"
        )
