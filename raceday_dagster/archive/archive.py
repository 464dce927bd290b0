"""Old history leaves the database: detached, exported, and dropped when the file is proved to hold every row.

Each step leaves a state from which the next run goes on: attached, detached, detached with a file, gone. Only the drop
destroys anything, and it happens under a lock that keeps the table from being attached again, when its content is still
what the file holds. Belongs here: the order of the steps. Does not: which run does it, and when.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator
from datetime import date
from pathlib import Path
from typing import Literal

from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from raceday_dagster.archive.content import (
    Content,
    HistoryColumns,
    copy_rows,
    measure_content,
    read_columns,
    read_version,
)
from raceday_dagster.archive.folder import ArchiveFolder, open_folder
from raceday_dagster.archive.ledger import LEDGER_TABLES, find_old_days, set_aside
from raceday_dagster.archive.parquet import ParquetError, holds_rows, write_parquet
from raceday_dagster.archive.partitions import (
    DETACH_WITHIN_S,
    HistoryPartition,
    detach_partition,
    read_partitions,
)
from raceday_dagster.errors import ArchiveError
from raceday_dagster.racing.records import Record
from raceday_dagster.store.schema.partitions import PARTITION_LOCK_KEY
from raceday_dagster.store.schema.tables import PARTITIONED_TABLES
from raceday_dagster.store.sql_errors import (
    LOCK_NOT_AVAILABLE,
    QUERY_CANCELED,
    describe_cause,
    naming_database_errors,
    read_sqlstate,
)

READING = "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY; SET LOCAL TIME ZONE 'UTC'; "
LIMITS = "SET LOCAL lock_timeout = 2000; SET LOCAL statement_timeout = 600000; SET LOCAL datestyle = 'ISO, YMD'"
# Nothing waits here for a lock while it holds another: whoever makes a partition has these two in the other order.
TRY_LOCK = f"SELECT pg_try_advisory_xact_lock({PARTITION_LOCK_KEY})"
ATTACHED = "SELECT EXISTS (SELECT FROM pg_inherits WHERE inhrelid = to_regclass(%(name)s))"
DROP_PAUSES_S = (1.0, 2.0)

Stage = Literal["detached", "exported", "dropped", "not_detached", "not_archived"]
FAILURES = frozenset({"not_detached", "not_archived"})
LAST_STAGES = FAILURES | {"dropped"}


class ArchiveStep(Record):
    """Something that has happened to a partition."""

    stage: Stage
    partition: str
    rows: int = 0
    file: str = ""
    """Path of the Parquet file; empty for a partition without a row, which needs none."""
    exported_before: bool = False
    """The file is of an earlier run, which did not get to the drop."""
    reason: str = ""
    """Why a step failed: one line."""


def archive_partitions(
    engine: Engine,
    folder: Path,
    before: date,
    *,
    ledger_before: date | None = None,
    detach_within_s: float = DETACH_WITHIN_S,
    sleep: Callable[[float], None] = time.sleep,
) -> Generator[ArchiveStep, None, None]:
    """Archives the partitions of racing days before ``before``, the oldest first, over one connection at a time; then
    the ledger's rows of days (New Zealand) before ``ledger_before``, each day in a table of its own.

    A partition that cannot be archived is a step of one of the ``FAILURES``; the others go on.

    Args:
        detach_within_s: How long a detach may wait for transactions that began before it.
        sleep: Between tries to lock a table that somebody reads.

    Raises:
        ArchiveError: The folder cannot be used; nothing has happened.
        DatabaseError: The database cannot be used.
    """
    with open_folder(folder) as opened:
        for table in PARTITIONED_TABLES:
            for partition in _read_old(engine, table, before):
                archiving = _Archiving(engine, opened, partition)
                stages = []
                for step in archiving.steps(detach_within_s, sleep):
                    stages.append(step.stage)
                    yield step
                if "not_detached" in stages:
                    break  # a parent has one unfinished detach at most: the next would be refused
        if ledger_before is not None:
            for partition in _set_ledger_aside(engine, ledger_before):
                yield ArchiveStep(stage="detached", partition=partition.name)
                yield from _Archiving(engine, opened, partition).steps(detach_within_s, sleep)


def _set_ledger_aside(engine: Engine, before: date) -> Iterator[HistoryPartition]:
    """The old days of the ledger, each in its table; those of a run that ended before the drop come first."""
    for table in LEDGER_TABLES:
        yield from _read_old(engine, table, before)
        for day in find_old_days(engine, table, before):
            yield set_aside(engine, table, day)


def _read_old(engine: Engine, table: str, before: date) -> list[HistoryPartition]:
    """What is detached already comes first, and an interrupted detach before it, however young."""
    with naming_database_errors(engine), engine.connect() as connection:
        found = read_partitions(connection, table)
    old = [partition for partition in found if partition.racing_day < before or partition.half_detached]
    return sorted(old, key=lambda partition: (not partition.half_detached, partition.attached, partition.racing_day))


class _PartitionsBusyError(ArchiveError):
    """Somebody is making partitions, perhaps of this very table."""


class _Archiving:
    """One partition on its way out."""

    def __init__(self, engine: Engine, folder: ArchiveFolder, partition: HistoryPartition) -> None:
        self._engine = engine
        self._folder = folder
        self._partition = partition
        self._name = partition.name

    def steps(self, detach_within_s: float, sleep: Callable[[float], None]) -> Iterator[ArchiveStep]:
        if self._partition.attached:
            try:
                detach_partition(self._engine, self._partition, within_s=detach_within_s)
            except SQLAlchemyError as error:
                yield ArchiveStep(stage="not_detached", partition=self._name, reason=_explain(error))
                return
            yield ArchiveStep(stage="detached", partition=self._name)
        try:
            content, file, exported_before = self._export()
            done = {
                "partition": self._name,
                "rows": content.rows,
                "file": str(file or ""),
                "exported_before": exported_before,
            }
            if file is not None and not exported_before:
                yield ArchiveStep(stage="exported", **done)
            self._drop(content, sleep)
            yield ArchiveStep(stage="dropped", **done)
        except (SQLAlchemyError, ArchiveError, OSError) as error:
            yield ArchiveStep(stage="not_archived", partition=self._name, reason=_explain(error))

    def _export(self) -> tuple[Content, Path | None, bool]:
        """What the table holds, the file that holds the same, and whether that was there before."""
        place = (self._partition.table, self._name)
        with self._folder.partial(*place, "csv") as rows, self._folder.partial(*place, "parquet") as partial:
            with self._engine.connect() as connection:
                connection.exec_driver_sql(READING + LIMITS)
                columns = read_columns(connection, self._name)
                content = measure_content(connection, self._name, columns)
                if content.rows == 0:
                    return content, None, False
                copy_rows(connection, self._name, rows)
            for file in self._folder.find_files(*place):
                if _holds_rows(file, rows, columns, content):
                    self._folder.force(file)
                    return content, file, True
            write_parquet(rows, columns, partial)
            if not holds_rows(partial, rows, columns, content):
                raise ArchiveError("the file does not hold what the table holds")
            return content, self._folder.keep(partial, *place), False

    def _drop(self, content: Content, sleep: Callable[[float], None]) -> None:
        for pause_s in DROP_PAUSES_S:
            try:
                return self._drop_now(content)
            except SQLAlchemyError as error:
                if read_sqlstate(error) != LOCK_NOT_AVAILABLE:
                    raise
            except _PartitionsBusyError:
                pass
            sleep(pause_s)
        return self._drop_now(content)

    def _drop_now(self, content: Content) -> None:
        with self._engine.begin() as connection:
            connection.exec_driver_sql(f"{LIMITS}; LOCK TABLE {self._name} IN ACCESS EXCLUSIVE MODE NOWAIT")
            if connection.exec_driver_sql(ATTACHED, {"name": self._name}).scalar_one():
                raise ArchiveError("it was attached again, for a replay")
            if read_version(connection, self._name) != (content.rows, content.version):
                raise ArchiveError("rows were written to it after the export")
            # Last, and for a moment: every batch asks for it when it begins.
            if not connection.exec_driver_sql(TRY_LOCK).scalar_one():
                raise _PartitionsBusyError("partitions are being made at this moment")
            connection.exec_driver_sql(f"DROP TABLE {self._name}")


def _holds_rows(file: Path, rows: Path, columns: HistoryColumns, content: Content) -> bool:
    """Whether a run that ended short of the drop made this file, and it is still whole. Otherwise it keeps its name,
    and ours gets the next."""
    try:
        return holds_rows(file, rows, columns, content)
    except ParquetError:
        return False


def _explain(error: Exception) -> str:
    if read_sqlstate(error) in {QUERY_CANCELED, LOCK_NOT_AVAILABLE}:
        return f"something else uses it for too long ({describe_cause(error)}); the next run goes on from here"
    if isinstance(error, OSError):
        return f"the archive folder: {error.strerror}; make room or correct ARCHIVE_DIR, the next run goes on from here"
    return f"{describe_cause(error)}; the next run goes on from here"
