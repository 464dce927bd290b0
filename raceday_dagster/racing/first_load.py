"""Whether the racing day under way must be loaded out of turn: at a first start, or after a failure. Pure."""

from __future__ import annotations

from datetime import datetime, timedelta

from raceday_dagster.racing.calendar import choose_current_racing_day
from raceday_dagster.racing.records import Record

GRACE = timedelta(minutes=5)
"""After the day's turn, while its schedule has it."""
AGAIN_AFTER = timedelta(minutes=1)


class LoadAttempt(Record):
    """The last run that loaded a racing day, or tried to."""

    began_at: datetime
    is_over: bool


def is_schedules_turn(now: datetime) -> bool:
    """Whether the schedule of the daily baseline is just about to do it: the five minutes after 06:00."""
    return choose_current_racing_day(now - GRACE) < choose_current_racing_day(now)


def explain_wait(last: LoadAttempt | None, now: datetime) -> str | None:
    """Why a day that is not loaded is not tried at ``now``; ``None`` when it must be."""
    if last is None:
        return None
    if not last.is_over:
        return "a run of daily_baseline is not over"
    # An attempt from the future, of a clock that went back, is no reason to wait.
    if timedelta(0) <= now - last.began_at < AGAIN_AFTER:
        ago, again = ((span // timedelta(seconds=1)) for span in (now - last.began_at, AGAIN_AFTER))
        return f"the last try began {ago} s ago, the next follows after {again} s"
    return None
