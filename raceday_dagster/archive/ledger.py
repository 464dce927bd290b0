"""Old rows of the ledger and of the signals on their way out: each day's are moved to a table of their own, which then
leaves as a detached history partition does. The move is many short transactions, so a run that is killed loses nothing,
holds nobody up, and is gone on with by the next."""

from __future__ import annotations

from datetime import date, timedelta

from sqlalchemy import Engine

from raceday_dagster.archive.partitions import HistoryPartition
from raceday_dagster.store.schema.partitions import name_partition
from raceday_dagster.store.sql_errors import naming_database_errors

LEDGER_TABLES = {"race_polls": "polled_at", "batches": "started_at", "market_signals": "polling_timestamp"}
"""With the instant that says how old a row is."""
ROWS_AT_ONCE = 10_000

LIMITS = "SET LOCAL lock_timeout = 2000; SET LOCAL statement_timeout = 600000; "
MIDNIGHT = "%({0})s::date::timestamp AT TIME ZONE 'Pacific/Auckland'"


def find_old_days(engine: Engine, table: str, before: date) -> list[date]:
    """Days (New Zealand) before ``before`` of which a ledger table has rows, in order. Raises ``DatabaseError``."""
    made_at = LEDGER_TABLES[table]
    day = f"({made_at} AT TIME ZONE 'Pacific/Auckland')::date"
    question = " ".join(
        ("SELECT DISTINCT", day, "FROM", table, "WHERE", made_at, "<", MIDNIGHT.format("before"), "ORDER BY 1")
    )
    with naming_database_errors(engine), engine.begin() as connection:
        return list(connection.exec_driver_sql(LIMITS + question, {"before": before}).scalars())


def set_aside(engine: Engine, table: str, day: date, *, rows_at_once: int = ROWS_AT_ONCE) -> HistoryPartition:
    """Moves a day's rows to ``<table>_YYYY_MM_DD``, and returns that table. Raises ``DatabaseError``."""
    name, made_at = name_partition(table, day), LEDGER_TABLES[table]
    start, end = MIDNIGHT.format("day"), MIDNIGHT.format("next_day")
    chosen = " ".join(("SELECT ctid FROM", table, "WHERE", made_at, ">=", start, "AND", made_at, "<", end))
    deletion = " ".join(("DELETE FROM", table, "WHERE ctid = ANY (ARRAY(", chosen, "LIMIT %(rows)s )) RETURNING *"))
    move = " ".join((LIMITS, "WITH moved AS (", deletion, ") INSERT INTO", name, "TABLE moved"))
    values = {"day": day, "next_day": day + timedelta(days=1), "rows": rows_at_once}
    with naming_database_errors(engine):
        with engine.begin() as connection:
            connection.exec_driver_sql(f"{LIMITS}CREATE TABLE IF NOT EXISTS {name} (LIKE {table})")
        moved = rows_at_once
        while moved == rows_at_once:
            with engine.begin() as connection:
                moved = connection.exec_driver_sql(move, values).rowcount
    return HistoryPartition(table=table, name=name, racing_day=day, attached=False, half_detached=False)
