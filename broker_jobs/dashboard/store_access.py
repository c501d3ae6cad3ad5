"""Opens the store for the dashboard, at the first request that finds it.

A program creates its dashboard at import, and a coordinator may create the store minutes later, so that every request
tries again until the store exists. A store in memory is that of the coordinator in this program.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

from broker_jobs.clock import Clock
from broker_jobs.dashboard.actions import Actions
from broker_jobs.dashboard.context import RequestContext
from broker_jobs.dashboard.masking import Masking
from broker_jobs.dashboard.queries import Queries
from broker_jobs.errors import StoreError
from broker_jobs.messages.state import State
from broker_jobs.producer.requests import RequestClient
from broker_jobs.settings import Settings, mask
from broker_jobs.store import Store
from broker_jobs.store.installation import check

NO_COORDINATOR = (
    "memory:// works inside one process, and no coordinator runs in this one. Start one here (jobs.start(), or"
    " broker-jobs run APP --dashboard-port 8700), or set BROKER_JOBS_URL and BROKER_JOBS_STORE for all processes."
)


class StoreAccess:
    """The store of a dashboard, and the request context that reads it."""

    def __init__(
        self,
        settings: Settings,
        requests: RequestClient,
        clock: Clock,
        *,
        own_store: Callable[[], Store | None],
        read_only: bool = False,
    ) -> None:
        """Opens nothing.

        Args:
            settings: the store's URL, the masked names, the title and retention times.
            requests: sends commands to the coordinator; connects at the first one.
            clock: the time.
            own_store: returns the store of the coordinator in this program, or None.
            read_only: hide all buttons.
        """
        self._settings = settings
        self._requests = requests
        self._clock = clock
        self._own_store = own_store
        self._read_only = read_only
        self._lock = threading.Lock()
        self._url = settings.store_url()
        self._in_memory = is_in_memory(self._url)
        self._store = Store(self._url)
        self._is_open = False
        self.context = self._context_of(self._store)

    @property
    def is_open(self) -> bool:
        """Whether the store is open."""
        return self._is_open and (not self._in_memory or self._own_store() is self._store)

    def open(self) -> None:
        """Open the store if it is not open. Blocks.

        Raises:
            StoreError: it does not exist yet, or is not usable; the next request tries again.
        """
        with self._lock:
            if self.is_open:
                return
            if self._in_memory:
                store = self._own_store()
                self._is_open = store is not None
                if store is None:
                    raise StoreError(NO_COORDINATOR)
                self._store = store
                self.context = self._context_of(store)
                return
            if self._url.startswith("sqlite:///") and not Path(self._url[10:]).expanduser().exists():
                raise StoreError(
                    f"There is no store at {mask(self._url)} yet: the coordinator creates it. If the coordinator uses"
                    " another store, set its BROKER_JOBS_STORE (or --store) here too."
                )
            self._store.open()
            try:
                if self._settings.names_broker:
                    check(self._store, self._settings.url)
            except StoreError:
                self._store.close()
                raise
            self._is_open = True

    def close(self) -> None:
        """Close the store; the next request opens it again. May be called at any time."""
        with self._lock:
            self._is_open = False
            if not self._in_memory:
                self._store.close()

    def _context_of(self, store: Store) -> RequestContext:
        settings = self._settings
        retention = {
            State.SUCCEEDED.value: settings.keep_succeeded,
            State.FAILED.value: settings.keep_failed,
            State.DELETED.value: settings.keep_deleted,
        }
        queries = Queries(store.reader, Masking(settings.mask), self._clock, retention)
        actions = Actions(self._requests.ending(lambda id: store.reader.audit.get(id) is not None), queries)
        return RequestContext(queries, actions, self._clock, title=settings.dashboard_title, read_only=self._read_only)


def is_in_memory(url: str) -> bool:
    """Whether a store URL means a store in the memory of a process."""
    return url.removeprefix("sqlite://") in {"", "/:memory:"}
