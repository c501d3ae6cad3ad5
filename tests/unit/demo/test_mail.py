"""Jobs and mail server speak real SMTP: a mail is taken for all or for none, a bounce once, and doubles are counted."""

import smtplib
from collections.abc import Iterator
from datetime import timedelta

import pytest

from broker_jobs import GiveUp, result_of
from broker_jobs.demo import letters
from broker_jobs.demo.letters import (
    DIGEST,
    OFFICE,
    RECEIPT,
    REPORT,
    WELCOME,
    Letter,
    Office,
    Recipient,
    TemporarilyRefused,
    send,
)
from broker_jobs.demo.mailbox import HOST, Mail, Mailbox, MailServer
from broker_jobs.producer.current_job import CurrentJob, running
from broker_jobs.testing import Tester
from tests.support.wait import eventually

ANN = Recipient("Ann", "ann@example.com", "example.com")
BOB = Recipient("Bob", "bounce.bob@example.com", "example.com")


@pytest.fixture
def mailbox() -> Mailbox:
    return Mailbox("run", letters.LETTERS)


@pytest.fixture
def office(mailbox: Mailbox) -> Iterator[Office]:
    server = MailServer(mailbox)
    server.start()
    office = Office("run", server.port, ("ann@example.com", "bounce.bob@example.com"), letters.jobs.batch())
    with letters.opened(office):
        yield office
    server.stop()
    server.stop()


def letter(*to: str, kind: str = WELCOME, run: str = "run") -> Letter:
    return Letter(run, kind, to, "Hello", "Dear Karen Spärck Jones\n.\nall is well\n")


def test_a_mail_that_is_sent_twice_is_counted_twice(mailbox: Mailbox, office: Office) -> None:
    with running(CurrentJob("job 1", 1)):
        send(letter("ann@example.com"), office)
        send(letter("ann@example.com"), office)
    assert mailbox.delivered() == {Mail(WELCOME, "job 1", "ann@example.com"): 2}
    assert mailbox.count(WELCOME) == 2
    assert mailbox.letters(WELCOME) == 1


def test_a_bounce_is_sent_away_once_and_then_taken(mailbox: Mailbox, office: Office) -> None:
    with running(CurrentJob("job 1", 1)):
        with pytest.raises(TemporarilyRefused, match="451"):
            send(letter("bounce@example.com"), office)
        send(letter("bounce@example.com"), office)
    assert mailbox.count(WELCOME) == 1
    assert mailbox.retried(WELCOME) == 1


def test_a_mail_to_many_is_taken_for_all_or_for_none(mailbox: Mailbox, office: Office) -> None:
    many = letter("ann@example.com", "bounce.a@example.com", "bounce.b@example.com", kind=DIGEST)
    with running(CurrentJob("job 1", 1)):
        with pytest.raises(TemporarilyRefused):
            send(many, office)
        assert mailbox.count(DIGEST) == 0
        send(many, office)
    assert mailbox.count(DIGEST) == 3
    assert mailbox.letters(DIGEST) == 1


def test_an_address_beyond_ascii_is_delivered(mailbox: Mailbox, office: Office) -> None:
    with running(CurrentJob("job 1", 1)):
        send(letter("jürgen@bücher.example"), office)
    assert mailbox.delivered() == {Mail(WELCOME, "job 1", "jürgen@bücher.example"): 1}


def test_a_job_of_another_run_sends_nothing(mailbox: Mailbox, office: Office) -> None:
    with running(CurrentJob("job 1", 1)), pytest.raises(GiveUp, match="over"):
        send(letter("ann@example.com", run="before"), office)
    assert mailbox.delivered() == {}


def test_mail_of_another_run_is_counted_apart(mailbox: Mailbox) -> None:
    mailbox.put({"X-Mailroom-Run": "before", "X-Mailroom-Kind": WELCOME}, ["ann@example.com"])
    assert mailbox.count(WELCOME) == 0
    assert mailbox.foreign() == 1


@pytest.mark.parametrize("says", ["jürgen@bücher.example", f"{'a' * 200}@example.com", "39 of 40 newsletters went out"])
def test_what_a_mail_says_arrives_as_it_was_said(mailbox: Mailbox, office: Office, says: str) -> None:
    with running(CurrentJob("job 1", 1)):
        send(Letter("run", RECEIPT, (OFFICE,), "Delivered", "all is well\n", says=says), office)
    assert mailbox.delivered() == {Mail(RECEIPT, "job 1", OFFICE, says): 1}


def test_the_mailbox_sees_how_many_letters_come_at_once_to_a_domain(mailbox: Mailbox, office: Office) -> None:
    def begun(address: str, kind: str = WELCOME) -> smtplib.SMTP:
        smtp = smtplib.SMTP(HOST, office.port)
        smtp.ehlo()
        smtp.mail(f"{kind}@mailroom.example")
        smtp.rcpt(address)
        return smtp

    open_sessions = [begun("ann@Example.com"), begun("bounce@example.com"), begun("ann@example.org")]
    open_sessions.append(begun("ann@example.com", DIGEST))
    for smtp in open_sessions:
        smtp.close()
    eventually(lambda: not mailbox.coming())
    begun("ann@example.com").quit()
    assert not mailbox.coming()
    assert mailbox.at_once() == {"example.com": 2, "example.org": 1}


def test_without_a_server_the_job_raises_and_is_retried() -> None:
    with running(CurrentJob("job 1", 1)), pytest.raises(OSError, match=r"(?i)refused"):
        send(letter("ann@example.com"), Office("run", 9, (), letters.jobs.batch()))


@pytest.mark.usefixtures("office")
def test_the_jobs_retry_by_themselves(mailbox: Mailbox) -> None:
    with Tester(letters.jobs) as tester:
        letters.welcome.enqueue("run", BOB)
        tester.run()
        assert mailbox.count(WELCOME) == 0
        tester.advance(timedelta(seconds=2))
        assert mailbox.count(WELCOME) == 1


@pytest.mark.usefixtures("office")
def test_the_office_gets_a_receipt_with_the_welcomes_result_after_the_welcome_was_delivered(mailbox: Mailbox) -> None:
    with Tester(letters.jobs) as tester:
        receipt = letters.receipt.enqueue("run", result_of(letters.welcome.enqueue("run", BOB)))
        tester.run()
        assert mailbox.count(RECEIPT) == 0
        tester.advance(timedelta(seconds=2))
        assert mailbox.delivered()[Mail(RECEIPT, receipt.id, OFFICE, BOB.email)] == 1


def test_the_report_says_how_many_of_the_batch_went_out_when_all_have_ended(mailbox: Mailbox, office: Office) -> None:
    with Tester(letters.jobs) as tester:
        with office.newsletter as batch:
            batch.enqueue(letters.newsletter, "run", ANN)
            batch.enqueue(letters.newsletter, "run", BOB)
            batch.enqueue(letters.newsletter, "of another run", ANN)
        report = letters.report.after(batch, on="finished").enqueue("run", 3)
        tester.run()
        assert mailbox.count(REPORT) == 0
        tester.advance(timedelta(seconds=2))
        assert mailbox.delivered()[Mail(REPORT, report.id, OFFICE, "2 of 3 newsletters went out")] == 1
