# ruff: noqa: INP001 - a script
"""Draws every page of the dashboard, light and dark, wide and on a phone, of a shop that runs in this process.

    python tools/screenshots.py FOLDER            all of them, to be looked at
    python tools/screenshots.py --hostile FOLDER  the same of a program whose every text is hostile
    python tools/screenshots.py --docs            the few in docs/images

Needs Playwright and Chromium (tools/servers.sh chromium).
"""

from __future__ import annotations

import argparse
import linecache
import logging
import random
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

from playwright.sync_api import sync_playwright

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from broker_jobs import BrokerJobs, Concurrency, GiveUp, RateLimit, current_job  # noqa: E402
from broker_jobs.broker import names  # noqa: E402
from broker_jobs.broker.interface import Message  # noqa: E402
from broker_jobs.dashboard.server import DashboardServer  # noqa: E402
from tests.support.hostile import SLASHED, fill, hostile  # noqa: E402

IMAGES = ROOT / "docs" / "images"
SIZES = {"wide": (1280, 800), "phone": (390, 844)}
DOCS = {
    ("overview", "light", "wide"), ("overview", "dark", "wide"), ("job-failed", "light", "wide"),
    ("jobs", "dark", "wide"), ("batch", "light", "wide"), ("recurring-one", "dark", "wide"),
    ("jobs", "light", "phone"), ("queues", "dark", "phone"),
}  # fmt: skip
"""Those that the documentation shows."""
SETTLE_SECONDS = 16.0
"""Until heartbeats and statistics of the minute are there."""


CHARGE = '''
def charge(order: int, amount: float, token: str) -> str:
    """Charge a customer's card for an order."""
    return pay(order, amount)


def pay(order: int, amount: float) -> str:
    if amount > 900:
        raise ValueError(f"order {order}: card declined by the bank, code 51")
    return "charged"
'''


def _charge() -> Any:
    """A function whose stack shows a shop's file, and not the folder this stands in."""
    path = "/srv/shop/payments.py"
    linecache.cache[path] = (len(CHARGE), None, CHARGE.splitlines(keepends=True), path)
    found: dict[str, Any] = {"__name__": "shop.payments"}
    exec(compile(CHARGE, path, "exec"), found)  # noqa: S102
    return found["charge"]


class Shop:
    """A small shop with something to see on every page."""

    def __init__(self, store: str) -> None:
        self.jobs = BrokerJobs("memory://", store=store)
        self.finish = threading.Event()
        self.pages: dict[str, str] = {}
        jobs, finish = self.jobs, self.finish

        @jobs.job(
            queue="mail", retries=5, tags=["mail"], limit=[Concurrency("smtp", 5), RateLimit("mails", 600, per=60)]
        )
        def welcome(user_id: int, name: str) -> str:
            """Send a new user their welcome mail."""
            time.sleep(random.uniform(0.01, 0.2))
            return f"sent to {user_id}, {name}"

        charge = jobs.job(queue="payments", retries=0)(_charge())

        @jobs.job(queue="reports")
        def export(month: str, rows: int = 1_000) -> None:
            """Write the sales of a month as a file."""
            job = current_job()
            job.log(f"reading {rows} rows of {month}")
            job.progress(410, rows)
            finish.wait(120)

        @jobs.job(retries=8)
        def sync(shop: str) -> None:
            raise ConnectionError(f"{shop}: connection refused by 10.0.3.7:5432")

        @jobs.job(queue="pictures")
        def resize(picture: str, width: int) -> str:
            if picture.endswith("13.png"):
                raise GiveUp("no such file in the bucket")
            if picture.endswith("17.png"):
                raise ValueError("not a PNG file")
            return f"{width}/{picture}"

        @jobs.job
        def tidy(older_than_days: int) -> int:
            return older_than_days

        jobs.recurring("nightly-report", "0 3 * * *", export.bind("2026-11"), tz="Europe/Istanbul", overlap="skip")
        self.all = (welcome, charge, export, sync, resize, tidy)

    def open(self) -> None:
        """Run it, and have everything happen."""
        welcome, charge, export, sync, resize, tidy = self.all
        jobs = self.jobs
        jobs.start(queues=["mail", "payments", "reports", "pictures", "default"], concurrency=8)
        people = ["Ann", "Mehmet", "Zoë", "Jürgen", "李雷", "Aisha"]
        for n in range(60):
            welcome.enqueue(1_000 + n, people[n % len(people)])
        failed = None
        for n in range(20):
            receipt = charge.enqueue(4_700 + n, 49.9 * (n + 1), "tok_1kx")
            failed = receipt if n == 19 else failed
        running = export.enqueue("2026-10")
        export.using(queue="archive").enqueue("2025-12")
        for shop in ("berlin", "izmir"):
            sync.enqueue(shop)
        welcome.after(running).enqueue(7, "the accountant")
        for n in range(4):
            tidy.schedule(timedelta(hours=3 * n + 2), 30)
        with jobs.batch("Pictures of the autumn catalogue") as batch:
            for n in range(20):
                batch.enqueue(resize, f"{n}.png", 1_200)
            with batch.batch("Thumbnails") as small:
                small.enqueue_many(resize.bind(f"{n}.png", 120) for n in range(18))
        summary = export.after(batch, on="finished").enqueue("2026-11")
        jobs.recurring.put("tidy/old carts", "*/15 * * * *", tidy.bind(30), tz="Europe/Berlin")
        jobs.recurring.put("tidy/sessions", "0 4 * * SUN", tidy.bind(7))
        for _ in range(3):
            jobs.recurring.trigger("tidy/old carts")
        jobs.recurring.pause("tidy/sessions")
        jobs.limits.set("mails", 300)
        jobs.queues.pause("archive")
        dead = Message(names.REPORT, names.LOG_KEY, b'{"v":7,"events":[]}', "events", "from-a-newer-worker")
        jobs._connection.broker().publish([dead])  # noqa: SLF001 - as a foreign program would
        assert failed is not None
        self.pages = _pages(failed.id, running.id, batch.id, "tidy/old carts", "welcome")
        del summary


def _pages(failed: str, running: str, batch: str, recurring: str, function: str) -> dict[str, str]:
    return {
        "overview": "/", "jobs": "/jobs", "jobs-failed": "/jobs?state=failed", "job-failed": f"/jobs/{failed}",
        "job-running": f"/jobs/{running}", "job-edit": f"/jobs/{failed}/edit", "retries": "/retries",
        "bulk": "/jobs/bulk?state=failed&action=requeue", "queues": "/queues", "recurring": "/recurring",
        "recurring-one": f"/recurring/{quote(recurring)}", "recurring-choose": "/recurring-new",
        "recurring-new": f"/recurring-new?job={quote(function)}", "batches": "/batches", "batch": f"/batches/{batch}",
        "workers": "/workers", "limits": "/limits", "dead-letters": "/dead-letters", "run": "/run",
        "run-one": f"/run/{quote(function)}", "audit": "/audit", "not-found": "/jobs/none",
    }  # fmt: skip


@contextmanager
def _shop(folder: Path) -> Iterator[tuple[BrokerJobs, dict[str, str]]]:
    shop = Shop(f"sqlite:///{folder / 'store.db'}")
    shop.open()
    try:
        yield shop.jobs, shop.pages
    finally:
        shop.finish.set()
        shop.jobs.stop(5)


@contextmanager
def _hostile(folder: Path) -> Iterator[tuple[BrokerJobs, dict[str, str]]]:
    system = hostile(store=f"sqlite:///{folder / 'store.db'}")
    fill(system)
    made = system.made
    try:
        yield (
            system.program,
            _pages(made["failed"].id, made["running"].id, system.batches["import"].id, SLASHED, "load")
            | {"job-long": f"/jobs/{made['long'].id}"},
        )
    finally:
        system.gate.set()
        system.program.stop(5)


def _draw(program: BrokerJobs, pages: dict[str, str], folder: Path, wanted: set[tuple[str, str, str]] | None) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    chromium = shutil.which("chromium") or "/usr/bin/chromium"
    with (
        DashboardServer(program.dashboard(title="Shop", local=True), program.settings, port=0) as server,
        sync_playwright() as driver,
    ):
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for theme in ("light", "dark"):
            for size, (width, height) in SIZES.items():
                context = browser.new_context(color_scheme=theme, viewport={"width": width, "height": height})
                page = context.new_page()
                for name, path in pages.items():
                    if wanted is not None and (name, theme, size) not in wanted:
                        continue
                    page.goto(server.address.rstrip("/") + path)
                    page.wait_for_timeout(1_300 if name == "overview" else 150)
                    whole = wanted is None
                    page.screenshot(path=str(folder / f"{name}-{theme}-{size}.png"), full_page=whole)
                context.close()
        browser.close()


def main() -> None:
    """Draw what the command line asks for."""
    asked: Any = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("folder", nargs="?", type=Path, default=IMAGES)
    asked.add_argument("--hostile", action="store_true")
    asked.add_argument("--docs", action="store_true")
    given = asked.parse_args()
    logging.disable(logging.CRITICAL)
    with tempfile.TemporaryDirectory() as folder:
        opened = _hostile if given.hostile else _shop
        with opened(Path(folder)) as (program, pages):
            time.sleep(SETTLE_SECONDS)
            _draw(program, pages, IMAGES if given.docs else given.folder, DOCS if given.docs else None)


if __name__ == "__main__":
    main()
