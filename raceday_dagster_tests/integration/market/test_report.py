"""``raceday report``: one file that needs nothing else, and the table behind it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest
from click.testing import CliRunner

from raceday_dagster.cli import main
from raceday_dagster.store.race_store import RaceStore
from raceday_dagster_tests.integration.market.market_fixture import DAY, read_line, read_tables, write_polled_race
from raceday_dagster_tests.integration.store.store_fixture import observe, open_store
from raceday_dagster_tests.write_snapshots import HOLDS


@pytest.fixture
def store(database_url: str) -> Iterator[RaceStore]:
    with open_store(database_url) as store:
        write_polled_race(store)
        yield store


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def type_report(database_url: str, *arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(main, ["report", *arguments], env={"DATABASE_URL": database_url})
    return result.exit_code, result.output.strip()


def test_a_race_is_one_file_with_all_its_views_that_needs_no_script_and_no_server(
    store: RaceStore, database_url: str
) -> None:
    assert type_report(database_url, "race-1") == (0, "race-race-1.html")
    page = Path("race-race-1.html").read_text(encoding="utf-8")
    assert read_line(page, "Runner 2")["3"] == "699"
    assert [len(table) for table in read_tables(page)[:3]] == [2 + len(HOLDS) + 1, 2 + len(HOLDS) + 1, 2 + len(HOLDS)]
    for needed in ("<script", "<link", " href=", " src="):
        assert needed not in page
    assert "@media print" in page
    assert page.count("<svg") == 2


def test_a_day_is_one_file(store: RaceStore, database_url: str) -> None:
    assert type_report(database_url, str(DAY), "--output", "day.html") == (0, "day.html")
    page = Path("day.html").read_text(encoding="utf-8")
    assert "Awapuni" in page
    assert " href=" not in page


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_table_has_a_line_a_runner_and_interval(store: RaceStore, database_url: str, kind: str) -> None:
    assert type_report(database_url, "race-1", "--output", f"race.{kind}")[0] == 0
    wanted = "win_money, hold_percentage, runner_jockey"
    question = f"SELECT {wanted} FROM 'race.{kind}' WHERE name = 'Runner 2' ORDER BY time_interval"
    lines = duckdb.sql(question).fetchall()
    assert len(lines) == 3
    assert lines[0] == (69_876, 19, "A Rider")
    assert type_report(database_url, str(DAY), "--output", f"day.{kind}")[0] == 0
    assert duckdb.sql(f"SELECT race_id, win_pool_total FROM 'day.{kind}'").fetchall() == [("race-1", 915_138)]


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["nothing"], "nothing is neither a stored race's id nor a day like 2026-01-31"),
        (["2025-07-18"], "no race of 2025-07-18 is stored"),
        (["race-1", "-o", "no/folder.html"], "no/folder.html cannot be written: No such file or directory"),
        (["race-1", "-o", "no/folder.parquet"], "no/folder.parquet cannot be written"),
    ],
)
def test_what_cannot_be_reported_is_one_line(
    store: RaceStore, database_url: str, arguments: list[str], line: str
) -> None:
    code, said = type_report(database_url, *arguments)
    assert (code, said.count("\n")) == (1, 0)
    assert line in said


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_race_that_nobody_polled_has_no_table_and_says_so(store: RaceStore, database_url: str, kind: str) -> None:
    with observe(database_url) as run:
        run("DELETE FROM money_flow_history")
    code, said = type_report(database_url, "race-1", "--format", kind)
    assert (code, said.count("\n")) == (1, 0)
    assert "nothing of this race's money is stored" in said
    assert not Path(f"race-race-1.{kind}").exists()
