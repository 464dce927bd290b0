"""Dagster's own runs under `maintenance`: which leave, what leaves with them, and what stays in the way."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from sqlalchemy import event

from raceday_dagster.dagster_plugins.storage import vacuum
from raceday_dagster_tests.integration.defs.day_runs import read_metadata
from raceday_dagster_tests.integration.defs.maintenance_fixture import (
    MaintenanceRuns,
    failing_job,
    open_housekeeping,
    quiet_job,
)
from raceday_dagster_tests.integration.race_day import read_log
from raceday_dagster_tests.integration.store.store_fixture import observe
from raceday_dagster_tests.log_contract import MAINTENANCE_EVENTS, find_wrong


@pytest.fixture
def maintenance(
    database_url: str, empty_database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[MaintenanceRuns]:
    with open_housekeeping(database_url, empty_database_url, tmp_path, monkeypatch) as maintenance:
        yield maintenance


def test_runs_that_ended_long_ago_leave_with_their_events_tags_and_folders(maintenance: MaintenanceRuns) -> None:
    old, failed_long_ago = (
        maintenance.make_run(ended_hours_ago=49),
        maintenance.make_run(failing_job, ended_hours_ago=14 * 24 + 1),
    )
    young, failed = maintenance.make_run(ended_hours_ago=47), maintenance.make_run(failing_job, ended_hours_ago=49)
    pending = maintenance.plan_run(status=dg.DagsterRunStatus.STARTED)
    maintenance.make_older(pending, hours=90 * 24)
    result = maintenance.run()
    runs = (old, failed_long_ago, young, failed)
    assert [maintenance.instance.has_run(run_id) for run_id in runs] == [False, False, True, True]
    assert [maintenance.has_folder(run_id) for run_id in runs] == [False, False, True, True]
    assert maintenance.instance.has_run(pending)
    said = read_metadata(result, "delete_old_runs")
    assert (said["runs_deleted"], said["run_folders_deleted"]) == (2, 2)
    assert "event_logs" in said["vacuumed"]
    for table in ("event_logs", "run_tags"):
        orphans = f"SELECT count(*) FROM {table} WHERE run_id NOT IN (SELECT run_id FROM runs)"
        assert maintenance.ask(orphans) == 0
        assert maintenance.ask(f"SELECT count(*) FROM {table} WHERE run_id = '{young}'") != 0
    assert maintenance.ask("SELECT last_vacuum IS NOT NULL FROM pg_stat_user_tables WHERE relname = 'event_logs'")
    for run_id in (young, failed, pending):
        maintenance.instance.delete_run(run_id)


def test_a_vacuum_is_not_cut_off_and_leaves_no_setting_behind(
    maintenance: MaintenanceRuns, empty_database_url: str
) -> None:
    role = "DO $$ BEGIN EXECUTE format('ALTER ROLE CURRENT_USER IN DATABASE %%I {} ', current_database()); END $$"
    storage: Any = maintenance.instance.run_storage
    limits = []

    def read_limit(_connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        if statement.startswith("VACUUM"):
            cursor.execute("SHOW statement_timeout")
            limits.extend(cursor.fetchone())

    with observe(empty_database_url) as run:
        run(role.format("SET statement_timeout = 100000"))
        storage.dispose()  # connections from before
        event.listen(storage._engine, "before_cursor_execute", read_limit)
        try:
            tables = vacuum(maintenance.instance)
            with storage.connect() as connection:
                assert connection.exec_driver_sql("SHOW statement_timeout").scalar() == "100s"
        finally:
            event.remove(storage._engine, "before_cursor_execute", read_limit)
            run(role.format("RESET statement_timeout"))
            storage.dispose()
    assert limits == ["0"] * len(tables)
    assert "event_logs" in tables


def test_a_folder_that_cannot_be_deleted_is_named_and_holds_nothing_up(
    maintenance: MaintenanceRuns, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    stuck, other = maintenance.make_run(ended_hours_ago=51), maintenance.make_run(ended_hours_ago=50)
    remove = shutil.rmtree

    def refuse(folder: Path) -> None:
        if folder.name == stuck:
            raise PermissionError(errno.EACCES, "Permission denied")
        remove(folder)

    monkeypatch.setattr(shutil, "rmtree", refuse)
    result = maintenance.run()
    assert result.success
    assert [maintenance.instance.has_run(run_id) for run_id in (stuck, other)] == [False, False]
    assert [maintenance.has_folder(run_id) for run_id in (stuck, other)] == [True, False]
    said = read_metadata(result, "delete_old_runs")
    assert (said["run_folders_deleted"], said["run_folders_left"]) == (1, 1)
    assert said["run_folders_left_named"].endswith(f"{stuck}: Permission denied")
    (warned,) = [line for line in read_log(capfd.readouterr().err) if line["event"] == "run_folder_left"]
    assert find_wrong([warned], MAINTENANCE_EVENTS) == []
    assert (warned["level"], warned["count"]) == ("warning", 1)


def test_of_many_failed_runs_only_the_newest_stay_longer(maintenance: MaintenanceRuns) -> None:
    hours = (60, 50, 52, 54)
    failed = [maintenance.make_run(failing_job, ended_hours_ago=ago) for ago in hours]
    maintenance.run(delete_old_runs={"most_failed": 2})
    assert [maintenance.instance.has_run(run_id) for run_id in failed] == [False, True, True, False]


def test_runs_are_deleted_the_oldest_first_and_no_more_than_allowed(maintenance: MaintenanceRuns) -> None:
    runs = [maintenance.make_run(ended_hours_ago=ago) for ago in (52, 51, 50)]
    result = maintenance.run(delete_old_runs={"batch_size": 1, "most_runs": 2})
    assert [maintenance.instance.has_run(run_id) for run_id in runs] == [False, False, True]
    assert read_metadata(result, "delete_old_runs")["runs_left_to_next_time"]


def test_on_another_storage_runs_leave_one_by_one_and_nothing_is_vacuumed(
    maintenance: MaintenanceRuns, tmp_path: Path
) -> None:
    (tmp_path / "sqlite").mkdir()
    with dg.DagsterInstance.local_temp(str(tmp_path / "sqlite"), overrides={"telemetry": {"enabled": False}}) as other:
        ended = quiet_job.execute_in_process(instance=other).run_id
        storage: Any = other.run_storage
        with storage.connect() as connection:
            connection.exec_driver_sql("UPDATE runs SET update_timestamp = '2025-01-01 00:00:00.000000'")
        result = MaintenanceRuns(other, maintenance.dagster_url, maintenance.folder).run()
        assert not other.has_run(ended)
    said = read_metadata(result, "delete_old_runs")
    assert (said["runs_deleted"], said["vacuumed"]) == (1, "nothing")
