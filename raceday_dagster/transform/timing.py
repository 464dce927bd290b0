"""Where a poll stands relative to the advertised start: seconds, bucket and kind of interval."""

from __future__ import annotations

from datetime import datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from math import ceil, floor

from raceday_dagster.racing.snapshots import IntervalType

MICROSECOND = timedelta(microseconds=1)


def measure_time_to_start(start_time: datetime, event_timestamp: datetime) -> Fraction:
    """Seconds from the answer to the advertised start, exactly; negative after it."""
    return Fraction((start_time - event_timestamp) // MICROSECOND, 1_000_000)


def choose_time_interval(time_to_start_s: Fraction) -> Decimal:
    """The bucket, in minutes: an hour and more, five minutes, one minute, half a minute just after the start, one
    minute from then on."""
    minutes = time_to_start_s / 60
    if minutes >= 60:
        return Decimal(60)
    if minutes >= 5:
        return Decimal(5 * floor(minutes / 5))
    if minutes >= 0:
        return Decimal(floor(minutes))
    if minutes >= -5:
        return Decimal(floor(2 * minutes)) / 2
    return Decimal(ceil(minutes))


def choose_interval_type(time_to_start_s: Fraction) -> IntervalType:
    """How closely a race is watched at this time; ``live`` from the advertised start on."""
    minutes = time_to_start_s / 60
    if minutes > 30:
        return "5m"
    if minutes > 5:
        return "2m"
    return "30s" if minutes > 0 else "live"
