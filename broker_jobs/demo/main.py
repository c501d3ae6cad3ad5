"""Runs the mail room: opens it, asks for mail in every way there is, and counts whether exactly that arrived."""

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
from broker_jobs.demo import letters
from broker_jobs.demo.letters import (
    AT_ONCE,
    DIGEST,
    FOLLOW_UP,
    KINDS,
    NEWSLETTER,
    OFFICE,
    POSTCARD,
    RECEIPT,
    REPORT,
    WELCOME,
    Office,
    Recipient,
)
from broker_jobs.demo.mailbox import Mail, Mailbox, MailServer
from broker_jobs.demo.screen import Screen
from broker_jobs.demo.subscribers import SAMPLE, Roll, domain_of, read_subscribers
from broker_jobs.demo.tally import DIGEST_CRON, Digest, Verdict, left_out, verdict
from broker_jobs.messages import codec
from broker_jobs.processes.http import HttpServer
from broker_jobs.settings import mask
from broker_jobs.store import Store

FOLLOW_UP_AFTER = timedelta(seconds=3)
DIGESTS = 4
"""So many digests are waited for; with --stay it is until Ctrl-C."""
BASE_SECONDS, SECONDS_PER_SUBSCRIBER = 30.0, 0.1
"""After this the demo ends with what is missing."""
DRAW_SECONDS = 0.1
STOP_SECONDS = 5.0
HANDLED_SECONDS = 1.0
"""A planned time so shortly before the schedule was removed may have come too late."""
MOST_SHOWN = 20
ROOM, DASHBOARD = "room", "dashboard"
MISTYPED = "charles.babbage(at)example.com"
INTERRUPTED = 130


def run(url: str | None, store: str | None, subscribers: Path | None, stay: bool) -> int:
    """Run the demo; 0 if every mail that was asked arrived once and no other.

    Args:
        url: of the broker; None: the setting, else memory://.
        store: where the truth is kept; None: the setting, else a file that is removed at the end.
        subscribers: a CSV file; None: the sample.
        stay: go on with digests until Ctrl-C.

    Raises:
        UsageError: the file of subscribers cannot be used.
        BrokerJobsError: broker or store cannot be used.
    """
    roll = read_subscribers(subscribers or SAMPLE)
    with ExitStack() as stack:
        screen = Screen()
        stack.enter_context(_telling(screen))
        room = stack.enter_context(_open(url, store, roll))
        stack.enter_context(_terminating())
        for line in room.lines():
            screen.say(line)
        for row in roll.bad:
            screen.say(f"{(subscribers or SAMPLE).name} line {row.line}: {row.reason}; skipped")
        try:
            with screen:
                found = room.work(screen, stay=stay)
        except KeyboardInterrupt:
            screen.say("interrupted")
            return INTERRUPTED
    screen.table(found.lines, KINDS)
    if found.wrong:
        for wrong in found.wrong[:MOST_SHOWN]:
            screen.say(wrong)
        more = len(found.wrong) - MOST_SHOWN
        screen.say(f"Not what was asked{f'; {more} more differences' if more > 0 else ''}.")
        return 1
    total = sum(line.delivered for line in found.lines)
    screen.say(
        f"All {total} mails were delivered, each once, and never more than {AT_ONCE} letters at once to a domain."
    )
    return 0


@dataclass(frozen=True)
class RequestedMail:
    """A mail that was asked for, and the job that owes it. `says`: what it must say, where that is known by now."""

    to: str
    receipt: Receipt[object]
    says: str = ""


class Room:
    """The open mail room: parts running, mail server listening."""

    def __init__(self, roll: Roll, office: Office, mailbox: Mailbox, store: Store, addresses: dict[str, str]) -> None:
        self._roll = roll
        self._run = office.run
        self._newsletter = office.newsletter
        self._mailbox = mailbox
        self._store = store
        self._addresses = addresses
        self._asked: dict[str, list[RequestedMail]] = {kind: [] for kind in KINDS if kind != DIGEST}
        self._began = time.monotonic()
        self._patience = BASE_SECONDS + SECONDS_PER_SUBSCRIBER * len(roll.subscribers)
        self._deadline = self._began + self._patience
        self._digests_asked: int | None = None

    def lines(self) -> list[str]:
        """What a visitor is told first."""
        opened = f"Mail room {self._run}: {self._addresses[ROOM]}"
        return [opened, *(f"{what:<9} {where}" for what, where in self._addresses.items() if what != ROOM)]

    def work(self, screen: Screen, *, stay: bool) -> Verdict:
        """Ask for everything, wait for it, and judge."""
        name = letters.schedule_name(self._run)
        put = letters.digest.using(expires=self._patience).bind(self._run)
        letters.jobs.recurring.put(name, DIGEST_CRON, put, overlap="skip")
        since = time.time()
        try:
            self._ask(screen)
            self._wait_for_mail(screen)
            if stay:
                letters.postcard.enqueue(self._run, MISTYPED, "Wish you were here")
                screen.say(f"Staying: {self._addresses[DASHBOARD]} shows it all. Ctrl-C ends it.")
                screen.say("One postcard has failed, as its address is mistyped: find it there, mend it, requeue it.")
                self._stay(screen)
        finally:
            until = time.time() - HANDLED_SECONDS
            with contextlib.suppress(BrokerJobsError):
                letters.jobs.recurring.remove(name)
        return self._judge(screen, since, until)

    def _ask(self, screen: Screen) -> None:
        """Enqueue everything but the digest."""
        run, asked = self._run, self._asked
        everybody = [Recipient(who.name, who.email, domain_of(who.email)) for who in self._roll.subscribers]
        for who in everybody:
            welcome = letters.welcome.enqueue(run, who)
            asked[WELCOME].append(RequestedMail(who.email, welcome))
            receipt = letters.receipt.enqueue(run, result_of(welcome))
            asked[RECEIPT].append(RequestedMail(OFFICE, receipt, says=who.email))
            follow_up = letters.follow_up.schedule(FOLLOW_UP_AFTER, run, who)
            asked[FOLLOW_UP].append(RequestedMail(who.email, follow_up))
            self._draw(screen)
        with self._newsletter as batch:
            for who in everybody:
                newsletter = batch.enqueue(letters.newsletter, run, who)
                asked[NEWSLETTER].append(RequestedMail(who.email, newsletter))
        report = letters.report.after(batch, on="finished").enqueue(run, len(asked[NEWSLETTER]))
        asked[REPORT].append(RequestedMail(OFFICE, report))  # what it must say is known when the newsletters have ended
        self._draw(screen)

    def _wait_for_mail(self, screen: Screen) -> None:
        """Until every mail that is asked for once and enough digests have come, or the time is over."""

        def all_there() -> bool:
            singles = all(self._mailbox.count(kind) >= len(asked) for kind, asked in self._asked.items())
            return singles and self._mailbox.letters(DIGEST) >= (DIGESTS if self._roll.digest_readers else 0)

        while not self._mailbox.wait(all_there, DRAW_SECONDS) and time.monotonic() < self._deadline:
            self._draw(screen)
        self._draw(screen)

    def _stay(self, screen: Screen) -> None:
        with contextlib.suppress(KeyboardInterrupt):
            while True:
                self._mailbox.wait(lambda: False, DRAW_SECONDS)
                self._draw(screen)
        self._deadline = time.monotonic() + self._patience

    def _judge(self, screen: Screen, since: float, until: float) -> Verdict:
        """Wait until every job has ended, so that nothing is still on its way, and compare."""
        singles = [(kind, each) for kind, asked in self._asked.items() for each in asked]
        digests = self._digests()
        recurring: list[Receipt[object]] = [letters.jobs.receipt(each.job_id) for each in digests]
        unsuccessful = {
            receipt.id: why
            for receipt in [*(each.receipt for _, each in singles), *recurring]
            if (why := self._end_of(receipt)) is not None
        }
        readers = self._roll.digest_readers
        failed = sum(each.receipt.id in unsuccessful for each in self._asked[NEWSLETTER])
        said = {REPORT: letters.went_out(len(self._asked[NEWSLETTER]), failed)}
        asked = {Mail(kind, each.receipt.id, each.to, said.get(kind, each.says)) for kind, each in singles}
        asked |= {Mail(DIGEST, each.job_id, reader) for each in digests for reader in readers}
        self._digests_asked = len(digests) * len(readers)
        self._draw(screen)
        return verdict(
            tuple(KINDS),
            asked,
            Counter({mail: count for mail, count in self._mailbox.delivered().items() if mail.kind != POSTCARD}),
            retried={kind: self._mailbox.retried(kind) for kind in KINDS},
            unsuccessful=unsuccessful,
            missed_digests=left_out(self._digests(), since, until),
            readers=len(readers),
            at_once=self._mailbox.at_once(),
            limit=AT_ONCE,
        )

    def _end_of(self, receipt: Receipt[object]) -> str | None:
        """Why a job did not succeed, or None."""
        try:
            receipt.result(timeout=max(0.05, self._deadline - time.monotonic()))
        except BrokerJobsError as error:
            return str(error)
        return None

    def _digests(self) -> list[Digest]:
        """The runs of the recurring job, of which there will be no more once it is removed."""
        found: list[Digest] = []
        page = self._store.reader.jobs(recurring=letters.schedule_name(self._run), limit=1000)
        while page:
            for row in page:
                planned_at = codec.decode(row.envelope).due_at
                assert planned_at is not None
                found.append(Digest(row.id, planned_at.timestamp(), row.ended_at))
            page = self._store.reader.jobs(
                recurring=letters.schedule_name(self._run), limit=1000, before_id=page[-1].id
            )
        return found

    def _draw(self, screen: Screen) -> None:
        asked: dict[str, int | None] = {kind: len(self._roll.subscribers) for kind in self._asked}
        asked |= {REPORT: 1, DIGEST: self._digests_asked}
        arrived = {kind: self._mailbox.count(kind) for kind in KINDS}
        screen.draw(time.monotonic() - self._began, arrived, asked)


@contextmanager
def _open(url: str | None, store: str | None, roll: Roll) -> Iterator[Room]:
    """Open mail server, broker, worker, coordinator, beat and the door of the metrics; close them at the end."""
    jobs = letters.jobs
    with ExitStack() as stack:
        run_id = secrets.token_hex(4)
        mailbox = Mailbox(run_id, letters.LETTERS)
        server = MailServer(mailbox)
        server.start()
        stack.callback(server.stop)
        office = Office(run_id, server.port, roll.digest_readers, jobs.batch(f"newsletter {run_id}"))
        stack.enter_context(letters.opened(office))
        given = {"url": url, "store": store, "queues": (letters.QUEUE,)}
        jobs.configure({name: value for name, value in given.items() if value is not None}, origin="mailroom")
        if jobs.settings.in_memory and not jobs.settings.store:
            # A file, so that the command line can look into it from outside while the demo runs.
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="mailroom-", ignore_cleanup_errors=True))
            jobs.configure({"store": f"sqlite:///{Path(folder) / 'store.db'}"})
        stack.callback(jobs.stop, STOP_SECONDS)
        jobs.start()
        door = HttpServer("127.0.0.1", 0, expose=jobs.metrics, health=jobs.health)
        door.start()
        stack.callback(door.stop)
        dashboard = stack.enter_context(_dashboard())
        reading = Store(jobs.settings.store_url())
        reading.open()
        stack.callback(reading.close)
        addresses = {
            ROOM: f"SMTP on 127.0.0.1:{server.port}, broker {mask(jobs.settings.url)}",
            DASHBOARD: dashboard.address,
            "store": mask(jobs.settings.store_url()),
            "metrics": f"{door.address}/metrics",
            "health": f"{door.address}/healthz",
        }
        yield Room(roll, office, mailbox, reading, addresses)


@contextmanager
def _dashboard() -> Iterator[DashboardServer]:
    """The dashboard of this program, on its usual port or, where that is taken, on another."""
    jobs = letters.jobs
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
def _telling(screen: Screen) -> Iterator[None]:
    """Show the parts' warnings above the bars, but for the refusals this demo is made of: the table counts those."""

    class Teller(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            text = record.getMessage()
            if letters.TemporarilyRefused.__name__ not in text:
                screen.say(text)

    teller = Teller(logging.WARNING)
    logger = logging.getLogger("broker_jobs")
    logger.addHandler(teller)
    try:
        yield
    finally:
        logger.removeHandler(teller)


@contextmanager
def _terminating() -> Iterator[None]:
    """Take SIGTERM as Ctrl-C while the block runs."""
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
