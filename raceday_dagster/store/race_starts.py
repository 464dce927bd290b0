"""When races started, as maintenance asks: which are young enough to stay in the list of partitions. Reads only."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from raceday_dagster.store.sql_errors import build_database_error

STARTED_SINCE = "SELECT race_id FROM races WHERE start_time >= %(since)s"


def read_races_since(engine: Engine, since: datetime) -> set[str]:
    """Every stored race that starts at ``since`` or later, those of days to come included.

    Raises:
        DatabaseError: The database cannot be used. That is no empty answer.
    """
    try:
        with engine.connect() as connection:
            return set(connection.exec_driver_sql(STARTED_SINCE, {"since": since}).scalars())
    except SQLAlchemyError as error:
        raise build_database_error(engine, error) from error
