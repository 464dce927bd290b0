"""How runs leave Dagster's tables, many at a time, and how the tables get their space back. Not: which runs go.

Both take a connection in autocommit, from ``take_time``, and raise what SQLAlchemy raises.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from dagster._core.events import ASSET_EVENTS
from dagster._core.storage.event_log.schema import AssetEventTagsTable, SqlEventLogStorageTable
from dagster._core.storage.runs.schema import RunsTable
from sqlalchemy import Connection, select

VACUUMED_TABLES = ("event_logs", "runs", "run_tags", "asset_event_tags", "dynamic_partitions", "job_ticks")

_EVENTS = SqlEventLogStorageTable.c


def delete_runs(connection: Connection, run_ids: Sequence[str]) -> int:
    """Delete runs with their tags and events, in three statements however many they are; return the event rows.

    `DagsterInstance.delete_run` takes five statements for each, and reads the tables of concurrency slots, which runs
    that ended have left. Events go first: what an interruption leaves is still a run, and found again.
    """
    about_assets = [kind.value for kind in ASSET_EVENTS]
    of_assets = select(_EVENTS.id).where(_EVENTS.run_id.in_(run_ids), _EVENTS.dagster_event_type.in_(about_assets))
    connection.execute(AssetEventTagsTable.delete().where(AssetEventTagsTable.c.event_id.in_(of_assets)))
    deleted = connection.execute(SqlEventLogStorageTable.delete().where(_EVENTS.run_id.in_(run_ids)))
    connection.execute(RunsTable.delete().where(RunsTable.c.run_id.in_(run_ids)))
    return deleted.rowcount


def vacuum(connection: Connection) -> list[str]:
    """Give the space of deleted rows back to the tables that runs and ticks fill; return their names."""
    for table in VACUUMED_TABLES:
        connection.exec_driver_sql(f"VACUUM (ANALYZE) {table}")
    return list(VACUUMED_TABLES)


@contextmanager
def take_time(connection: Connection) -> Iterator[Connection]:
    """Has no statement cut off, whatever the role's `statement_timeout` says; closes the connection."""
    with connection:
        try:
            connection.exec_driver_sql("SET statement_timeout = 0")
            yield connection
        finally:
            connection.invalidate()  # the pool must not hand the setting on
