"""What the schedule and the jobs ask the database: which races there are and when they were last polled. Reads only."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, date, datetime

from sqlalchemy import Connection

from raceday_dagster.racing.cadence import LOOK_AHEAD, LOOK_BACK, PolledRace
from raceday_dagster.store.ledger import make_key

# Only the ledger counts, which is written by our clock. A poll that failed is there too: a race whose answers fail is
# asked again at its cadence, not at every tick.
POLLED_RACES = """
SELECT race.race_id, race.start_time, race.status,
    (SELECT poll.polled_at FROM race_polls AS poll
        WHERE poll.race_id = race.race_id AND poll.polled_at <= %(now)s
        ORDER BY poll.polled_at DESC LIMIT 1) AS last_poll_time,
    (SELECT poll.polled_at FROM race_polls AS poll
        WHERE poll.race_id = race.race_id
        ORDER BY poll.polled_at DESC LIMIT 1) AS newest_poll_time
FROM races AS race
JOIN meetings AS meeting ON meeting.meeting_id = race.meeting_id
WHERE race.status IN ('open', 'closed', 'interim')
    AND race.start_time > %(from_start)s AND race.start_time < %(to_start)s
    AND meeting.country = ANY (%(countries)s) AND race.type = ANY (%(categories)s)
ORDER BY race.start_time, race.race_id
"""
ANSWERED = "SELECT run_id, race_id FROM race_polls WHERE run_id = ANY (%(run_ids)s)"
LISTED = "SELECT EXISTS (SELECT FROM racing_days WHERE racing_day = %(racing_day)s)"


def read_polled_races(
    connection: Connection, now: datetime, countries: Sequence[str], categories: Sequence[str]
) -> list[PolledRace]:
    """Unfinished races whose start lies in the polling window around ``now``, the earliest first, as the ledger was
    polled until ``now``."""
    window = {"now": now, "from_start": now - LOOK_BACK, "to_start": now + LOOK_AHEAD}
    chosen = {"countries": list(countries), "categories": list(categories)}
    rows = connection.exec_driver_sql(POLLED_RACES, {**window, **chosen})
    return [
        PolledRace(
            race_id=race_id,
            start_time=start_time.astimezone(UTC),
            status=status,
            last_poll_time=last.astimezone(UTC) if last else None,
            newest_poll_time=newest.astimezone(UTC) if newest else None,
        )
        for race_id, start_time, status, last, newest in rows
    ]


def read_answered(connection: Connection, asked: Mapping[str, Collection[str]]) -> set[tuple[str, str]]:
    """Of the races that runs were asked to poll, by run, those the ledger has a row of: pairs of run and race."""
    if not asked:
        return set()
    rows = connection.exec_driver_sql(ANSWERED, {"run_ids": [make_key(run_id) for run_id in asked]})
    stored = {(run_id, race_id) for run_id, race_id in rows}
    pairs = {(run_id, race_id) for run_id, race_ids in asked.items() for race_id in race_ids}
    return {(run_id, race_id) for run_id, race_id in pairs if (make_key(run_id), make_key(race_id)) in stored}


def is_listed(connection: Connection, racing_day: date) -> bool:
    """Whether the list of a racing day was stored."""
    return bool(connection.exec_driver_sql(LISTED, {"racing_day": racing_day}).scalar_one())
