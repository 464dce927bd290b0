"""The day's list in the tables: in bulk, only what changed, and never over what a poll knows better."""

from __future__ import annotations

from datetime import date, timedelta

import pytest

from raceday_dagster.racing.outcomes import RowCounts
from raceday_dagster.store.race_store import RaceStore
from raceday_dagster_tests.integration.store.lists import make_list
from raceday_dagster_tests.integration.store.store_fixture import (
    read_tables,
    watch_statements,
    write,
)
from raceday_dagster_tests.write_snapshots import START, make_snapshot

RACES = [f"race-{number}" for number in range(1, 5)]


def test_a_list_becomes_meetings_and_races(store: RaceStore, database_url: str) -> None:
    assert store.write_racing_day(make_list(RACES)) == RowCounts(meetings=1, races=4)
    tables = read_tables(database_url)
    [meeting] = tables["meetings"]
    assert (meeting["race_type"], meeting["racing_day"], meeting["status"]) == (
        "thoroughbred",
        date(2025, 7, 17),
        "active",
    )
    assert [row["tote_start_time"] for row in tables["races"]] == ["25:38:00"] * 4
    assert [row["status"] for row in tables["races"]] == ["open"] * 4


def test_the_same_list_again_changes_nothing(store: RaceStore, database_url: str) -> None:
    store.write_racing_day(make_list(RACES))
    before = read_tables(database_url, without=set())
    assert store.write_racing_day(make_list(RACES, poll=1)).total == 0
    after = read_tables(database_url, without=set())
    assert before.pop("racing_days") != after.pop("racing_days")
    assert after == before


def test_only_what_changed_is_written(store: RaceStore) -> None:
    store.write_racing_day(make_list(RACES))
    later = make_list(RACES, poll=1)
    moved = later.races[1].model_copy(update={"start_time": START + timedelta(minutes=25)})
    changed = later.model_copy(update={"races": (later.races[0], moved, *later.races[2:])})
    assert store.write_racing_day(changed) == RowCounts(races=1)


def test_an_older_list_never_overwrites_a_newer_poll(store: RaceStore, database_url: str) -> None:
    write(store, make_snapshot(poll=3, race={"status": "interim"}))
    store.write_racing_day(make_list(poll=2, race={"status": "open", "name": "Old"}))
    [race] = read_tables(database_url)["races"]
    assert (race["status"], race["name"]) == ("interim", "Maiden")


def test_a_list_erases_nothing_a_poll_stored_and_makes_no_poll_stale(store: RaceStore, database_url: str) -> None:
    write(store, make_snapshot(), run_id="one")
    store.write_racing_day(make_list(poll=10))
    [race] = read_tables(database_url)["races"]
    assert (race["distance"], race["status"], race["tote_start_time"]) == (1400, "open", "25:38:00")
    assert write(store, make_snapshot(poll=5), run_id="two").status == "written"


def test_a_poll_keeps_what_only_the_list_knows(store: RaceStore, database_url: str) -> None:
    store.write_racing_day(make_list())
    write(store, make_snapshot(poll=1))
    tables = read_tables(database_url)
    assert tables["races"][0]["tote_start_time"] == "25:38:00"
    assert tables["meetings"][0]["tote_meeting_number"] == 4


@pytest.mark.parametrize(
    ("status", "follows"), [("abandoned", "cancelled"), ("final", "completed"), ("open", "active")]
)
def test_the_meeting_follows_its_races(store: RaceStore, database_url: str, status: str, follows: str) -> None:
    store.write_racing_day(make_list(RACES))
    store.write_racing_day(make_list(RACES, poll=1, race={"status": status}))
    assert read_tables(database_url)["meetings"][0]["status"] == follows


def test_the_meeting_is_not_over_before_its_last_race(store: RaceStore, database_url: str) -> None:
    store.write_racing_day(make_list(["race-1", "race-2"]))
    seen = []
    for poll, (race_id, status) in enumerate([("race-1", "abandoned"), ("race-2", "final")], start=1):
        write(store, make_snapshot(race_id, poll=poll, race={"status": status}), run_id=f"run-{poll}")
        seen.append(read_tables(database_url)["meetings"][0]["status"])
    write(store, make_snapshot("race-2", poll=9, race={"status": "interim"}), run_id="reopened")
    seen.append(read_tables(database_url)["meetings"][0]["status"])
    assert seen == ["active", "completed", "active"]


def test_an_end_that_the_list_saw_first_gets_its_last_money(store: RaceStore) -> None:
    write(store, make_snapshot(), run_id="one")
    store.write_racing_day(make_list(poll=1, race={"status": "final"}))
    counts = [
        write(store, make_snapshot(poll=poll, race={"status": "final"}), run_id=f"{poll}").row_counts for poll in (2, 3)
    ]
    assert [count.money_flow_history for count in counts] == [8, 0]


def test_a_large_list_is_written_in_statements_of_a_thousand_rows(store: RaceStore) -> None:
    with watch_statements(store.engine) as statements:
        counts = store.write_racing_day(make_list([f"race-{number}" for number in range(1_500)]))
    assert counts.races == 1_500
    assert sum("INSERT INTO races" in statement for statement in statements.sent) == 2


def test_an_empty_list_is_no_failure(store: RaceStore) -> None:
    empty = make_list().model_copy(update={"meetings": (), "races": ()})
    assert store.write_racing_day(empty).total == 0


def test_an_older_list_changes_nothing_even_if_the_newer_one_did_not(store: RaceStore, database_url: str) -> None:
    store.write_racing_day(make_list(RACES))
    store.write_racing_day(make_list(RACES, poll=2))
    before = read_tables(database_url)
    older = make_list(RACES, poll=1, race={"name": "Old"}, meeting={"track_condition": "Heavy10"})
    assert store.write_racing_day(older).total == 0
    assert read_tables(database_url) == before


def test_an_older_poll_leaves_the_meeting_as_a_newer_answer_confirmed_it(store: RaceStore, database_url: str) -> None:
    old = {"weather": "RAIN"}
    write(store, make_snapshot(), run_id="one")
    write(store, make_snapshot(poll=2), run_id="two")
    assert write(store, make_snapshot("race-2", poll=1, meeting=old), run_id="sister").row_counts.meetings == 0
    store.write_racing_day(make_list(poll=4))
    assert write(store, make_snapshot(poll=3, meeting=old), run_id="three").row_counts.meetings == 0
    assert read_tables(database_url)["meetings"][0]["weather"] == "FINE"
    assert write(store, make_snapshot(poll=5, meeting=old), run_id="five").row_counts.meetings == 1


def test_a_list_moves_only_a_race_that_was_never_polled_to_another_day(store: RaceStore, database_url: str) -> None:
    next_day = START.date() + timedelta(days=1)
    store.write_racing_day(make_list(["race-1", "race-2"]))
    write(store, make_snapshot(win_cents=100_000), run_id="one")
    store.write_racing_day(make_list(["race-1", "race-2"], poll=1, race={"racing_day": next_day}))
    write(store, make_snapshot(poll=2, win_cents=300_000), run_id="two")
    tables = read_tables(database_url)
    assert [row["racing_day"] for row in tables["races"]] == [START.date(), next_day]
    flow = [row for row in tables["money_flow_history"] if row["entrant_id"] == "race-1-01"]
    assert [row["is_baseline"] for row in flow] == [True, False]
    assert sum(row["incremental_win_amount"] for row in flow) == flow[-1]["win_pool_amount"] == 54_000


def test_a_race_that_moves_updates_both_of_its_meetings(store: RaceStore, database_url: str) -> None:
    store.write_racing_day(make_list(["race-1", "race-2"], race={"status": "final"}))
    store.write_racing_day(make_list(["race-3"], poll=1, meeting_id="meeting-2"))
    write(store, make_snapshot("race-3", poll=2), run_id="moved here")
    seen = [[row["status"] for row in read_tables(database_url)["meetings"]]]
    write(store, make_snapshot("race-2", poll=3, meeting_id="meeting-2", race={"status": "final"}), run_id="moved on")
    write(store, make_snapshot("race-3", poll=4, meeting_id="meeting-2"), run_id="moved back")
    seen.append([row["status"] for row in read_tables(database_url)["meetings"]])
    assert seen == [["active", "active"], ["completed", "active"]]
