"""What maintenance decides: which keys go, how long failed runs stay, and what it says it did."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raceday_dagster.archive.archive import ArchiveStep
from raceday_dagster.archive.partitions import read_racing_day
from raceday_dagster.defs.maintenance_job import maintenance_job
from raceday_dagster.defs.ops.maintenance import choose_old_keys, find_races_in_config, summarise_steps
from raceday_dagster.defs.ops.run_retention import BatchedDeletion, choose_failed_cutoff
from raceday_dagster.errors import SettingsError
from raceday_dagster.settings import Settings

NOW = datetime(2026, 9, 26, 16, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)
KEYS = st.sets(st.sampled_from("abcdefgh"))


def cut_off(ended_hours_ago: list[float], *, most: int) -> timedelta:
    """How long ago a failed run must have ended to go, with 48 hours for any run and 336 for a failed one."""
    newest = [NOW - ago * HOUR for ago in sorted(ended_hours_ago)][:most]
    return NOW - choose_failed_cutoff(NOW, keep=48 * HOUR, keep_failed=336 * HOUR, newest=newest, most=most)


def test_a_few_failed_runs_stay_their_two_weeks() -> None:
    assert cut_off([], most=3) == cut_off([1, 100], most=3) == 336 * HOUR


def test_of_many_failed_runs_the_newest_stay_longer() -> None:
    assert cut_off([50, 60, 70, 80], most=3) == 70 * HOUR


def test_a_day_of_failures_shortens_nobodys_two_days() -> None:
    assert cut_off([1, 2, 3, 4], most=3) == 48 * HOUR


def test_no_number_of_failed_runs_stays_longer_than_two_weeks() -> None:
    assert cut_off([400, 500, 600], most=3) == 336 * HOUR


def test_failed_runs_are_never_kept_for_less_than_the_others() -> None:
    assert choose_failed_cutoff(NOW, keep=48 * HOUR, keep_failed=HOUR, newest=[], most=3) == NOW - 48 * HOUR


@given(keys=KEYS, recent=KEYS, named=KEYS)
def test_a_key_goes_if_and_only_if_nothing_holds_it(keys: set[str], recent: set[str], named: set[str]) -> None:
    assert set(choose_old_keys(sorted(keys), recent=recent, named=named)) == keys - recent - named


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


def test_one_op_after_the_other_and_none_waits_for_the_success_of_another() -> None:
    priorities = {node.name: int(node.definition.tags["dagster/priority"]) for node in maintenance_job.nodes}
    assert sorted(priorities, key=lambda name: -priorities[name]) == [
        "create_history_partitions",
        "archive_history",
        "remove_old_partitions",
        "delete_old_runs",
    ]
    assert maintenance_job.tags["dagster/max_retries"] == "0"
    dependencies = maintenance_job.graph.dependencies.values()
    assert not any(dependencies)


def test_our_storage_deletes_in_batches_and_dagsters_does_not() -> None:
    from dagster_postgres.run_storage import PostgresRunStorage

    from raceday_dagster.dagster_plugins import storage

    assert issubclass(storage._RunStorage, BatchedDeletion)
    assert not issubclass(PostgresRunStorage, BatchedDeletion)


def test_the_archive_is_in_the_home_unless_it_is_named() -> None:
    assert Settings.from_environment({"RACEDAY_HOME": "/state"}).archive_folder == Path("/state/archive")
    assert Settings.from_environment({"ARCHIVE_DIR": "/cold"}).archive_folder == Path("/cold")


def test_runs_are_kept_two_days_unless_it_is_said() -> None:
    assert Settings.from_environment({}).keep_runs_hours == 48
    with pytest.raises(SettingsError, match=r"KEEP_RUNS_HOURS is wrong: .*the default is 48"):
        Settings.from_environment({"KEEP_RUNS_HOURS": "0"})


def test_a_run_worker_that_polls_races_never_loads_the_parquet_library() -> None:
    look = "import sys, raceday_dagster.definitions; print(sorted({'duckdb', 'pyarrow'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
