"""Archiving while races are written, read and replayed, and when the disk or somebody else is in the way."""

from __future__ import annotations

import itertools
import re
import resource
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import NullPool, create_engine

from raceday_dagster.archive.archive import ArchiveStep, archive_partitions
from raceday_dagster.archive.folder import open_folder
from raceday_dagster.errors import ArchiveError, WriteError
from raceday_dagster.store.race_store import RaceStore
from raceday_dagster.store.transaction import LOCK_TIMEOUT_MS
from raceday_dagster_tests.integration.archive.archive_fixture import (
    BEFORE,
    MONEY,
    ODDS,
    OLD_DAY,
    POOLS,
    archive,
    count_stages,
    list_files,
    list_partitions,
    open_old_day,
    read_parquet,
)
from raceday_dagster_tests.integration.store.store_fixture import make_partitions, observe, watch_statements, write
from raceday_dagster_tests.waiting import wait_for
from raceday_dagster_tests.write_snapshots import make_snapshot

WAITING_DETACH = """
SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'ALTER TABLE%%DETACH%%' AND wait_event_type = 'Lock'
"""
OLD_START = datetime(OLD_DAY.year, OLD_DAY.month, OLD_DAY.day, tzinfo=UTC)
HALF_DETACHED = "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhdetachpending"


@pytest.fixture
def store(database_url: str) -> Iterator[RaceStore]:
    with open_old_day(database_url) as store:
        yield store


@contextmanager
def transaction(database_url: str, statement: str) -> Iterator[None]:
    """A transaction that has run a statement and stays open while the block runs."""
    engine = create_engine(database_url, poolclass=NullPool)
    with engine.connect() as connection:
        connection.exec_driver_sql(statement)
        yield
        connection.rollback()


def test_races_are_written_while_a_detach_waits_for_an_older_write(
    store: RaceStore, database_url: str, tmp_path: Path
) -> None:
    make_partitions(store)
    with ThreadPoolExecutor(1) as thread, observe(database_url) as run:
        with transaction(database_url, "SELECT count(*) FROM money_flow_history"):
            archiving = thread.submit(archive, store, tmp_path)
            assert wait_for(lambda: run(WAITING_DETACH)[0][0] == 1, 10)
            for poll in range(3):
                report = write(store, make_snapshot(poll=poll), run_id=f"run-{poll}")
                assert report.row_counts.money_flow_history == 8
            assert run(WAITING_DETACH)[0][0] == 1
            assert not archiving.done()
        assert count_stages(archiving.result(30)) == {"detached": 3, "exported": 3, "dropped": 3}
    assert len(list_files(tmp_path)) == 3


def test_a_detach_that_waits_too_long_is_cut_off_and_ended_by_the_next_run(
    store: RaceStore, database_url: str, tmp_path: Path
) -> None:
    with transaction(database_url, "SELECT count(*) FROM money_flow_history"), observe(database_url) as run:
        steps = archive(store, tmp_path, detach_within_s=0.2)
        assert run(HALF_DETACHED) == [(MONEY,)]
        replay = make_snapshot("replayed", race={"start_time": OLD_START, "race_date_nz": OLD_DAY})
        with pytest.raises(WriteError, match="no partition"):
            write(store, replay)  # by a process that knew the day
        with pytest.raises(WriteError, match=f"^{MONEY} is half archived: run the job maintenance") as caught:
            write(store, replay)
        assert (caught.value.race_id, caught.value.retryable) == ("replayed", False)
    assert [(step.stage, step.partition) for step in steps[:1]] == [("not_detached", MONEY)]
    assert "something else uses it for too long" in steps[0].reason
    assert [step.partition for step in steps[1:]] == [ODDS] * 3 + [POOLS] * 3  # the other tables are archived
    assert count_stages(archive(store, tmp_path)) == {"detached": 1, "exported": 1, "dropped": 1}
    assert len(list_files(tmp_path)) == 3
    assert list_partitions(database_url) == []


def test_a_replay_waits_for_a_detach_no_longer_than_a_batch_waits_for_the_replay(
    store: RaceStore, database_url: str
) -> None:
    busy = "LOCK TABLE money_flow_history IN SHARE UPDATE EXCLUSIVE MODE"
    waits: list[int] = []

    def read_limit(connection: Any, statement: str) -> str:
        if "ATTACH PARTITION" in statement:
            waits.append(int(re.findall(r"lock_timeout = (\d+)", statement)[-1]))
        return statement

    watching = watch_statements(store.engine, at=1, times=99, action=read_limit)
    with transaction(database_url, busy), watching, pytest.raises(WriteError, match="55P03") as caught:
        store.ensure_partitions([OLD_DAY - timedelta(days=1)])
    assert caught.value.retryable
    assert len(waits) == 2  # one more try
    assert sum(waits) < LOCK_TIMEOUT_MS


def do_after_export(store: RaceStore, folder: Path, deed: Callable[[], object]) -> list[ArchiveStep]:
    """A run during which something happens between the first export and its drop."""
    steps = []
    for step in archive_partitions(store.engine, folder, BEFORE, sleep=lambda _seconds: None):
        steps.append(step)
        if step.stage == "exported" and step.partition == MONEY:
            deed()
    assert any(step.stage == "exported" and step.partition == MONEY for step in steps)
    return steps


def test_a_table_that_is_attached_again_is_not_dropped(store: RaceStore, database_url: str, tmp_path: Path) -> None:
    steps = do_after_export(store, tmp_path, lambda: store.ensure_partitions([OLD_DAY]))
    assert [step.reason for step in steps if step.stage == "not_archived" and step.partition == MONEY] == [
        "it was attached again, for a replay; the next run goes on from here"
    ]
    with observe(database_url) as run:
        assert run("SELECT count(*) FROM money_flow_history") == [(20,)]


def test_a_table_that_was_written_to_is_not_dropped(store: RaceStore, database_url: str, tmp_path: Path) -> None:
    with observe(database_url) as run:
        # Another value in the same number of rows: only their versions tell.
        steps = do_after_export(store, tmp_path, lambda: run(f"UPDATE {MONEY} SET bet_percentage = 1"))
    assert [step.reason.partition(";")[0] for step in steps if step.stage == "not_archived"] == [
        "rows were written to it after the export"
    ]
    assert list_partitions(database_url) == [MONEY]
    archive(store, tmp_path)
    second = read_parquet(tmp_path / "money_flow_history" / f"{MONEY}_2.parquet")
    assert {row[9] for row in second} == {1}


def test_a_table_that_somebody_reads_is_left_to_the_next_run(
    store: RaceStore, database_url: str, tmp_path: Path
) -> None:
    reader = transaction(database_url, f"SELECT count(*) FROM {MONEY}")
    try:
        steps = do_after_export(store, tmp_path, reader.__enter__)
    finally:
        reader.__exit__(None, None, None)
    assert [(step.stage, step.partition) for step in steps if step.reason] == [("not_archived", MONEY)]
    assert "could not obtain lock" in steps[2].reason
    assert count_stages(archive(store, tmp_path)) == {"dropped": 1}
    assert len(list_files(tmp_path)) == 3


def test_a_full_disk_costs_nothing_and_is_one_line(database_url: str, tmp_path: Path) -> None:
    with open_old_day(database_url, rows=5_000) as store:
        with largest_file(200_000):
            steps = archive(store, tmp_path)
        failed = [step for step in steps if step.stage == "not_archived"]
        assert [step.partition for step in failed] == [MONEY, ODDS, POOLS]
        assert all(step.reason.startswith("the archive folder: File too large; make room") for step in failed)
        assert list_files(tmp_path) == []
        assert list_partitions(database_url) == [MONEY, ODDS, POOLS]
        assert count_stages(archive(store, tmp_path)) == {"exported": 3, "dropped": 3}
    assert len(read_parquet(tmp_path / "money_flow_history" / f"{MONEY}.parquet")) == 5_000


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """What a full disk is to whoever writes: an ``OSError`` in the middle of a file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


class KilledError(BaseException):
    """The end of a run at one of its statements, which nothing catches."""


def kill(_connection: object, _statement: str) -> str:
    raise KilledError


def test_wherever_a_run_is_killed_the_next_one_finishes_and_exports_nothing_twice(
    database_url: str, tmp_path: Path
) -> None:
    for number in itertools.count(1):
        folder = tmp_path / str(number)
        with open_old_day(database_url, rows=4) as store:
            with observe(database_url) as run:
                run(f"DROP TABLE {ODDS}, {POOLS}")  # one table tells it all
            try:
                with watch_statements(store.engine, at=number, action=kill) as statements:
                    archive(store, folder)
            except KilledError:
                assert statements.fired == 1
            killed = statements.fired == 1
            archive(store, folder)
            assert list_partitions(database_url) == []
            assert [len(read_parquet(folder / file)) for file in list_files(folder)] == [4]
        if not killed:
            break
    assert number > 10


def test_a_folder_that_cannot_be_made_leaves_all_where_it_was(
    store: RaceStore, database_url: str, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(ArchiveError, match=r"cannot be written to \(Not a directory\): nothing was archived") as caught:
        archive(store, tmp_path / "file" / "archive")
    assert "\n" not in str(caught.value)
    with observe(database_url) as run:
        assert run("SELECT count(*) FROM money_flow_history") == [(20,)]


def test_two_runs_do_not_share_a_folder(store: RaceStore, tmp_path: Path) -> None:
    with open_folder(tmp_path), pytest.raises(ArchiveError, match="in use by another process"):
        archive(store, tmp_path)
    assert len(archive(store, tmp_path)) == 9


def test_a_column_of_an_unknown_type_keeps_its_partition(store: RaceStore, database_url: str, tmp_path: Path) -> None:
    with observe(database_url) as run:
        run("ALTER TABLE odds_history ADD COLUMN extra uuid")
    try:
        steps = archive(store, tmp_path)
    finally:
        with observe(database_url) as run:
            run("ALTER TABLE odds_history DROP COLUMN extra")
            run(f"DROP TABLE {ODDS}")
    assert [step.reason for step in steps if step.reason] == [
        "column extra has the type uuid, which no Parquet type is chosen for; the next run goes on from here"
    ]


def test_a_partition_from_before_an_upgrade_is_exported_with_the_columns_it_has(
    store: RaceStore, database_url: str, tmp_path: Path
) -> None:
    with observe(database_url) as run:
        run(f"ALTER TABLE odds_history DETACH PARTITION {ODDS}")
        run(f"ALTER TABLE {ODDS} DROP COLUMN odds")
    archive(store, tmp_path)
    assert len(read_parquet(tmp_path / "odds_history" / f"{ODDS}.parquet")[0]) == 6
