"""The end of a racing day: its results, its corrections, and the races nobody had seen."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

import dagster as dg
import pytest
from sqlalchemy import text

from raceday_dagster.racing.race_key import read_id_start
from raceday_dagster.store.queries import CHECK_AFTER
from raceday_dagster_tests.integration.defs.day_runs import (
    EVENING,
    NEXT_DAY,
    NIGHT,
    list_races,
    read_metadata,
    run_day,
)
from raceday_dagster_tests.integration.race_day import RACING_DAY, RaceDay, open_module_day, read_log


@pytest.fixture(scope="module")
def day(database_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RaceDay]:
    with open_module_day(database_url, tmp_path_factory, speed=0, RACE_COUNTRIES="NZ") as opened:
        yield opened


@pytest.fixture(scope="module")
def missed(day: RaceDay) -> str:
    """A race of the loaded day that was lost again, with its partition: as if it had been added to the list later."""
    assert run_day(day, "daily_baseline").success
    race_id, *_others = list_races(day)
    with day.engine.begin() as connection:
        connection.execute(text("DELETE FROM races WHERE race_id = :race_id"), {"race_id": race_id})
    day.remove_partition(race_id)
    return race_id


@pytest.fixture(scope="module")
def evening(day: RaceDay, missed: str) -> dg.JobExecutionResult:
    """The backfill at 21:00, after a day on which nothing was polled."""
    assert missed
    day.simulator.set_clock(EVENING)
    day.simulator.clear_requests()
    return run_day(day, "evening_backfill")


def read_choice(result: dg.JobExecutionResult) -> dict[str, int]:
    said = read_metadata(result, "select_unsettled_races")
    return {name.removeprefix("chosen/"): said[name] for name in said if name.startswith("chosen/") and said[name]}


def test_every_race_that_has_started_is_asked_about_and_no_other(day: RaceDay, evening: dg.JobExecutionResult) -> None:
    assert evening.success
    polled = set(day.read_polls(evening.run_id))
    started = {row["race_id"]: row for row in day.ask("SELECT * FROM races WHERE start_time <= :now", now=EVENING)}
    assert len(polled) > 20
    assert polled <= set(started)
    # Nothing comes of an abandoned race; one that was final by the morning is complete with its only poll.
    left_alone = [race for race_id, race in started.items() if race_id not in polled]
    assert all(
        race["status"] == "abandoned" or race["last_poll_time"] > race["finalized_at"] + CHECK_AFTER
        for race in left_alone
    )
    assert any(race["status"] == "abandoned" for race in left_alone)
    assert sum(read_choice(evening).values()) == len(polled)
    assert day.simulator.requests()["events_in_flight_peak"] <= 5


def test_results_and_dividends_are_there(day: RaceDay, evening: dg.JobExecutionResult) -> None:
    assert evening.success
    over_by = EVENING - timedelta(minutes=15)
    lacking = day.ask(
        "SELECT race.race_id, race.status FROM races AS race LEFT JOIN race_results AS result USING (race_id)"
        " WHERE race.start_time < :over_by AND race.status <> 'abandoned' AND (race.status <> 'final'"
        " OR result.result_status IS DISTINCT FROM 'final' OR result.dividends = '[]' OR result.results = '[]')",
        over_by=over_by,
    )
    assert lacking == []


def test_a_race_that_was_missed_altogether_is_stored_polled_and_a_partition(
    day: RaceDay, missed: str, evening: dg.JobExecutionResult
) -> None:
    assert day.read_polls(evening.run_id)[missed]["status"] == "success"
    assert day.ask("SELECT 1 FROM entrants WHERE race_id = :race_id", race_id=missed)
    assert read_id_start(missed) in map(read_id_start, day.instance.get_dynamic_partitions("races"))
    assert read_choice(evening)["never_polled"] == 1
    assert read_metadata(evening, "select_unsettled_races")["partitions_registered"] == 1


def test_a_second_backfill_asks_only_about_races_that_are_not_over(
    day: RaceDay, evening: dg.JobExecutionResult, capfd: pytest.CaptureFixture[str]
) -> None:
    assert evening.success
    again = run_day(day, "evening_backfill")
    assert again.success
    not_over = "SELECT race_id FROM races WHERE start_time <= :now AND status IN ('open', 'closed', 'interim')"
    running = {row["race_id"] for row in day.ask(not_over, now=EVENING)}
    assert set(day.read_polls(again.run_id)) == running
    assert read_choice(again) == {"not_over": len(running)}
    said = {line["event"]: line for line in read_log(capfd.readouterr().err)}
    assert said["evening_backfill_start"]["nz_date"] == RACING_DAY.isoformat()
    complete = said["evening_backfill_complete"]
    assert (complete["nz_date"], complete["races"]) == (RACING_DAY.isoformat(), len(list_races(day)))
    assert (complete["polled"], complete["failed"]) == (len(running), [])


def test_the_next_evening_completes_what_was_left_and_checks_each_end_once(
    day: RaceDay, evening: dg.JobExecutionResult
) -> None:
    assert evening.success
    day.simulator.set_clock(NIGHT)
    following = run_day(day, "evening_backfill", NEXT_DAY)
    assert following.success
    chosen = read_choice(following)
    assert chosen["not_over"] > 0
    assert chosen["not_checked"] > 20
    assert {row["status"] for row in day.ask("SELECT DISTINCT status FROM races")} == {"final", "abandoned"}
    assert read_choice(run_day(day, "evening_backfill", NEXT_DAY)) == {}


def test_a_later_day_still_checks_ends_that_were_seen_late_and_then_nothing_is_left(day: RaceDay) -> None:
    day.simulator.set_clock(NIGHT + timedelta(minutes=30))
    assert set(read_choice(run_day(day, "evening_backfill", NEXT_DAY))) == {"not_checked"}
    day.simulator.set_clock(NIGHT + timedelta(hours=1))
    nothing = run_day(day, "evening_backfill", NEXT_DAY)
    assert nothing.success
    assert day.read_batch(nothing.run_id)["total_races"] == 0


def test_one_race_that_cannot_be_read_is_asked_again_and_does_not_stop_the_others(day: RaceDay) -> None:
    ids = list_races(day)[1:4]
    broken = ids[0]
    with day.engine.begin() as connection:
        connection.execute(text("DELETE FROM race_results WHERE race_id = ANY (:ids)"), {"ids": ids})
    day.simulator.set_clock(NIGHT + timedelta(hours=2))
    rule = day.simulator.add_fault(broken, "garbage")
    result = run_day(day, "evening_backfill")
    assert day.simulator.fired(rule) >= 1
    day.simulator.clear_faults()
    assert result.success
    assert read_choice(result) == {"no_results": 3}
    polls = day.read_polls(result.run_id)
    assert [polls[race_id]["status"] for race_id in ids] == ["failed", "success", "success"]
    repaired = run_day(day, "evening_backfill")
    assert set(day.read_polls(repaired.run_id)) == {broken}
    assert day.ask("SELECT 1 FROM race_results WHERE race_id = :race_id", race_id=broken)
