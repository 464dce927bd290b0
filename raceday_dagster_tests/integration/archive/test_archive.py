"""Old history on its way out: what is in the files, what an interruption leaves, and what the next run makes of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from raceday_dagster.archive.ledger import find_old_days, set_aside
from raceday_dagster.store.race_store import RaceStore
from raceday_dagster_tests.integration.archive.archive_fixture import (
    BEFORE,
    MONEY,
    ODDS,
    OLD_DAY,
    POOLS,
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

DAY = timedelta(days=1)
FILES = [f"money_flow_history/{MONEY}.parquet", f"odds_history/{ODDS}.parquet", f"pool_history/{POOLS}.parquet"]
TYPES = {
    "racing_day": "DATE",
    "polling_timestamp": "TIMESTAMP WITH TIME ZONE",
    "win_pool_amount": "BIGINT",
    "hold_percentage": "DECIMAL(6,2)",
    "fixed_win_odds": "DECIMAL(10,2)",
    "is_baseline": "BOOLEAN",
    "time_to_start_s": "INTEGER",
}
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
    assert count_stages(steps) == {"detached": 3, "exported": 3, "dropped": 3}
    assert [step.rows for step in steps if step.stage == "dropped"] == [20, 20, 20]
    assert list_files(tmp_path) == FILES
    assert list_partitions(database_url) == []
    assert store.gauge.peak == 1
    assert archive(store, tmp_path) == []


def test_younger_days_stay(store: RaceStore, database_url: str, tmp_path: Path) -> None:
    store.ensure_partitions([BEFORE])
    archive(store, tmp_path)
    with observe(database_url) as run:
        [(attached,)] = run("SELECT count(*) FROM pg_inherits WHERE inhparent = 'odds_history'::regclass")
    assert attached == 5  # today, three days ahead, and the first day that is young enough


def test_a_file_holds_every_value_in_the_type_it_had(store: RaceStore, database_url: str, tmp_path: Path) -> None:
    moment = datetime(2025, 7, 1, 11, 59, 59, 123456, tzinfo=UTC)
    with observe(database_url) as run:
        for text in HOSTILE:
            values = {"day": OLD_DAY, "text": text, "moment": moment}
            run("INSERT INTO odds_history VALUES (%(day)s, %(text)s, 'e', 'pool_win', 1.05, %(moment)s, now())", values)
    tables = {name: read_table(database_url, name) for name in (MONEY, ODDS, POOLS)}
    assert len(tables[ODDS]) == 20 + len(HOSTILE)
    archive(store, tmp_path)
    for file, rows in zip(FILES, tables.values(), strict=True):
        assert in_any_order(read_parquet(tmp_path / file)) == in_any_order(in_utc(rows))
    sample = next(row for row in read_parquet(tmp_path / FILES[1]) if row[1] == "two\nlines")
    assert (sample[0], sample[4], sample[5]) == (OLD_DAY, Decimal("1.05"), moment)
    described = ask_parquet(f"DESCRIBE SELECT * FROM read_parquet('{tmp_path / FILES[0]}')")
    assert {row[0]: row[1] for row in described}.items() >= TYPES.items()


def in_utc(rows: list[tuple[object, ...]]) -> list[tuple[object, ...]]:
    """The same rows with their instants spelt as DuckDB's are."""
    import pytz

    zone = pytz.timezone("Etc/UTC")
    return [tuple(value.astimezone(zone) if isinstance(value, datetime) else value for value in row) for row in rows]


def test_a_day_without_a_row_leaves_without_a_file(database_url: str, tmp_path: Path) -> None:
    with open_old_day(database_url, rows=0) as store:
        steps = archive(store, tmp_path)
    assert count_stages(steps) == {"detached": 3, "dropped": 3}
    assert list_files(tmp_path) == []
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
    assert list_partitions(database_url) == [MONEY, ODDS, POOLS]
    made = (tmp_path / FILES[0]).stat().st_mtime_ns
    first, *_ = steps = archive(store, tmp_path)
    assert (first.stage, first.partition, first.exported_before) == ("dropped", MONEY, True)
    assert count_stages(steps)["exported"] == 2
    assert (tmp_path / FILES[0]).stat().st_mtime_ns == made
    assert list_files(tmp_path) == FILES


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
    assert len(list_files(tmp_path)) == 9


def test_a_leftover_that_a_replay_attaches_and_fills_is_exported_whole(
    store: RaceStore, database_url: str, tmp_path: Path
) -> None:
    stop_after(store, tmp_path, "exported")
    assert ODDS not in store.ensure_partitions([OLD_DAY])
    with observe(database_url) as run:
        run(f"UPDATE {MONEY} SET hold_percentage = 99 WHERE entrant_id = 'entrant-1'")
    assert count_stages(archive(store, tmp_path)) == {"detached": 3, "exported": 3, "dropped": 3}
    second = read_parquet(tmp_path / "money_flow_history" / f"{MONEY}_2.parquet")
    assert len(second) == len(read_parquet(tmp_path / FILES[0])) == 20
    assert [row[8] for row in second if row[2] == "entrant-1"] == [Decimal("99.00")]


def damage(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[4:400] = bytes(396)  # the rows; what the file says of itself stays
    file.write_bytes(content)


def swap_two_values(file: Path) -> None:
    """Leaves the number of rows and every sum as they were."""
    ask_parquet(f"""
        CREATE TABLE swapped AS FROM '{file}';
        UPDATE swapped SET win_pool_amount = CASE entrant_id WHEN 'entrant-1' THEN 2 ELSE 1 END
        WHERE entrant_id IN ('entrant-1', 'entrant-2');
        COPY swapped TO '{file}' (FORMAT parquet)
    """)


def replace_by_notes(file: Path) -> None:
    file.write_text("notes")


@pytest.mark.parametrize("spoil", [damage, swap_two_values, replace_by_notes])
def test_a_file_that_does_not_hold_the_rows_keeps_its_name_and_another_is_made(
    store: RaceStore, database_url: str, tmp_path: Path, spoil: Callable[[Path], None]
) -> None:
    stop_after(store, tmp_path, "exported")
    file = tmp_path / FILES[0]
    spoil(file)
    spoilt = file.read_bytes()
    archive(store, tmp_path)
    assert file.read_bytes() == spoilt
    assert len(read_parquet(file.with_name(f"{MONEY}_2.parquet"))) == 20
    assert list_partitions(database_url) == []


def test_old_days_of_the_ledger_become_files_and_leave(store: RaceStore, database_url: str, tmp_path: Path) -> None:
    ledger = {
        "race_polls": "(run_id, race_id, polled_at, status) SELECT 'run', 'race-' || n, ",
        "batches": "SELECT 'run-' || n, ",
        "market_signals": "SELECT 'race', 'runner-' || n, 'share', ",
    }
    rest = {
        "race_polls": ", 'success'",
        "batches": ", 5, 5, 0, 0, 0, 1, 2, false, 5, 5, 10, 5",
        "market_signals": ", now(), '2025-07-01', 60, 1, 12, 18, 6, '5-10', true, true, false, '{\"a\": [12, 18]}'",
    }
    with observe(database_url) as run:
        run(
            "INSERT INTO meetings (meeting_id, country, category, race_type, racing_day)"
            " VALUES ('m', 'NZ', 'T', 'thoroughbred', '2025-07-01')"
        )
        run(
            "INSERT INTO races (race_id, meeting_id, racing_day, race_number, start_time, type)"
            " VALUES ('race', 'm', '2025-07-01', 1, now(), 'T')"
        )
        for table, columns in ledger.items():
            for age, day in enumerate(["2025-07-01 11:59:59+00", "2025-07-01 12:00:00+00", "2025-07-09 12:00:00+00"]):
                rows = f"generate_series({7 * age}, {7 * age + 6}) AS n"
                run(f"INSERT INTO {table} {columns} timestamptz '{day}'{rest[table]} FROM {rows}")
        before = {table: run(f"SELECT * FROM {table}") for table in ledger}
    assert [find_old_days(store.engine, table, BEFORE) for table in ledger] == [[OLD_DAY, OLD_DAY + DAY]] * 3

    aside = set_aside(store.engine, "race_polls", OLD_DAY, rows_at_once=3)  # and the run ends here
    steps = archive(store, tmp_path, ledger_before=BEFORE)
    assert steps[-1].stage == "dropped"
    assert [step.rows for step in steps if step.stage == "dropped"] == [20, 20, 20, 7, 7, 7, 7, 7, 7]
    assert archive(store, tmp_path, ledger_before=BEFORE) == []
    with observe(database_url) as run:
        left = {table: run(f"SELECT * FROM {table}") for table in ledger}
        assert run("SELECT to_regclass(%(name)s)", {"name": aside.name}) == [(None,)]
    for table in ledger:
        files = [file for file in list_files(tmp_path) if file.startswith(f"{table}/")]
        assert files == [f"{table}/{table}_2025_07_0{day}.parquet" for day in (1, 2)]
        archived = [row for file in files for row in read_parquet(tmp_path / file)]
        assert len(archived) == 14
        assert len(left[table]) == 7
        assert {row[:2] for row in before[table]} == {row[:2] for row in [*archived, *map(tuple, left[table])]}
