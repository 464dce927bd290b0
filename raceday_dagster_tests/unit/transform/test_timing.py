"""Seconds to the start, and the bucket they fall in."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raceday_dagster.transform.rounding import round_half_up
from raceday_dagster.transform.timing import choose_interval_type, choose_time_interval, measure_time_to_start

START = datetime(2025, 4, 6, 2, 30, tzinfo=UTC)
TABLE = [
    (3600, "60", "5m"),
    ("3599.9", "55", "5m"),  # of the exact time, not of the rounded second
    (3599, "55", "5m"),
    (1801, "30", "5m"),
    ("1800.1", "30", "5m"),
    (1800, "30", "2m"),
    (1799, "25", "2m"),
    (740, "10", "2m"),
    (301, "5", "2m"),
    ("300.4", "5", "2m"),
    (300, "5", "30s"),
    ("299.6", "4", "30s"),
    (299, "4", "30s"),
    (59, "0", "30s"),
    ("0.4", "0", "30s"),
    (0, "0", "live"),
    ("-0.4", "-0.5", "live"),
    (-18, "-0.5", "live"),
    ("-30.4", "-1", "live"),
    (-31, "-1", "live"),
    (-61, "-1.5", "live"),
    (-300, "-5", "live"),
    (-301, "-5", "live"),
    (-361, "-6", "live"),
    (-420, "-7", "live"),
]


@pytest.mark.parametrize(("seconds", "interval", "kind"), TABLE)
def test_a_time_falls_in_its_bucket(seconds: int | str, interval: str, kind: str) -> None:
    assert choose_time_interval(Fraction(seconds)) == Decimal(interval)
    assert choose_interval_type(Fraction(seconds)) == kind


@given(st.integers(min_value=-700 * 60, max_value=90 * 60))
def test_a_bucket_starts_no_later_than_the_time_and_ends_within_its_width(seconds: int) -> None:
    minutes, bucket = Fraction(seconds, 60), Fraction(choose_time_interval(Fraction(seconds)))
    if minutes >= 60:
        assert bucket == 60
    elif minutes >= 5:
        assert 0 <= minutes - bucket < 5
        assert bucket % 5 == 0
    elif minutes >= -5:
        width = Fraction(1) if minutes >= 0 else Fraction(1, 2)
        assert 0 <= minutes - bucket < width
        assert bucket % width == 0
    else:
        assert 0 <= bucket - minutes < 1


@given(st.integers(min_value=-40000, max_value=40000))
def test_a_later_time_is_never_in_an_earlier_bucket(seconds: int) -> None:
    assert choose_time_interval(Fraction(seconds)) <= choose_time_interval(Fraction(seconds + 1))


@given(st.integers(min_value=-40000, max_value=40000))
def test_live_means_the_start_is_not_ahead(seconds: int) -> None:
    assert (choose_interval_type(Fraction(seconds)) == "live") == (seconds <= 0)


@pytest.mark.parametrize(("ahead_s", "seconds"), [(0.4, 0), (0.5, 1), (-0.189, 0), (-0.5, -1), (-37619.189, -37619)])
def test_seconds_are_rounded_to_the_nearest(ahead_s: float, seconds: int) -> None:
    assert round_half_up(measure_time_to_start(START, START - timedelta(seconds=ahead_s))) == seconds
