"""The log lines of a live batch and of the day around it: all that `log_contract` promises
of them, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from raceday_dagster.dagster_plugins.run_coordinator import LANE_TAG, LIVE
from raceday_dagster.defs.ops import batch
from raceday_dagster_tests.integration.defs.day_runs import read_metadata, run_day
from raceday_dagster_tests.integration.race_day import (
    RaceDay,
    list_races,
    open_race_day,
    read_log,
)
from raceday_dagster_tests.log_contract import BUSY_MACHINE, DAY_EVENTS, EVENTS, find_wrong

UNKNOWN = "00000000-0000-4000-8000-000000000000"


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
    races = [good, retried, garbled, over, UNKNOWN]
    result = day.run("process_races", select_races={"race_ids": races}, tags={LANE_TAG: LIVE})
    assert [day.simulator.fired(rule) for rule in rules] == [1, 1]
    assert not result.success, "one race failed, and FAIL_RUN_WHEN is any"
    lines = read_log(capfd.readouterr().err)
    assert find_wrong(lines, {**EVENTS, **BUSY_MACHINE}) == []
    assert {line["event"] for line in lines} - BUSY_MACHINE.keys() == EVENTS.keys()
    assert {line["run_id"] for line in lines} == {result.run_id}
    (recovered,) = [line for line in lines if line["event"] == "race_recovered"]
    assert (recovered["race_id"], recovered["failed_polls"]) == (good, 1)
    (completed,) = [line for line in lines if line["event"] == "scheduler_race_completed"]
    assert (completed["race_id"], completed["final_status"], completed["total_polls"]) == (over, "final", 1)


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
    assert find_wrong(lines, DAY_EVENTS) == []
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
