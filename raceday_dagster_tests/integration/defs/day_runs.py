"""Runs of the jobs that begin with a racing day's list, and what their steps said."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, timedelta
from typing import Any

import dagster as dg

from raceday_dagster.definitions import defs
from raceday_dagster.defs.partitions import build_mapping_key
from raceday_dagster_tests.integration.race_day import FIRST_START, RACING_DAY, RaceDay

NEXT_DAY = RACING_DAY + timedelta(days=1)
EVENING = FIRST_START + timedelta(hours=4, minutes=45)
"""15:45 in New Zealand: of the gallops there, two are running and one is yet to start."""
NIGHT = FIRST_START + timedelta(hours=18)
"""05:00 in New Zealand: every race of the day is over."""


def daily_baseline_job() -> dg.JobDefinition:
    return defs.resolve_job_def("daily_baseline")


def evening_backfill_job() -> dg.JobDefinition:
    return defs.resolve_job_def("evening_backfill")


def meeting_status_job() -> dg.JobDefinition:
    return defs.resolve_job_def("meeting_status")


JOBS = {job.__name__: job for job in (daily_baseline_job, evening_backfill_job, meeting_status_job)}


def run_day(
    day: RaceDay, job: str, racing_day: date = RACING_DAY, *, max_concurrent: int | None = None
) -> dg.JobExecutionResult:
    """One run of a job for a racing day."""
    config: dict[str, Any] = {"ops": {"fetch_meetings": {"config": {"racing_day": racing_day.isoformat()}}}}
    if max_concurrent is not None:
        config["execution"] = {"config": {"max_concurrent": max_concurrent}}
    return dg.execute_job(dg.reconstructable(JOBS[f"{job}_job"]), instance=day.instance, run_config=config)


def list_races(day: RaceDay) -> list[str]:
    """Every stored race, the earliest start first."""
    return [row["race_id"] for row in day.ask("SELECT race_id FROM races ORDER BY start_time, race_id")]


def read_metadata(result: dg.JobExecutionResult, step: str) -> Mapping[str, Any]:
    """Everything that the outputs of a step carry."""
    outputs = [event for event in result.all_events if event.is_successful_output and event.step_key == step]
    return {name: value.value for event in outputs for name, value in event.step_output_data.metadata.items()}


def check_stage_timings(day: RaceDay, result: dg.JobExecutionResult) -> None:
    """The metadata of each race's steps must hold the milliseconds of each stage, as the ledger does."""
    polls = {race_id: poll for race_id, poll in day.read_polls(result.run_id).items() if poll["status"] == "success"}
    assert polls
    for race_id, poll in polls.items():
        steps = {
            stage: read_metadata(result, f"process_race.{stage}_race[{build_mapping_key(race_id)}]")
            for stage in ("fetch", "transform", "write")
        }
        for stage in ("fetch", "transform"):
            assert steps[stage][f"{stage}_ms"] == steps["write"][f"{stage}_ms"] == poll[f"{stage}_ms"]
        assert steps["write"]["write_ms"] >= poll["write_ms"], "the ledger is written before the commit"
        assert steps["write"]["total_ms"] >= poll["total_ms"] > 0


def read_failure(result: dg.JobExecutionResult) -> tuple[str, str]:
    """The step that failed and what it said."""
    (failure,) = result.get_step_failure_events()
    return str(failure.step_key), str(failure.step_failure_data.user_failure_data)
