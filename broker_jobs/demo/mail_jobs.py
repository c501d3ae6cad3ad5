"""The jobs of the mail demo, as an application writes them: each sends one mail over SMTP.

A mail to several addresses is accepted for all of them or for none, so that a retry sends nothing twice.
"""

from __future__ import annotations

import smtplib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from email.message import EmailMessage
from email.policy import SMTPUTF8

from broker_jobs import Batch, BrokerJobs, BrokerJobsError, Concurrency, Depends, GiveUp, current_job
from broker_jobs.demo.smtp_server import CONTENT, HOST, JOB, KIND, RUN

QUEUE = "mail"
WELCOME, RECEIPT, FOLLOW_UP = "welcome", "receipt", "follow-up"
NEWSLETTER, REPORT, DIGEST = "newsletter", "report", "digest"
INVITATION = "invitation"
"""Not counted: the demo sends one that fails, to be corrected on the dashboard."""
KINDS = {
    WELCOME: "fire-and-forget",
    RECEIPT: "continuation",
    FOLLOW_UP: "delayed",
    NEWSLETTER: "batch",
    REPORT: "batch continuation",
    DIGEST: "recurring",
}
"""The kinds of mail, and the kind of job that sends each."""
PERSONAL = (WELCOME, FOLLOW_UP, NEWSLETTER)
"""The kinds that go to each subscriber in a mail of its own."""
MAX_AT_ONCE = 3
PER_DOMAIN = Concurrency("smtp:{run}:{to.domain}", MAX_AT_ONCE)
"""At most this many mails at once to one mail provider. The key holds the run, as each run has its own SMTP server."""
DOMAIN = "mail-demo.example"
ADMIN = f"admin@{DOMAIN}"
"""Receives receipts and reports."""
SMTP_SECONDS = 10.0
OTHER_RUN = "the job belongs to a run of the demo that has ended"

jobs = BrokerJobs(service="mail-demo")


class TemporarilyRefused(Exception):
    """The mail server refuses the mail for now (SMTP 4xx)."""


@dataclass(frozen=True)
class DemoRun:
    """What the jobs of one run of the demo share: SMTP port, readers of the digest, the batch of newsletters."""

    id: str
    port: int
    digest_readers: tuple[str, ...]
    newsletter: Batch


@dataclass(frozen=True)
class Recipient:
    """A subscriber, as an argument of a job."""

    name: str
    email: str
    domain: str


_runs: list[DemoRun] = []


@contextmanager
def running_demo(demo_run: DemoRun) -> Iterator[None]:
    """Make a run available to the jobs of this process while the block runs."""
    _runs.append(demo_run)
    try:
        yield
    finally:
        _runs.remove(demo_run)


def current_run() -> DemoRun:
    """The run of this process, for `Depends`."""
    if not _runs:
        raise GiveUp("no run of the mail demo is open in this process")
    return _runs[-1]


@jobs.job(queue=QUEUE, retries=5, backoff=[1], timeout=30, limit=PER_DOMAIN)
def welcome(run: str, to: Recipient, demo_run: DemoRun = Depends(current_run)) -> str:
    """Welcome a new subscriber; returns the address."""
    send(Email(run, WELCOME, (to.email,), "Welcome", f"Dear {to.name},\n\nwelcome to the mail demo.\n"), demo_run)
    return to.email


@jobs.job(queue=QUEUE, retries=5, backoff=[1], timeout=30)
def receipt(run: str, welcomed: str, demo_run: DemoRun = Depends(current_run)) -> None:
    """Report a welcome to the administrator; enqueued with the result of the welcome as its argument."""
    send(Email(run, RECEIPT, (ADMIN,), "Delivered", f"{welcomed} was welcomed.\n", content=welcomed), demo_run)


@jobs.job(queue=QUEUE, name=FOLLOW_UP, retries=5, backoff=[1], timeout=30, limit=PER_DOMAIN)
def follow_up(run: str, to: Recipient, demo_run: DemoRun = Depends(current_run)) -> None:
    """Write to a subscriber again, some time later."""
    send(Email(run, FOLLOW_UP, (to.email,), "How is it going?", f"Dear {to.name},\n\nis all well?\n"), demo_run)


@jobs.job(queue=QUEUE, retries=5, backoff=[1], timeout=30, limit=PER_DOMAIN)
def newsletter(run: str, to: Recipient, demo_run: DemoRun = Depends(current_run)) -> None:
    """Send a subscriber the newsletter."""
    send(Email(run, NEWSLETTER, (to.email,), "Newsletter", f"Dear {to.name},\n\nthis went to all of you.\n"), demo_run)


@jobs.job(queue=QUEUE, retries=5, backoff=[1], timeout=30)
def report(run: str, requested: int, demo_run: DemoRun = Depends(current_run)) -> None:
    """Report to the administrator how many newsletters were sent, after all of them have ended."""
    if run != demo_run.id:
        raise GiveUp(OTHER_RUN)
    content = went_out(requested, failed=sum(1 for _ in demo_run.newsletter.failures()))
    send(Email(run, REPORT, (ADMIN,), "Delivery report", f"{content}\n", content=content), demo_run)


def went_out(requested: int, failed: int) -> str:
    """The text of a delivery report."""
    return f"{requested - failed} of {requested} newsletters went out"


@jobs.job(queue=QUEUE, retries=5, backoff=[1], timeout=30)
def digest(run: str, demo_run: DemoRun = Depends(current_run)) -> None:
    """Send the digest to all its readers, as one mail."""
    if run != demo_run.id:
        with suppress(BrokerJobsError):
            jobs.recurring.remove(schedule_name(run))  # its demo was killed before it could
    send(Email(run, DIGEST, demo_run.digest_readers, "The news", "There is no news today.\n"), demo_run)


@jobs.job(queue=QUEUE, retries=5, backoff=[1], timeout=30, retry_on=TemporarilyRefused)
def invitation(run: str, to: str, text: str = "You are invited.", demo_run: DemoRun = Depends(current_run)) -> str:
    """Send an invitation to one address; returns the address."""
    if "@" not in to:
        raise ValueError(f"{to!r} is not an e-mail address: it has no @")
    send(Email(run, INVITATION, (to,), "An invitation", f"{text}\n"), demo_run)
    return to


def schedule_name(run: str) -> str:
    """The name of the recurring job of one run."""
    return f"mail-demo-{run}"


@dataclass(frozen=True)
class Email:
    """One mail of one run, to one or several addresses. `content`: the text that the check compares."""

    run: str
    kind: str
    to: tuple[str, ...]
    subject: str
    text: str
    content: str = ""


def send(email: Email, demo_run: DemoRun) -> None:
    """Send one mail, which the server accepts for all addresses or for none.

    Raises:
        TemporarilyRefused: the server refuses it for now.
        GiveUp: the server refuses it for good, or the run has ended.
    """
    if email.run != demo_run.id:
        raise GiveUp(OTHER_RUN)
    sender = f"{email.kind}@{DOMAIN}"
    message = EmailMessage(policy=SMTPUTF8)
    message["From"] = sender
    message["To"] = email.to[0] if len(email.to) == 1 else "undisclosed-recipients:;"
    message["Subject"] = email.subject
    message[RUN], message[KIND], message[JOB] = email.run, email.kind, current_job().id
    if email.content:
        message[CONTENT] = email.content
    message.set_content(email.text)
    with smtplib.SMTP(HOST, demo_run.port, local_hostname=DOMAIN, timeout=SMTP_SECONDS) as smtp:
        smtp.ehlo()
        _check_reply(smtp.mail(sender, ["SMTPUTF8", "BODY=8BITMIME"]))
        for reply in [smtp.rcpt(address) for address in email.to]:
            _check_reply(reply)
        _check_reply(smtp.data(message.as_bytes()))


def _check_reply(reply: tuple[int, bytes]) -> None:
    code, text = reply
    message = f"{code} {text.decode('utf-8', 'replace')}"
    if 400 <= code < 500:
        raise TemporarilyRefused(message)
    if code >= 500:
        raise GiveUp(message)
