"""What the schedule and the health check read, on rows that polls, lists and the ledger wrote."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest

from raceday_dagster.errors import DatabaseError
from raceday_dagster.store.engine import build_engine
from raceday_dagster.store.queries import (
    ANSWERED,
    POLLED_RACES,
    SETTLED,
    is_listed,
    read_answered,
    read_live_races,
    read_polled_races,
)
from raceday_dagster.store.race_store import PollRun, RaceStore
from raceday_dagster_tests.integration.store.lists import make_list
from raceday_dagster_tests.integration.store.store_fixture import observe, write
from raceday_dagster_tests.integration.store.test_ledger import make_failure
from raceday_dagster_tests.write_snapshots import START, make_snapshot

RACES = [f"race-{number}" for number in range(1, 5)]
MINUTE = timedelta(minutes=1)


def test_the_schedule_sees_the_races_of_its_countries_and_categories_in_the_window(store: RaceStore) -> None:
    store.write_racing_day(make_list(RACES))
    write(store, make_snapshot("race-2", poll=1, race={"status": "final"}))
    now = START - timedelta(minutes=5)
    seen = store.read(read_polled_races, now, countries=["NZ", "AUS"], categories=["T", "H"])
    assert [race.race_id for race in seen] == ["race-1", "race-3", "race-4"]
    assert store.read(read_polled_races, now, countries=["HK"], categories=["T"]) == []
    assert store.read(read_polled_races, now, countries=["NZ"], categories=["H"]) == []
    assert store.read(read_polled_races, now + timedelta(days=2), countries=["NZ"], categories=["T"]) == []


def test_the_schedule_goes_by_the_ledger_and_by_nothing_later_than_its_clock(store: RaceStore) -> None:
    store.write_racing_day(make_list(RACES))
    now = START - timedelta(minutes=5)
    earlier, later = now - timedelta(seconds=20), now + timedelta(hours=1)
    store.record_poll(make_failure("race-1", polled_at=earlier - timedelta(minutes=1)), PollRun(run_id="run-1"))
    store.record_poll(make_failure("race-1", polled_at=earlier), PollRun(run_id="run-2"))
    store.record_poll(make_failure("race-1", polled_at=later), PollRun(run_id="run-3"))
    store.record_poll(make_failure("race-3", polled_at=later), PollRun(run_id="run-3"))
    seen = store.read(read_polled_races, now, countries=["NZ"], categories=["T"])
    times = {race.race_id: (race.last_poll_time, race.newest_poll_time) for race in seen}
    assert times["race-1"] == (earlier, later)
    assert times["race-3"] == (None, later)
    assert times["race-4"] == (None, None)


def test_the_ledger_says_which_races_of_which_runs_have_their_answer(store: RaceStore) -> None:
    odd = "run-\x00"
    for run_id, race_id in (("run-1", "race-1"), ("run-2", "race-2"), (odd, "race-1"), ("run-3", "race-1")):
        store.record_poll(make_failure(race_id), PollRun(run_id=run_id))
    asked = {"run-1": ["race-1", "race-2"], "run-2": ["race-1", "race-2"], odd: ["race-1"], "run-4": ["race-1"]}
    assert store.read(read_answered, asked) == {("run-1", "race-1"), ("run-2", "race-2"), (odd, "race-1")}
    assert store.read(read_answered, {}) == set()


def test_a_racing_day_is_listed_once_its_list_is_stored(store: RaceStore) -> None:
    assert not store.read(is_listed, START.date())
    store.write_racing_day(make_list(RACES))
    assert store.read(is_listed, START.date())
    assert not store.read(is_listed, START.date() + timedelta(days=1))


def test_the_last_poll_of_a_race_is_one_look_into_the_index(database_url: str) -> None:
    values = {"now": START, "from_start": START, "to_start": START, "countries": ["NZ"], "categories": ["T"]}
    with observe(database_url) as run:
        run("SET enable_seqscan = off")
        races = "\n".join(line for (line,) in run(f"EXPLAIN {POLLED_RACES}", values))
        answered = "\n".join(line for (line,) in run(f"EXPLAIN {ANSWERED}", {"run_ids": ["run-1"]}))
    assert races.count("ix_race_polls_race_id on race_polls") == 2
    assert "pk_race_polls" in answered


def test_the_runners_of_a_settled_race_are_those_of_the_race_and_not_all_there_ever_were(database_url: str) -> None:
    with observe(database_url) as run:
        run("SET enable_seqscan = off; SET enable_bitmapscan = off")
        plan = [line.strip() for (line,) in run(f"EXPLAIN {SETTLED}", {"race_ids": ["race-1"]})]
    (runners,) = [number for number, line in enumerate(plan) if " on entrants" in line]
    assert plan[runners + 1].startswith("Index Cond: ")
    assert "race_id = race.race_id" in plan[runners + 1]


def test_a_question_to_a_database_that_is_not_there_is_one_line(database_url: str) -> None:
    store = RaceStore(build_engine("postgresql+psycopg2://raceday:hidden@127.0.0.1:1/none", pool_max=1))
    with pytest.raises(DatabaseError) as caught:
        store.read(is_listed, START.date())
    assert "hidden" not in str(caught.value)
    assert "raceday db start" in str(caught.value)


def read_live(store: RaceStore) -> tuple[datetime | None, str | None]:
    (race,) = read_live_races(store.engine, START - MINUTE, countries=["NZ", "AUS"], categories=["T", "H", "G"])
    return race.answered_at, race.error


def test_a_race_never_polled_is_live_too(store: RaceStore) -> None:
    store.write_racing_day(make_list(["race-1"]))
    assert read_live(store) == (None, None)


def test_a_poll_that_was_skipped_is_no_good_poll(store: RaceStore) -> None:
    store.write_racing_day(make_list(["race-1"]))
    write(store, make_snapshot(), run_id="run-1")
    answered_at, _error = read_live(store)
    assert answered_at is not None
    skipped = make_failure("race-1", polled_at=answered_at + MINUTE, message="unknown, or stale")
    store.record_poll(skipped.model_copy(update={"status": "skipped"}), PollRun(run_id="run-2"))
    assert read_live(store) == (answered_at, "unknown, or stale")


def test_a_poll_that_failed_does_not_count_and_its_reason_is_read_until_another_succeeds(store: RaceStore) -> None:
    store.write_racing_day(make_list(["race-1"]))
    store.record_poll(make_failure("race-1", polled_at=START - 60 * MINUTE, message="refused"), PollRun(run_id="run-0"))
    assert read_live(store) == (None, "refused")
    write(store, make_snapshot(), run_id="run-1")
    succeeded_at, error = read_live(store)
    assert succeeded_at is not None
    assert error is None
    store.record_poll(make_failure("race-1", polled_at=succeeded_at + MINUTE, message="503"), PollRun(run_id="run-2"))
    assert read_live(store) == (succeeded_at, "503")
