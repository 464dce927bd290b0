"""An old racing day in the database, a folder to archive it into, and what its files hold."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any

from raceday_dagster.archive.archive import ArchiveStep, archive_partitions
from raceday_dagster.store.race_store import RaceStore
from raceday_dagster.store.schema.partitions import name_partition
from raceday_dagster.store.schema.tables import PARTITIONED_TABLES
from raceday_dagster_tests.integration.store.store_fixture import observe, open_store

OLD_DAY = date(2025, 7, 1)
BEFORE = date(2025, 7, 10)
MONEY, ODDS, POOLS = (name_partition(table, OLD_DAY) for table in PARTITIONED_TABLES)

FILL_MONEY = """
INSERT INTO money_flow_history
SELECT %(day)s, 'race-' || number %% 5, 'entrant-' || number, timestamptz '2025-07-01 00:50:00.000001+00', now(), 600,
    10.5, '5m', 12.25, 13, nullif(number, 3), 9007199254740993, 2, NULL, 4.5, -number, NULL, number %% 2 = 0,
    2.50, NULL, 3.10, 1
FROM generate_series(1, %(rows)s) AS number
"""
FILL_ODDS = """
INSERT INTO odds_history
SELECT %(day)s, 'race-' || number %% 5, 'entrant-' || number, 'fixed_win', 2.50,
    timestamptz '1999-12-31 23:59:59.999999+00', now()
FROM generate_series(1, %(rows)s) AS number
"""
FILL_POOLS = """
INSERT INTO pool_history
SELECT %(day)s, 'race-' || number %% 5, timestamptz '2025-07-01 00:50:00+00' + number * interval '1 second', now(), 600,
    10.5, number, 2, 3, 4, 5, 6, 7, 9007199254740993
FROM generate_series(1, %(rows)s) AS number
"""
PARTITION_NAMES = "SELECT relname FROM pg_class WHERE relkind = 'r' AND relname ~ '_history_[0-9]{4}_' ORDER BY 1"


@contextmanager
def open_old_day(database_url: str, *, rows: int = 20, pool_max: int = 3) -> Iterator[RaceStore]:
    """A store whose history has one old racing day beside today's, each table with so many rows; nothing else."""
    with observe(database_url) as run:
        for (name,) in run(PARTITION_NAMES):
            run(f"DROP TABLE {name}")
    with open_store(database_url, pool_max=pool_max) as store:
        store.ensure_partitions([OLD_DAY])
        add_rows(database_url, rows)
        yield store


def add_rows(database_url: str, rows: int, day: date = OLD_DAY) -> None:
    with observe(database_url) as run:
        for statement in (FILL_MONEY, FILL_ODDS, FILL_POOLS):
            run(statement, {"day": day, "rows": rows})


def archive(store: RaceStore, folder: Path, **options: Any) -> list[ArchiveStep]:
    """One whole run, which never waits long."""
    return list(archive_partitions(store.engine, folder, BEFORE, sleep=lambda _seconds: None, **options))


def stop_after(store: RaceStore, folder: Path, stage: str) -> ArchiveStep:
    """A run that ends like a killed one, right after the first step of a stage."""
    steps = archive_partitions(store.engine, folder, BEFORE)
    for step in steps:
        if step.stage == stage:
            steps.close()
            return step
    raise AssertionError(f"no step was {stage}")


def count_stages(steps: list[ArchiveStep]) -> dict[str, int]:
    stages = [step.stage for step in steps]
    return {stage: stages.count(stage) for stage in dict.fromkeys(stages)}


def list_files(folder: Path) -> list[str]:
    """Every file but the lock, relative to the folder."""
    return sorted(
        str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and path.name != ".lock"
    )


def list_partitions(database_url: str) -> list[str]:
    """Every history partition of the old day, attached or not."""
    with observe(database_url) as run:
        return [name for (name,) in run(PARTITION_NAMES) if name.endswith("2025_07_01")]


def read_table(database_url: str, table: str) -> list[tuple[Any, ...]]:
    """Every row, in the order of all its columns as text."""
    with observe(database_url) as run:
        run("SET TIME ZONE 'UTC'")
        return [tuple(row) for row in run(f"SELECT * FROM {table} AS row ORDER BY row::text")]


def ask_parquet(question: str) -> list[tuple[Any, ...]]:
    import duckdb

    with duckdb.connect(":memory:", config={"threads": 1}) as connection:
        return connection.execute(question).fetchall()


def read_parquet(file: Path) -> list[tuple[Any, ...]]:
    return ask_parquet(f"SELECT * FROM read_parquet('{file}')")


def in_any_order(rows: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    return sorted(rows, key=repr)
