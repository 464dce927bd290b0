"""Many writers at once: one race, one meeting, the day's list, the pool's ceiling, and nothing left on a session."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from typing import Any

import pytest

from raceday_dagster.store.race_store import RaceStore
from raceday_dagster_tests.integration.store.lists import make_list
from raceday_dagster_tests.integration.store.store_fixture import (
    make_partitions,
    observe,
    open_store,
    read_tables,
    watch_statements,
    write,
)
from raceday_dagster_tests.write_snapshots import make_results, make_snapshot

WRITERS = 5


@pytest.fixture
def store(database_url: str) -> Iterator[RaceStore]:
    with open_store(database_url, pool_max=WRITERS) as store:
        make_partitions(store)
        yield store


def run_together(work: Callable[[int], Any], count: int = WRITERS) -> list[Any]:
    """Calls ``work`` with 0, 1 … from as many threads that start at one moment."""
    start = threading.Barrier(count)

    def run(number: int) -> Any:
        start.wait(10)
        return work(number)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(run, range(count)))


def meet_at(fragment: str, count: int = WRITERS) -> Callable[[Any, str], str]:
    """An action: every writer waits before the statement that holds ``fragment`` until all have come to theirs."""
    barrier = threading.Barrier(count)

    def meet(_connection: Any, statement: str) -> str:
        if fragment in statement:
            barrier.wait(10)
        return statement

    return meet


def read_deadlocks(database_url: str) -> int:
    with observe(database_url) as run:
        run("SELECT pg_stat_force_next_flush()")
        return int(run("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")[0][0])


def test_one_answer_written_by_many_at_once_is_there_once(store: RaceStore, database_url: str) -> None:
    reports = run_together(lambda number: write(store, make_snapshot(), run_id=f"run-{number}"))
    assert sorted(report.row_counts.money_flow_history for report in reports) == [0, 0, 0, 0, 8]
    assert len(read_tables(database_url)["money_flow_history"]) == 8


def test_polls_of_one_race_in_any_order_end_with_the_newest(store: RaceStore, database_url: str) -> None:
    polls = [make_snapshot(poll=number, win_cents=100_000 * (number + 1)) for number in range(WRITERS)]
    run_together(lambda number: write(store, polls[number], run_id=f"run-{number}"))
    tables = read_tables(database_url)
    assert tables["races"][0]["api_generated_time"] == polls[-1].event_timestamp
    assert tables["race_pools"][0]["win_pool_total"] == 500_000
    flow = [row for row in tables["money_flow_history"] if row["entrant_id"] == "race-1-01"]
    assert sum(row["incremental_win_amount"] for row in flow) == flow[-1]["win_pool_amount"] == 90_000


def test_races_of_a_meeting_that_end_at_one_moment_complete_it(store: RaceStore, database_url: str) -> None:
    for number in range(WRITERS):
        write(store, make_snapshot(f"race-{number}"), run_id=f"open-{number}")
    ends = [
        make_snapshot(f"race-{number}", poll=1, race={"status": "final"}, results=make_results("final"))
        for number in range(WRITERS)
    ]
    with watch_statements(store.engine, at=1, times=1_000, action=meet_at("UPDATE meetings SET status")) as statements:
        run_together(lambda number: write(store, ends[number], run_id=f"final-{number}"))
    assert sum("UPDATE meetings SET status" in statement for statement in statements.sent) == WRITERS
    assert read_tables(database_url)["meetings"][0]["status"] == "completed"


def test_five_races_at_once_take_five_connections(store: RaceStore) -> None:
    store.gauge.reset_peak()
    with watch_statements(store.engine, at=1, times=1_000, action=meet_at("pg_advisory_xact_lock")):
        run_together(lambda number: write(store, make_snapshot(f"race-{number}", meeting_id=f"m-{number}")))
    assert (store.gauge.peak, store.gauge.max, store.gauge.in_use) == (WRITERS, WRITERS, 0)


def test_more_races_than_connections_wait_for_their_turn(database_url: str) -> None:
    with open_store(database_url, pool_max=2) as store:
        make_partitions(store)
        reports = run_together(lambda number: write(store, make_snapshot(f"race-{number}")), count=8)
        assert [report.row_counts.races for report in reports] == [1] * 8
        assert store.gauge.peak == 2


def test_polls_and_lists_of_one_meeting_never_wait_in_a_circle(store: RaceStore, database_url: str) -> None:
    before = read_deadlocks(database_url)
    race_ids = [f"race-{number}" for number in range(4)]
    write_list(store, race_ids, 0)

    def keep_writing(number: int) -> None:
        for turn in range(1, 9):
            if number == 4:
                write_list(store, race_ids, turn)
            else:
                status = "final" if turn == 8 else "open"
                weather = ("FINE", "RAIN")[(turn + number) % 2]
                snapshot = make_snapshot(
                    race_ids[number], poll=turn, meeting={"weather": weather}, race={"status": status}
                )
                write(store, snapshot, run_id=f"run-{number}-{turn}")

    with watch_statements(store.engine) as statements:
        run_together(keep_writing)
    assert read_deadlocks(database_url) == before
    polls = read_tables(database_url)["race_polls"]
    assert [row["status"] for row in polls] == ["success"] * 32
    assert sum("money_flow_history (" in statement for statement in statements.sent) == 32
    assert read_tables(database_url)["meetings"][0]["status"] == "completed"


def write_list(store: RaceStore, race_ids: list[str], turn: int) -> None:
    store.write_racing_day(make_list(race_ids, poll=turn, meeting={"track_condition": f"Good{turn % 3}"}))


def test_a_partition_is_made_while_a_race_is_being_written(store: RaceStore, database_url: str) -> None:
    made: list[str] = []

    def make(_connection: Any, statement: str) -> str:
        made.extend(other.ensure_partitions([date(2025, 3, 1)]))
        return statement

    with open_store(database_url) as other, watch_statements(store.engine, at=8, action=make) as statements:
        assert write(store, make_snapshot()).row_counts.money_flow_history == 8
    assert statements.fired == 1
    assert made == ["money_flow_history_2025_03_01", "odds_history_2025_03_01", "pool_history_2025_03_01"]


def test_nothing_stays_on_a_session_that_a_pooler_would_give_to_somebody_else(
    store: RaceStore, database_url: str
) -> None:
    with watch_statements(store.engine) as statements:
        store.ensure_partitions([date(2025, 3, 2)])
        write_list(store, ["race-1"], 0)
        write(store, make_snapshot(poll=1, results=make_results()))
        with store.engine.connect() as connection:
            run = connection.exec_driver_sql
            assert list(run("SELECT name FROM pg_settings WHERE source = 'session'")) == []
            assert list(run("SELECT name FROM pg_prepared_statements")) == []
            assert run("SHOW lock_timeout").scalar() == "0"
            assert list(run("SELECT FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()")) == []
            assert run("SHOW application_name").scalar() == "raceday"
    for statement in statements.sent:
        without_values = re.sub(r"DO UPDATE\s+SET|UPDATE \w+ SET", "", statement)
        assert not re.search(r"\bSET\s+(?!LOCAL\b)", without_values)
        assert not re.search(r"\b(PREPARE|LISTEN|DECLARE|CREATE TEMP|pg_advisory_lock)\b", statement)
