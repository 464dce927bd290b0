"""What maintenance decides: how long failed runs stay, what it takes for a partition, and what it says it did."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from raceday_dagster.archive.archive import ArchiveStep
from raceday_dagster.defs.ops.maintenance import choose_failed_cutoff, find_races_in_config, summarise_steps
from raceday_dagster.errors import SettingsError
from raceday_dagster.settings import Settings
from raceday_dagster.store.schema.partitions import read_racing_day

NOW = datetime(2026, 9, 26, 16, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)


@pytest.mark.parametrize(
    ("failed_hours_ago", "goes_after_hours"),
    [
        pytest.param([], 336, id="no failed run"),
        pytest.param([1, 100], 336, id="few stay their two weeks"),
        pytest.param([50, 60, 70], 70, id="of many the newest stay longer"),
        pytest.param([1, 2, 3], 48, id="a day of failures shortens nobody's two days"),
        pytest.param([400, 500, 600], 336, id="none stays longer than two weeks"),
    ],
)
def test_a_failed_run_stays_two_weeks_unless_three_newer_ones_do(
    failed_hours_ago: list[int], goes_after_hours: int
) -> None:
    newest = [NOW - ago * HOUR for ago in failed_hours_ago]
    cutoff = choose_failed_cutoff(NOW, keep=48 * HOUR, keep_failed=336 * HOUR, newest=newest, most=3)
    assert cutoff == NOW - goes_after_hours * HOUR


def test_failed_runs_are_never_kept_for_less_than_the_others() -> None:
    assert choose_failed_cutoff(NOW, keep=48 * HOUR, keep_failed=HOUR, newest=[], most=3) == NOW - 48 * HOUR


@pytest.mark.parametrize(
    ("run_config", "races"),
    [
        ({}, []),
        ({"ops": None}, []),
        ({"ops": {"select_races": {}}}, []),
        ({"ops": {"select_races": {"config": {"race_ids": ["a", "b"], "due_at": ""}}}}, ["a", "b"]),
        ({"ops": {"fetch_meetings": {"config": {"racing_day": "2026-09-26"}}}}, []),
    ],
)
def test_races_are_found_in_the_config_of_a_batch(run_config: dict[str, object], races: list[str]) -> None:
    assert find_races_in_config(run_config) == tuple(races)


@pytest.mark.parametrize(
    ("name", "day"),
    [
        ("odds_history_2026_02_28", date(2026, 2, 28)),
        ("odds_history_2026_02_30", None),
        ("odds_history_2026_02_28_old", None),
        ("odds_history", None),
        ("my_odds_history_2026_02_28", None),
    ],
)
def test_only_the_name_of_a_partition_is_read_as_one(name: str, day: date | None) -> None:
    assert read_racing_day("odds_history", name) == day


def test_the_metadata_counts_what_was_done_and_names_what_was_not() -> None:
    steps = [
        ArchiveStep(stage="detached", partition="one"),
        ArchiveStep(stage="exported", partition="one", rows=5, file="one.parquet"),
        ArchiveStep(stage="dropped", partition="one", rows=5, file="one.parquet"),
        ArchiveStep(stage="dropped", partition="empty"),
        ArchiveStep(stage="not_archived", partition="two", reason="no room"),
    ]
    assert summarise_steps(steps) == {
        "partitions_detached": 1,
        "partitions_exported": 1,
        "partitions_dropped": 2,
        "partitions_failed": 1,
        "rows_archived": 5,
        "files": ["one.parquet"],
        "failures": ["two: no room"],
    }


def test_the_archive_is_in_the_home_unless_it_is_named() -> None:
    assert Settings.from_environment({"RACEDAY_HOME": "/state"}).archive_folder == Path("/state/archive")
    assert Settings.from_environment({"ARCHIVE_DIR": "/cold"}).archive_folder == Path("/cold")


def test_runs_are_kept_two_days_unless_it_is_said() -> None:
    assert Settings.from_environment({}).keep_runs_hours == 48
    with pytest.raises(SettingsError, match=r"KEEP_RUNS_HOURS is wrong: .*the default is 48"):
        Settings.from_environment({"KEEP_RUNS_HOURS": "0"})
