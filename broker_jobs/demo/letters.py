"""The jobs of the mail room, as an application would write them: each sends one mail over SMTP.

A mail to several addresses is taken for all of them or for none: a retry then sends nothing twice.
"""

from __future__ import annotations

import smtplib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from email.message import EmailMessage
from email.policy import SMTPUTF8

from broker_jobs import Batch, BrokerJobs, BrokerJobsError, Concurrency, Depends, GiveUp, current_job
from broker_jobs.demo.mailbox import HOST, JOB, KIND, RUN, SAYS

QUEUE = "mailroom"
WELCOME, RECEIPT, FOLLOW_UP = "welcome", "receipt", "follow-up"
NEWSLETTER, REPORT, DIGEST = "newsletter", "report", "digest"
POSTCARD = "postcard"
"""Not asked for by the demo, and not counted: one for the visitor to mend, and to write more of."""
KINDS = {
    WELCOME: "fire-and-forget",
    RECEIPT: "continuation",
    FOLLOW_UP: "delayed",
    NEWSLETTER: "batch",
    REPORT: "batch continuation",
    DIGEST: "recurring",
}
"""The kinds of mail, and the kind of job that sends each."""
LETTERS = (WELCOME, FOLLOW_UP, NEWSLETTER)
"""The kinds that go to subscribers one by one."""
AT_ONCE = 3
GENTLE = Concurrency("smtp:{run}:{to.domain}", AT_ONCE)
"""So many letters at once to the subscribers of one mail provider; each run has its own mail server, so its own key."""
DOMAIN = "mailroom.example"
OFFICE = f"office@{DOMAIN}"
"""Who reads receipts and reports."""
SMTP_SECONDS = 10.0
OVER = "of a run of the demo that is over"

jobs = BrokerJobs()


class TemporarilyRefused(Exception):
    """The mail server does not take the mail now (SMTP 4xx)."""


@dataclass(frozen=True)
class Office:
    """What the jobs of one run of the demo share: where the mail goes, who reads the digest, the newsletter's batch."""

    run: str
    port: int
    digest_readers: tuple[str, ...]
    newsletter: Batch


@dataclass(frozen=True)
class Recipient:
    """A subscriber, as a letter's job knows one."""

    name: str
    email: str
    domain: str


_open: list[Office] = []


@contextmanager
def opened(office: Office) -> Iterator[None]:
    """Have the jobs of this process work for an office while the block runs."""
    _open.append(office)
    try:
        yield
    finally:
        _open.remove(office)


def office_now() -> Office:
    """The open office, for `Depends`."""
    if not _open:
        raise GiveUp("the mail room is closed")
    return _open[-1]


@jobs.job(queue=QUEUE, retries=5, backoff=[1], timeout=30, limit=GENTLE)
def welcome(run: str, to: Recipient, office: Office = Depends(office_now)) -> str:
    """Greet a new subscriber; the address that was greeted."""
    send(Letter(run, WELCOME, (to.email,), "Welcome", f"Dear {to.name},\n\nwelcome to the mail room.\n"), office)
    return to.email


@jobs.job(queue=QUEUE, retries=5, backoff=[1], timeout=30)
def receipt(run: str, greeted: str, office: Office = Depends(office_now)) -> None:
    """Tell the office that a subscriber was greeted; enqueued with the result of the welcome to come."""
    send(Letter(run, RECEIPT, (OFFICE,), "Delivered", f"{greeted} was welcomed.\n", says=greeted), office)


@jobs.job(queue=QUEUE, name=FOLLOW_UP, retries=5, backoff=[1], timeout=30, limit=GENTLE)
def follow_up(run: str, to: Recipient, office: Office = Depends(office_now)) -> None:
    """Ask a subscriber, some time later, how it goes."""
    send(Letter(run, FOLLOW_UP, (to.email,), "How is it going?", f"Dear {to.name},\n\nis all well?\n"), office)


@jobs.job(queue=QUEUE, retries=5, backoff=[1], timeout=30, limit=GENTLE)
def newsletter(run: str, to: Recipient, office: Office = Depends(office_now)) -> None:
    """Send a subscriber the newsletter."""
    send(Letter(run, NEWSLETTER, (to.email,), "Newsletter", f"Dear {to.name},\n\nthis went to all of you.\n"), office)


@jobs.job(queue=QUEUE, retries=5, backoff=[1], timeout=30)
def report(run: str, asked: int, office: Office = Depends(office_now)) -> None:
    """Tell the office how many newsletters went out, when all of them have ended."""
    if run != office.run:
        raise GiveUp(OVER)
    says = went_out(asked, failed=sum(1 for _ in office.newsletter.failures()))
    send(Letter(run, REPORT, (OFFICE,), "Delivery report", f"{says}\n", says=says), office)


def went_out(asked: int, failed: int) -> str:
    """What a delivery report says."""
    return f"{asked - failed} of {asked} newsletters went out"


@jobs.job(queue=QUEUE, retries=5, backoff=[1], timeout=30)
def digest(run: str, office: Office = Depends(office_now)) -> None:
    """Send the news to all who want them, as one mail."""
    if run != office.run:
        with suppress(BrokerJobsError):
            jobs.recurring.remove(schedule_name(run))  # its demo was killed and could not do it
    send(Letter(run, DIGEST, office.digest_readers, "The news", "There is no news today.\n"), office)


@jobs.job(queue=QUEUE, retries=5, backoff=[1], timeout=30, retry_on=TemporarilyRefused)
def postcard(run: str, to: str, text: str = "Greetings", office: Office = Depends(office_now)) -> str:
    """Send a few words to one address; the address they went to."""
    if "@" not in to:
        raise ValueError(f"{to!r} is no e-mail address: there is no @ in it")
    send(Letter(run, POSTCARD, (to,), "A postcard", f"{text}\n"), office)
    return to


def schedule_name(run: str) -> str:
    """The recurring job of one run of the demo."""
    return f"mailroom-{run}"


@dataclass(frozen=True)
class Letter:
    """One mail, to one address or to several, of one run of the demo; `says`: what the mailbox is to check."""

    run: str
    kind: str
    to: tuple[str, ...]
    subject: str
    text: str
    says: str = ""


def send(letter: Letter, office: Office) -> None:
    """Send one mail, taken by the server for all addresses or for none.

    Raises:
        TemporarilyRefused: come again later.
        GiveUp: refused for good, or of a run that is over.
    """
    if letter.run != office.run:
        raise GiveUp(OVER)
    sender = f"{letter.kind}@{DOMAIN}"
    message = EmailMessage(policy=SMTPUTF8)
    message["From"] = sender
    message["To"] = letter.to[0] if len(letter.to) == 1 else "undisclosed-recipients:;"
    message["Subject"] = letter.subject
    message[RUN], message[KIND], message[JOB] = letter.run, letter.kind, current_job().id
    if letter.says:
        message[SAYS] = letter.says
    message.set_content(letter.text)
    with smtplib.SMTP(HOST, office.port, local_hostname=DOMAIN, timeout=SMTP_SECONDS) as smtp:
        smtp.ehlo()
        _accepted(smtp.mail(sender, ["SMTPUTF8", "BODY=8BITMIME"]))
        for answer in [smtp.rcpt(address) for address in letter.to]:
            _accepted(answer)
        _accepted(smtp.data(message.as_bytes()))


def _accepted(answer: tuple[int, bytes]) -> None:
    code, text = answer
    said = f"{code} {text.decode('utf-8', 'replace')}"
    if 400 <= code < 500:
        raise TemporarilyRefused(said)
    if code >= 500:
        raise GiveUp(said)
