"""Runs of the jobs that begin with a racing day's list, and what their steps said."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import date, timedelta
from threading import Thread
from typing import Any

import dagster as dg

from raceday_dagster.defs.partitions import build_mapping_key
from raceday_dagster_tests.integration.race_day import FIRST_START, RACING_DAY, RaceDay
from raceday_dagster_tests.waiting import wait_for

NEXT_DAY = RACING_DAY + timedelta(days=1)
EVENING = FIRST_START + timedelta(hours=4, minutes=45)
"""15:45 in New Zealand: of the gallops there, two are running and one is yet to start."""
NIGHT = FIRST_START + timedelta(hours=18)
"""05:00 in New Zealand: every race of the day is over."""


def run_day(day: RaceDay, job: str, racing_day: date = RACING_DAY, **given: Any) -> dg.JobExecutionResult:
    """One run of a job for a racing day."""
    return day.run(job, fetch_meetings={"racing_day": racing_day.isoformat()}, **given)


def list_races(day: RaceDay) -> list[str]:
    """Every stored race, the earliest start first."""
    return [row["race_id"] for row in day.ask("SELECT race_id FROM races ORDER BY start_time, race_id")]


def read_metadata(result: dg.JobExecutionResult, step: str) -> Mapping[str, Any]:
    """Everything that the outputs of a step carry, or its failure."""
    events = [event for event in result.all_events if event.step_key == step]
    said = [event.step_output_data for event in events if event.is_successful_output]
    said += [event.step_failure_data.user_failure_data for event in events if event.is_step_failure]
    return {name: value.value for each in said if each for name, value in each.metadata.items()}


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


@contextmanager
def released_when_five_wait(day: RaceDay, path: str) -> Iterator[None]:
    """Requests below a path are held until five of them wait, which must happen; then all are answered."""
    rule = day.simulator.add_fault(path, "hold", timeout_s=120)
    gathered: list[bool] = []

    def release() -> None:
        gathered.append(bool(wait_for(lambda: count_waiting(day, rule) == 5, 60)))
        day.simulator.release()

    releasing = Thread(target=release)
    releasing.start()
    yield
    releasing.join()
    assert gathered == [True]


def count_waiting(day: RaceDay, rule_id: str) -> int:
    return int({rule["id"]: rule["waiting"] for rule in day.simulator.faults()}[rule_id])
