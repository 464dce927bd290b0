"""One list every quarter of an hour: what it changes, what it leaves alone, and the alert for overdue races."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg
import pytest

from raceday_dagster_tests.integration.defs.day_runs import (
    NEXT_DAY,
    NIGHT,
    list_races,
    read_metadata,
    run_day,
)
from raceday_dagster_tests.integration.race_day import FIRST_START, RACING_DAY, RaceDay, open_race_day, read_log


@pytest.fixture(scope="module")
def day(database_url: str) -> Iterator[RaceDay]:
    with open_race_day(database_url, speed=0, RACE_COUNTRIES="NZ", RACE_CATEGORIES="H") as opened:
        yield opened


def read_rows(day: RaceDay) -> dict[str, dict[str, Any]]:
    """Meetings and races by id."""
    rows = day.ask("SELECT meeting_id AS id, to_jsonb(m)::text AS whole FROM meetings AS m") + day.ask(
        "SELECT race_id AS id, to_jsonb(r)::text AS whole FROM races AS r"
    )
    return {row["id"]: json.loads(row["whole"]) for row in rows}


def find_changes(before: dict[str, dict[str, Any]], after: dict[str, dict[str, Any]]) -> dict[str, set[str]]:
    """Columns that differ, by row."""
    return {
        key: {name for name in after[key] if after[key][name] != before[key][name]}
        for key in after
        if after[key] != before[key]
    }


def read_counts(result: dg.JobExecutionResult) -> tuple[Any, Any]:
    said = read_metadata(result, "update_meetings")
    return said["changed_meetings"], said["changed_races"]


def test_a_day_that_nobody_loaded_is_left_to_the_baseline(day: RaceDay) -> None:
    result = run_day(day, "meeting_status")
    assert result.success
    assert read_metadata(result, "update_meetings")["loaded"] is False
    assert day.ask("SELECT 1 FROM racing_days") == day.ask("SELECT 1 FROM races") == []


def test_a_day_whose_list_came_empty_is_an_alert_and_not_loaded(
    day: RaceDay, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("RACE_COUNTRIES", "USA")
        assert run_day(day, "daily_baseline").success
    said = [line for line in read_log(capfd.readouterr().err) if line["event"].startswith("daily_initialization_")]
    assert [line["event"] for line in said] == ["daily_initialization_start", "daily_initialization_empty"]
    assert (said[1]["level"], said[1]["nz_date"]) == ("error", RACING_DAY.isoformat())
    assert day.ask("SELECT 1 FROM racing_days") == list_races(day) == []


def test_a_list_that_says_nothing_new_changes_nothing(day: RaceDay) -> None:
    assert run_day(day, "daily_baseline").success
    before = read_rows(day)
    day.simulator.clear_requests()
    result = run_day(day, "meeting_status")
    assert result.success
    assert day.simulator.requests()["total"] == 1
    assert read_counts(result) == (0, 0)
    assert read_rows(day) == before


def test_what_changed_is_stored_and_nothing_else(day: RaceDay) -> None:
    first, second, third = list_races(day)[8:11]
    (meeting,) = day.ask("SELECT meeting_id FROM races WHERE race_id = :race_id", race_id=first)
    truth = read_rows(day)
    day.ask("UPDATE races SET start_time = start_time - interval '5 min' WHERE race_id = :id", id=first)
    day.ask("UPDATE races SET weather = 'HAIL' WHERE race_id = :id", id=second)
    day.ask("UPDATE races SET status = 'closed' WHERE race_id = :id", id=third)
    day.ask("UPDATE meetings SET track_condition = 'Heavy11' WHERE meeting_id = :id", id=meeting["meeting_id"])
    edited = read_rows(day)
    day.simulator.advance(1)
    result = run_day(day, "meeting_status")
    after = read_rows(day)
    changes = find_changes(edited, after)
    assert set(changes) == {first, second, third, meeting["meeting_id"]}
    assert changes[first] == {"start_time", "updated_at"}
    assert changes[second] == {"weather", "updated_at"}
    assert changes[third] == {"status", "last_status_change", "updated_at"}
    assert changes[meeting["meeting_id"]] == {"track_condition", "updated_at", "api_generated_time"}
    assert after[first]["start_time"] == truth[first]["start_time"]
    assert read_counts(result) == (1, 3)


def test_a_race_that_was_added_is_stored_and_a_partition(day: RaceDay) -> None:
    added = list_races(day)[12]
    day.ask("DELETE FROM races WHERE race_id = :id", id=added)
    key = day.remove_partition(added)
    result = run_day(day, "meeting_status")
    assert read_counts(result) == (0, 1)
    assert read_metadata(result, "update_meetings")["partitions_registered"] == 1
    assert key in day.instance.get_dynamic_partitions("races")
    assert added in read_rows(day)


def test_the_feed_moves_races_on_without_a_poll(day: RaceDay) -> None:
    day.simulator.set_clock(FIRST_START + timedelta(hours=4))
    _meetings, races = read_counts(run_day(day, "meeting_status"))
    assert races > 2
    open_before = "SELECT 1 FROM races WHERE status = 'open' AND start_time < :then"
    assert day.ask(open_before, then=FIRST_START + timedelta(hours=3, minutes=30)) == []


def test_every_overdue_race_is_named_in_one_alert_each_time(day: RaceDay, capfd: pytest.CaptureFixture[str]) -> None:
    """Whatever day the list is of, and also when there is none."""
    overdue = make_overdue(day)
    for broken in (False, True):
        if broken:
            rule = day.simulator.add_fault("/racing/meetings", "status", code=500)
        result = run_day(day, "meeting_status", NEXT_DAY)
        assert result.success is not broken
        lines = read_log(capfd.readouterr().err)
        assert ("meeting_status_failed" in {line["event"] for line in lines}) is broken
        (alert,) = [line for line in lines if line["event"] == "race_unfinished"]
        assert (alert["level"], alert["count"]) == ("error", 2)
        assert [race["race_id"] for race in alert["races"]] == overdue
        assert all(race["hours"] >= 2 and race["status"] == "interim" for race in alert["races"])
        said = read_metadata(result, "report_overdue_races")
        assert said["overdue"] == 2
        assert all(race_id in said["overdue_races"] for race_id in overdue)
        errors = [event.user_message for event in day.instance.all_logs(result.run_id) if event.level == 40]
        assert any(all(race_id in message for race_id in overdue) for message in errors)
    assert day.simulator.fired(rule) == 4


def make_overdue(day: RaceDay) -> list[str]:
    """Makes one race interim that started six days ago, one three hours ago, one eight days ago and one an hour ago,
    and all others final; the ids of the first two. The list of the day after, which is empty, leaves them so."""
    day.ask("UPDATE races SET status = 'final', finalized_at = start_time")
    chosen = list_races(day)[:4]
    for race_id, hours in zip(chosen, (6 * 24, 3, 8 * 24, 1), strict=True):
        day.ask(
            "UPDATE races SET status = 'interim', finalized_at = NULL, start_time = :start WHERE race_id = :id",
            start=datetime.now(UTC) - timedelta(hours=hours),
            id=race_id,
        )
    return chosen[:2]


def test_a_race_that_the_list_knows_to_be_over_raises_no_alert(day: RaceDay, capfd: pytest.CaptureFixture[str]) -> None:
    make_overdue(day)
    day.simulator.set_clock(NIGHT)
    result = run_day(day, "meeting_status")
    assert read_metadata(result, "report_overdue_races")["overdue"] == 0
    assert "race_unfinished" not in capfd.readouterr().err
    # Not only because the list also says again when they started: the alert looks when the list is stored.
    steps = [event.step_key for event in result.all_events if event.event_type is dg.DagsterEventType.STEP_START]
    assert steps == ["fetch_meetings", "update_meetings", "report_overdue_races"]
    assert {row["status"] for row in day.ask("SELECT DISTINCT status FROM races")} == {"final"}
