"""Old history on its way out: what is in the files, what an interruption leaves, and what the next run makes of it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest

from raceday_dagster.store.race_store import RaceStore
from raceday_dagster_tests.integration.archive.archive_fixture import (
    BEFORE,
    MONEY,
    ODDS,
    OLD_DAY,
    add_rows,
    archive,
    ask_parquet,
    count_stages,
    in_any_order,
    list_files,
    list_partitions,
    open_old_day,
    read_parquet,
    read_table,
    stop_after,
)
from raceday_dagster_tests.integration.store.store_fixture import observe

FILES = [f"money_flow_history/{MONEY}.parquet", f"odds_history/{ODDS}.parquet"]
HOSTILE = [
    "",
    " ",
    "\\N",
    "\\.",
    "NULL",
    'a "quoted" one',
    "two\nlines",
    "a\r\nb",
    "a,b;c\td",
    "naïve 🐎 %s",
    "'; --",
    "x" * 900,
]


@pytest.fixture
def store(database_url: str) -> Iterator[RaceStore]:
    with open_old_day(database_url) as store:
        yield store


def test_an_old_day_becomes_a_file_a_table_and_leaves(store: RaceStore, database_url: str, tmp_path: Path) -> None:
    store.gauge.reset_peak()
    steps = archive(store, tmp_path)
    assert count_stages(steps) == {"detached": 2, "exported": 2, "dropped": 2}
    assert [step.rows for step in steps if step.stage == "dropped"] == [20, 20]
    assert list_files(tmp_path) == FILES
    assert list_partitions(database_url) == []
    assert store.gauge.peak == 1


def test_a_second_run_finds_nothing_to_do(store: RaceStore, tmp_path: Path) -> None:
    archive(store, tmp_path)
    before = [(tmp_path / name).stat().st_mtime_ns for name in FILES]
    assert archive(store, tmp_path) == []
    assert [(tmp_path / name).stat().st_mtime_ns for name in FILES] == before


def test_younger_days_stay(store: RaceStore, database_url: str, tmp_path: Path) -> None:
    store.ensure_partitions([BEFORE])
    archive(store, tmp_path)
    with observe(database_url) as run:
        [(attached,)] = run("SELECT count(*) FROM pg_inherits WHERE inhparent = 'odds_history'::regclass")
    assert attached == 5  # today, three days ahead, and the first day that is young enough


def test_every_value_of_every_type_is_in_the_files(store: RaceStore, database_url: str, tmp_path: Path) -> None:
    moment = datetime(2025, 7, 1, 11, 59, 59, 123456, tzinfo=UTC)
    with observe(database_url) as run:
        for text in HOSTILE:
            values = {"day": OLD_DAY, "text": text, "moment": moment}
            run("INSERT INTO odds_history VALUES (%(day)s, %(text)s, 'e', 'pool_win', 1.05, %(moment)s, now())", values)
    tables = {name: read_table(database_url, name) for name in (MONEY, ODDS)}
    assert len(tables[ODDS]) == 20 + len(HOSTILE)
    archive(store, tmp_path)
    for file, rows in zip(FILES, tables.values(), strict=True):
        assert in_any_order(read_parquet(tmp_path / file)) == in_any_order(in_utc(rows))
    sample = next(row for row in read_parquet(tmp_path / FILES[1]) if row[1] == "two\nlines")
    assert (sample[0], sample[4], sample[5]) == (OLD_DAY, Decimal("1.05"), moment)


def in_utc(rows: list[tuple[object, ...]]) -> list[tuple[object, ...]]:
    """The same rows with their instants spelt as DuckDB's are."""
    import pytz

    zone = pytz.timezone("Etc/UTC")
    return [tuple(value.astimezone(zone) if isinstance(value, datetime) else value for value in row) for row in rows]


def test_the_types_are_those_of_the_table(store: RaceStore, tmp_path: Path) -> None:
    archive(store, tmp_path)
    described = ask_parquet(f"DESCRIBE SELECT * FROM read_parquet('{tmp_path / FILES[0]}')")
    kinds = {row[0]: row[1] for row in described}
    assert kinds["racing_day"] == "DATE"
    assert kinds["polling_timestamp"] == kinds["event_timestamp"] == "TIMESTAMP WITH TIME ZONE"
    assert kinds["win_pool_amount"] == kinds["incremental_win_amount"] == "BIGINT"
    assert kinds["hold_percentage"] == "DECIMAL(6,2)"
    assert kinds["fixed_win_odds"] == "DECIMAL(10,2)"
    assert kinds["is_baseline"] == "BOOLEAN"
    assert kinds["time_to_start_s"] == "INTEGER"


def test_a_day_without_a_row_leaves_without_a_file(database_url: str, tmp_path: Path) -> None:
    with open_old_day(database_url, rows=0) as store:
        steps = archive(store, tmp_path)
    assert count_stages(steps) == {"detached": 2, "dropped": 2}
    assert list_files(tmp_path) == []
    assert list_partitions(database_url) == []


def test_a_run_that_ends_after_the_detach_is_finished_by_the_next(
    store: RaceStore, database_url: str, tmp_path: Path
) -> None:
    stop_after(store, tmp_path, "detached")
    assert list_partitions(database_url) == [MONEY, ODDS]
    assert count_stages(archive(store, tmp_path)) == {"exported": 2, "dropped": 2, "detached": 1}
    assert list_files(tmp_path) == FILES
    assert list_partitions(database_url) == []


def test_what_a_killed_export_leaves_is_swept_away(store: RaceStore, database_url: str, tmp_path: Path) -> None:
    stop_after(store, tmp_path, "detached")
    for suffix in ("csv", "parquet"):
        leftover = tmp_path / "money_flow_history" / f".{MONEY}.{suffix}.partial"
        leftover.parent.mkdir(exist_ok=True)
        leftover.write_bytes(b"half a file")
    archive(store, tmp_path)
    assert list_files(tmp_path) == FILES
    assert len(read_parquet(tmp_path / FILES[0])) == 20


def test_a_run_that_ends_before_the_drop_is_not_exported_again(
    store: RaceStore, database_url: str, tmp_path: Path
) -> None:
    stop_after(store, tmp_path, "exported")
    assert list_partitions(database_url) == [MONEY, ODDS]
    made = (tmp_path / FILES[0]).stat().st_mtime_ns
    first, *_ = steps = archive(store, tmp_path)
    assert (first.stage, first.partition, first.exported_before) == ("dropped", MONEY, True)
    assert count_stages(steps)["exported"] == 1
    assert (tmp_path / FILES[0]).stat().st_mtime_ns == made
    assert list_files(tmp_path) == FILES


def test_a_file_that_was_damaged_before_the_drop_is_made_again(
    store: RaceStore, database_url: str, tmp_path: Path
) -> None:
    stop_after(store, tmp_path, "exported")
    file = tmp_path / FILES[0]
    damaged = bytearray(file.read_bytes())
    damaged[4:400] = bytes(396)  # the rows; what the file says of itself stays
    file.write_bytes(damaged)
    archive(store, tmp_path)
    assert len(read_parquet(tmp_path / "money_flow_history" / f"{MONEY}_2.parquet")) == 20
    assert list_partitions(database_url) == []


def test_a_replay_of_an_archived_day_becomes_a_second_file(store: RaceStore, tmp_path: Path, database_url: str) -> None:
    archive(store, tmp_path)
    kept = (tmp_path / FILES[0]).read_bytes()
    store.ensure_partitions([OLD_DAY])
    add_rows(database_url, 3)
    archive(store, tmp_path)
    assert (tmp_path / FILES[0]).read_bytes() == kept
    assert len(read_parquet(tmp_path / "money_flow_history" / f"{MONEY}_2.parquet")) == 3
    store.ensure_partitions([OLD_DAY])
    add_rows(database_url, 4)
    archive(store, tmp_path)
    assert len(list_files(tmp_path)) == 6


def test_a_leftover_that_a_replay_attaches_and_fills_is_exported_whole(
    store: RaceStore, database_url: str, tmp_path: Path
) -> None:
    stop_after(store, tmp_path, "exported")
    assert ODDS not in store.ensure_partitions([OLD_DAY])
    with observe(database_url) as run:
        run(f"UPDATE {MONEY} SET hold_percentage = 99 WHERE entrant_id = 'entrant-1'")
    assert count_stages(archive(store, tmp_path)) == {"detached": 2, "exported": 2, "dropped": 2}
    second = read_parquet(tmp_path / "money_flow_history" / f"{MONEY}_2.parquet")
    assert len(second) == len(read_parquet(tmp_path / FILES[0])) == 20
    assert [row[8] for row in second if row[2] == "entrant-1"] == [Decimal("99.00")]


def test_a_file_that_is_not_ours_keeps_its_name(store: RaceStore, tmp_path: Path) -> None:
    stranger = tmp_path / FILES[0]
    stranger.parent.mkdir()
    stranger.write_text("notes")
    archive(store, tmp_path)
    assert stranger.read_text() == "notes"
    assert len(read_parquet(tmp_path / "money_flow_history" / f"{MONEY}_2.parquet")) == 20
