"""The check is exact: it names each missing, duplicate or unrequested mail."""

from collections import Counter

from broker_jobs.demo.check import Digest, ResultLine, compare, missed_planned_times
from broker_jobs.demo.smtp_server import Mail

KINDS = ("welcome", "digest")
ANN, BOB = Mail("welcome", "1", "ann@example.com"), Mail("welcome", "2", "bob@example.com")


def test_mail_requested_and_delivered_once_is_right() -> None:
    found = compare(KINDS, [ANN, BOB], Counter([ANN, BOB]), retried={"welcome": 1})
    assert found.lines == (ResultLine("welcome", 2, 2, 1), ResultLine("digest", 0, 0, 0))
    assert found.wrong == ()


def test_a_missing_mail_is_wrong_and_says_why() -> None:
    found = compare(KINDS, [ANN, BOB], Counter([ANN]), retried={}, unsuccessful={"2": "it is still enqueued"})
    assert found.wrong == ("welcome to bob@example.com is missing: it is still enqueued",)
    assert found.lines[0] == ResultLine("welcome", 2, 1, 0)


def test_a_mail_that_comes_twice_is_wrong() -> None:
    found = compare(KINDS, [ANN], Counter([ANN, ANN]), retried={})
    assert found.wrong == ("welcome to ann@example.com was delivered 2 times (job 1)",)
    assert found.lines[0] == ResultLine("welcome", 1, 2, 0)


def test_one_missing_and_one_double_do_not_make_up_for_each_other() -> None:
    found = compare(KINDS, [ANN, BOB], Counter([ANN, ANN]), retried={})
    assert found.lines[0].requested == found.lines[0].delivered
    assert len(found.wrong) == 2


def test_a_mail_that_was_not_requested_is_wrong() -> None:
    assert "but not requested" in compare(KINDS, [ANN], Counter([ANN, BOB]), retried={}).wrong[0]


def test_a_mail_with_another_content_is_wrong() -> None:
    report = Mail("report", "3", "admin@example.com", "40 of 40")
    found = compare(KINDS, [report], Counter([report._replace(content="39 of 40")]), retried={})
    assert found.wrong == (
        "report to admin@example.com with the content '40 of 40' is missing: job 3 succeeded",
        "report to admin@example.com with the content '39 of 40' was delivered but not requested (job 3)",
    )


def test_more_emails_at_once_than_the_limit_are_wrong() -> None:
    found = compare(KINDS, [], Counter(), retried={}, at_once={"example.com": 4, "example.org": 3}, limit=3)
    assert found.wrong == ("4 mails went to example.com at once, the limit is 3",)


def test_a_job_that_failed_after_its_mail_had_come_is_wrong() -> None:
    found = compare(KINDS, [ANN], Counter([ANN]), retried={}, unsuccessful={"1": "it failed"})
    assert found.wrong == ("it failed",)


def test_a_planned_time_without_a_job_is_owed_to_every_reader() -> None:
    found = compare(KINDS, [], Counter(), retried={}, missed_digests=[104.0], readers=9)
    assert found.lines[1] == ResultLine("digest", 9, 0, 0)
    assert found.wrong == ("the digest of 104 was never enqueued",)


def digest(planned_at: float, ended_at: float | None) -> Digest:
    return Digest(f"at {planned_at}", planned_at, ended_at)


def test_every_even_second_between_is_looked_for() -> None:
    run = [digest(102, 102.1), digest(106, 106.1)]
    assert missed_planned_times(run, 100.0, 107.9) == [104.0]
    assert missed_planned_times(run, 99.9, 108.0) == [100.0, 104.0, 108.0]
    assert missed_planned_times([], 100.0, 101.9) == []


def test_a_planned_time_is_rightly_skipped_while_the_last_digest_runs() -> None:
    assert missed_planned_times([digest(102, 105.0)], 101.0, 107.0) == [106.0]
    assert missed_planned_times([digest(102, None)], 101.0, 107.0) == []
