"""A small shop on the embedded system, all parts real, with jobs in every state; and a person who looks at it."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

from starlette.testclient import TestClient

from broker_jobs import BrokerJobs, Receipt, State, current_job
from broker_jobs.clock import SystemClock
from broker_jobs.dashboard.actions import Actions
from broker_jobs.dashboard.app import build_app
from broker_jobs.dashboard.auth import Authentication
from broker_jobs.dashboard.context import RequestContext
from broker_jobs.dashboard.credentials import Credentials
from broker_jobs.dashboard.masking import Masking
from broker_jobs.dashboard.queries import Queries
from broker_jobs.dashboard.role import Role
from broker_jobs.store import Store
from tests.support.wait import eventually

HOSTILE = (
    "<script>alert(1)</script>",
    "javascript:alert(1)",
    "</textarea></pre><img src=x onerror=alert(1)>",
    "w" * 10_000,
    "\u202egnp.exe\u200f",
    "\x01\x1b[31m",
    "😀",
    "{{ 7 * 7 }} {% raw %}",
    "\"' onfocus=alert(1) autofocus x='",
)
"""What may stand in every text that comes from elsewhere."""
SECRET = "tok-4711"


class Shop:
    """The program, its jobs, and a browser on its dashboard."""

    def __init__(self, folder: Path) -> None:
        address = f"sqlite:///{folder / 'store.db'}"
        self.jobs = BrokerJobs("memory://", store=address)
        self.door = threading.Event()
        """What `waits` waits for."""
        self.store = Store(address)
        jobs = self.jobs
        door = self.door

        @jobs.job(queue="mail", retries=0)
        def welcome(user_id: int, name: str = "Ann") -> dict[str, str]:
            """Sends a welcome mail."""
            return {"to": f"{name} {user_id}", "password": SECRET}

        @jobs.job(retries=0)
        def charge(order: int) -> None:
            try:
                dict[str, str]()["card"]
            except KeyError as error:
                raise ValueError(f"order {order} has no card") from error

        @jobs.job(retries=5, backoff=[3_600])
        def flaky(number: int) -> None:
            raise ConnectionError(f"smtp refused {number}")

        @jobs.job
        def waits(text: str) -> str:
            me = current_job()
            me.progress(3, 10)
            me.log(text)
            while not door.wait(0.02):
                me.raise_if_cancelled()
            return text

        @jobs.job(retries=0)
        def pay(amount: float, token: str, card: dict[str, Any]) -> str:
            if amount < 0:
                raise ValueError("amount must not be negative")
            return f"paid {amount}"

        @jobs.job(retries=0, tags=[text[:50] for text in HOSTILE if "\x01" not in text])
        def repeat(text: str, fail: bool = False) -> str:
            current_job().log(text)
            if fail:
                raise RuntimeError(text)
            return text

        self.welcome, self.charge, self.flaky, self.waits, self.pay, self.repeat = (
            welcome, charge, flaky, waits, pay, repeat
        )  # fmt: skip
        self.site: Any = None
        self.context: RequestContext | None = None

    def open(self) -> None:
        """Start all parts, and the dashboard."""
        self.jobs.start(queues=["default", "mail"], concurrency=4)
        self.store.open()
        keep = dict.fromkeys(("succeeded", "failed", "deleted"), 86400.0)
        queries = Queries(self.store.reader, Masking(("password", "token")), SystemClock(), keep)
        self.context = RequestContext(queries, Actions(self.jobs._requests, queries), SystemClock())

    def close(self) -> None:
        """Stop everything."""
        self.door.set()
        self.jobs.stop(5)
        self.store.close()

    def visitor(self, role: Role = Role.ADMIN, **given: Any) -> Person:
        """A person of this role."""
        assert self.context is not None
        access = Authentication(
            Credentials(), authorize=lambda _request: role, key=lambda: b"k" * 32, clock=SystemClock(), **given
        )
        return Person(build_app(self.context, access))

    def ends(self, *receipts: Receipt[Any], as_: State | None = None) -> None:
        """Wait until these jobs stand as told in the store (None: have ended)."""
        for receipt in receipts:
            eventually(partial(self._is, receipt.id, as_), what=f"{receipt.id} is {as_ or 'ended'}")

    def state(self, id: str) -> str:
        """Where a job stands."""
        row = self.store.reader.jobs.get(id)
        return "" if row is None else row.state.value

    def _is(self, id: str, state: State | None) -> bool:
        row = self.store.reader.jobs.get(id)
        return row is not None and (row.state is state if state else row.state.is_final)


class Person:
    """Somebody with a browser that runs no script: reads pages, follows redirects, sends forms with their token."""

    def __init__(self, app: Any) -> None:
        self.client = TestClient(app, base_url="http://localhost", client=("127.0.0.1", 50000), follow_redirects=True)

    def see(self, path: str, status: int = 200) -> str:
        """The page at an address."""
        answer = self.client.get(path)
        assert answer.status_code == status, f"{path}: {answer.status_code} {answer.text[:2000]}"
        return answer.text

    def send(
        self, path: str, typed: Mapping[str, str] | None = None, *, page: str, status: int = 200, **fields: Any
    ) -> str:
        """Send a form that stands on `page`, and see what comes after it; typed: fields whose names are no names."""
        token = re.search(r'name="csrf" value="([^"]+)"', self.client.get(page).text)
        data = {"csrf": token.group(1) if token else "", "back": page} | dict(typed or {}) | fields
        answer = self.client.post(path, data=data, headers={"origin": "http://localhost"})
        assert answer.status_code == status, f"{path}: {answer.status_code} {answer.text[:2000]}"
        return answer.text


def flash_of(page: str) -> str:
    """What a page says of the action before it."""
    found = re.search(r'<p class="flash [^>]*>(.*?)</p>', page, re.DOTALL)
    return found.group(1) if found else ""


@contextmanager
def shop_in(folder: Path) -> Iterator[Shop]:
    """A shop that runs."""
    shop = Shop(folder)
    shop.open()
    try:
        yield shop
    finally:
        shop.close()


def filled(shop: Shop) -> dict[str, Receipt[Any]]:
    """Jobs in every state, with relatives; some are still running: `shop.door` lets them end."""
    made: dict[str, Receipt[Any]] = {
        "succeeded": shop.welcome.enqueue(7, name="Zoë"),
        "failed": shop.charge.enqueue(1),
        "retry": shop.flaky.enqueue(5),
        "later": shop.welcome.schedule(timedelta(days=3), 99),
        "running": shop.waits.enqueue("<b>step</b> 1"),
        "paid": shop.pay.enqueue(12.5, token=SECRET, card={"holder": "Ann", "password": SECRET}),
    }
    made["child"] = shop.welcome.after(made["running"]).enqueue(8)
    made["unsatisfied"] = shop.welcome.after(made["failed"]).enqueue(9)
    with shop.jobs.batch("import <b>orders</b>") as batch:
        made["member"] = batch.enqueue(shop.welcome, 10)
    shop.ends(*(made[name] for name in ("succeeded", "failed", "paid", "member", "unsatisfied")))
    shop.ends(made["retry"], as_=State.SCHEDULED)
    shop.ends(made["running"], as_=State.PROCESSING)
    shop.ends(made["child"], as_=State.AWAITING)
    return made
