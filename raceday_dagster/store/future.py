"""What is stored with an instant that lies ahead, because our clock did: it would count as the newest until then."""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy import Engine

TOLERANCE = timedelta(seconds=5)
"""An answer may be dated so far ahead honestly: the feed's clock is not ours."""
_LEDGER = (("race_polls", "polled_at"), ("batches", "started_at"))
_RACES = """
UPDATE races SET
    api_generated_time = CASE WHEN api_generated_time > %(now)s THEN %(now)s ELSE api_generated_time END,
    last_poll_time = CASE WHEN last_poll_time > %(now)s THEN %(now)s ELSE last_poll_time END
WHERE api_generated_time > %(latest)s OR last_poll_time > %(latest)s
RETURNING race_id, racing_day
"""
_HISTORY = (
    ("money_flow_history", "polling_timestamp", "event_timestamp"),
    ("pool_history", "polling_timestamp", "event_timestamp"),
    ("odds_history", "event_timestamp", "polling_timestamp"),
)
"""Each table with the instant that orders its rows, and its other one."""
# In their order, each a microsecond after the one before: an increment is the difference to the newest row, and what
# was observed at one time stays together.
_MOVE = """
UPDATE {table} AS history SET {order} = moved.moved_to, {other} = least(history.{other}, moved.moved_to)
FROM (
    SELECT race_id, {order}, %(now)s + interval '1 microsecond' * dense_rank() OVER (
        PARTITION BY race_id ORDER BY {order}
    ) AS moved_to
    FROM (
        SELECT DISTINCT race_id, {order} FROM {table}
        WHERE racing_day = ANY (%(days)s) AND race_id = ANY (%(race_ids)s) AND {order} > %(now)s
    ) AS ahead
) AS moved
WHERE history.racing_day = ANY (%(days)s) AND history.race_id = moved.race_id AND history.{order} = moved.{order}
"""


def put_back_rows(engine: Engine, now: datetime) -> dict[str, int]:
    """Dates polls, batches, answers and the history of their races that lie ahead of ``now`` back to it; how many there
    were of ``race_polls``, ``batches`` and ``races``.

    Their true time is not known; until now is when they happened, and the next slot and the next answer are later.

    Raises:
        DBAPIError: The database cannot be used; nothing was changed.
    """
    values = {"now": now, "latest": now + TOLERANCE}
    with engine.begin() as connection:
        found = {
            table: connection.exec_driver_sql(
                f"UPDATE {table} SET {column} = %(now)s WHERE {column} > %(latest)s",  # noqa: S608  (names of ours)
                values,
            ).rowcount
            for table, column in _LEDGER
        }
        races = connection.exec_driver_sql(_RACES, values).all()
        chosen = {"race_ids": [race.race_id for race in races], "days": [race.racing_day for race in races]}
        for table, order, other in _HISTORY:
            connection.exec_driver_sql(_MOVE.format(table=table, order=order, other=other), {"now": now, **chosen})
        return {**found, "races": len(races)}
