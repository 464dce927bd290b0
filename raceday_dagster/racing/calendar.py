"""Which day it is at the races: New Zealand's wall clock, and the racing day that is under way."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

NEW_ZEALAND = ZoneInfo("Pacific/Auckland")
DAY_BEGINS = timedelta(hours=6)
"""New Zealand wall clock of the daily baseline. Until then last evening's meetings are still being run."""


def choose_today(now: datetime) -> date:
    """The date in New Zealand at an aware instant."""
    return now.astimezone(NEW_ZEALAND).date()


def choose_current_racing_day(now: datetime) -> date:
    """The racing day under way at an aware instant: the last one whose 06:00 in New Zealand has passed.

    The six hours come off the wall clock, not off the instant: on the two nights a year that have an hour more or
    less the day still turns at 06:00.
    """
    wall_clock = now.astimezone(NEW_ZEALAND).replace(tzinfo=None)
    return (wall_clock - DAY_BEGINS).date()
