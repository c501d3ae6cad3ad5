"""Times are read as people write them; what is printed can be grepped and cut."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
import typer

from broker_jobs.cli.options import given_settings, load_settings
from broker_jobs.cli.output import moment, print_error, print_table, read_moment
from broker_jobs.errors import OptionError


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("30s", 30), ("5m", 300), ("2h", 7200), ("7d", 604800), ("0.5h", 1800), ("0", 0)]
)
def test_a_number_with_a_unit_is_seconds_from_now(text: str, seconds: float) -> None:
    assert read_moment(text) == seconds


def test_an_instant_needs_its_time_zone() -> None:
    east = timezone(timedelta(hours=3))
    assert read_moment("2027-01-01T09:00+03:00") == datetime(2027, 1, 1, 9, tzinfo=east)
    assert read_moment("2027-01-01T09:00Z") == datetime(2027, 1, 1, 9, tzinfo=UTC)
    with pytest.raises(typer.BadParameter, match="no time zone"):
        read_moment("2027-01-01T09:00")


@pytest.mark.parametrize("text", ["tomorrow", "", "m", "5 minutes", "1e", "nan", "infs", "nan days"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="is not a time"):
        read_moment(text)


def test_a_table_that_is_piped_is_one_line_a_row_with_tabs(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("id", "Reason"), [("1", "two\nlines\tand a tab"), ("2", None)])
    assert capsys.readouterr().out == "id\treason\n1\ttwo lines and a tab\n2\t\n"


def test_an_error_is_one_line_without_passwords(capsys: pytest.CaptureFixture[str]) -> None:
    print_error("amqp://a:hunter2@h\nis away")
    assert capsys.readouterr().err == "error: amqp://a:***@h is away\n"


def test_an_instant_is_shown_in_utc() -> None:
    assert moment(0.0) == "1970-01-01 00:00:00Z"
    assert moment(None) == ""


def test_only_what_the_command_line_gives_is_given() -> None:
    assert given_settings(queues="mail, sms", more=["prefetch-max=3"], url=None, concurrency=4) == {
        "concurrency": 4,
        "queues": "mail, sms",
        "prefetch_max": "3",
    }
    assert load_settings(queues="mail, sms").queues == ("mail", "sms")
    assert load_settings(more=["queues=a,b", "declare=false"]).queues == ("a", "b")
    with pytest.raises(OptionError, match="write --set name=value"):
        given_settings(more=["concurrency"])
