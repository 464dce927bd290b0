"""Which races are not done with: those a backfill must ask about again, and those that are overdue. Reads only.

What a backfill asks about again is judged by the feed's instants alone: ``now`` is when it made the list that the
caller has just read, and ``finalized_at`` and ``api_generated_time`` are when it made stored answers. Our own clock has
no say there, so one that is wrong leaves no race out. Only the alert must do without a list.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Literal, get_args

from sqlalchemy import Connection

from raceday_dagster.racing.records import Record

Reason = Literal["never_polled", "not_over", "no_results", "not_checked"]
"""Why a race is asked about again; of several reasons, the first in this order.

* ``never_polled``: its start has passed and no poll of it is stored.
* ``not_over``: it has started and is neither final nor abandoned. Also a race of another day, from two hours after its
  start, when nothing else polls it any more, until ``GIVEN_UP_AFTER`` it.
* ``no_results``: it is final, but without results, dividends or their final status.
* ``not_checked``: it is final and was not polled again ``CHECK_AFTER`` its end, when protests and corrections are in.
"""
REASONS: tuple[Reason, ...] = get_args(Reason)

CHECK_AFTER = timedelta(minutes=10)
"""After the end of a race: once more. Between two polls for results that do not come: no sooner."""
OVERDUE_AFTER = timedelta(hours=2)
GIVEN_UP_AFTER = timedelta(days=7)
"""After its start: a race that the feed never ended is neither asked about nor named any more."""

UNSETTLED = """
SELECT race_id, reason
FROM (
    SELECT race.race_id, race.start_time,
        CASE
            WHEN race.last_poll_time IS NULL THEN 'never_polled'
            WHEN race.status IN ('open', 'closed', 'interim') THEN 'not_over'
            WHEN race.status = 'abandoned' THEN NULL
            WHEN (result.result_status = 'final' AND result.results <> '[]' AND result.dividends <> '[]') IS NOT TRUE
                AND race.api_generated_time < greatest(race.finalized_at + %(wait)s, %(now)s - %(wait)s)
                THEN 'no_results'
            WHEN race.api_generated_time < race.finalized_at + %(wait)s
                AND race.finalized_at + %(wait)s <= %(now)s
                THEN 'not_checked'
        END AS reason
    FROM races AS race
    LEFT JOIN race_results AS result ON result.race_id = race.race_id
    WHERE race.racing_day = ANY (%(racing_days)s) AND race.start_time <= %(now)s
        OR race.status IN ('open', 'closed', 'interim')
            AND race.start_time > %(after)s AND race.start_time <= %(started_by)s
) AS judged
WHERE reason IS NOT NULL
ORDER BY start_time, race_id
"""
OVERDUE = """
SELECT race.race_id, race.start_time, race.status, meeting.meeting_name, race.race_number
FROM races AS race
JOIN meetings AS meeting ON meeting.meeting_id = race.meeting_id
WHERE race.status IN ('open', 'closed', 'interim')
    AND race.start_time > %(after)s AND race.start_time <= %(started_by)s
    AND meeting.country = ANY (%(countries)s) AND race.type = ANY (%(categories)s)
ORDER BY race.start_time, race.race_id
"""


class UnsettledRace(Record):
    """A race to ask about again, and why."""

    race_id: str
    reason: Reason


class OverdueRace(Record):
    """A race that should be over and is not."""

    race_id: str
    start_time: datetime
    status: str
    meeting_name: str
    race_number: int


def read_unsettled_races(connection: Connection, racing_days: Sequence[date], now: datetime) -> list[UnsettledRace]:
    """Races of these days that have started and are not settled, and overdue ones of any day, the earliest first."""
    values = {"racing_days": list(racing_days), "now": now, "wait": CHECK_AFTER, **_bound_overdue(now)}
    rows = connection.exec_driver_sql(UNSETTLED, values)
    return [UnsettledRace(race_id=race_id, reason=reason) for race_id, reason in rows]


def read_overdue_races(
    connection: Connection, now: datetime, countries: Sequence[str], categories: Sequence[str]
) -> list[OverdueRace]:
    """Races not over ``OVERDUE_AFTER`` their start, until ``GIVEN_UP_AFTER`` it, the earliest start first."""
    chosen = {"countries": list(countries), "categories": list(categories)}
    rows = connection.exec_driver_sql(OVERDUE, {**_bound_overdue(now), **chosen}).mappings()
    return [OverdueRace(**{**row, "start_time": row["start_time"].astimezone(UTC)}) for row in rows]


def _bound_overdue(now: datetime) -> dict[str, datetime]:
    return {"after": now - GIVEN_UP_AFTER, "started_by": now - OVERDUE_AFTER}
