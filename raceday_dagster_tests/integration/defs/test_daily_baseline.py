"""The beginning of a racing day: listed, stored, polled once, registered as partitions."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date

import dagster as dg
import pytest

from raceday_dagster_tests.integration.defs.day_runs import (
    NEXT_DAY,
    NIGHT,
    check_stage_timings,
    read_failure,
    read_metadata,
    released_when_five_wait,
    run_day,
)
from raceday_dagster_tests.integration.race_day import RACING_DAY, RaceDay, open_race_day, read_log


@pytest.fixture(scope="module")
def day(database_url: str) -> Iterator[RaceDay]:
    with open_race_day(database_url, RACE_CATEGORIES="H") as opened:
        yield opened


@pytest.fixture(scope="module")
def loaded(day: RaceDay) -> dg.JobExecutionResult:
    return run_day(day, "daily_baseline")


def test_meetings_races_entrants_and_first_odds_are_there(day: RaceDay, loaded: dg.JobExecutionResult) -> None:
    assert loaded.success
    (counts,) = day.ask(
        "SELECT (SELECT count(*) FROM meetings) AS meetings, (SELECT count(*) FROM races) AS races,"
        " (SELECT count(DISTINCT race_id) FROM entrants) AS with_entrants,"
        " (SELECT count(DISTINCT race_id) FROM odds_history) AS with_odds"
    )
    assert counts["meetings"] >= 3
    assert counts["races"] >= 30
    assert counts["with_entrants"] == counts["with_odds"] == counts["races"]
    batch = day.read_batch(loaded.run_id)
    assert (batch["successes"], batch["total_races"]) == (counts["races"], counts["races"])
    assert batch["effective_concurrency"] == 5
    assert day.simulator.requests()["events_in_flight_peak"] <= 5


def test_the_milliseconds_of_each_stage_are_in_the_metadata(day: RaceDay, loaded: dg.JobExecutionResult) -> None:
    check_stage_timings(day, loaded)


def test_only_the_configured_countries_and_categories_are_taken(day: RaceDay, loaded: dg.JobExecutionResult) -> None:
    assert loaded.success
    kinds = {(row["country"], row["category"]) for row in day.ask("SELECT DISTINCT country, category FROM meetings")}
    assert kinds == {("NZ", "H"), ("AUS", "H")}


def test_races_after_midnight_belong_to_the_day_of_their_meeting(day: RaceDay, loaded: dg.JobExecutionResult) -> None:
    assert loaded.success
    assert {row["racing_day"] for row in day.ask("SELECT DISTINCT racing_day FROM races")} == {RACING_DAY}
    late = day.ask("SELECT race_id FROM races WHERE race_date_nz > racing_day")
    assert late, "the simulated day has races after midnight in New Zealand"
    for table in ("money_flow_history", "odds_history"):
        assert {row["racing_day"] for row in day.ask(f"SELECT DISTINCT racing_day FROM {table}")} == {RACING_DAY}


def test_every_race_is_a_partition(day: RaceDay, loaded: dg.JobExecutionResult) -> None:
    assert loaded.success
    stored = {day.name_race(row["race_id"]) for row in day.ask("SELECT race_id FROM races")}
    assert set(day.instance.get_dynamic_partitions("races")) == stored


def test_a_list_that_cannot_be_read_is_one_clear_failure(day: RaceDay, capfd: pytest.CaptureFixture[str]) -> None:
    rule = day.simulator.add_fault("/racing/meetings", "status", code=500)
    result = run_day(day, "daily_baseline")
    assert day.simulator.fired(rule) == 4
    assert not result.success
    step, said = read_failure(result)
    assert step == "fetch_meetings"
    assert f"The meetings of {RACING_DAY} could not be read" in said
    (failed,) = [line for line in read_log(capfd.readouterr().err) if line["event"] == "daily_initialization_failed"]
    assert (failed["nz_date"], failed["retryable"]) == (RACING_DAY.isoformat(), True)


def test_a_day_without_racing_is_an_empty_success(day: RaceDay) -> None:
    result = run_day(day, "daily_baseline", date(2026, 1, 1))
    assert result.success
    assert day.read_batch(result.run_id)["total_races"] == 0


def test_a_day_that_is_no_date_is_refused_before_anything_is_asked(day: RaceDay) -> None:
    day.simulator.clear_requests()
    _step, said = read_failure(day.run("daily_baseline", fetch_meetings={"racing_day": "tomorrow"}))
    assert "racing_day must be a date like 2026-01-31, not 'tomorrow'" in said
    assert day.simulator.requests()["total"] == 0


def test_no_more_than_five_events_are_asked_for_at_once_whatever_the_config_says(
    day: RaceDay, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RACE_COUNTRIES", "NZ")
    day.simulator.clear_requests()
    with released_when_five_wait(day, "/racing/events/"):
        result = run_day(day, "daily_baseline", max_concurrent=10)
    assert result.success
    asked = day.simulator.requests()
    assert asked["total"] > 10
    assert asked["events_in_flight_peak"] == 5
    batch = day.read_batch(result.run_id)
    assert (batch["requested_concurrency"], batch["effective_concurrency"]) == (10, 5)


def test_the_day_is_said_to_be_loaded_when_its_races_were_polled(
    day: RaceDay, loaded: dg.JobExecutionResult, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert loaded.success
    monkeypatch.setenv("RACE_COUNTRIES", "NZ")
    (row,) = day.ask("SELECT race_id FROM races JOIN meetings USING (meeting_id) WHERE country = 'NZ' LIMIT 1")
    lost = row["race_id"]
    rule = day.simulator.add_fault(lost, "garbage")
    result = run_day(day, "daily_baseline")
    assert day.simulator.fired(rule) == 1
    assert result.success
    lines = read_log(capfd.readouterr().err)
    ended = [
        line["event"] for line in lines if line["event"] in {"batch_race_complete", "daily_initialization_complete"}
    ]
    assert ended[-1] == "daily_initialization_complete"
    (said,) = [line for line in lines if line["event"] == "daily_initialization_complete"]
    assert (said["polled"], said["failed"]) == (len(day.read_polls(result.run_id)), [lost])


# The last two tests move the clock of the day past its end.


def test_the_next_day_reads_the_races_again_that_are_not_complete(day: RaceDay, loaded: dg.JobExecutionResult) -> None:
    """Also those that are final without a result, as an evening backfill that failed leaves them."""
    assert loaded.success
    lost, *_others = [row["race_id"] for row in day.ask("SELECT race_id FROM races WHERE status = 'final'")]
    day.ask("DELETE FROM meetings WHERE country = 'AUS'")  # one country's tell it all
    day.ask("DELETE FROM race_results WHERE race_id = :race_id", race_id=lost)
    unfinished = {
        row["race_id"] for row in day.ask("SELECT race_id FROM races WHERE status IN ('open', 'closed', 'interim')")
    }
    assert len(unfinished) > 10
    day.simulator.set_clock(NIGHT)
    following = run_day(day, "daily_baseline", NEXT_DAY)
    assert following.success
    polled = set(day.read_polls(following.run_id))
    assert polled >= unfinished | {lost}
    assert read_metadata(following, "write_meetings")["reread"] == len(polled)
    assert {row["status"] for row in day.ask("SELECT DISTINCT status FROM races")} == {"final"}
    assert day.ask("SELECT 1 FROM race_results WHERE race_id = :race_id", race_id=lost)
    again = run_day(day, "daily_baseline", NEXT_DAY)
    assert day.read_batch(again.run_id)["total_races"] == 0


def test_a_past_day_whose_races_are_all_over_is_loaded_by_its_date(
    day: RaceDay, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RACE_COUNTRIES", "NZ")
    day.ask("TRUNCATE meetings, racing_days, money_flow_history, odds_history CASCADE")
    result = run_day(day, "daily_baseline")
    assert result.success
    (counts,) = day.ask(
        "SELECT (SELECT count(*) FROM races WHERE status IN ('final', 'abandoned')) AS races,"
        " (SELECT count(DISTINCT race_id) FROM entrants) AS with_entrants,"
        " (SELECT count(*) FROM races WHERE status = 'final') AS final,"
        " (SELECT count(*) FROM race_results WHERE result_status = 'final') AS with_results,"
        " (SELECT count(DISTINCT race_id) FROM odds_history) AS with_odds"
    )
    batch = day.read_batch(result.run_id)
    assert batch["successes"] == batch["total_races"] == counts["races"] == counts["with_entrants"]
    assert counts["final"] == counts["with_results"] > 10
    assert counts["with_odds"] >= counts["final"]
