"""When a race is due for a poll. Pure: the caller brings the stored races and the clock."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta

from raceday_dagster.racing.events import TERMINAL_STATUSES
from raceday_dagster.racing.records import Record

LAST_MINUTES = timedelta(minutes=5)
NEAR = timedelta(minutes=15)
LOOK_BACK = timedelta(hours=2)
"""A race that is not over two hours after its start is left to the backfill."""
LOOK_AHEAD = timedelta(hours=24)


class PolledRace(Record):
    """A stored race as the schedule sees it."""

    race_id: str
    start_time: datetime
    status: str
    last_poll_time: datetime | None = None


def choose_interval(time_to_start: timedelta) -> timedelta:
    """Time between two polls of a race: 15 s in the last five minutes and until it is over, 30 s up to fifteen
    minutes before the start, 60 s beyond."""
    if time_to_start <= LAST_MINUTES:
        return timedelta(seconds=15)
    if time_to_start <= NEAR:
        return timedelta(seconds=30)
    return timedelta(seconds=60)


def is_candidate(race: PolledRace, now: datetime) -> bool:
    """Whether the race is polled at all: not over, and its start within the window, by instant and not by date."""
    return race.status not in TERMINAL_STATUSES and now - LOOK_BACK < race.start_time < now + LOOK_AHEAD


def choose_due_races(races: Iterable[PolledRace], now: datetime) -> list[str]:
    """Ids of the races due at ``now``, the earliest start first. A race never polled is due at once."""
    due = [
        race
        for race in races
        if is_candidate(race, now)
        and (race.last_poll_time is None or now - race.last_poll_time >= choose_interval(race.start_time - now))
    ]
    return [race.race_id for race in sorted(due, key=lambda race: (race.start_time, race.race_id))]
