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

from broker_jobs import BrokerJobs, BrokerJobsError, Depends, GiveUp, current_job
from broker_jobs.demo.mailbox import HOST, JOB, KIND, RUN

QUEUE = "mailroom"
WELCOME, FOLLOW_UP, DIGEST = "welcome", "follow-up", "digest"
KINDS = (WELCOME, FOLLOW_UP, DIGEST)
DOMAIN = "mailroom.example"
SMTP_SECONDS = 10.0

jobs = BrokerJobs()


class TemporarilyRefused(Exception):
    """The mail server does not take the mail now (SMTP 4xx)."""


@dataclass(frozen=True)
class Office:
    """What the jobs of one run of the demo share: where the mail goes, and who reads the digest."""

    run: str
    port: int
    digest_readers: tuple[str, ...]


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


@jobs.job(queue=QUEUE, retries=5, backoff=[1], timeout=30)
def welcome(run: str, name: str, email: str, office: Office = Depends(office_now)) -> None:
    """Greet a new subscriber."""
    send(Letter(run, WELCOME, (email,), "Welcome", f"Dear {name},\n\nwelcome to the mail room.\n"), office)


@jobs.job(queue=QUEUE, name=FOLLOW_UP, retries=5, backoff=[1], timeout=30)
def follow_up(run: str, name: str, email: str, office: Office = Depends(office_now)) -> None:
    """Ask a subscriber, some time later, how it goes."""
    send(Letter(run, FOLLOW_UP, (email,), "How is it going?", f"Dear {name},\n\nis all well?\n"), office)


@jobs.job(queue=QUEUE, retries=5, backoff=[1], timeout=30)
def digest(run: str, office: Office = Depends(office_now)) -> None:
    """Send the news to all who want them, as one mail."""
    if run != office.run:
        with suppress(BrokerJobsError):
            jobs.recurring.remove(schedule_name(run))  # its demo was killed and could not do it
    send(Letter(run, DIGEST, office.digest_readers, "The news", "There is no news today.\n"), office)


def schedule_name(run: str) -> str:
    """The recurring job of one run of the demo."""
    return f"mailroom-{run}"


@dataclass(frozen=True)
class Letter:
    """One mail, to one address or to several, of one run of the demo."""

    run: str
    kind: str
    to: tuple[str, ...]
    subject: str
    text: str


def send(letter: Letter, office: Office) -> None:
    """Send one mail, taken by the server for all addresses or for none.

    Raises:
        TemporarilyRefused: come again later.
        GiveUp: refused for good, or of a run that is over.
    """
    if letter.run != office.run:
        raise GiveUp("of a run of the demo that is over")
    sender = f"{letter.kind}@{DOMAIN}"
    message = EmailMessage(policy=SMTPUTF8)
    message["From"] = sender
    message["To"] = letter.to[0] if len(letter.to) == 1 else "undisclosed-recipients:;"
    message["Subject"] = letter.subject
    message[RUN], message[KIND], message[JOB] = letter.run, letter.kind, current_job().id
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
