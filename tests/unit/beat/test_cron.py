"""The planned times of cron expressions, above all where clocks are changed."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from croniter import croniter
from hypothesis import given, settings
from hypothesis import strategies as st

from broker_jobs.beat.cron import check, first, latest, next_after, next_many
from broker_jobs.errors import OptionError

ZONES = ("Europe/Istanbul", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Europe/Dublin", "UTC")
CHANGES = {
    "Europe/Istanbul": ("2026-03-29", "2026-10-25"),
    "Europe/Berlin": ("2026-03-29", "2026-10-25"),
    "Europe/Dublin": ("2026-03-29", "2026-10-25"),
    "America/New_York": ("2026-03-08", "2026-11-01"),
    "Australia/Lord_Howe": ("2026-04-05", "2026-10-04"),
    "UTC": ("2026-03-29", "2026-10-25"),
}


def at(text: str, tz: str = "UTC", fold: int = 0) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(tz), fold=fold).timestamp()


def local(instants: list[float], tz: str) -> list[str]:
    return [datetime.fromtimestamp(instant, ZoneInfo(tz)).strftime("%d %H:%M%z") for instant in instants]


@pytest.mark.parametrize(
    ("cron", "tz", "message"),
    [
        ("0 9 * * MO", "UTC", "cron '0 9 * * MO': 'MO' is not a valid weekday (MON … SUN)"),
        ("0 9 * * 8", "UTC", "cron '0 9 * * 8': '8' is not a valid weekday (0 … 7)"),
        ("0 9 * JUNE *", "UTC", "cron '0 9 * JUNE *': 'JUNE' is not a valid month (JAN … DEC)"),
        ("60 * * * *", "UTC", "cron '60 * * * *': '60' is not a valid minute (0 … 59)"),
        ("* 24 * * *", "UTC", "cron '* 24 * * *': '24' is not a valid hour (0 … 23)"),
        ("* * 0 * *", "UTC", "cron '* * 0 * *': '0' is not a valid day (1 … 31)"),
        ("61 * * * * *", "UTC", "cron '61 * * * * *': '61' is not a valid second (0 … 59)"),
        ("*/0 * * * *", "UTC", "cron '*/0 * * * *': '*/0' needs a step of 1 … 59 after the /"),
        ("*/90 * * * *", "UTC", "cron '*/90 * * * *': '*/90' needs a step of 1 … 59 after the /"),
        ("1,,2 * * * *", "UTC", "cron '1,,2 * * * *': '' is not a valid minute (0 … 59)"),
        ("0 0 30 2 *", "UTC", "cron '0 0 30 2 *' never fires: no date matches it"),
        ("0 0 31 4,6 *", "UTC", "cron '0 0 31 4,6 *' never fires: no date matches it"),
        (
            "0 9 * *",
            "UTC",
            "cron '0 9 * *' has 4 fields; write 5 (minute hour day month weekday) or 6 (the second first)",
        ),
        ("@dayly", "UTC", "cron '@dayly' is not a known name; did you mean '@daily'?"),
        ("0 9 * * *", "Europe/Istambul", "unknown time zone 'Europe/Istambul'; did you mean 'Europe/Istanbul'?"),
        ("0 9 * * *", "../../etc/passwd", "unknown time zone '../../etc/passwd'"),
        ("0 9 * * *", "", "unknown time zone ''"),
    ],
)
def test_a_wrong_expression_or_zone_is_refused_with_what_to_write(cron: str, tz: str, message: str) -> None:
    with pytest.raises(OptionError) as refused:
        check(cron, tz)
    assert str(refused.value) == message


@pytest.mark.parametrize("cron", ["H * * * *", "R * * * *", "0 0 0 1 1 * 2030", "٣ * * * *", "9" * 5000 + " * * * *"])
def test_what_is_random_has_years_or_is_no_digit_is_refused(cron: str) -> None:
    with pytest.raises(OptionError):
        check(cron, "UTC")


@given(st.text(alphabet="0123456789*/,-LW#?@ MONJAN\n\x00é", max_size=30), st.text(max_size=20))
def test_any_text_is_taken_or_refused_never_anything_else(cron: str, tz: str) -> None:
    for zone in (tz, "UTC"):
        try:
            check(cron, zone)
        except OptionError:
            continue
        assert next_after(cron, zone, 0.0) > 0


@pytest.mark.parametrize(
    ("cron", "expected"),
    [
        ("0 9 * * MON", "2026-01-05T09:00:00"),
        ("0 9 * * mon-fri", "2026-01-01T09:00:00"),
        ("*/5 * * * * *", "2026-01-01T00:00:05"),
        ("30 15 9 * * *", "2026-01-01T09:15:30"),
        ("@monthly", "2026-02-01T00:00:00"),
        ("0 0 L * *", "2026-01-31T00:00:00"),
        ("0 0 * * FRI#2", "2026-01-09T00:00:00"),
        ("0 0 * * L5", "2026-01-30T00:00:00"),
        ("0 0 31W * *", "2026-01-30T00:00:00"),
        ("0 0 13 * FRI", "2026-01-02T00:00:00"),
        ("0 0 29 2 *", "2028-02-29T00:00:00"),
        ("5-5 7-7 * * WED-WED", "2026-01-07T07:05:00"),
        ("0 22-1 * * *", "2026-01-01T01:00:00"),
    ],
)
def test_the_first_time_of_an_expression(cron: str, expected: str) -> None:
    assert next_after(cron, "UTC", at("2026-01-01T00:00:00")) == at(expected)


def test_the_planned_time_itself_is_not_after_itself_and_fractions_do_not_matter() -> None:
    nine = at("2026-01-01T09:00:00")
    assert next_after("0 9 * * *", "UTC", nine - 0.001) == nine
    assert next_after("0 9 * * *", "UTC", nine) == nine + 86_400
    assert next_after("0 9 * * *", "UTC", nine + 0.999) == nine + 86_400


def test_a_time_that_spring_leaves_out_fires_once_at_the_end_of_the_gap() -> None:
    planned = next_many("15,30,45 2 * * *", "Europe/Berlin", at("2026-03-28T12:00", "Europe/Berlin"), 4)
    assert local(planned, "Europe/Berlin") == ["29 03:00+0200", "30 02:15+0200", "30 02:30+0200", "30 02:45+0200"]


def test_a_time_that_spring_leaves_out_and_the_end_of_the_gap_fire_together_once() -> None:
    planned = next_many("0,30 2-3 * * *", "Europe/Berlin", at("2026-03-28T12:00", "Europe/Berlin"), 3)
    assert local(planned, "Europe/Berlin") == ["29 03:00+0200", "29 03:30+0200", "30 02:00+0200"]


def test_an_hourly_expression_steps_over_the_gap() -> None:
    planned = next_many("30 * * * *", "Europe/Berlin", at("2026-03-29T00:45", "Europe/Berlin"), 3)
    assert local(planned, "Europe/Berlin") == ["29 01:30+0100", "29 03:30+0200", "29 04:30+0200"]


def test_a_fixed_time_that_autumn_repeats_fires_the_first_time_only() -> None:
    planned = next_many("30 2 * * *", "Europe/Berlin", at("2026-10-25T00:00", "Europe/Berlin"), 2)
    assert local(planned, "Europe/Berlin") == ["25 02:30+0200", "26 02:30+0100"]
    again = next_after("30 2 * * *", "Europe/Berlin", at("2026-10-25T02:10", "Europe/Berlin", fold=1))
    assert local([again], "Europe/Berlin") == ["26 02:30+0100"]


def test_intervals_go_on_through_the_repeated_hour() -> None:
    planned = next_many("*/20 * * * *", "Europe/Berlin", at("2026-10-25T01:50", "Europe/Berlin"), 7)
    assert [later - earlier for earlier, later in pairwise(planned)] == [1200.0] * 6


def test_a_midnight_that_does_not_exist_fires_when_the_day_begins() -> None:
    planned = next_many("0 0 * * *", "Africa/Cairo", at("2026-04-23T12:00", "Africa/Cairo"), 2)
    assert local(planned, "Africa/Cairo") == ["24 01:00+0300", "25 00:00+0300"]


@pytest.mark.parametrize(
    ("tz", "cron", "after", "expected"),
    [
        # Spring: at 01:00Z Berlin goes from 02:00 to 03:00, at 07:00Z New York does.
        ("Europe/Berlin", "30 2 * * *", "03-28T12:00", ["03-29T01:00", "03-30T00:30"]),
        ("Europe/Berlin", "30 3 * * *", "03-28T12:00", ["03-29T01:30", "03-30T01:30"]),
        ("Europe/Berlin", "*/30 * * * *", "03-29T00:15", ["03-29T00:30", "03-29T01:00", "03-29T01:30"]),
        ("America/New_York", "30 2 * * *", "03-07T12:00", ["03-08T07:00", "03-09T06:30"]),
        ("America/New_York", "30 3 * * *", "03-07T12:00", ["03-08T07:30", "03-09T07:30"]),
        ("America/New_York", "*/30 * * * *", "03-08T06:15", ["03-08T06:30", "03-08T07:00", "03-08T07:30"]),
        # Autumn: Berlin shows 02:00 to 03:00 twice, from 00:00Z on; New York 01:00 to 02:00, from 05:00Z on.
        ("Europe/Berlin", "30 2 * * *", "10-24T12:00", ["10-25T00:30", "10-26T01:30"]),
        ("Europe/Berlin", "0 3 * * *", "10-24T12:00", ["10-25T02:00", "10-26T02:00"]),
        ("Europe/Berlin", "*/30 * * * *", "10-25T00:15", ["10-25T00:30", "10-25T01:00", "10-25T01:30", "10-25T02:00"]),
        ("America/New_York", "30 1 * * *", "10-31T12:00", ["11-01T05:30", "11-02T06:30"]),
        ("America/New_York", "0 2 * * *", "10-31T12:00", ["11-01T07:00", "11-02T07:00"]),
        (
            "America/New_York",
            "*/30 * * * *",
            "11-01T05:15",
            ["11-01T05:30", "11-01T06:00", "11-01T06:30", "11-01T07:00"],
        ),
    ],
)
def test_the_instants_of_a_night_in_which_clocks_change(tz: str, cron: str, after: str, expected: list[str]) -> None:
    planned = next_many(cron, tz, at(f"2026-{after}"), len(expected))
    assert [datetime.fromtimestamp(each, UTC).strftime("%m-%dT%H:%M") for each in planned] == expected


@st.composite
def expressions(draw: st.DrawFn) -> tuple[str, set[int], set[int]]:
    """An expression, and the minutes and hours it means, put together independently of any parser."""
    kind = draw(st.sampled_from(["list", "range", "step", "every"]))
    if kind == "list":
        minutes = draw(st.sets(st.integers(0, 59), min_size=1, max_size=4))
        minute_text = ",".join(map(str, sorted(minutes)))
    elif kind == "range":
        low = draw(st.integers(0, 59))
        high = draw(st.integers(low, 59))
        minutes, minute_text = set(range(low, high + 1)), f"{low}-{high}" if low < high else f"{low}"
    elif kind == "step":
        step = draw(st.integers(1, 59))
        minutes, minute_text = set(range(0, 60, step)), f"*/{step}"
    else:
        minutes, minute_text = set(range(60)), "*"
    if draw(st.booleans()):
        hours, hour_text = set(range(24)), "*"
    else:
        hours = draw(st.sets(st.integers(0, 4), min_size=1, max_size=3))
        hour_text = ",".join(map(str, sorted(hours)))
    return f"{minute_text} {hour_text} * * *", minutes, hours


@settings(max_examples=100, deadline=None)
@given(expressions(), st.sampled_from(ZONES), st.sampled_from([0, 1]), st.integers(-7200, 7200))
def test_over_every_change_each_planned_time_comes_exactly_once(
    expression: tuple[str, set[int], set[int]], tz: str, season: int, shift: int
) -> None:
    """The reference walks through every real minute of the day and looks at the clock on the wall."""
    cron, minutes, hours = expression
    zone = ZoneInfo(tz)
    interval = any(sign in field for field in cron.split()[:2] for sign in "*-/")
    begin = int(at(f"{CHANGES[tz][season]}T00:00:00", tz)) + shift
    end = begin + 8 * 3600
    expected = set()
    before = datetime.fromtimestamp(begin - begin % 60, zone)
    for instant in range(begin - begin % 60 + 60, end + 1, 60):
        now = datetime.fromtimestamp(instant, zone)
        if now.minute in minutes and now.hour in hours and (interval or now.fold == 0):
            expected.add(float(instant))
        shown = before.replace(tzinfo=None) + timedelta(minutes=1)
        while len(hours) < 24 and shown < now.replace(tzinfo=None):
            if shown.minute in minutes and shown.hour in hours:
                expected.add(float(instant))
            shown += timedelta(minutes=1)
        before = now
    assert first(cron, tz, begin, end, 10_000) == sorted(expected)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["*/7 * * * * *", "0 */2 * * *", "15,45 3 * * *", "0 9 * * MON", "0 0 L * *", "30 1-3 1,15 * *"]),
    st.sampled_from(ZONES),
    st.floats(1.6e9, 2.4e9),
    st.floats(0, 86_400 * 3),
)
def test_planned_times_increase_and_agree_from_wherever_one_looks(
    cron: str, tz: str, after: float, ahead: float
) -> None:
    planned = next_many(cron, tz, after, 20)
    assert all(earlier < later for earlier, later in pairwise([after, *planned]))
    inside = [instant for instant in planned if instant > after + ahead]
    if inside:
        assert next_after(cron, tz, after + ahead) == inside[0]


@settings(max_examples=100, deadline=None)
@given(
    st.sampled_from(["*/7 * * * *", "0 9 * * MON-FRI", "0 0 1 * *", "5 4 * * SUN"]),
    st.integers(1_600_000_000, 2_000_000_000),
)
def test_far_from_changes_it_agrees_with_croniter(cron: str, after: int) -> None:
    zone = ZoneInfo("Europe/Istanbul")  # no change of clocks since 2016
    iterator = croniter(cron, datetime.fromtimestamp(after, zone))
    assert next_many(cron, "Europe/Istanbul", after, 5) == [iterator.get_next(datetime).timestamp() for _ in range(5)]


@settings(max_examples=100, deadline=None)
@given(
    st.sampled_from(["* * * * * *", "*/5 * * * *", "30 2 * * *", "0 0 1 1 *"]),
    st.sampled_from(ZONES),
    st.floats(1.77e9, 1.80e9),
    st.floats(0, 5000),
)
def test_the_latest_is_the_last_of_the_missed(cron: str, tz: str, after: float, span: float) -> None:
    all_missed = first(cron, tz, after, after + span, 10_000)
    assert latest(cron, tz, after, after + span) == (all_missed[-1] if all_missed else None)


def test_first_gives_all_of_a_span_or_the_first_ones_up_to_its_limit() -> None:
    start = at("2026-01-01T00:00:00")
    assert first("* * * * *", "UTC", start, start + 600, 3) == [start + 60, start + 120, start + 180]
    assert first("* * * * *", "UTC", start, start + 120, 2) == [start + 60, start + 120]
    assert first("* * * * *", "UTC", start, start + 120, 9) == [start + 60, start + 120]
    assert first("* * * * *", "UTC", start, start + 59, 9) == []


def test_two_passes_of_a_whole_year_do_not_differ_from_utc_arithmetic() -> None:
    start = datetime(2026, 1, 1, tzinfo=UTC).timestamp()
    assert next_many("0 * * * *", "UTC", start, 8760)[-1] == start + 8760 * 3600
