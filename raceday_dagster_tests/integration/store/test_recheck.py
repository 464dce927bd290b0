"""Which races the backfill asks about again and why, and which are overdue: on rows that polls and lists wrote."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from raceday_dagster.racing.snapshots import ResultsRow
from raceday_dagster.store.queries import (
    CHECK_AFTER,
    GIVEN_UP_AFTER,
    OVERDUE_RACES,
    RACES_TO_RECHECK,
    read_overdue_races,
    read_races_to_recheck,
)
from raceday_dagster.store.race_store import PollRun, RaceStore
from raceday_dagster_tests.integration.store.lists import make_list
from raceday_dagster_tests.integration.store.store_fixture import observe, write
from raceday_dagster_tests.integration.store.test_ledger import make_failure
from raceday_dagster_tests.write_snapshots import START, make_results, make_snapshot

DAY = START.date()
ENDED = START + timedelta(minutes=9)
SECOND = timedelta(seconds=1)
HOUR = timedelta(hours=1)


def poll(store: RaceStore, made_at: datetime, status: str, results: ResultsRow | None = None) -> None:
    snapshot = make_snapshot(generated_at=made_at, race={"status": status}, results=results)
    write(store, snapshot, run_id=f"run at {made_at}")


def read(store: RaceStore, now: datetime) -> dict[str, str]:
    return store.read(read_races_to_recheck, [DAY], now)


def test_a_race_never_polled_is_asked_about_once_its_start_has_passed(store: RaceStore) -> None:
    store.write_racing_day(make_list(["race-1", "race-2"]))
    assert read(store, START - SECOND) == {}
    assert read(store, START) == {"race-1": "never_polled"}
    assert read(store, START + timedelta(hours=1)) == {"race-1": "never_polled", "race-2": "never_polled"}


@pytest.mark.parametrize("status", ["closed", "final", "abandoned"])
def test_whatever_the_list_says_of_a_race_never_polled_it_is_asked_about(store: RaceStore, status: str) -> None:
    store.write_racing_day(make_list(race={"status": status}))
    assert read(store, START) == {"race-1": "never_polled"}


def test_a_poll_that_failed_is_no_poll(store: RaceStore) -> None:
    store.write_racing_day(make_list())
    store.record_poll(make_failure("race-1", polled_at=START + SECOND), PollRun(run_id="run-1"))
    assert read(store, START + timedelta(minutes=1)) == {"race-1": "never_polled"}


@pytest.mark.parametrize("status", ["open", "closed", "interim"])
def test_a_race_that_started_and_is_not_over_is_asked_about_each_time(store: RaceStore, status: str) -> None:
    poll(store, START - timedelta(minutes=1), status, make_results() if status == "interim" else None)
    assert read(store, START - SECOND) == {}
    assert read(store, START) == {"race-1": "not_over"}
    poll(store, START + timedelta(hours=5), status)
    assert read(store, START + timedelta(hours=5)) == {"race-1": "not_over"}


def test_an_abandoned_race_that_was_polled_is_left_alone(store: RaceStore) -> None:
    poll(store, START - timedelta(minutes=9), "abandoned")
    assert read(store, START + timedelta(hours=5)) == {}


@pytest.mark.parametrize(
    "results",
    [
        None,
        make_results("interim"),
        make_results("protest"),
        make_results("final").model_copy(update={"results": ()}),
        make_results("final").model_copy(update={"dividends": ()}),
    ],
)
def test_a_final_race_without_its_final_results_is_asked_about_again(
    store: RaceStore, results: ResultsRow | None
) -> None:
    poll(store, ENDED, "final", results)
    assert read(store, ENDED + SECOND) == {"race-1": "no_results"}


def test_results_that_do_not_come_are_asked_for_every_ten_minutes_at_most(store: RaceStore) -> None:
    asked_at = ENDED + timedelta(hours=1)
    poll(store, ENDED, "final")
    poll(store, asked_at, "final")
    assert read(store, asked_at + CHECK_AFTER) == {}
    assert read(store, asked_at + CHECK_AFTER + SECOND) == {"race-1": "no_results"}


def test_a_final_race_is_checked_once_more_ten_minutes_after_its_end(store: RaceStore) -> None:
    poll(store, ENDED, "final", make_results("final"))
    assert read(store, ENDED + CHECK_AFTER - SECOND) == {}
    assert read(store, ENDED + CHECK_AFTER) == {"race-1": "not_checked"}
    poll(store, ENDED + CHECK_AFTER - SECOND, "final", make_results("final"))
    assert read(store, ENDED + timedelta(hours=1)) == {"race-1": "not_checked"}
    poll(store, ENDED + CHECK_AFTER, "final", make_results("final"))
    assert read(store, ENDED + timedelta(days=1)) == {}


def test_a_race_that_went_on_after_its_end_is_checked_after_its_new_end(store: RaceStore) -> None:
    again = ENDED + timedelta(minutes=20)
    poll(store, ENDED, "final", make_results("final"))
    poll(store, ENDED + timedelta(minutes=15), "interim", make_results())
    assert read(store, again) == {"race-1": "not_over"}
    poll(store, again, "final", make_results("final"))
    assert read(store, again + CHECK_AFTER) == {"race-1": "not_checked"}


def test_the_races_to_recheck_are_of_the_days_asked_about_the_earliest_start_first(store: RaceStore) -> None:
    store.write_racing_day(make_list(["late", "early"]))
    swapped = make_list(["late", "early"], poll=1, race={"start_time": START - timedelta(hours=1)}).races[1]
    listed = make_list(["late", "early"], poll=1)
    store.write_racing_day(listed.model_copy(update={"races": (listed.races[0], swapped)}))
    assert list(read(store, START)) == ["early", "late"]
    assert store.read(read_races_to_recheck, [DAY - timedelta(days=1)], START) == {}
    assert len(store.read(read_races_to_recheck, [DAY - timedelta(days=1), DAY], START)) == 2


def test_an_overdue_race_of_any_day_is_asked_about_for_a_week(store: RaceStore) -> None:
    store.write_racing_day(make_list())
    poll(store, START - timedelta(minutes=1), "open")
    other_days = [DAY + timedelta(days=5), DAY + timedelta(days=6)]
    asked = {
        after: list(store.read(read_races_to_recheck, other_days, START + after).values())
        for after in (2 * HOUR - SECOND, 2 * HOUR, GIVEN_UP_AFTER - SECOND, GIVEN_UP_AFTER)
    }
    assert list(asked.values()) == [[], ["not_over"], ["not_over"], []]
    poll(store, START + HOUR, "final", make_results("final"))
    assert store.read(read_races_to_recheck, other_days, START + 3 * HOUR) == {}


def test_both_questions_find_unfinished_races_by_their_index(store: RaceStore, database_url: str) -> None:
    bounds = {"now": START, "after": START, "started_by": START, "wait": CHECK_AFTER}
    values = {"racing_days": [DAY], "countries": ["NZ"], "categories": ["T"], **bounds}
    with observe(database_url) as run:
        run("SET enable_seqscan = off")
        for question in (RACES_TO_RECHECK, OVERDUE_RACES):
            assert any("ix_races_unfinished" in line for (line,) in run(f"EXPLAIN {question}", values))


def overdue(store: RaceStore, now: datetime, **chosen: Any) -> list[str]:
    codes = {"countries": ["NZ"], "categories": ["T"], **chosen}
    return [race.race_id for race in store.read(read_overdue_races, now, **codes)]


def test_a_race_is_overdue_two_hours_after_its_start(store: RaceStore) -> None:
    store.write_racing_day(make_list(["race-1", "race-2"]))
    line = START + timedelta(hours=2)
    assert overdue(store, line - SECOND) == []
    assert overdue(store, line) == ["race-1"]
    assert overdue(store, line + timedelta(minutes=20)) == ["race-1", "race-2"]
    (race,) = store.read(read_overdue_races, line, countries=["NZ"], categories=["T"])
    assert (race.start_time, race.start_time.tzinfo, race.status) == (START, UTC, "open")
    assert (race.meeting_name, race.race_number) == ("Awapuni", 1)
    assert overdue(store, START + GIVEN_UP_AFTER - SECOND) == ["race-1", "race-2"]
    assert overdue(store, START + GIVEN_UP_AFTER) == ["race-2"]


def test_races_that_are_not_followed_are_not_missed(store: RaceStore) -> None:
    store.write_racing_day(make_list())
    later = START + timedelta(hours=9)
    assert overdue(store, later, countries=["HK"]) == overdue(store, later, categories=["H"]) == []
