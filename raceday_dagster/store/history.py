"""The histories: what a poll adds to them. Rows are only ever added, at the end, and compared in the database.

Each is one statement that reads the rows stored before and inserts what follows from them, under the lock of the
race. Each names the racing day, so that one partition is looked at.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import date
from typing import Any

from raceday_dagster.racing.records import Record
from raceday_dagster.racing.snapshots import RaceSnapshot
from raceday_dagster.store.decisions import ObservedEntrants
from raceday_dagster.store.schema.tables import POOL_TOTALS
from raceday_dagster.store.transaction import Transaction
from raceday_dagster.store.upsert import LARGEST_STATEMENT, dump_row

# `newest` is the entrant's last row, `win` and `place` the last with that amount: an increment is the difference to the
# last known amount of its pool, so the increments of an entrant always add up to its current amount. Answers are in the
# order of the feed, and the newer may have arrived before the older: in another process, or before our clock was set
# back. A row in between would break that sum, and so would none: it comes a microsecond after the newest.
ADD_MONEY_FLOW = """
INSERT INTO money_flow_history (
    racing_day, race_id, entrant_id, polling_timestamp, event_timestamp, time_to_start_s, time_interval, interval_type,
    hold_percentage, bet_percentage, win_pool_amount, place_pool_amount, total_pool_amount,
    win_pool_percentage, place_pool_percentage,
    incremental_win_amount, incremental_place_amount, is_baseline,
    fixed_win_odds, fixed_place_odds, pool_win_odds, pool_place_odds
)
SELECT
    %(racing_day)s, %(race_id)s, given.entrant_id,
    greatest(%(polling_timestamp)s, newest.polling_timestamp + interval '1 microsecond'), %(event_timestamp)s,
    %(time_to_start_s)s, %(time_interval)s, %(interval_type)s,
    given.hold_percentage, given.bet_percentage,
    given.win_pool_amount, given.place_pool_amount, given.total_pool_amount,
    given.win_pool_percentage, given.place_pool_percentage,
    given.win_pool_amount - coalesce(win.amount, 0),
    given.place_pool_amount - coalesce(place.amount, 0),
    CASE WHEN coalesce(given.win_pool_amount, given.place_pool_amount) IS NULL
         THEN coalesce(win.amount, place.amount) IS NULL
         ELSE (given.win_pool_amount IS NOT NULL AND win.amount IS NULL)
             OR (given.place_pool_amount IS NOT NULL AND place.amount IS NULL) END,
    given.fixed_win_odds, given.fixed_place_odds, given.pool_win_odds, given.pool_place_odds
FROM jsonb_populate_recordset(NULL::money_flow_history, %(rows)s::jsonb) AS given
LEFT JOIN LATERAL (
    SELECT earlier.polling_timestamp
    FROM money_flow_history AS earlier
    WHERE earlier.racing_day = %(racing_day)s AND earlier.race_id = %(race_id)s
        AND earlier.entrant_id = given.entrant_id
    ORDER BY earlier.polling_timestamp DESC LIMIT 1
) AS newest ON true
LEFT JOIN LATERAL (
    SELECT earlier.win_pool_amount AS amount
    FROM money_flow_history AS earlier
    WHERE earlier.racing_day = %(racing_day)s AND earlier.race_id = %(race_id)s
        AND earlier.entrant_id = given.entrant_id AND earlier.win_pool_amount IS NOT NULL
    ORDER BY earlier.polling_timestamp DESC LIMIT 1
) AS win ON true
LEFT JOIN LATERAL (
    SELECT earlier.place_pool_amount AS amount
    FROM money_flow_history AS earlier
    WHERE earlier.racing_day = %(racing_day)s AND earlier.race_id = %(race_id)s
        AND earlier.entrant_id = given.entrant_id AND earlier.place_pool_amount IS NOT NULL
    ORDER BY earlier.polling_timestamp DESC LIMIT 1
) AS place ON true
WHERE (newest.polling_timestamp IS NOT NULL OR %(starts)s)
    AND NOT (
        %(only_changed)s
        AND coalesce(given.win_pool_amount = win.amount, given.win_pool_amount IS NULL)
        AND coalesce(given.place_pool_amount = place.amount, given.place_pool_amount IS NULL)
    )
ORDER BY given.entrant_id
ON CONFLICT DO NOTHING
"""

# Both prices have two decimals: if they differ, they differ by at least 0.01.
ADD_ODDS = """
INSERT INTO odds_history (racing_day, race_id, entrant_id, type, odds, event_timestamp, polling_timestamp)
SELECT
    %(racing_day)s, %(race_id)s, given.entrant_id, given.type, given.odds, %(event_timestamp)s, %(polling_timestamp)s
FROM jsonb_populate_recordset(NULL::odds_history, %(rows)s::jsonb) AS given
LEFT JOIN LATERAL (
    SELECT earlier.odds, earlier.event_timestamp
    FROM odds_history AS earlier
    WHERE earlier.racing_day = %(racing_day)s AND earlier.race_id = %(race_id)s
        AND earlier.entrant_id = given.entrant_id AND earlier.type = given.type
    ORDER BY earlier.event_timestamp DESC LIMIT 1
) AS newest ON true
WHERE newest.odds IS NULL OR (newest.odds <> given.odds AND newest.event_timestamp < %(event_timestamp)s)
ORDER BY given.entrant_id, given.type
ON CONFLICT DO NOTHING
"""

ADD_POOL_TOTALS = "\n".join(
    (
        "INSERT INTO pool_history (racing_day, race_id, polling_timestamp, event_timestamp, time_to_start_s,",
        f"time_interval, {', '.join(POOL_TOTALS)})",
        "SELECT %(racing_day)s, race_id, %(polling_timestamp)s, %(event_timestamp)s, %(time_to_start_s)s,",
        f"%(time_interval)s, {', '.join(POOL_TOTALS)}",
        "FROM race_pools WHERE race_id = %(race_id)s",
        "ON CONFLICT DO NOTHING",
    )
)


def add_money_flow(
    transaction: Transaction, snapshot: RaceSnapshot, racing_day: date, observed: ObservedEntrants
) -> int:
    """Adds the poll's observation of the entrants that are ``observed``; returns the rows added.

    An entrant's first row with a known amount of a pool is a baseline: the increment is the amount itself.
    """
    values = {
        **_poll_values(snapshot, racing_day),
        "interval_type": snapshot.interval_type,
        "starts": observed == "every",
        "only_changed": observed == "changed",
    }
    return _add(transaction, "money_flow_history", ADD_MONEY_FLOW, snapshot.money_flow, values)


def add_odds(transaction: Transaction, snapshot: RaceSnapshot, racing_day: date) -> int:
    """Adds the prices that differ from the last one kept of their entrant and type; returns the rows added."""
    return _add(transaction, "odds_history", ADD_ODDS, snapshot.odds, _poll_values(snapshot, racing_day))


def add_pool_totals(transaction: Transaction, snapshot: RaceSnapshot, racing_day: date) -> None:
    """Adds the totals of ``race_pools`` as they are stored now: an answer may have carried only some of them."""
    transaction.run("pool_history", ADD_POOL_TOTALS, _poll_values(snapshot, racing_day))


def _poll_values(snapshot: RaceSnapshot, racing_day: date) -> dict[str, Any]:
    return {
        "racing_day": racing_day,
        "race_id": snapshot.race_id,
        "event_timestamp": snapshot.event_timestamp,
        "polling_timestamp": snapshot.polling_timestamp,
        "time_to_start_s": snapshot.time_to_start_s,
        "time_interval": snapshot.time_interval,
    }


def _add(transaction: Transaction, table: str, sql: str, rows: Sequence[Record], values: dict[str, Any]) -> int:
    added = 0
    for start in range(0, len(rows), LARGEST_STATEMENT):
        part = json.dumps([dump_row(row) for row in rows[start : start + LARGEST_STATEMENT]])
        added += transaction.run(table, sql, {**values, "rows": part}).rowcount
    return added
