"""The end of a racing day: its results, its corrections, and the races nobody had seen."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

import dagster as dg
import pytest
from sqlalchemy import text

from raceday_dagster.definitions import defs
from raceday_dagster.defs.assets import RACE_BATCHES, SETTLED_RACES
from raceday_dagster.racing.race_key import read_id_start
from raceday_dagster.store.data_checks import RULES, Violation, find_violations
from raceday_dagster.store.queries import CHECK_AFTER
from raceday_dagster_tests.integration.defs.day_runs import (
    EVENING,
    NEXT_DAY,
    NIGHT,
    check_stage_timings,
    list_races,
    read_metadata,
    run_day,
)
from raceday_dagster_tests.integration.race_day import RACING_DAY, RaceDay, open_race_day, read_log


@pytest.fixture(scope="module")
def day(database_url: str) -> Iterator[RaceDay]:
    with open_race_day(database_url, speed=0, RACE_COUNTRIES="NZ", RACE_CATEGORIES="T") as opened:
        yield opened


@pytest.fixture(scope="module")
def missed(day: RaceDay) -> str:
    """A race of the loaded day that was lost again, with its partition: as if it had been added to the list later."""
    assert run_day(day, "daily_baseline").success
    race_id, *_others = list_races(day)
    day.ask("DELETE FROM races WHERE race_id = :race_id", race_id=race_id)
    day.remove_partition(race_id)
    return race_id


@pytest.fixture(scope="module")
def evening(day: RaceDay, missed: str) -> dg.JobExecutionResult:
    """The backfill of a day on which nothing was polled."""
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
    assert len(polled) > 5
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


def test_the_milliseconds_of_each_stage_are_in_the_metadata(day: RaceDay, evening: dg.JobExecutionResult) -> None:
    check_stage_timings(day, evening)


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
    assert chosen["not_checked"] > 5
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
    day.ask("DELETE FROM race_results WHERE race_id = ANY (:ids)", ids=ids)
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


def test_the_catalogue_shows_each_race_that_is_over_once_by_its_readable_name(
    day: RaceDay, evening: dg.JobExecutionResult
) -> None:
    assert evening.success
    assert run_day(day, "meeting_status").success  # some races are over because the list says so
    over = [row["race_id"] for row in day.ask("SELECT race_id FROM race_card WHERE is_over ORDER BY status DESC")]
    assert day.instance.get_materialized_partitions(SETTLED_RACES.key) == {day.name_race(race_id) for race_id in over}
    day.poll(over[:2])
    found = dg.AssetRecordsFilter(asset_key=SETTLED_RACES.key, asset_partitions=[day.name_race(over[0])])
    (record,) = day.instance.fetch_materializations(found, limit=5).records
    assert record.asset_materialization is not None
    said = {name: value.value for name, value in record.asset_materialization.metadata.items()}
    assert said["race"].endswith(f"(/races/{over[0]})")
    assert (said["race_id"], said["polls"] > 0, said["win_pool_dollars"] > 0) == (over[0], True, True)


def test_the_catalogue_plots_the_figures_of_a_batch_and_leaves_out_the_load_of_a_day(
    day: RaceDay, evening: dg.JobExecutionResult
) -> None:
    assert evening.success
    before = day.instance.fetch_materializations(RACE_BATCHES.key, limit=99).records
    run = day.poll(list_races(day)[:3])
    newest, *others = day.instance.fetch_materializations(RACE_BATCHES.key, limit=99).records
    assert (len(others), newest.run_id) == (len(before), run.run_id)
    assert evening.run_id not in {record.run_id for record in (newest, *others)}
    assert newest.asset_materialization is not None
    figures = {name: value.value for name, value in newest.asset_materialization.metadata.items()}
    assert (figures["races"], figures["failures"], figures["skipped"]) == (3, 0, 0)
    assert figures["total_ms_max"] >= figures["total_ms_p50"] >= figures["fetch_ms_p50"] > 0
    assert all(isinstance(value, int | float) for value in figures.values())


def test_the_data_of_the_simulated_day_keeps_its_rules_and_what_breaks_one_is_named(
    day: RaceDay, evening: dg.JobExecutionResult
) -> None:
    assert evening.success

    def find_broken() -> dict[str, list[Violation]]:
        with day.engine.connect() as connection:
            found = {rule.name: find_violations(connection, rule, RACING_DAY) for rule in RULES}
        return {name: violations for name, violations in found.items() if violations}

    assert set(find_broken()) <= {"shares_add_up", "polled_on_cadence"}  # its races were polled twice, by hand
    edits = {
        "increments_add_up": "UPDATE entrants SET win_pool_amount = win_pool_amount + 1 WHERE win_pool_amount > 0",
        "history_has_its_race": "UPDATE money_flow_history SET race_id = 'nobody' WHERE race_id = :race_id",
        "shares_add_up": "UPDATE entrants SET hold_percentage = 50",
        "result_in_time": "DELETE FROM race_results",
    }
    with day.engine.connect() as connection:
        for name, edit in edits.items():
            connection.execute(text(edit), {"race_id": list_races(day)[0]} if ":race_id" in edit else {})
            (rule,) = (rule for rule in RULES if rule.name == name)
            assert find_violations(connection, rule, RACING_DAY), name
        connection.rollback()


def test_the_job_data_checks_says_of_each_rule_whether_it_holds(day: RaceDay) -> None:
    result = defs.resolve_job_def("data_checks").execute_in_process(instance=day.instance)
    assert result.success
    found = {each.check_name: each for each in result.get_asset_check_evaluations()}
    assert set(found) == {rule.name for rule in RULES}
    assert found["polled_on_cadence"].metadata["racing_day"].value
