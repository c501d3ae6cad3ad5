"""The days that L, W and # mean, against their definitions over thousands of dates, against croniter, and in zones."""

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from croniter import croniter
from hypothesis import given, settings
from hypothesis import strategies as st

from broker_jobs.beat.cron import check, latest, next_after, next_many
from broker_jobs.errors import OptionError

NAMES = ("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT")
START = datetime(2023, 11, 30, tzinfo=UTC)
"""A leap year, and others, follow."""


def month_of(day: date) -> list[date]:
    first = day.replace(day=1)
    return [at for n in range(31) if (at := first + timedelta(days=n)).month == day.month]


def means(part: str, day: date) -> bool:
    """Whether a part of the field of days means a date, by its definition."""
    month = month_of(day)
    if part == "*":
        return True
    if part.isdigit():
        return day.day == int(part)
    number = int("".join(filter(str.isdigit, part)) or 0)
    target = len(month) - number if "L" in part else min(number, len(month))
    if target < 1:
        return False
    if "W" not in part:
        return day.day == target
    work_days = [at for at in month if at.weekday() < 5]
    return day == min(work_days, key=lambda at: abs(at.day - target))


def means_weekday(part: str, day: date) -> bool:
    """Whether a part of the field of weekdays means a date, by its definition."""
    if part == "*":
        return True
    name, _, which = part.partition("#")
    last = which == "L" or "L" in name
    name = name.replace("L", "")
    number = NAMES.index(name) if name in NAMES else int(name) % 7
    same = [at for at in month_of(day) if (at.weekday() + 1) % 7 == number]
    if last:
        return day == same[-1]
    return day in same and (not which or same.index(day) + 1 == int(which))


def planned(cron: str, count: int) -> list[date]:
    return [datetime.fromtimestamp(at, UTC).date() for at in next_many(cron, "UTC", START.timestamp(), count)]


DAYS = st.one_of(
    st.sampled_from(["L", "LW"]),
    st.integers(1, 30).map("L-{}".format),
    st.integers(1, 30).map("L-{}W".format),
    st.integers(1, 31).map("{}W".format),
    st.integers(1, 31).map("W{}".format),
    st.integers(1, 31).map(str),
)
ONES = st.sampled_from([*map(str, range(8)), *NAMES])
WEEKDAYS = st.one_of(
    ONES,
    ONES.map("L{}".format).filter(lambda text: not text.startswith("LL")),
    ONES.map("{}L".format),
    st.builds("{}#{}".format, ONES, st.sampled_from("12345L")),
)
LISTS = st.lists(DAYS, min_size=1, max_size=3).map(",".join) | st.just("*")
WEEKDAY_LISTS = st.lists(WEEKDAYS, min_size=1, max_size=3).map(",".join) | st.just("*")


@settings(max_examples=300)
@given(LISTS, WEEKDAY_LISTS)
def test_the_dates_of_days_and_weekdays_are_those_of_their_definitions(days: str, weekdays: str) -> None:
    def matches(day: date) -> bool:
        by_day = any(means(part, day) for part in days.split(","))
        by_weekday = any(means_weekday(part, day) for part in weekdays.split(","))
        if "*" in (days, weekdays):
            return by_day and by_weekday
        return by_day or by_weekday

    dates = [START.date() + timedelta(days=n) for n in range(1, 1_200)]
    expected = [day for day in dates if matches(day)][:40]
    cron = f"0 0 {days} * {weekdays}"
    if not expected:  # in these years: 29 or 30 days before the end of February, say
        return
    assert planned(cron, len(expected)) == expected


@given(
    st.integers(1, 31).map("0 0 {}W * *".format)
    | st.builds("0 0 * * {}#{}".format, ONES, st.integers(1, 5))
    | st.integers(0, 6).map("0 0 * * L{}".format)
    | st.just("0 0 L * *")
)
def test_what_croniter_takes_alone_it_computes_alike(cron: str) -> None:
    iterator = croniter(cron.replace("7#", "0#"), START.timestamp(), float)
    assert planned(cron, 24) == [datetime.fromtimestamp(iterator.get_next(float), UTC).date() for _ in range(24)]


@pytest.mark.parametrize(
    ("cron", "expected"),
    [
        ("0 0 L-3 * *", "2026-01-28"),
        ("0 0 LW * *", "2026-01-30"),
        ("0 0 L-3W 3 *", "2026-03-27"),
        ("0 0 * * 5L", "2026-01-30"),
        ("0 0 * * fril", "2026-01-30"),
        ("0 0 * * FRI#L", "2026-01-30"),
        ("0 0 * * FRI#5", "2026-01-30"),
        ("0 0 * * FRI#2,MON", "2026-01-05"),
        ("0 0 10-12,L-20 * *", "2026-01-10"),
        ("0 0 */20,LW * *", "2026-01-21"),
        ("0 0 *,L * *", "2026-01-02"),
        ("0 0 15W * SAT#1", "2026-01-03"),
        ("0 0 L 2 *", "2026-02-28"),
        ("0 0 L-30 * *", "2026-03-01"),
        ("0 0 1W 8 *", "2026-08-03"),
        ("0 0 31W 5 *", "2026-05-29"),
    ],
)
def test_the_first_date_of_an_expression(cron: str, expected: str) -> None:
    after = datetime(2026, 1, 1, 12, tzinfo=UTC).timestamp()
    assert datetime.fromtimestamp(next_after(cron, "UTC", after), UTC).date().isoformat() == expected


@pytest.mark.parametrize(
    ("cron", "message"),
    [
        ("0 0 L-0 * *", "'L' is not a valid day"),
        ("0 0 L-31 * *", "'L' is not a valid day"),
        ("0 0 32W * *", "'32W' is not a valid day"),
        ("0 0 LW/2 * *", "'LW' is not a valid day"),
        ("0 0 * * L", "'L' is not a valid weekday"),
        ("0 0 * * 8L", "'8L' is not a valid weekday"),
        ("0 0 * * FRI#6", "'FRI#6' is not a valid weekday"),
        ("L * * * *", "'L' is not a valid minute"),
        ("0 0 L-30 2 *", "never fires: no date matches it"),
        ("0 0 L-28,L-29 2 *", ""),
    ],
)
def test_what_is_no_such_day_is_refused(cron: str, message: str) -> None:
    if not message:  # the 1st of February of a leap year
        check(cron, "UTC")
        return
    with pytest.raises(OptionError, match=message):
        check(cron, "UTC")


@pytest.mark.parametrize("tz", ["Europe/Berlin", "America/New_York", "Africa/Cairo", "Australia/Lord_Howe"])
def test_special_days_keep_the_rules_of_changes_of_clocks(tz: str) -> None:
    zone = ZoneInfo(tz)
    after = datetime(2026, 1, 1, tzinfo=zone).timestamp()
    special, plain = next_many("30 2 *,L * *", tz, after, 400), next_many("30 2 * * *", tz, after, 400)
    assert special == plain
    assert next_many("*/30 0-4 *,L * *", tz, after, 2_000) == next_many("*/30 0-4 * * *", tz, after, 2_000)


def test_a_last_sunday_in_spring_fires_at_the_end_of_the_gap() -> None:
    zone = ZoneInfo("Europe/Berlin")
    planned = next_many("30 2 * 3,10 7L", "Europe/Berlin", datetime(2026, 1, 1, tzinfo=zone).timestamp(), 2)
    shown = [datetime.fromtimestamp(at, zone).isoformat() for at in planned]
    assert shown == ["2026-03-29T03:00:00+02:00", "2026-10-25T02:30:00+02:00"]


@given(st.integers(0, 4_000_000_000), st.sampled_from(["15 9 LW * *", "*/7 * L-3 * FRI#2", "30 15 9 1W,L * *"]))
def test_planned_times_agree_from_wherever_one_looks(after: int, cron: str) -> None:
    one, two, three = next_many(cron, "Europe/Istanbul", after, 3)
    assert after < one < two < three
    assert next_after(cron, "Europe/Istanbul", one - 1) == one
    assert latest(cron, "Europe/Istanbul", after, three) == three
