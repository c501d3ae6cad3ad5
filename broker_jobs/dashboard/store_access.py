"""Opens what a dashboard shows: the store, when it is there, and the way to the coordinator, when somebody acts.

A dashboard is made when a program is imported, and the store may be made minutes later: it is looked for again at
every request until it is there. Where the store is in memory it is that of the coordinator of this program.
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

NOT_SHARED = (
    "memory:// lives inside one process, and no coordinator runs in this one. Start it here (jobs.start(), or"
    " broker-jobs run APP --dashboard-port 8700), or give BROKER_JOBS_URL and BROKER_JOBS_STORE to all processes."
)


class StoreAccess:
    """The store and the desk in front of it."""

    def __init__(
        self,
        settings: Settings,
        requests: RequestClient,
        clock: Clock,
        *,
        own_store: Callable[[], Store | None],
        read_only: bool = False,
    ) -> None:
        """Nothing is opened here.

        Args:
            settings: where the store is, what is masked and what the dashboard is called.
            asker: asks the coordinator; it connects at its first question.
            clock: tells the time.
            own_store: the store of the coordinator that runs in this program, or None.
            read_only: for the pages, so that they show no button.
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
        """Whether there is nothing to do for open()."""
        return self._is_open and (not self._in_memory or self._own_store() is self._store)

    def open(self) -> None:
        """Open the store, unless it is open. Blocks.

        Raises:
            StoreError: it is not there, or cannot be used; the next request may try again.
        """
        with self._lock:
            if self.is_open:
                return
            if self._in_memory:
                store = self._own_store()
                self._is_open = store is not None
                if store is None:
                    raise StoreError(NOT_SHARED)
                self._store = store
                self.context = self._context_of(store)
                return
            if self._url.startswith("sqlite:///") and not Path(self._url[10:]).expanduser().exists():
                raise StoreError(
                    f"There is no store at {mask(self._url)} yet: a coordinator makes it. If one runs elsewhere, give"
                    " its BROKER_JOBS_STORE (or --store) here too."
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
        """Close what was opened; the next request opens it again. Tolerates twice and never."""
        with self._lock:
            self._is_open = False
            if not self._in_memory:
                self._store.close()

    def _context_of(self, store: Store) -> RequestContext:
        settings = self._settings
        keep = {
            State.SUCCEEDED.value: settings.keep_succeeded,
            State.FAILED.value: settings.keep_failed,
            State.DELETED.value: settings.keep_deleted,
        }
        queries = Queries(store.reader, Masking(settings.mask), self._clock, keep)
        actions = Actions(self._requests, queries)
        return RequestContext(queries, actions, self._clock, title=settings.dashboard_title, read_only=self._read_only)


def is_in_memory(url: str) -> bool:
    """Whether a store's address is of one in the memory of a process."""
    return url.removeprefix("sqlite://") in {"", "/:memory:"}
