"""The job `maintenance`: what each op does, what it leaves alone, and what a second run finds."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.execution.backfill import BulkActionStatus, PartitionBackfill

from raceday_dagster.defs.partitions import RACES
from raceday_dagster.racing.calendar import NEW_ZEALAND
from raceday_dagster.store.engine import build_engine
from raceday_dagster.store.race_store import RaceStore
from raceday_dagster.store.schema.partitions import name_partition
from raceday_dagster.store.schema.tables import PARTITIONED_TABLES
from raceday_dagster_tests.integration.archive.archive_fixture import (
    list_files,
    list_partitions,
    open_old_day,
)
from raceday_dagster_tests.integration.defs.day_runs import read_metadata
from raceday_dagster_tests.integration.defs.maintenance_fixture import (
    OPS,
    MaintenanceRuns,
    choosing_job,
    open_housekeeping,
)
from raceday_dagster_tests.integration.race_day import read_log
from raceday_dagster_tests.integration.store.store_fixture import observe, write
from raceday_dagster_tests.log_contract import MAINTENANCE_EVENTS, find_wrong
from raceday_dagster_tests.write_snapshots import make_snapshot

DAY = timedelta(days=1)


@pytest.fixture
def maintenance(
    database_url: str, empty_database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[MaintenanceRuns]:
    with (
        open_old_day(database_url),
        open_housekeeping(database_url, empty_database_url, tmp_path, monkeypatch) as maintenance,
    ):
        for key in maintenance.instance.get_dynamic_partitions(RACES):
            maintenance.instance.delete_dynamic_partition(RACES, key)
        yield maintenance


def store_races(database_url: str, starts: dict[str, datetime]) -> None:
    """Races by id, over."""
    with observe(database_url) as run:
        run(
            "INSERT INTO meetings (meeting_id, country, category, race_type, racing_day)"
            " VALUES ('m', 'NZ', 'T', 'thoroughbred', now()::date)"
        )
        for race_id, start in starts.items():
            run(
                "INSERT INTO races (race_id, meeting_id, racing_day, race_number, start_time, status, type)"
                " VALUES (%(race_id)s, 'm', now()::date, 1, %(start)s, 'final', 'T')",
                {"race_id": race_id, "start": start},
            )


def test_each_step_does_its_part_and_a_second_run_changes_nothing(
    maintenance: MaintenanceRuns, database_url: str, capfd: pytest.CaptureFixture[str]
) -> None:
    now = datetime.now(UTC)
    young = "2026-11-26 Te Rimu Downs R05 95bd6ff7"
    store_races(database_url, {"old": now - 31 * DAY, "young": now - 29 * DAY, "95bd6ff7-22a5": now})
    maintenance.instance.add_dynamic_partitions(RACES, ["old", "young", "unknown", young])
    run_id = maintenance.make_run(ended_hours_ago=49)
    first = maintenance.run()
    assert first.success
    started = [event.step_key for event in first.all_events if event.event_type == dg.DagsterEventType.STEP_START]
    assert started == list(OPS)
    assert read_metadata(first, "create_history_partitions")["partitions_created"] == 15
    today = now.astimezone(NEW_ZEALAND).date()
    days = {name_partition(table, today + ahead * DAY) for table in PARTITIONED_TABLES for ahead in range(5)}
    with observe(database_url) as run:
        assert {name for (name,) in run("SELECT inhrelid::regclass::text FROM pg_inherits")} >= days
    archived = read_metadata(first, "archive_history")
    assert archived["partitions_dropped"] == archived["partitions_detached"] == 15
    assert (archived["partitions_exported"], archived["rows_archived"]) == (3, 60)
    assert list_partitions(database_url) == []
    assert len(list_files(maintenance.folder)) == 3
    assert sorted(maintenance.instance.get_dynamic_partitions(RACES)) == [young, "young"]
    assert read_metadata(first, "remove_old_partitions")["partitions_removed"] == 2
    assert not maintenance.instance.has_run(run_id)
    lines = [line for line in read_log(capfd.readouterr().err) if line.get("run_id") == first.run_id]
    assert find_wrong(lines, MAINTENANCE_EVENTS) == []
    events = [line["event"] for line in lines]
    assert events[:2] == ["partition_creation_start", "partition_creation_complete"]
    assert events.count("partition_detached") == 15

    second = maintenance.run()
    assert second.success
    assert read_metadata(second, "create_history_partitions")["partitions_created"] == 0
    assert read_metadata(second, "archive_history")["partitions_dropped"] == 0
    assert read_metadata(second, "remove_old_partitions")["partitions_removed"] == 0
    assert read_metadata(second, "delete_old_runs")["runs_deleted"] == 0
    assert len(list_files(maintenance.folder)) == 3


def test_a_step_that_fails_makes_the_run_red_and_leaves_the_others_their_work(
    maintenance: MaintenanceRuns, database_url: str, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("no folder")
    run_id = maintenance.make_run(ended_hours_ago=49)
    maintenance.instance.add_dynamic_partitions(RACES, ["unknown"])
    result = maintenance.run(archive_history={"folder": str(tmp_path / "file" / "archive")})
    assert not result.success
    (failure,) = result.get_step_failure_events()
    assert failure.step_key == "archive_history"
    assert "correct ARCHIVE_DIR" in str(failure.step_failure_data.user_failure_data)
    assert read_metadata(result, "archive_history")["partitions_detached"] == 0
    assert len(list_partitions(database_url)) == 3
    assert maintenance.instance.get_dynamic_partitions(RACES) == []
    assert not maintenance.instance.has_run(run_id)


def test_a_race_that_a_pending_run_or_backfill_names_keeps_its_key(maintenance: MaintenanceRuns) -> None:
    named = ["queued", "started", "configured", "requested"]
    maintenance.instance.add_dynamic_partitions(RACES, [*named, "ended", "completed"])
    runs = [
        maintenance.plan_run(tags={"dagster/partition": "queued"}),
        maintenance.plan_run(status=dg.DagsterRunStatus.STARTED, tags={"dagster/partition": "started"}),
        maintenance.plan_run(
            choosing_job,
            status=dg.DagsterRunStatus.NOT_STARTED,
            run_config={"ops": {"select_races": {"config": {"race_ids": ["configured"]}}}},
        ),
        maintenance.plan_run(status=dg.DagsterRunStatus.CANCELED, tags={"dagster/partition": "ended"}),
    ]
    for key, status in (("requested", "REQUESTED"), ("completed", "COMPLETED_SUCCESS")):
        maintenance.instance.add_backfill(
            PartitionBackfill(
                backfill_id=key,
                status=BulkActionStatus(status),
                from_failure=False,
                tags={},
                backfill_timestamp=datetime.now(UTC).timestamp(),
                partition_names=[key],
            )
        )
    result = maintenance.run()
    assert sorted(maintenance.instance.get_dynamic_partitions(RACES)) == sorted(named)
    said = read_metadata(result, "remove_old_partitions")
    assert (said["partitions_removed"], said["kept_for_pending_runs"]) == (2, 4)
    assert all(maintenance.instance.has_run(run_id) for run_id in runs)
    for run_id in runs:
        maintenance.instance.delete_run(run_id)


def test_a_step_that_fails_half_way_says_what_it_did(maintenance: MaintenanceRuns, empty_database_url: str) -> None:
    runs = [maintenance.make_run(ended_hours_ago=ago) for ago in (52, 51)]
    maintenance.instance.add_dynamic_partitions(RACES, ["first", "second"])
    refusals = {"runs": f"OLD.run_id = '{runs[1]}'", "dynamic_partitions": "OLD.partition = 'second'"}
    with observe(empty_database_url) as run:
        run("CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''no''; END'")
        for table, which in refusals.items():
            run(f"CREATE TRIGGER no BEFORE DELETE ON {table} FOR EACH ROW WHEN ({which}) EXECUTE FUNCTION refuse()")
        try:
            result = maintenance.run(delete_old_runs={"batch_size": 1})
        finally:
            run("DROP FUNCTION refuse() CASCADE")
    failures = {event.step_key: event.step_failure_data for event in result.get_step_failure_events()}
    assert set(failures) == {"remove_old_partitions", "delete_old_runs"}
    assert all("P0001 no; the next run goes on" in str(data.user_failure_data) for data in failures.values())
    assert read_metadata(result, "remove_old_partitions")["partitions_removed"] == 1
    said = read_metadata(result, "delete_old_runs")
    assert (said["runs_deleted"], said["vacuumed"]) == (1, "nothing")
    assert maintenance.run().success
    assert not any(maintenance.instance.has_run(run_id) for run_id in runs)


def test_a_race_is_written_again_and_again_meanwhile(maintenance: MaintenanceRuns, database_url: str) -> None:
    engine = build_engine(database_url, pool_max=2)
    store = RaceStore(engine)
    start = datetime.now(UTC) + timedelta(minutes=10)
    race = {"start_time": start, "race_date_nz": start.astimezone(NEW_ZEALAND).date()}
    statuses: list[str] = []
    warm, over = threading.Event(), threading.Event()

    def poll() -> None:
        while not over.is_set():
            snapshot = make_snapshot("live", meeting_id="live", poll=len(statuses), race=race)
            statuses.append(write(store, snapshot, run_id=f"run-{len(statuses)}").status)
            warm.set()

    polling = threading.Thread(target=poll)
    polling.start()
    try:
        assert warm.wait(20)
        result = maintenance.run(archive_history={"keep_ledger_days": 3650})
    finally:
        over.set()
        polling.join()
        engine.dispose()
    assert result.success
    assert read_metadata(result, "archive_history")["partitions_dropped"] == 15
    assert len(statuses) > 1
    assert set(statuses) == {"written"}
    with observe(database_url) as run:
        assert run("SELECT count(DISTINCT polling_timestamp) FROM money_flow_history") == [(len(statuses),)]
