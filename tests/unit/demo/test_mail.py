"""Jobs and server speak SMTP: a mail is accepted for all or none, a bounce is refused once, duplicates count."""

import smtplib
from collections.abc import Iterator
from datetime import timedelta

import pytest

from broker_jobs import GiveUp, result_of
from broker_jobs.demo import mail_jobs
from broker_jobs.demo.mail_jobs import (
    ADMIN,
    DIGEST,
    RECEIPT,
    REPORT,
    WELCOME,
    DemoRun,
    Email,
    Recipient,
    TemporarilyRefused,
    send,
)
from broker_jobs.demo.smtp_server import HOST, Mail, Mailbox, SmtpServer
from broker_jobs.producer.current_job import CurrentJob, running
from broker_jobs.testing import Tester
from tests.support.wait import eventually

ANN = Recipient("Ann", "ann@example.com", "example.com")
BOB = Recipient("Bob", "bounce.bob@example.com", "example.com")


@pytest.fixture
def mailbox() -> Mailbox:
    return Mailbox("run", mail_jobs.PERSONAL)


@pytest.fixture
def demo_run(mailbox: Mailbox) -> Iterator[DemoRun]:
    server = SmtpServer(mailbox)
    server.start()
    demo_run = DemoRun("run", server.port, ("ann@example.com", "bounce.bob@example.com"), mail_jobs.jobs.batch())
    with mail_jobs.running_demo(demo_run):
        yield demo_run
    server.stop()
    server.stop()


def email(*to: str, kind: str = WELCOME, run: str = "run") -> Email:
    return Email(run, kind, to, "Hello", "Dear Karen Spärck Jones\n.\nall is well\n")


def test_a_mail_that_is_sent_twice_is_counted_twice(mailbox: Mailbox, demo_run: DemoRun) -> None:
    with running(CurrentJob("job 1", 1)):
        send(email("ann@example.com"), demo_run)
        send(email("ann@example.com"), demo_run)
    assert mailbox.delivered() == {Mail(WELCOME, "job 1", "ann@example.com"): 2}
    assert mailbox.count(WELCOME) == 2
    assert mailbox.jobs_delivered(WELCOME) == 1


def test_a_bounce_is_refused_once_and_then_accepted(mailbox: Mailbox, demo_run: DemoRun) -> None:
    with running(CurrentJob("job 1", 1)):
        with pytest.raises(TemporarilyRefused, match="451"):
            send(email("bounce@example.com"), demo_run)
        send(email("bounce@example.com"), demo_run)
    assert mailbox.count(WELCOME) == 1
    assert mailbox.retried(WELCOME) == 1


def test_a_mail_to_many_is_accepted_for_all_or_for_none(mailbox: Mailbox, demo_run: DemoRun) -> None:
    many = email("ann@example.com", "bounce.a@example.com", "bounce.b@example.com", kind=DIGEST)
    with running(CurrentJob("job 1", 1)):
        with pytest.raises(TemporarilyRefused):
            send(many, demo_run)
        assert mailbox.count(DIGEST) == 0
        send(many, demo_run)
    assert mailbox.count(DIGEST) == 3
    assert mailbox.jobs_delivered(DIGEST) == 1


def test_an_address_beyond_ascii_is_delivered(mailbox: Mailbox, demo_run: DemoRun) -> None:
    with running(CurrentJob("job 1", 1)):
        send(email("jürgen@bücher.example"), demo_run)
    assert mailbox.delivered() == {Mail(WELCOME, "job 1", "jürgen@bücher.example"): 1}


def test_a_job_of_another_run_sends_nothing(mailbox: Mailbox, demo_run: DemoRun) -> None:
    with running(CurrentJob("job 1", 1)), pytest.raises(GiveUp, match="has ended"):
        send(email("ann@example.com", run="before"), demo_run)
    assert mailbox.delivered() == {}


def test_mail_of_another_run_is_counted_apart(mailbox: Mailbox) -> None:
    mailbox.put({"X-Demo-Run": "before", "X-Demo-Kind": WELCOME}, ["ann@example.com"])
    assert mailbox.count(WELCOME) == 0
    assert mailbox.foreign() == 1


@pytest.mark.parametrize(
    "content", ["jürgen@bücher.example", f"{'a' * 200}@example.com", "39 of 40 newsletters went out"]
)
def test_the_content_of_a_mail_arrives_unchanged(mailbox: Mailbox, demo_run: DemoRun, content: str) -> None:
    with running(CurrentJob("job 1", 1)):
        send(Email("run", RECEIPT, (ADMIN,), "Delivered", "all is well\n", content=content), demo_run)
    assert mailbox.delivered() == {Mail(RECEIPT, "job 1", ADMIN, content): 1}


def test_the_mailbox_counts_the_mails_received_at_once_by_domain(mailbox: Mailbox, demo_run: DemoRun) -> None:
    def begun(address: str, kind: str = WELCOME) -> smtplib.SMTP:
        smtp = smtplib.SMTP(HOST, demo_run.port)
        smtp.ehlo()
        smtp.mail(f"{kind}@mail-demo.example")
        smtp.rcpt(address)
        return smtp

    open_sessions = [begun("ann@Example.com"), begun("bounce@example.com"), begun("ann@example.org")]
    open_sessions.append(begun("ann@example.com", DIGEST))
    for smtp in open_sessions:
        smtp.close()
    eventually(lambda: not mailbox.receiving())
    begun("ann@example.com").quit()
    assert not mailbox.receiving()
    assert mailbox.at_once() == {"example.com": 2, "example.org": 1}


def test_without_a_server_the_job_raises_and_is_retried() -> None:
    with running(CurrentJob("job 1", 1)), pytest.raises(OSError, match=r"(?i)refused"):
        send(email("ann@example.com"), DemoRun("run", 9, (), mail_jobs.jobs.batch()))


@pytest.mark.usefixtures("demo_run")
def test_the_jobs_retry_by_themselves(mailbox: Mailbox) -> None:
    with Tester(mail_jobs.jobs) as tester:
        mail_jobs.welcome.enqueue("run", BOB)
        tester.run()
        assert mailbox.count(WELCOME) == 0
        tester.advance(timedelta(seconds=2))
        assert mailbox.count(WELCOME) == 1


@pytest.mark.usefixtures("demo_run")
def test_the_administrator_gets_a_receipt_with_the_result_of_the_welcome_after_it(mailbox: Mailbox) -> None:
    with Tester(mail_jobs.jobs) as tester:
        receipt = mail_jobs.receipt.enqueue("run", result_of(mail_jobs.welcome.enqueue("run", BOB)))
        tester.run()
        assert mailbox.count(RECEIPT) == 0
        tester.advance(timedelta(seconds=2))
        assert mailbox.delivered()[Mail(RECEIPT, receipt.id, ADMIN, BOB.email)] == 1


def test_the_report_says_how_many_newsletters_were_sent_after_all_ended(mailbox: Mailbox, demo_run: DemoRun) -> None:
    with Tester(mail_jobs.jobs) as tester:
        with demo_run.newsletter as batch:
            batch.enqueue(mail_jobs.newsletter, "run", ANN)
            batch.enqueue(mail_jobs.newsletter, "run", BOB)
            batch.enqueue(mail_jobs.newsletter, "of another run", ANN)
        report = mail_jobs.report.after(batch, on="finished").enqueue("run", 3)
        tester.run()
        assert mailbox.count(REPORT) == 0
        tester.advance(timedelta(seconds=2))
        assert mailbox.delivered()[Mail(REPORT, report.id, ADMIN, "2 of 3 newsletters went out")] == 1
