"""Runs the mail demo: starts everything, enqueues every kind of job, and checks that exactly their mail arrived.

Over 300 lines: the demo is read from top to bottom.
"""

from __future__ import annotations

import contextlib
import logging
import secrets
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from types import FrameType

from broker_jobs import BrokerJobsError, Receipt, UsageError, result_of
from broker_jobs.dashboard.server import DEFAULT_PORT, DashboardServer
from broker_jobs.demo import mail_jobs
from broker_jobs.demo.check import DIGEST_CRON, CheckResult, Digest, compare, missed_planned_times
from broker_jobs.demo.mail_jobs import (
    ADMIN,
    DIGEST,
    FOLLOW_UP,
    INVITATION,
    KINDS,
    MAX_AT_ONCE,
    NEWSLETTER,
    RECEIPT,
    REPORT,
    WELCOME,
    DemoRun,
    Recipient,
)
from broker_jobs.demo.screen import Screen
from broker_jobs.demo.smtp_server import Mail, Mailbox, SmtpServer
from broker_jobs.demo.subscribers import SAMPLE, SubscriberList, domain_of, read_subscribers
from broker_jobs.messages import codec
from broker_jobs.processes.http import HttpServer
from broker_jobs.settings import mask
from broker_jobs.store import Store

FOLLOW_UP_AFTER = timedelta(seconds=3)
DIGESTS = 4
"""How many digests the demo waits for; with --stay it waits for Ctrl-C."""
BASE_SECONDS, SECONDS_PER_SUBSCRIBER = 30.0, 0.1
"""After this time the demo ends and lists what is missing."""
DRAW_SECONDS = 0.1
STOP_SECONDS = 5.0
REMOVAL_SECONDS = 1.0
"""A planned time this shortly before the schedule was removed may not have fired."""
MAX_DIFFERENCES = 20
SERVERS, DASHBOARD = "demo", "dashboard"
MISTYPED = "charles.babbage(at)example.com"
INTERRUPTED = 130


def run(url: str | None, store: str | None, subscribers: Path | None, stay: bool) -> int:
    """Run the demo; the exit code is 0 if every requested mail arrived once, and no other mail.

    Args:
        url: of the broker; None: the setting, else memory://.
        store: URL of the store; None: the setting, else a file that is removed at the end.
        subscribers: a CSV file; None: the sample.
        stay: keep running and sending digests until Ctrl-C.

    Raises:
        UsageError: the file of subscribers cannot be used.
        BrokerJobsError: broker or store cannot be used.
    """
    subscriber_list = read_subscribers(subscribers or SAMPLE)
    with ExitStack() as stack:
        screen = Screen()
        stack.enter_context(_show_warnings(screen))
        demo = stack.enter_context(_open(url, store, subscriber_list))
        stack.enter_context(_sigterm_as_ctrl_c())
        for line in demo.lines():
            screen.print_line(line)
        for row in subscriber_list.bad:
            screen.print_line(f"{(subscribers or SAMPLE).name} line {row.line}: {row.reason}; skipped")
        try:
            with screen:
                result = demo.run(screen, stay=stay)
        except KeyboardInterrupt:
            screen.print_line("interrupted")
            return INTERRUPTED
    screen.table(result.lines, KINDS)
    if result.wrong:
        for wrong in result.wrong[:MAX_DIFFERENCES]:
            screen.print_line(wrong)
        more = len(result.wrong) - MAX_DIFFERENCES
        screen.print_line(f"Delivered and requested mail differ{f'; {more} more differences' if more > 0 else ''}.")
        return 1
    total = sum(line.delivered for line in result.lines)
    screen.print_line(
        f"All {total} mails were delivered, each once, and never more than {MAX_AT_ONCE} at once to a domain."
    )
    return 0


@dataclass(frozen=True)
class RequestedMail:
    """A mail that a job is to send. `content`: the text it must contain, where that is known in advance."""

    to: str
    receipt: Receipt[object]
    content: str = ""


class MailDemo:
    """The running demo: its components and its SMTP server are started."""

    def __init__(
        self,
        subscriber_list: SubscriberList,
        demo_run: DemoRun,
        mailbox: Mailbox,
        store: Store,
        addresses: dict[str, str],
    ) -> None:
        self._subscribers = subscriber_list
        self._run_id = demo_run.id
        self._newsletter = demo_run.newsletter
        self._mailbox = mailbox
        self._store = store
        self._addresses = addresses
        self._requested: dict[str, list[RequestedMail]] = {kind: [] for kind in KINDS if kind != DIGEST}
        self._began = time.monotonic()
        self._timeout_seconds = BASE_SECONDS + SECONDS_PER_SUBSCRIBER * len(subscriber_list.subscribers)
        self._deadline = self._began + self._timeout_seconds
        self._digests_requested: int | None = None

    def lines(self) -> list[str]:
        """The addresses of the servers, to print first."""
        first = f"Mail demo {self._run_id}: {self._addresses[SERVERS]}"
        return [first, *(f"{what:<9} {where}" for what, where in self._addresses.items() if what != SERVERS)]

    def run(self, screen: Screen, *, stay: bool) -> CheckResult:
        """Enqueue everything, wait for the mail, and check it."""
        name = mail_jobs.schedule_name(self._run_id)
        digest = mail_jobs.digest.using(expires=self._timeout_seconds).bind(self._run_id)
        mail_jobs.jobs.recurring.put(name, DIGEST_CRON, digest, overlap="skip")
        since = time.time()
        try:
            self._enqueue(screen)
            self._wait_for_mail(screen)
            if stay:
                mail_jobs.invitation.enqueue(self._run_id, MISTYPED, "Please come to our party.")
                screen.print_line(f"Staying: {self._addresses[DASHBOARD]} shows every job. Stop with Ctrl-C.")
                screen.print_line(
                    "One invitation has failed: its address is mistyped. Find it there, correct it, requeue it."
                )
                self._stay(screen)
        finally:
            until = time.time() - REMOVAL_SECONDS
            with contextlib.suppress(BrokerJobsError):
                mail_jobs.jobs.recurring.remove(name)
        return self._check(screen, since, until)

    def _enqueue(self, screen: Screen) -> None:
        """Enqueue everything but the digest."""
        run, requested = self._run_id, self._requested
        recipients = [Recipient(each.name, each.email, domain_of(each.email)) for each in self._subscribers.subscribers]
        for recipient in recipients:
            welcome = mail_jobs.welcome.enqueue(run, recipient)
            requested[WELCOME].append(RequestedMail(recipient.email, welcome))
            receipt = mail_jobs.receipt.enqueue(run, result_of(welcome))
            requested[RECEIPT].append(RequestedMail(ADMIN, receipt, content=recipient.email))
            follow_up = mail_jobs.follow_up.schedule(FOLLOW_UP_AFTER, run, recipient)
            requested[FOLLOW_UP].append(RequestedMail(recipient.email, follow_up))
            self._draw(screen)
        with self._newsletter as batch:
            for recipient in recipients:
                newsletter = batch.enqueue(mail_jobs.newsletter, run, recipient)
                requested[NEWSLETTER].append(RequestedMail(recipient.email, newsletter))
        report = mail_jobs.report.after(batch, on="finished").enqueue(run, len(requested[NEWSLETTER]))
        # The text of the report is known only when the newsletters have ended.
        requested[REPORT].append(RequestedMail(ADMIN, report))
        self._draw(screen)

    def _wait_for_mail(self, screen: Screen) -> None:
        """Wait until every requested mail and enough digests have arrived, or the time is over."""

        def all_arrived() -> bool:
            once = all(self._mailbox.count(kind) >= len(requested) for kind, requested in self._requested.items())
            return once and self._mailbox.jobs_delivered(DIGEST) >= (DIGESTS if self._subscribers.digest_readers else 0)

        while not self._mailbox.wait(all_arrived, DRAW_SECONDS) and time.monotonic() < self._deadline:
            self._draw(screen)
        self._draw(screen)

    def _stay(self, screen: Screen) -> None:
        with contextlib.suppress(KeyboardInterrupt):
            while True:
                self._mailbox.wait(lambda: False, DRAW_SECONDS)
                self._draw(screen)
        self._deadline = time.monotonic() + self._timeout_seconds

    def _check(self, screen: Screen, since: float, until: float) -> CheckResult:
        """Wait until every job has ended, so that no mail is still on its way, and compare."""
        once = [(kind, each) for kind, requested in self._requested.items() for each in requested]
        digests = self._digests()
        recurring: list[Receipt[object]] = [mail_jobs.jobs.receipt(each.job_id) for each in digests]
        unsuccessful = {
            receipt.id: reason
            for receipt in [*(each.receipt for _, each in once), *recurring]
            if (reason := self._failure_of(receipt)) is not None
        }
        readers = self._subscribers.digest_readers
        failed = sum(each.receipt.id in unsuccessful for each in self._requested[NEWSLETTER])
        contents = {REPORT: mail_jobs.went_out(len(self._requested[NEWSLETTER]), failed)}
        requested = {Mail(kind, each.receipt.id, each.to, contents.get(kind, each.content)) for kind, each in once}
        requested |= {Mail(DIGEST, each.job_id, reader) for each in digests for reader in readers}
        self._digests_requested = len(digests) * len(readers)
        self._draw(screen)
        return compare(
            tuple(KINDS),
            requested,
            Counter({mail: count for mail, count in self._mailbox.delivered().items() if mail.kind != INVITATION}),
            retried={kind: self._mailbox.retried(kind) for kind in KINDS},
            unsuccessful=unsuccessful,
            missed_digests=missed_planned_times(self._digests(), since, until),
            readers=len(readers),
            at_once=self._mailbox.at_once(),
            limit=MAX_AT_ONCE,
        )

    def _failure_of(self, receipt: Receipt[object]) -> str | None:
        """Why a job did not succeed, or None."""
        try:
            receipt.result(timeout=max(0.05, self._deadline - time.monotonic()))
        except BrokerJobsError as error:
            return str(error)
        return None

    def _digests(self) -> list[Digest]:
        """All runs of the recurring job, from the store."""
        found: list[Digest] = []
        page = self._store.reader.jobs.newest(recurring=mail_jobs.schedule_name(self._run_id), limit=1000)
        while page:
            for row in page:
                planned_at = codec.decode(row.envelope).due_at
                assert planned_at is not None
                found.append(Digest(row.id, planned_at.timestamp(), row.ended_at))
            page = self._store.reader.jobs.newest(
                recurring=mail_jobs.schedule_name(self._run_id), limit=1000, before_id=page[-1].id
            )
        return found

    def _draw(self, screen: Screen) -> None:
        requested: dict[str, int | None] = {kind: len(self._subscribers.subscribers) for kind in self._requested}
        requested |= {REPORT: 1, DIGEST: self._digests_requested}
        arrived = {kind: self._mailbox.count(kind) for kind in KINDS}
        screen.draw(time.monotonic() - self._began, arrived, requested)


@contextmanager
def _open(url: str | None, store: str | None, subscriber_list: SubscriberList) -> Iterator[MailDemo]:
    """Start SMTP server, worker, coordinator, beat, HTTP server and dashboard; stop them at the end."""
    jobs = mail_jobs.jobs
    with ExitStack() as stack:
        run_id = secrets.token_hex(4)
        mailbox = Mailbox(run_id, mail_jobs.PERSONAL)
        server = SmtpServer(mailbox)
        server.start()
        stack.callback(server.stop)
        demo_run = DemoRun(run_id, server.port, subscriber_list.digest_readers, jobs.batch(f"newsletter {run_id}"))
        stack.enter_context(mail_jobs.running_demo(demo_run))
        given = {"url": url, "store": store, "queues": (mail_jobs.QUEUE,)}
        jobs.configure({name: value for name, value in given.items() if value is not None})
        if jobs.settings.in_memory and not jobs.settings.store:
            # A file, so that the command line can read it from another process while the demo runs.
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="mail-demo-", ignore_cleanup_errors=True))
            jobs.configure({"store": f"sqlite:///{Path(folder) / 'store.db'}"})
        stack.callback(jobs.stop, STOP_SECONDS)
        jobs.start()
        http_server = HttpServer("127.0.0.1", 0, expose=jobs.metrics, health=jobs.health)
        http_server.start()
        stack.callback(http_server.stop)
        dashboard = stack.enter_context(_dashboard())
        reading = Store(jobs.settings.store_url())
        reading.open()
        stack.callback(reading.close)
        addresses = {
            SERVERS: f"SMTP on 127.0.0.1:{server.port}, broker {mask(jobs.settings.url)}",
            DASHBOARD: dashboard.address,
            "store": mask(jobs.settings.store_url()),
            "metrics": f"{http_server.address}/metrics",
            "health": f"{http_server.address}/healthz",
        }
        yield MailDemo(subscriber_list, demo_run, mailbox, reading, addresses)


@contextmanager
def _dashboard() -> Iterator[DashboardServer]:
    """Serve the dashboard on its usual port or, where that is in use, on a free one."""
    jobs = mail_jobs.jobs
    server = DashboardServer(
        jobs.dashboard(local=True), jobs.settings, port=jobs.settings.dashboard_port or DEFAULT_PORT
    )
    try:
        server.start()
    except UsageError:
        server = DashboardServer(jobs.dashboard(local=True), jobs.settings, port=0)
        server.start()
    with server:
        yield server


@contextmanager
def _show_warnings(screen: Screen) -> Iterator[None]:
    """Print warnings above the progress bars, except for temporary refusals, which the table counts."""

    class ScreenHandler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            text = record.getMessage()
            if mail_jobs.TemporarilyRefused.__name__ not in text:
                screen.print_line(text)

    handler = ScreenHandler(logging.WARNING)
    logger = logging.getLogger("broker_jobs")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


@contextmanager
def _sigterm_as_ctrl_c() -> Iterator[None]:
    """Handle SIGTERM like Ctrl-C while the block runs."""
    if threading.current_thread() is not threading.main_thread() or sys.platform == "win32":
        yield
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        del number, frame
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
