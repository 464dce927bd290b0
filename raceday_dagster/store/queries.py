"""What the schedule, the jobs, the health check and people ask the database: reads only, each one statement.

``now`` is the caller's clock. The functions that take an engine open a connection themselves.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any, Literal, get_args

from sqlalchemy import Connection, Engine

from raceday_dagster.racing.cadence import LAST_MINUTES, LOOK_AHEAD, LOOK_BACK, PolledRace, is_without_answer
from raceday_dagster.racing.race_key import RaceKey, build_race_key
from raceday_dagster.racing.records import Record
from raceday_dagster.store.ledger import make_key
from raceday_dagster.store.sql_errors import naming_database_errors

LIVE_LOOK_BACK = timedelta(hours=24)

RecheckReason = Literal["never_polled", "not_over", "no_results", "not_checked"]
"""Why a race is asked about again; of several reasons, the first in this order.

* ``never_polled``: its start has passed and no poll of it is stored.
* ``not_over``: it has started and is neither final nor abandoned. Also a race of another day, from two hours after its
  start, when nothing else polls it any more, until ``GIVEN_UP_AFTER`` it.
* ``no_results``: it is final, but without results, dividends or their final status.
* ``not_checked``: it is final and was not polled again ``CHECK_AFTER`` its end, when protests and corrections are in.
"""
REASONS: tuple[RecheckReason, ...] = get_args(RecheckReason)
CHECK_AFTER = timedelta(minutes=10)
"""After the end of a race: once more. Between two polls for results that do not come: no sooner."""
OVERDUE_AFTER = timedelta(hours=2)
GIVEN_UP_AFTER = timedelta(days=7)
"""After its start: a race that the feed never ended is neither asked about nor named any more."""

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
STARTED_SINCE = "SELECT race_id FROM races WHERE start_time >= %(since)s"

# Judged by the feed's instants alone: `now` is when it made the list that the caller has just read, `finalized_at` and
# `api_generated_time` are when it made stored answers. Our own clock has no say, so a wrong one leaves no race out.
RACES_TO_RECHECK = """
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
OVERDUE_RACES = """
SELECT race.race_id, race.start_time, race.status, meeting.meeting_name, race.race_number
FROM races AS race
JOIN meetings AS meeting ON meeting.meeting_id = race.meeting_id
WHERE race.status IN ('open', 'closed', 'interim')
    AND race.start_time > %(after)s AND race.start_time <= %(started_by)s
    AND meeting.country = ANY (%(countries)s) AND race.type = ANY (%(categories)s)
ORDER BY race.start_time, race.race_id
"""
# Only a success is a new answer. A poll that was skipped, because the API does not know the race or has nothing newer,
# is none: an outage in which every request is answered 404 would pass for health.
FOLLOWED_RACES = """
SELECT race.race_id, meeting.meeting_name || ' R' || race.race_number AS title, race.start_time, race.status,
    (SELECT count(*) FROM race_polls AS poll WHERE poll.race_id = race.race_id) AS polls,
    answered.polled_at AS answered_at, CASE WHEN newest.status <> 'success' THEN newest.error_message END AS error
FROM races AS race
JOIN meetings AS meeting ON meeting.meeting_id = race.meeting_id
LEFT JOIN LATERAL (
    SELECT poll.polled_at FROM race_polls AS poll
    WHERE poll.race_id = race.race_id AND poll.status = 'success' ORDER BY poll.polled_at DESC LIMIT 1
) AS answered ON true
LEFT JOIN LATERAL (
    SELECT poll.status, poll.error_message FROM race_polls AS poll
    WHERE poll.race_id = race.race_id ORDER BY poll.polled_at DESC LIMIT 1
) AS newest ON true
"""
RACES_BY_ID = FOLLOWED_RACES + "WHERE race.race_id = ANY (%(race_ids)s)"
LIVE_RACES = f"""{FOLLOWED_RACES}
WHERE race.status IN ('open', 'closed', 'interim')
    AND race.start_time > %(from_start)s AND race.start_time <= %(to_start)s
    AND meeting.country = ANY (%(countries)s) AND race.type = ANY (%(categories)s)
ORDER BY race.start_time, race.race_id
"""
NAMES = """
SELECT race_id, race.racing_day, meeting_name, race_number
FROM races AS race JOIN meetings USING (meeting_id)
WHERE race_id = ANY (%(race_ids)s)
"""
NAMED = """
SELECT race_id FROM races
WHERE racing_day = %(racing_day)s AND left(race_id, length(%(id_start)s)) = %(id_start)s
"""
# The race of its runners is named for the planner, which would otherwise read every runner of every day.
SETTLED = """
SELECT race.race_id, meeting_name, race_number, race.status, win_pool_total, total_race_pool,
    (SELECT count(*) FROM race_polls AS poll WHERE poll.race_id = race.race_id) AS polls,
    (SELECT count(*) FROM market_signals AS signal WHERE signal.race_id = race.race_id AND is_alert) AS signals,
    (SELECT max(extract(epoch FROM gap))::integer FROM (
        SELECT polled_at - lag(polled_at) OVER (ORDER BY polled_at) AS gap FROM race_polls AS poll
        WHERE poll.race_id = race.race_id
            AND polled_at BETWEEN race.start_time - interval '5 minutes' AND race.start_time
    ) AS gaps) AS longest_gap_s,
    (SELECT jsonb_object_agg(runner_number, shares) FROM (
        SELECT runner_number, jsonb_agg(flow.hold_percentage ORDER BY polling_timestamp) AS shares
        FROM money_flow_history AS flow
        JOIN entrants ON entrants.entrant_id = flow.entrant_id AND entrants.race_id = race.race_id
        WHERE flow.racing_day = race.racing_day AND flow.race_id = race.race_id AND time_to_start_s < 3600
        GROUP BY runner_number
    ) AS runners) AS shares
FROM races AS race JOIN meetings USING (meeting_id) LEFT JOIN race_pools USING (race_id)
WHERE race.race_id = ANY (%(race_ids)s) AND race.status IN ('final', 'abandoned')
ORDER BY race.start_time
"""


class OverdueRace(Record):
    """A race that should be over and is not."""

    race_id: str
    start_time: datetime
    status: str
    meeting_name: str
    race_number: int


class FollowedRace(Record):
    """A stored race, and what became of its polls."""

    race_id: str
    title: str
    """Meeting and race number, for people."""
    start_time: datetime
    status: str = "open"
    answered_at: datetime | None
    """The newest poll in the ledger that stored a new answer."""
    error: str | None = None
    """Why the newest of all stored none, if it did not."""
    polls: int = 0
    """All polls in the ledger."""


class SettledRace(Record):
    """A race that is over: how it was followed, and the shares of its runners over the polls of its last hour."""

    race_id: str
    meeting_name: str
    race_number: int
    status: str
    polls: int
    signals: int
    win_pool_total: int | None
    total_race_pool: int | None
    longest_gap_s: int | None
    """Between two polls of the last five minutes before the start."""
    shares: dict[int, tuple[Decimal, ...]] | None
    """Percent, by runner number."""

    @property
    def title(self) -> str:
        """Meeting and race number, for people."""
        return f"{self.meeting_name} R{self.race_number}"


def read_polled_races(
    connection: Connection, now: datetime, countries: Sequence[str], categories: Sequence[str]
) -> list[PolledRace]:
    """Unfinished races whose start lies in the polling window around ``now``, the earliest first, as the ledger was
    polled until ``now``."""
    values = {"now": now, "from_start": now - LOOK_BACK, "to_start": now + LOOK_AHEAD}
    rows = _ask(connection, POLLED_RACES, **values, countries=list(countries), categories=list(categories))
    return [PolledRace(**row) for row in rows]


def read_answered(connection: Connection, asked: Mapping[str, Collection[str]]) -> set[tuple[str, str]]:
    """Of the races that runs were asked to poll, by run, those the ledger has a row of: pairs of run and race."""
    if not asked:
        return set()
    rows = _ask(connection, ANSWERED, run_ids=[make_key(run_id) for run_id in asked])
    stored = {(row["run_id"], row["race_id"]) for row in rows}
    pairs = {(run_id, race_id) for run_id, race_ids in asked.items() for race_id in race_ids}
    return {(run_id, race_id) for run_id, race_id in pairs if (make_key(run_id), make_key(race_id)) in stored}


def is_listed(connection: Connection, racing_day: date) -> bool:
    """Whether the list of a racing day was stored."""
    return bool(connection.exec_driver_sql(LISTED, {"racing_day": racing_day}).scalar_one())


def read_races_to_recheck(
    connection: Connection, racing_days: Sequence[date], now: datetime
) -> dict[str, RecheckReason]:
    """Races of these days that have started and of which an answer is still missing, and overdue ones of any day, the
    earliest first, each with the reason."""
    values = {"racing_days": list(racing_days), "now": now, "wait": CHECK_AFTER, **_bound_overdue(now)}
    return {row["race_id"]: row["reason"] for row in _ask(connection, RACES_TO_RECHECK, **values)}


def read_overdue_races(
    connection: Connection, now: datetime, countries: Sequence[str], categories: Sequence[str]
) -> list[OverdueRace]:
    """Races not over ``OVERDUE_AFTER`` their start, until ``GIVEN_UP_AFTER`` it, the earliest start first."""
    chosen = {"countries": list(countries), "categories": list(categories)}
    return [OverdueRace(**row) for row in _ask(connection, OVERDUE_RACES, **_bound_overdue(now), **chosen)]


def read_followed_races(connection: Connection, race_ids: Collection[str]) -> list[FollowedRace]:
    """These races as they are stored, in any order; those that are not stored are left out."""
    rows = _ask(connection, RACES_BY_ID, race_ids=[make_key(race_id) for race_id in race_ids])
    return [FollowedRace(**row) for row in rows]


def read_race_keys(connection: Connection, race_ids: Collection[str]) -> dict[str, str]:
    """The readable name of each of these races that is stored, by id."""
    rows = _ask(connection, NAMES, race_ids=[make_key(race_id) for race_id in race_ids])
    return {row["race_id"]: build_race_key(**row) for row in rows}


def find_races(connection: Connection, key: RaceKey) -> list[str]:
    """Ids of the races that a readable name may mean: one, unless two ids of a day begin alike."""
    return [row["race_id"] for row in _ask(connection, NAMED, racing_day=key.racing_day, id_start=key.id_start)]


def read_settled_races(connection: Connection, race_ids: Collection[str]) -> list[SettledRace]:
    """Those of these races that are final or abandoned, by start."""
    rows = _ask(connection, SETTLED, race_ids=[make_key(race_id) for race_id in race_ids])
    return [SettledRace(**row) for row in rows]


def read_live_races(
    engine: Engine, now: datetime, *, countries: Sequence[str], categories: Sequence[str]
) -> list[FollowedRace]:
    """Races that start within five minutes of ``now`` or started in the 24 hours before and are not over. Raises
    ``DatabaseError``."""
    values = {"from_start": now - LIVE_LOOK_BACK, "to_start": now + LAST_MINUTES}
    chosen = {"countries": list(countries), "categories": list(categories)}
    return [FollowedRace(**row) for row in ask_engine(engine, LIVE_RACES, **values, **chosen)]


def find_late_races(races: Iterable[FollowedRace], now: datetime) -> list[FollowedRace]:
    """Those of some live races that are still polled and have had no new answer for three intervals."""
    return [
        race
        for race in races
        if now - race.start_time < LOOK_BACK and is_without_answer(race.start_time, race.answered_at, now)
    ]


def read_races_since(engine: Engine, since: datetime) -> set[str]:
    """Every stored race that starts at ``since`` or later, those of days to come included. Raises ``DatabaseError``,
    which is no empty answer."""
    return {row["race_id"] for row in ask_engine(engine, STARTED_SINCE, since=since)}


def _bound_overdue(now: datetime) -> dict[str, datetime]:
    return {"after": now - GIVEN_UP_AFTER, "started_by": now - OVERDUE_AFTER}


def ask_engine(engine: Engine, question: str, **values: Any) -> list[dict[str, Any]]:
    """The rows of a query, by column name, on a connection of its own. Raises ``DatabaseError``."""
    with naming_database_errors(engine), engine.connect() as connection:
        return _ask(connection, question, **values)


def _ask(connection: Connection, question: str, **values: Any) -> list[dict[str, Any]]:
    """The rows by column name, their instants in UTC."""
    return [
        {name: value.astimezone(UTC) if isinstance(value, datetime) else value for name, value in row.items()}
        for row in connection.exec_driver_sql(question, values).mappings()
    ]
