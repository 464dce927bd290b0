"""The log lines of a live batch and of the day around it: every event, its fields and their types, as whoever reads the
log may rely on them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import dagster as dg
import pytest

from raceday_dagster.dagster_plugins.run_coordinator import LANE_TAG, LIVE
from raceday_dagster.defs.ops import batch
from raceday_dagster_tests.integration.defs.day_runs import read_metadata, run_day
from raceday_dagster_tests.integration.race_day import (
    RaceDay,
    list_races,
    open_race_day,
    process_races_job,
    read_log,
)

UNKNOWN = "00000000-0000-4000-8000-000000000000"
RACE = {"race_id": str}
NAMED = {**RACE, "race": str}
TASK = {**RACE, "task_id": str}
EVERY_LINE = {"event": str, "level": str, "time": str, "run_id": str}
EVENTS: dict[str, dict[str, type]] = {
    "batch_start": {"total": int, "requested_concurrency": int, "effective_concurrency": int, "db_pool": dict},
    "db_pool_utilization": dict.fromkeys(("opened", "idle", "in_use", "waiting", "max", "percent"), int),
    "pipeline_start": RACE,
    "fetch_start": RACE,
    "http_attempt": {**RACE, "attempt": int, "duration_ms": int, "outcome": str},
    "http_retry": {**RACE, "attempt": int, "delay_ms": int, "reason": str},
    "http_client_error": {**RACE, "status": int, "reason": str, "excerpt": str},
    "http_validation_error": {**RACE, "problem": str},
    "fetch_complete": {**RACE, "fetch_ms": int},
    "fetch_failed": {**NAMED, "retryable": bool, "error": dict, "fetch_ms": int},
    "fetch_null": {**NAMED, "reason": str, "fetch_ms": int},
    "worker_task_enqueued": {**TASK, "queue_depth": int},
    "worker_task_assigned": {**TASK, "worker_id": int},
    "worker_task_completed": {**TASK, "worker_id": int, "duration_ms": int},
    "worker_started": {"worker_id": int, "pid": int},
    "worker_pool_initialized": {"workers": int, "task_timeout_s": float},
    "worker_pool_shutdown_start": {},
    "worker_pool_shutdown_complete": {"unfinished": int},
    "transform_start": RACE,
    "transform_complete": {
        **RACE,
        **dict.fromkeys(("transform_ms", "entrants", "money_flow_records", "quality_score"), int),
        "quality_valid": bool,
        "warnings": list,
    },
    "write_start": RACE,
    "write_complete": {**RACE, "write_ms": int, "row_counts": dict, "breakdown_ms": dict},
    "pipeline_complete": {**RACE, "status": str, "timings": dict, "row_counts": dict, "over_budget": bool},
    "batch_race_complete": {**NAMED, "status": str, "timings": dict},
    "batch_race_failed": {**NAMED, "stage": str, "retryable": bool, "timings": dict},
    "batch_progress": {
        **dict.fromkeys(("total", "completed", "successful", "skipped", "failed", "processing", "pending"), int),
        "eta_ms": int,
        "current": str,
    },
    "batch_complete": {
        **dict.fromkeys(("total_races", "successes", "skipped", "failures", "retryable_failures"), int),
        **dict.fromkeys(("max_duration_ms", "batch_duration_ms", "write_share_percent"), int),
        **dict.fromkeys(("requested_concurrency", "effective_concurrency"), int),
        "slowest_race": str,
        "over_budget": bool,
        "row_counts": dict,
        "db_pool": dict,
        "workers": dict,
        "failed": list,
    },
    "scheduler_race_polled": {**NAMED, "status": str, "race_status": str, "seconds_to_start": int},
    "race_recovered": {**NAMED, "failed_polls": int, "seconds": int},
    "scheduler_race_completed": {
        **NAMED,
        "reason": str,
        "final_status": str,
        "total_polls": int,
        "seconds_to_start": int,
    },
}
DAY = {
    "nz_date": str,
    **dict.fromkeys(("meetings", "races", "polled", "entrants", "duration_ms"), int),
    "failed": list,
}
DAY_EVENTS: dict[str, dict[str, type]] = {
    "daily_initialization_start": {"nz_date": str},
    "daily_initialization_complete": DAY,
    "daily_initialization_failed": {"nz_date": str, "error": str, "retryable": bool},
    "evening_backfill_start": {"nz_date": str},
    "evening_backfill_complete": DAY,
    "meeting_status_complete": {
        "nz_date": str,
        **dict.fromkeys(("changed_meetings", "changed_races", "partitions_registered", "duration_ms"), int),
    },
}
BUSY_MACHINE = {
    "pipeline_over_budget": {**RACE, "total_ms": int, "target_ms": int},
    "write_over_budget": {**NAMED, "write_ms": int, "target_ms": int},
    "batch_sla_warning": {"batch_duration_ms": int, "target_ms": int},
}
"""Said or not, as busy as the machine is that runs the test."""


@pytest.fixture(scope="module")
def day(database_url: str) -> Iterator[RaceDay]:
    with open_race_day(database_url, LOG_LEVEL="debug", FAIL_RUN_WHEN="any") as opened:
        yield opened


def test_every_line_of_a_live_batch_has_the_fields_of_its_event(
    day: RaceDay, capfd: pytest.CaptureFixture[str]
) -> None:
    good, retried, garbled = day.race_ids[:3]
    (_start, over), *_others = list_races(day.simulator, "Final")
    first = day.simulator.add_fault(good, "garbage", times=1)
    assert day.poll([good]).success, "what a run's config says comes before FAIL_RUN_WHEN"
    assert day.simulator.fired(first) == 1
    capfd.readouterr()
    rules = [day.simulator.add_fault(retried, "status", code=503, times=1), day.simulator.add_fault(garbled, "garbage")]
    result = dg.execute_job(
        dg.reconstructable(process_races_job),
        instance=day.instance,
        run_config={"ops": {"select_races": {"config": {"race_ids": [good, retried, garbled, over, UNKNOWN]}}}},
        tags={LANE_TAG: LIVE},
    )
    assert [day.simulator.fired(rule) for rule in rules] == [1, 1]
    assert not result.success, "one race failed, and FAIL_RUN_WHEN is any"
    lines = read_log(capfd.readouterr().err)
    contract = {**EVENTS, **BUSY_MACHINE}
    wrong = [line for line in lines if describe(line) != describe_event(contract.get(line["event"]))]
    assert wrong == []
    assert {line["event"] for line in lines} - BUSY_MACHINE.keys() == EVENTS.keys()
    assert {line["run_id"] for line in lines} == {result.run_id}
    (recovered,) = [line for line in lines if line["event"] == "race_recovered"]
    assert (recovered["race_id"], recovered["failed_polls"]) == (good, 1)
    (completed,) = [line for line in lines if line["event"] == "scheduler_race_completed"]
    assert (completed["race_id"], completed["final_status"], completed["total_polls"]) == (over, "final", 1)


def describe(line: dict[str, Any]) -> dict[str, type]:
    return {name: type(value) for name, value in line.items()}


def describe_event(fields: dict[str, type] | None) -> dict[str, type] | None:
    return None if fields is None else {**EVERY_LINE, **fields}


def test_every_line_that_frames_a_day_has_the_fields_of_its_event(
    day: RaceDay, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"RACE_COUNTRIES": "NZ", "RACE_CATEGORIES": "H", "LOG_LEVEL": "info"}.items():
        monkeypatch.setenv(name, value)
    rule = day.simulator.add_fault("/racing/meetings", "status", code=400, times=1)
    runs = [run_day(day, "daily_baseline")]
    assert day.simulator.fired(rule) == 1
    runs += [run_day(day, job) for job in ("daily_baseline", "evening_backfill", "meeting_status")]
    assert [run.success for run in runs] == [False, True, True, True]
    said = read_log(capfd.readouterr().err)
    lines = [line for line in said if line["event"] not in {**EVENTS, **BUSY_MACHINE}]
    assert [line for line in lines if describe(line) != describe_event(DAY_EVENTS.get(line["event"]))] == []
    assert {line["event"] for line in lines} == DAY_EVENTS.keys()


def test_a_race_and_a_batch_over_their_budgets_are_said_by_their_run(
    day: RaceDay, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch, "BATCH_BUDGET_MS", 2_000)  # fifteen seconds are long for a test
    slow = day.race_ids[6]
    rule = day.simulator.add_fault(slow, "latency", ms=2_100)
    result = day.poll([slow])
    assert result.success
    assert day.simulator.fired(rule) == 1
    lines = {line["event"]: line for line in read_log(capfd.readouterr().err)}
    race, whole = lines["pipeline_over_budget"], lines["batch_sla_warning"]
    assert (race["level"], race["race_id"], race["target_ms"]) == ("warning", slow, 2_000)
    assert race["total_ms"] >= 2_100
    assert (whole["level"], whole["target_ms"]) == ("error", 2_000)
    assert whole["batch_duration_ms"] >= race["total_ms"]
    assert day.read_batch(result.run_id)["over_budget"]


def test_the_milliseconds_of_each_stage_are_in_the_metadata_of_a_successful_run(day: RaceDay) -> None:
    race_id = day.race_ids[5]
    result = day.poll([race_id])
    key = race_id.replace("-", "_")
    written = read_metadata(result, f"process_race.write_race[{key}]")
    assert read_metadata(result, f"process_race.fetch_race[{key}]")["fetch_ms"] == written["fetch_ms"] > 0
    assert read_metadata(result, f"process_race.transform_race[{key}]")["transform_ms"] == written["transform_ms"] > 0
    assert written["write_ms"] > 0
    assert written["total_ms"] >= written["fetch_ms"] + written["transform_ms"] + written["write_ms"] - 3
    summary = read_metadata(result, "summarise_batch")
    assert summary["max_duration_ms"] == written["total_ms"] <= summary["batch_duration_ms"]
    assert f"| {written['fetch_ms']} | {written['transform_ms']} | {written['write_ms']} |" in summary["races"]
