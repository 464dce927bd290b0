"""How a page writes what it knows: money, changes, clocks, spans of time, and the names of buckets."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal

import pytest

from raceday_dagster.market.formats import (
    UNKNOWN,
    format_change,
    format_clock,
    format_day,
    format_dollars,
    format_interval,
    format_number,
    format_span,
    format_to_start,
    format_zone,
)


@pytest.mark.parametrize(
    ("cents", "shown"),
    [(None, UNKNOWN), (0, "0"), (49, "0"), (50, "1"), (123_456, "1,235"), (-3_050, "\N{MINUS SIGN}31")],
)
def test_money_is_shown_in_whole_dollars(cents: int | None, shown: str) -> None:
    assert format_dollars(cents) == shown


def test_a_number_is_rounded_half_up_and_what_is_not_known_is_a_dash() -> None:
    assert (format_number(Decimal("2.505")), format_number(1_400, 0), format_number("6.6")) == ("2.51", "1,400", "6.60")
    assert format_number(None) == UNKNOWN
    assert (format_change(Decimal("15.13")), format_change(-3)) == ("+15.13", "\N{MINUS SIGN}3.00")


def test_an_instant_is_shown_by_the_clock_of_new_zealand_in_summer_and_in_winter() -> None:
    summer, winter = datetime(2026, 11, 26, 1, 30, tzinfo=UTC), datetime(2026, 7, 1, 1, 30, tzinfo=UTC)
    assert (format_clock(summer), format_zone(summer)) == ("14:30", "NZDT")
    assert (format_clock(winter, "%H:%M:%S"), format_zone(winter)) == ("13:30:00", "NZST")
    assert format_clock(None) == UNKNOWN
    assert format_day(date(2026, 11, 6)) == "Friday 6 November 2026"


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (45, "45 s"),
        (-59.6, "1 min 00 s"),
        (245, "4 min 05 s"),
        (1_500, "25 min"),
        (7_500, "2 h 05 min"),
        (260_000, "3 days"),
    ],
)
def test_a_span_is_as_exact_as_it_matters(seconds: float, shown: str) -> None:
    assert format_span(seconds) == shown


def test_the_time_to_the_start_says_which_side_of_it() -> None:
    assert (format_to_start(45), format_to_start(-45)) == ("in 45 s", "45 s past")


@pytest.mark.parametrize(
    ("interval", "shown"),
    [("60", "60+"), ("55", "55"), ("1", "1"), ("0", "0"), ("-0.5", "−½"), ("-1.5", "−1½"), ("-6", "−6")],  # noqa: RUF001
)
def test_a_bucket_has_the_name_of_its_minutes(interval: str, shown: str) -> None:
    assert format_interval(Decimal(interval)) == shown
