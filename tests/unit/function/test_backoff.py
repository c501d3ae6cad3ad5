"""The option `backoff` as it is written, and the options that say what is retried."""

import math
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from broker_jobs import Backoff, GiveUp, OptionError, Retry
from broker_jobs.consumer.outcome import raised
from broker_jobs.function.options import job_options
from broker_jobs.messages.codec import decode, encode
from broker_jobs.messages.envelope import Envelope, Growth


def test_a_growing_back_off_travels_as_its_numbers() -> None:
    policy = job_options({"backoff": Backoff(first=2, factor=3, cap=timedelta(minutes=1), jitter=0.25)}).policy
    assert policy.backoff == Growth(first=2.0, factor=3.0, cap=60.0, jitter=0.25)
    envelope = Envelope(id="0190", job="mail", created_at=datetime(2026, 1, 1, tzinfo=UTC), policy=policy)
    assert decode(encode(envelope)).policy == policy


def test_a_growing_back_off_has_defaults() -> None:
    assert Backoff().growth == Growth(first=1, factor=2, cap=3600, jitter=0.1)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"first": 0}, r"^Backoff\(first=…\) must be more than 0 seconds and at most 10 years, not 0"),
        ({"first": "1"}, r"^Backoff\(first=…\) must be seconds or a timedelta, not '1'"),
        ({"first": math.nan}, r"must be seconds or a timedelta, not nan"),
        ({"first": True}, r"must be seconds or a timedelta, not True"),
        ({"cap": timedelta(days=3651)}, r"^Backoff\(cap=…\) must be more than 0 seconds and at most 10 years"),
        ({"cap": 10**400}, r"^Backoff\(cap=…\) must be seconds or a timedelta"),
        ({"first": 10, "cap": 5}, r"^Backoff\(cap=…\) must be 10 seconds or more, which is `first`, not 5"),
        ({"factor": 0.5}, r"^Backoff\(factor=…\) must be a number from 1 to 1_000, not 0.5"),
        ({"factor": math.inf}, r"^Backoff\(factor=…\) must be a number from 1 to 1_000, not inf"),
        ({"jitter": 1.5}, r"^Backoff\(jitter=…\) must be a number from 0 to 1, not 1.5"),
        ({"jitter": -0.1}, r"^Backoff\(jitter=…\) must be a number from 0 to 1, not -0.1"),
    ],
)
def test_a_growing_back_off_out_of_range_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        Backoff(**fields)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (5, r"not 5; write backoff=\[5\]$"),
        ([], "must be a sequence of lengths"),
        ("15", "must be a sequence of lengths"),
        ([-1], "must be 0 seconds or more"),
        ([math.nan], "must be 0 seconds or more"),
        ([math.inf], "must be 0 seconds or more"),
        ([timedelta(days=3651)], "must be 10 years or less"),
        ([1] * 1001, r"at most 1_000 lengths .*; for pauses that grow write backoff=Backoff\("),
    ],
)
def test_a_wrong_back_off_is_refused(value: Any, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        job_options({"backoff": value})


class OneError(Exception): ...


class SubError(OneError): ...


class SubSubError(SubError): ...


@pytest.mark.parametrize(
    ("retry_on", "never_retry", "error", "is_final"),
    [
        (Exception, OneError, OneError(), True),
        (Exception, OneError, SubError(), True),
        (Exception, OneError, ValueError(), False),
        (Exception, OneError, SystemExit(), False),
        (OneError, SubError, OneError(), False),
        (OneError, SubError, SubSubError(), True),
        (OneError, SubError, ValueError(), True),
        (SubError, OneError, SubSubError(), False),
        (SubError, OneError, OneError(), True),
        ((SubSubError, OneError), SubError, SubError(), True),
        ((SubSubError, OneError), SubError, SubSubError(), False),
        (Exception, (KeyError, ValueError), KeyError(), True),
        (Exception, OneError, Retry(), False),
        (Exception, OneError, GiveUp(), True),
    ],
)
def test_of_the_classes_that_fit_the_nearest_decides(
    retry_on: Any, never_retry: Any, error: BaseException, is_final: bool
) -> None:
    options = job_options({"retry_on": retry_on, "never_retry": never_retry})
    assert raised(error, options.retry_on, options.never_retry).final is is_final


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"never_retry": "ValueError"}, "never_retry must be an exception class or a tuple of them, not 'ValueError'"),
        ({"never_retry": ()}, "never_retry must be an exception class"),
        ({"never_retry": KeyboardInterrupt}, "never_retry must be an exception class"),
        ({"never_retry": Exception}, "leaves nothing to retry: write retries=0"),
        (
            {"never_retry": (KeyError, ValueError), "retry_on": (OSError, ValueError)},
            "ValueError is in retry_on and in never_retry: write it in one of them",
        ),
    ],
)
def test_what_contradicts_itself_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        job_options(options)
