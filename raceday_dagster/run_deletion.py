"""How runs leave Dagster's tables, many at a time, and how the tables get their space back. Not: which runs go."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from dagster._core.events import ASSET_EVENTS
from dagster._core.storage.event_log.schema import AssetEventTagsTable, SqlEventLogStorageTable
from dagster._core.storage.runs.schema import RunsTable
from sqlalchemy import Connection, select

VACUUMED_TABLES = ("event_logs", "runs", "run_tags", "asset_event_tags", "dynamic_partitions", "job_ticks")

_EVENTS = SqlEventLogStorageTable.c


class DeletesRuns:
    """For a run storage in PostgreSQL, in autocommit. Both methods raise what `connect` raises, and SQLAlchemy."""

    def connect(self) -> Connection:
        """A connection for one of the methods, which closes it."""
        raise NotImplementedError

    def delete_runs(self, run_ids: Sequence[str]) -> int:
        """Delete runs with their tags and events, in three statements however many they are; return the event rows.

        `delete_run` takes five statements for each, and reads the tables of concurrency slots, which runs that ended
        have left. Events go first: what an interruption leaves is still a run, and found again.
        """
        about_assets = [kind.value for kind in ASSET_EVENTS]
        of_assets = select(_EVENTS.id).where(_EVENTS.run_id.in_(run_ids), _EVENTS.dagster_event_type.in_(about_assets))
        with self._take_time() as connection:
            connection.execute(AssetEventTagsTable.delete().where(AssetEventTagsTable.c.event_id.in_(of_assets)))
            deleted = connection.execute(SqlEventLogStorageTable.delete().where(_EVENTS.run_id.in_(run_ids)))
            connection.execute(RunsTable.delete().where(RunsTable.c.run_id.in_(run_ids)))
        return deleted.rowcount

    def vacuum(self) -> list[str]:
        """Give the space of deleted rows back to the tables that runs and ticks fill; return their names."""
        with self._take_time() as connection:
            for table in VACUUMED_TABLES:
                connection.exec_driver_sql(f"VACUUM (ANALYZE) {table}")
        return list(VACUUMED_TABLES)

    @contextmanager
    def _take_time(self) -> Iterator[Connection]:
        """A connection whose statements are not cut off, whatever the role's `statement_timeout` says."""
        with self.connect() as connection:
            try:
                connection.exec_driver_sql("SET statement_timeout = 0")
                yield connection
            finally:
                connection.invalidate()  # the pool must not hand the setting on
