"""The rules that the data of a racing day keeps, each a question whose rows are what breaks it.

One statement a rule, within the day's partitions. Belongs here: what must be true of stored data. Does not: when it is
asked, and what is said of the answer.
"""

from __future__ import annotations

from datetime import date

from sqlalchemy import Connection

from raceday_dagster.racing.records import Record


class DataRule(Record):
    """A rule: ``sql`` gives the races that break it at ``%(racing_day)s``, as ``race`` and ``problem``."""

    name: str
    description: str
    sql: str
    is_error: bool = True
    """Whether a broken rule means that our own work is wrong; otherwise the feed may be the reason."""


class Violation(Record):
    """A race that breaks a rule."""

    race: str
    """Meeting and race number, or the id of a race that is not stored."""
    problem: str


RULES = (
    DataRule(
        name="shares_add_up",
        description="The shares of a race's runners add up to 100 percent, give or take 5. A money tracker that names "
        "runners which the answer does not list breaks it.",
        is_error=False,
        sql="""
SELECT meeting_name || ' R' || race_number AS race, 'shares add up to ' || sum(hold_percentage) || ' %%' AS problem
FROM races JOIN meetings USING (meeting_id) JOIN entrants USING (race_id)
WHERE races.racing_day = %(racing_day)s AND withdrawn_at IS NULL
GROUP BY race_id, meeting_name, race_number, races.start_time
HAVING sum(hold_percentage) NOT BETWEEN 95 AND 105
ORDER BY races.start_time""",
    ),
    DataRule(
        name="increments_add_up",
        description="The increments of a runner's money add up to its present amount, to the cent.",
        sql="""
SELECT meeting_name || ' R' || race_number AS race,
    entrant.name || ' has ' || win_pool_amount || ' and ' || place_pool_amount || ' cents, its increments add up to '
        || win_money || ' and ' || place_money AS problem
FROM (
    SELECT entrant_id, sum(incremental_win_amount) AS win_money, sum(incremental_place_amount) AS place_money
    FROM money_flow_history WHERE racing_day = %(racing_day)s GROUP BY entrant_id
) AS history
JOIN entrants AS entrant USING (entrant_id)
JOIN races USING (race_id) JOIN meetings USING (meeting_id)
WHERE win_money <> win_pool_amount OR place_money <> place_pool_amount
ORDER BY races.start_time""",
    ),
    DataRule(
        name="history_has_its_race",
        description="No history without a stored race.",
        sql="""
SELECT race_id AS race, count(*) || ' rows of history' AS problem
FROM money_flow_history AS history
WHERE racing_day = %(racing_day)s AND NOT EXISTS (SELECT FROM races WHERE races.race_id = history.race_id)
GROUP BY race_id ORDER BY race_id""",
    ),
    DataRule(
        name="polled_on_cadence",
        description="In its last five minutes a race was asked for every 15 seconds: no gap of more than 35.",
        sql="""
SELECT race, 'not polled for ' || round(extract(epoch FROM max(gap))) || ' s' AS problem
FROM (
    SELECT meeting_name || ' R' || race_number AS race, race_id, races.start_time,
        coalesce(lead(looked_at) OVER (PARTITION BY race_id ORDER BY looked_at), races.start_time) - looked_at AS gap
    FROM races JOIN meetings USING (meeting_id)
    CROSS JOIN LATERAL (
        SELECT races.start_time - interval '5 minutes' AS looked_at
        UNION ALL SELECT polled_at FROM race_polls
        WHERE race_polls.race_id = races.race_id
            AND polled_at BETWEEN races.start_time - interval '5 minutes' AND races.start_time
    ) AS looks
    WHERE races.racing_day = %(racing_day)s AND races.start_time < now() AND races.status <> 'abandoned'
) AS gaps
GROUP BY race, race_id, start_time
HAVING max(gap) > interval '35 seconds'
ORDER BY start_time""",
    ),
    DataRule(
        name="result_in_time",
        description="A race has a result 15 minutes after its start.",
        is_error=False,
        sql="""
SELECT meeting_name || ' R' || race_number AS race, 'no result' AS problem
FROM races JOIN meetings USING (meeting_id) LEFT JOIN race_results USING (race_id)
WHERE races.racing_day = %(racing_day)s AND races.status <> 'abandoned'
    AND coalesce(actual_start, start_time) < now() - interval '15 minutes' AND race_results.race_id IS NULL
ORDER BY start_time""",
    ),
)


def find_violations(connection: Connection, rule: DataRule, racing_day: date) -> list[Violation]:
    """The races of a racing day that break a rule, by start. Raises what SQLAlchemy raises."""
    rows = connection.exec_driver_sql(rule.sql, {"racing_day": racing_day}).mappings()
    return [Violation(**row) for row in rows]
