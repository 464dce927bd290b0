"""The beginning of a racing day: listed, stored, polled once, registered as partitions."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime

import dagster as dg
import pytest

from raceday_dagster.defs.baseline_ops import choose_racing_day
from raceday_dagster_tests.integration.race_day import RACING_DAY, RaceDay, daily_baseline_job, open_race_day


@pytest.fixture(scope="module")
def day(database_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RaceDay]:
    with (
        pytest.MonkeyPatch.context() as monkeypatch,
        open_race_day(database_url, tmp_path_factory.mktemp("instance"), monkeypatch) as opened,
    ):
        yield opened


@pytest.fixture(scope="module")
def loaded(day: RaceDay) -> dg.JobExecutionResult:
    return load(day, RACING_DAY.isoformat())


def load(day: RaceDay, racing_day: str) -> dg.JobExecutionResult:
    config = {"ops": {"fetch_meetings": {"config": {"racing_day": racing_day}}}}
    return dg.execute_job(dg.reconstructable(daily_baseline_job), instance=day.instance, run_config=config)


def test_meetings_races_entrants_and_first_odds_are_there(day: RaceDay, loaded: dg.JobExecutionResult) -> None:
    assert loaded.success
    (counts,) = day.ask(
        "SELECT (SELECT count(*) FROM meetings) AS meetings, (SELECT count(*) FROM races) AS races,"
        " (SELECT count(DISTINCT race_id) FROM entrants) AS with_entrants,"
        " (SELECT count(DISTINCT race_id) FROM odds_history) AS with_odds"
    )
    assert counts["meetings"] >= 8
    assert counts["races"] >= 60
    assert counts["with_entrants"] == counts["with_odds"] == counts["races"]
    batch = day.read_batch(loaded.run_id)
    assert (batch["successes"], batch["total_races"]) == (counts["races"], counts["races"])
    assert batch["effective_concurrency"] == 5
    assert day.simulator.requests()["events_in_flight_peak"] <= 5


def test_only_the_configured_countries_and_categories_are_taken(day: RaceDay, loaded: dg.JobExecutionResult) -> None:
    assert loaded.success
    kinds = {(row["country"], row["category"]) for row in day.ask("SELECT DISTINCT country, category FROM meetings")}
    assert kinds == {("NZ", "T"), ("NZ", "H"), ("AUS", "T"), ("AUS", "H")}


def test_races_after_midnight_belong_to_the_day_of_their_meeting(day: RaceDay, loaded: dg.JobExecutionResult) -> None:
    assert loaded.success
    assert {row["racing_day"] for row in day.ask("SELECT DISTINCT racing_day FROM races")} == {RACING_DAY}
    late = day.ask("SELECT race_id FROM races WHERE race_date_nz > racing_day")
    assert late, "the simulated day has races after midnight in New Zealand"
    for table in ("money_flow_history", "odds_history"):
        assert {row["racing_day"] for row in day.ask(f"SELECT DISTINCT racing_day FROM {table}")} == {RACING_DAY}


def test_every_race_is_a_partition(day: RaceDay, loaded: dg.JobExecutionResult) -> None:
    assert loaded.success
    stored = {row["race_id"] for row in day.ask("SELECT race_id FROM races")}
    assert set(day.instance.get_dynamic_partitions("races")) == stored


def test_one_race_that_cannot_be_read_does_not_stop_the_day(day: RaceDay, loaded: dg.JobExecutionResult) -> None:
    assert loaded.success
    broken = day.race_ids[3]
    rule = day.simulator.add_fault(broken, "garbage")
    again = load(day, RACING_DAY.isoformat())
    assert day.simulator.fired(rule) == 1
    day.simulator.clear_faults()
    assert again.success
    polls = day.read_polls(again.run_id)
    assert {race_id for race_id, row in polls.items() if row["status"] == "failed"} == {broken}


def test_a_list_that_cannot_be_read_is_one_clear_failure(day: RaceDay) -> None:
    rule = day.simulator.add_fault("/racing/meetings", "status", code=500)
    result = load(day, RACING_DAY.isoformat())
    assert day.simulator.fired(rule) == 4
    day.simulator.clear_faults()
    assert not result.success
    (failure,) = result.get_step_failure_events()
    assert failure.step_key == "fetch_meetings"
    assert f"The meetings of {RACING_DAY} could not be read" in str(failure.step_failure_data.user_failure_data)


def test_a_day_without_racing_is_an_empty_success(day: RaceDay) -> None:
    result = load(day, "2026-01-01")
    assert result.success
    assert day.read_batch(result.run_id)["total_races"] == 0


def test_a_day_that_is_no_date_is_refused_before_anything_is_asked(day: RaceDay) -> None:
    day.simulator.clear_requests()
    result = load(day, "tomorrow")
    (failure,) = result.get_step_failure_events()
    said = str(failure.step_failure_data.user_failure_data)
    assert "racing_day must be a date like 2026-01-31, not 'tomorrow'" in said
    assert day.simulator.requests()["total"] == 0


@pytest.mark.parametrize(
    ("now", "racing_day"),
    [
        (datetime(2026, 9, 26, 11, 59, tzinfo=UTC), date(2026, 9, 26)),
        (datetime(2026, 9, 26, 12, 0, tzinfo=UTC), date(2026, 9, 27)),  # clocks go forward at 02:00 that night
        (datetime(2026, 9, 27, 10, 59, tzinfo=UTC), date(2026, 9, 27)),
        (datetime(2026, 9, 27, 11, 0, tzinfo=UTC), date(2026, 9, 28)),
        (datetime(2027, 4, 3, 10, 59, tzinfo=UTC), date(2027, 4, 3)),
        (datetime(2027, 4, 3, 11, 0, tzinfo=UTC), date(2027, 4, 4)),  # clocks go back at 03:00 that night
        (datetime(2027, 4, 4, 11, 59, tzinfo=UTC), date(2027, 4, 4)),
        (datetime(2027, 4, 4, 12, 0, tzinfo=UTC), date(2027, 4, 5)),
    ],
)
def test_today_is_new_zealands_on_both_nights_that_change_the_clocks(now: datetime, racing_day: date) -> None:
    assert choose_racing_day("", now) == racing_day
