"""Races that are on now, or should have been over long ago, and when a poll of each last succeeded. Reads only."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from raceday_dagster.racing.cadence import LAST_MINUTES
from raceday_dagster.racing.records import Record
from raceday_dagster.store.sql_errors import build_database_error

LOOK_BACK = timedelta(hours=24)
_LIVE_RACES = """
SELECT race.race_id, meeting.meeting_name || ' R' || race.race_number, race.start_time, answered.polled_at,
    CASE newest.status WHEN 'failed' THEN newest.error_message END
FROM races AS race
JOIN meetings AS meeting ON meeting.meeting_id = race.meeting_id
LEFT JOIN LATERAL (
    SELECT poll.polled_at FROM race_polls AS poll
    WHERE poll.race_id = race.race_id AND poll.status <> 'failed' ORDER BY poll.polled_at DESC LIMIT 1
) AS answered ON true
LEFT JOIN LATERAL (
    SELECT poll.status, poll.error_message FROM race_polls AS poll
    WHERE poll.race_id = race.race_id ORDER BY poll.polled_at DESC LIMIT 1
) AS newest ON true
WHERE race.status IN ('open', 'closed', 'interim')
    AND race.start_time > %(from_start)s AND race.start_time <= %(to_start)s
    AND meeting.country = ANY (%(countries)s) AND race.type = ANY (%(categories)s)
ORDER BY race.start_time, race.race_id
"""


class LiveRace(Record):
    """A race in its last five minutes, or started and not over."""

    race_id: str
    title: str
    """Meeting and race number, for people."""
    start_time: datetime
    polled_at: datetime | None
    """The newest poll in the ledger that did not fail."""
    error: str | None = None
    """Why the newest of all failed, if it did."""


def read_live_races(
    engine: Engine, now: datetime, *, countries: Sequence[str], categories: Sequence[str]
) -> list[LiveRace]:
    """Races that start within five minutes of ``now`` or started in the 24 hours before and are not over.

    Raises:
        DatabaseError: The database cannot be used.
    """
    window = {"from_start": now - LOOK_BACK, "to_start": now + LAST_MINUTES}
    chosen = {"countries": list(countries), "categories": list(categories)}
    try:
        with engine.connect() as connection:
            rows = connection.exec_driver_sql(_LIVE_RACES, {**window, **chosen}).all()
    except SQLAlchemyError as error:
        raise build_database_error(engine, error) from error
    return [
        LiveRace(
            race_id=race_id,
            title=title,
            start_time=start_time.astimezone(UTC),
            polled_at=polled_at.astimezone(UTC) if polled_at else None,
            error=error,
        )
        for race_id, title, start_time, polled_at, error in rows
    ]
