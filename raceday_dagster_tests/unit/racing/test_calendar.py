"""Which day it is in New Zealand, and which racing day is under way."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raceday_dagster.racing.calendar import NEW_ZEALAND, choose_current_racing_day, choose_today

BACK, FORWARD = date(2027, 4, 4), date(2026, 9, 27)
"""The nights with 25 and with 23 hours: 03:00 becomes 02:00, 02:00 becomes 03:00."""

INSTANTS = st.integers(0, 15 * 366 * 86_400).map(lambda s: datetime(2020, 1, 1, tzinfo=UTC) + timedelta(seconds=s))


def at(day: date, hour: int, minute: int = 0, *, fold: int = 0) -> datetime:
    """A reading of New Zealand's clock as an instant; ``fold`` 1 is the second of two equal readings."""
    reading = datetime(day.year, day.month, day.day, hour, minute, tzinfo=NEW_ZEALAND, fold=fold)
    return reading.astimezone(UTC)


@pytest.mark.parametrize("day", [date(2026, 1, 15), date(2026, 7, 15), BACK, FORWARD])
def test_the_racing_day_turns_at_six(day: date) -> None:
    before = day - timedelta(days=1)
    assert choose_current_racing_day(at(day, 5, 59)) == before
    assert choose_current_racing_day(at(day, 6)) == day
    assert choose_current_racing_day(at(day, 23, 59)) == day


def test_the_hour_that_comes_twice_belongs_to_the_evening_before_both_times() -> None:
    first, second = at(BACK, 2, 30), at(BACK, 2, 30, fold=1)
    assert second - first == timedelta(hours=1)
    assert choose_current_racing_day(first) == choose_current_racing_day(second) == BACK - timedelta(days=1)


@pytest.mark.parametrize(
    ("now", "today"),
    [
        (datetime(2026, 9, 26, 11, 59, tzinfo=UTC), date(2026, 9, 26)),
        (datetime(2026, 9, 26, 12, 0, tzinfo=UTC), date(2026, 9, 27)),  # clocks go forward at 02:00 that night
        (datetime(2026, 9, 27, 10, 59, tzinfo=UTC), date(2026, 9, 27)),
        (datetime(2026, 9, 27, 11, 0, tzinfo=UTC), date(2026, 9, 28)),
        (datetime(2027, 4, 3, 10, 59, tzinfo=UTC), date(2027, 4, 3)),
        (datetime(2027, 4, 3, 11, 0, tzinfo=UTC), date(2027, 4, 4)),  # clocks go back at 03:00 that night
        (datetime(2027, 4, 4, 11, 59, tzinfo=UTC), date(2027, 4, 4)),
        (datetime(2027, 4, 4, 12, 0, tzinfo=UTC), date(2027, 4, 5)),
    ],
)
def test_today_is_new_zealands_on_both_nights_that_change_the_clocks(now: datetime, today: date) -> None:
    assert choose_today(now) == today


@given(INSTANTS, st.timezones())
def test_the_zone_an_instant_comes_in_makes_no_difference(now: datetime, zone: ZoneInfo) -> None:
    assert choose_current_racing_day(now.astimezone(zone)) == choose_current_racing_day(now)


@given(INSTANTS)
def test_the_racing_day_is_today_or_the_day_before(now: datetime) -> None:
    assert choose_today(now) - choose_current_racing_day(now) in {timedelta(0), timedelta(days=1)}
