"""Which history partitions there are, and how one leaves its parent while races go on being written.

``DETACH PARTITION CONCURRENTLY`` lets every reader and writer go on; it waits for those that began before it. When that
takes too long it is cut off, half done: new queries no longer see the partition, and ``FINALIZE`` ends it later.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from threading import Timer
from typing import Any

from sqlalchemy import Connection, Engine

from raceday_dagster.racing.records import Record
from raceday_dagster.store.schema.partitions import read_racing_day

DETACH_WITHIN_S = 30.0

# Tables with a partition's name that are attached to nothing are partitions that an earlier run has detached.
PARTITIONS = r"""
SELECT child.relname, pg_inherits.inhrelid IS NOT NULL, coalesce(pg_inherits.inhdetachpending, false)
FROM pg_class AS child
JOIN pg_class AS parent ON parent.oid = %(table)s::regclass AND parent.relnamespace = child.relnamespace
LEFT JOIN pg_inherits ON pg_inherits.inhrelid = child.oid
WHERE child.relkind = 'r' AND starts_with(child.relname, %(table)s)
    AND (pg_inherits.inhrelid IS NULL OR pg_inherits.inhparent = parent.oid)
ORDER BY child.relname
"""


class HistoryPartition(Record):
    """One racing day of one history table, attached or not."""

    table: str
    name: str
    racing_day: date
    attached: bool
    half_detached: bool
    """A detach was interrupted: ``FINALIZE`` it before anything else."""


def read_partitions(connection: Connection, table: str) -> list[HistoryPartition]:
    """The partitions of a history table and the detached ones, the oldest first. Raises what SQLAlchemy raises."""
    return [
        HistoryPartition(table=table, name=name, racing_day=racing_day, attached=attached, half_detached=pending)
        for name, attached, pending in connection.exec_driver_sql(PARTITIONS, {"table": table})
        if (racing_day := read_racing_day(table, name)) is not None
    ]


def detach_partition(engine: Engine, partition: HistoryPartition, *, within_s: float = DETACH_WITHIN_S) -> None:
    """Detaches a partition, or ends its interrupted detach.

    Raises:
        SQLAlchemyError: It is still attached, or half detached.
    """
    how = "FINALIZE" if partition.half_detached else "CONCURRENTLY"
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        try:
            with _cut_off(connection, within_s):
                connection.exec_driver_sql(f"ALTER TABLE {partition.table} DETACH PARTITION {partition.name} {how}")
        finally:
            connection.invalidate()  # a request to cancel may come late, and must not meet another statement


@contextmanager
def _cut_off(connection: Connection, within_s: float) -> Iterator[None]:
    # The statement allows no transaction around it, and so no SET LOCAL; a setting of the session is not for a pool.
    driver: Any = connection.connection.driver_connection
    timer = Timer(within_s, driver.cancel)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()
