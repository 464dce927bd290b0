"""Racing days in SQL: many races, and what polling each of them at its cadence would have left in the database.

Belongs here: rows that look like those of polls, made fast. A day's history is filled into a table of its own and
attached afterwards, with its indexes, as an archived day is that is put back.
"""

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta

from sqlalchemy import Connection

from raceday_dagster.racing.calendar import NEW_ZEALAND
from raceday_dagster.store.schema.partitions import name_partition
from raceday_dagster.store.schema.tables import PARTITIONED_TABLES

LOADED_AT = time(6)
"""New Zealand: when `daily_baseline` has loaded the day, and polling begins."""
AT_ONCE = "SET work_mem = '256MB'; SET maintenance_work_mem = '512MB'; SET synchronous_commit = off"

RACES = """
INSERT INTO racing_days VALUES (%(day)s, %(opens)s);
INSERT INTO meetings (meeting_id, meeting_name, country, category, race_type, racing_day, status)
SELECT md5(%(day)s || 'm' || m)::uuid::text, 'Meeting ' || m, 'NZ', 'T', 'thoroughbred', %(day)s::date, 'completed'
FROM generate_series(0, (%(races)s - 1) / 9) AS m;
INSERT INTO races (race_id, meeting_id, racing_day, name, race_number, start_time, type, status, last_poll_time,
    finalized_at, api_generated_time)
SELECT md5(%(day)s || 'r' || r)::uuid::text, md5(%(day)s || 'm' || r / 9)::uuid::text, %(day)s::date, 'Race ' || r,
    r %% 9 + 1, start_time, 'T', 'final', start_time, start_time + interval '10 min', start_time + interval '25 min'
FROM generate_series(0, %(races)s - 1) AS r,
    LATERAL (SELECT %(opens)s::timestamptz + interval '5 h' + r * interval '14 h' / %(races)s AS start_time) AS starts;
INSERT INTO entrants (entrant_id, race_id, runner_number, name, is_scratched, hold_percentage, bet_percentage,
    fixed_win_odds, fixed_place_odds, jockey, trainer_name, silk_colours, silk_url_64x64)
SELECT md5(race_id || n)::uuid::text, race_id, n, 'Runner of many names ' || n, false, 8.3, 8.3, 4.5, 1.9,
    'Jockey ' || n, 'Trainer ' || n, 'Blue, gold stars, white cap',
    'https://silks.invalid/events/racing/' || race_id || '/' || n || '_64x64.png'
FROM races, generate_series(1, %(runners)s) AS n WHERE racing_day = %(day)s;
INSERT INTO race_pools (race_id, win_pool_total, source)
SELECT race_id, 1000000, 'tote_pools' FROM races WHERE racing_day = %(day)s;
INSERT INTO race_results (race_id, result_status, results, dividends)
SELECT race_id, 'final', '[{"position": 1, "runner_number": 2}, {"position": 2, "runner_number": 1}]',
    '[{"product_name": "Pool Win", "dividend": 3.3, "positions": [{"runner_number": 2, "position": 1}]}]'
FROM races WHERE racing_day = %(day)s
"""
# The slots of `racing.cadence`; which of them a race has where they are further apart, its id says here too.
POLLS = """
DROP TABLE IF EXISTS slots;
CREATE TEMPORARY TABLE slots AS
SELECT race_id, start_time, at, md5(at::text)::uuid::text AS run_id,
    extract(epoch FROM start_time - at)::integer AS to_start_s
FROM races, generate_series(%(opens)s::timestamptz, %(until)s::timestamptz, interval '15 s') AS at,
    LATERAL (SELECT abs(hashtext(race_id)) AS phase, (extract(epoch FROM at) / 15)::bigint AS slot) AS ids
WHERE racing_day = %(day)s AND at > start_time - %(before)s::interval AND at < start_time + %(after)s::interval
    AND CASE WHEN start_time - at <= interval '5 min' THEN true
        WHEN start_time - at <= interval '15 min' THEN slot %% 2 = phase %% 2
        ELSE slot %% 4 = phase %% 4 END;
INSERT INTO race_polls (run_id, race_id, polled_at, status, fetch_ms, transform_ms, write_ms, total_ms,
    money_flow_history_rows, odds_history_rows, quality_score, lane, due_at)
SELECT run_id, race_id, at, 'success', 310, 5, 20, 340, %(runners)s, 1, 100, 'live', at FROM slots ORDER BY at
ON CONFLICT DO NOTHING;
INSERT INTO batches
SELECT run_id, at, count(*), count(*), 0, 0, 0, 400, 1500, false, 5, 5, 10, 5 FROM slots GROUP BY run_id, at ORDER BY at
ON CONFLICT DO NOTHING
"""
_INTERVAL = (
    "CASE WHEN to_start_s >= 3600 THEN 60 WHEN to_start_s >= 300 THEN to_start_s / 300 * 5 "
    "WHEN to_start_s >= 0 THEN to_start_s / 60 ELSE to_start_s / 30 / 2.0 END"
)
HISTORIES = {
    "money_flow_history": f"""
SELECT %(day)s::date, race_id, entrant_id, at, at, to_start_s, {_INTERVAL}, '30s', 8.3, 8.3,
    30000000 - to_start_s * 100, 15000000 - to_start_s * 50, 45000000 - to_start_s * 150, 8.3, 8.3, 1500, 750, false,
    4.5, 1.9, 4.2, 1.8
FROM slots JOIN entrants USING (race_id) ORDER BY at, race_id, runner_number
""",
    # Of its eight or so prices a poll, one has changed.
    "odds_history": """
SELECT %(day)s::date, race_id, entrant_id, (ARRAY['fixed_win', 'fixed_place', 'pool_win', 'pool_place'])[n %% 4 + 1],
    2 + n %% 90, at, at
FROM (SELECT *, row_number() OVER (PARTITION BY race_id ORDER BY at) AS n FROM slots) AS polls
JOIN entrants USING (race_id)
WHERE n %% runners.count = runner_number - 1 ORDER BY at, race_id
""".replace(
        "JOIN entrants USING (race_id)",
        "JOIN entrants USING (race_id) CROSS JOIN (SELECT %(runners)s AS count) AS runners",
    ),
    "pool_history": f"""
SELECT %(day)s::date, race_id, at, at, to_start_s, {_INTERVAL}, 30000000 - to_start_s * 100, 15000000, 9000000, 8000000,
    0, 4000000, 60000000, 10000000
FROM slots ORDER BY at, race_id
""",
}
SIGNALS = """
INSERT INTO market_signals (race_id, entrant_id, kind, polling_timestamp, compared_with, racing_day, time_to_start_s,
    time_interval, value_before, value_now, change, tier, is_alert, is_strong, after_scratching, computed_from)
SELECT race_id, entrant_id, 'share', at, at - interval '30 s', %(day)s::date, to_start_s, 5, 8, 12, 4, '5-10', true,
    false, false, '{"share_before": 8, "share_now": 12}'
FROM slots JOIN entrants USING (race_id)
WHERE to_start_s BETWEEN 0 AND 900 AND runner_number <= 3 AND to_start_s %% 60 < 15
ON CONFLICT DO NOTHING
"""


@dataclass(frozen=True)
class Followed:
    """How a racing day was followed.

    Attributes:
        before: How long before its start a race was polled for the first time, at the earliest.
        after: How long after its start it was polled.
        until: When polling ended, at the latest.
    """

    day: date
    before: timedelta = timedelta(days=1)
    after: timedelta = timedelta(minutes=10)
    until: datetime | None = None
    runners: int = 11


def find_opening(day: date) -> datetime:
    """When polling of a racing day begins."""
    return datetime.combine(day, LOADED_AT, NEW_ZEALAND).astimezone(UTC)


def make_races(connection: Connection, day: date, races: int, runners: int = 11) -> None:
    """A day's meetings, races, runners, pools and results; all races are over."""
    values = {"day": day.isoformat(), "opens": find_opening(day), "races": races, "runners": runners}
    connection.exec_driver_sql(RACES, values)
    connection.commit()


def make_history(connection: Connection, followed: Followed) -> int:
    """What the polls of the races stored for a day would have left; what there is stays. Returns the polls."""
    opens = find_opening(followed.day)
    values = {
        "day": followed.day.isoformat(),
        "opens": opens,
        "until": followed.until or opens + timedelta(days=1),
        "before": followed.before,
        "after": followed.after,
        "runners": followed.runners,
    }
    connection.exec_driver_sql(AT_ONCE)
    connection.exec_driver_sql(POLLS, values)
    polls = int(connection.exec_driver_sql("SELECT count(*) FROM slots").scalar_one())
    for table in PARTITIONED_TABLES:
        _fill(connection, table, followed.day, HISTORIES[table], values)
    connection.exec_driver_sql(SIGNALS, values)
    connection.commit()
    return polls


def _fill(connection: Connection, table: str, day: date, rows: str, values: dict[str, object]) -> None:
    run = connection.exec_driver_sql
    name = name_partition(table, day)
    is_there = run("SELECT to_regclass(%(name)s) IS NOT NULL", {"name": name}).scalar_one()
    if is_there:
        run(f"ALTER TABLE {table} DETACH PARTITION {name}")
        run(f"ALTER TABLE {name} RENAME TO polled")
    run(f"CREATE TABLE {name} (LIKE {table} INCLUDING DEFAULTS INCLUDING CONSTRAINTS)")
    run(f"INSERT INTO {name} {rows}", values)
    if is_there:
        run(f"INSERT INTO {name} SELECT * FROM polled")
        run("DROP TABLE polled")
    bounds = f"FROM ('{day}') TO ('{day + timedelta(days=1)}')"
    run(f"ALTER TABLE {table} ATTACH PARTITION {name} FOR VALUES {bounds}")
