"""What is stored with an instant that lies ahead, because our clock did: it would count as the newest until then."""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy import Engine

TOLERANCE = timedelta(seconds=5)
"""An answer may be dated so far ahead honestly: the feed's clock is not ours."""
_INSTANTS = (("race_polls", "polled_at"), ("batches", "started_at"), ("races", "api_generated_time"))


def put_back_rows(engine: Engine, now: datetime) -> dict[str, int]:
    """Dates polls, batches and answers that lie ahead of ``now`` back to it; how many of each table there were.

    Their true time is not known; until now is when they happened, and the next slot and the next answer are later.

    Raises:
        DBAPIError: The database cannot be used; nothing was changed.
    """
    values = {"now": now, "latest": now + TOLERANCE}
    with engine.begin() as connection:
        return {
            table: connection.exec_driver_sql(
                f"UPDATE {table} SET {column} = %(now)s WHERE {column} > %(latest)s",  # noqa: S608  (names of ours)
                values,
            ).rowcount
            for table, column in _INSTANTS
        }
