"""A line of the log says all it has to say, and never a password."""

from __future__ import annotations

import logging
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker_jobs.logs import LineFormatter, mask_passwords


def line(message: str, *arguments: object, **extra: object) -> str:
    record = logging.getLogger("a.b").makeRecord(
        "a.b", logging.WARNING, "f.py", 1, message, arguments, None, extra=extra
    )
    return LineFormatter().format(record)


def test_a_line_has_time_level_logger_sentence_and_keys() -> None:
    written = line("job %s ended", 7, queue="mail", reason="it is late", empty="")
    assert written.endswith('WARNING a.b: job 7 ended queue=mail reason="it is late" empty=""')
    assert "\n" not in line("two\nlines")


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("amqp://guest:secret@host/", "amqp://guest:***@host/"),
        ("at amqps://u:p@ss@host:5671/v, amqp://v:q@host2", "at amqps://u:***@host:5671/v, amqp://v:***@host2"),
        ("postgresql+psycopg://me:s%40cret@db/jobs", "postgresql+psycopg://me:***@db/jobs"),
        ("amqp://:secret@host", "amqp://:***@host"),
        ("write amqp://user:password@host", "write amqp://user:password@host"),
        ("http://127.0.0.1:8700/metrics", "http://127.0.0.1:8700/metrics"),
        ("no address: a@b", "no address: a@b"),
    ],
)
def test_passwords_of_addresses_are_masked(text: str, masked: str) -> None:
    assert mask_passwords(text) == masked


@given(st.from_regex(r"[A-Za-z0-9!$%&*=?@:-]{8,20}", fullmatch=True).filter(lambda p: not p.startswith("password@")))
def test_no_password_without_a_slash_is_ever_written(password: str) -> None:
    assert f":{password}@" not in mask_passwords(f"lost amqp://jobs:{password}@broker:5672/shop; again")


def test_passwords_in_arguments_keys_and_tracebacks_are_masked() -> None:
    assert "hunter2" not in line("lost %s", "amqp://a:hunter2@h", url="amqp://a:hunter2@h")
    try:
        raise ValueError("amqp://a:hunter2@h")
    except ValueError:
        record = logging.getLogger("a").makeRecord("a", logging.ERROR, "f.py", 1, "x", (), sys.exc_info())
    assert "hunter2" not in LineFormatter().format(record)
    assert "Traceback" in LineFormatter().format(record)
