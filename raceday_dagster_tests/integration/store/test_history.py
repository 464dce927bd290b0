"""Money flows and odds over several polls: increments, baselines, changes, and the plans that find the previous row."""

from __future__ import annotations

import json
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from raceday_dagster.store.history import ADD_MONEY_FLOW, ADD_ODDS
from raceday_dagster.store.race_store import RaceStore
from raceday_dagster.store.upsert import dump_row
from raceday_dagster_tests.integration.store.store_fixture import observe, read_tables, write
from raceday_dagster_tests.write_snapshots import HOLDS, START, make_snapshot, name_entrant

FULL = {"win_cents": 915_138, "place_cents": 392_351}


def read_flow(database_url: str, runner_number: int, race_id: str = "race-1") -> list[dict[str, Any]]:
    rows = read_tables(database_url)["money_flow_history"]
    entrant_id = name_entrant(race_id, runner_number)
    return [row for row in rows if (row["race_id"], row["entrant_id"]) == (race_id, entrant_id)]


def read_increments(database_url: str, runner_number: int) -> tuple[int, int]:
    row = read_flow(database_url, runner_number)[-1]
    return row["incremental_win_amount"], row["incremental_place_amount"]


def test_increments_are_the_golden_ones(store: RaceStore, database_url: str) -> None:
    write(store, make_snapshot(win_cents=800_000, place_cents=350_000), run_id="one")
    write(store, make_snapshot(poll=1, **FULL), run_id="two")
    assert read_increments(database_url, 1) == (20_725, 7_623)
    assert read_increments(database_url, 6) == (21_876, 8_047)
    assert read_increments(database_url, 8) == (2_303, 847)
    assert not read_flow(database_url, 1)[-1]["is_baseline"]


def test_a_share_that_falls_while_the_pool_grows_is_a_negative_increment(store: RaceStore, database_url: str) -> None:
    write(store, make_snapshot(holds={**HOLDS, 5: 20}, win_cents=800_000, place_cents=350_000), run_id="one")
    write(store, make_snapshot(poll=1, **FULL), run_id="two")
    assert read_increments(database_url, 5)[0] == -13_578


def test_the_increments_of_a_runner_always_add_up_to_its_amount(store: RaceStore, database_url: str) -> None:
    wins, places = [None, 100_000, 250_001, None, 90_000, 777_777], [None, None, 50_001, 30_000, None, 70_000]
    for poll, (win, place) in enumerate(zip(wins, places, strict=True)):
        holds = {number: (hold + poll * number) % 40 for number, hold in HOLDS.items()}
        write(store, make_snapshot(poll=poll, holds=holds, win_cents=win, place_cents=place), run_id=f"run-{poll}")
    for number in HOLDS:
        rows = read_flow(database_url, number)
        assert sum(row["incremental_win_amount"] or 0 for row in rows) == rows[-1]["win_pool_amount"]
        assert sum(row["incremental_place_amount"] or 0 for row in rows) == rows[-1]["place_pool_amount"]
        assert [row["is_baseline"] for row in rows] == [True, True, True, False, False, False]
        assert [row["incremental_win_amount"] is None for row in rows] == [win is None for win in wins]


def test_another_answer_with_the_same_time_of_the_feed_is_an_observation(store: RaceStore, database_url: str) -> None:
    first = make_snapshot(win_cents=100_000)
    again = first.model_copy(update={"polling_timestamp": first.polling_timestamp + timedelta(seconds=5)})
    later = first.polling_timestamp + timedelta(seconds=9)
    other = make_snapshot(win_cents=200_000, polled_at=later)
    counts = [
        write(store, snapshot, run_id=f"{number}").row_counts.money_flow_history
        for number, snapshot in enumerate([first, again, other, other])
    ]
    assert counts == [8, 0, 8, 0]
    rows = read_flow(database_url, 1)
    assert sum(row["incremental_win_amount"] for row in rows) == rows[-1]["win_pool_amount"] == 36_000


def test_a_share_of_nothing_is_an_observation(store: RaceStore, database_url: str) -> None:
    write(store, make_snapshot(holds={1: 0}))
    [row] = read_flow(database_url, 1)
    assert (row["win_pool_amount"], row["incremental_win_amount"]) == (0, 0)


def test_the_money_ends_with_the_first_final_poll(store: RaceStore) -> None:
    counts = [
        write(store, make_snapshot(poll=poll, race={"status": status}), run_id=f"{poll}").row_counts.money_flow_history
        for poll, status in enumerate(["interim", "final", "final"])
    ]
    assert counts == [8, 8, 0]


def test_an_abandoned_race_gets_a_last_row_only_where_money_was_seen(store: RaceStore) -> None:
    never_seen = make_snapshot("race-2", race={"status": "abandoned"})
    assert write(store, never_seen).row_counts.money_flow_history == 0
    write(store, make_snapshot(holds={1: 50, 2: 50}), run_id="one")
    abandoned = [
        write(store, make_snapshot(poll=poll, race={"status": "abandoned"}), run_id=f"run-{poll}") for poll in (1, 2)
    ]
    assert [report.row_counts.money_flow_history for report in abandoned] == [2, 0]


def test_a_clock_set_back_leaves_the_increments_adding_up(store: RaceStore, database_url: str) -> None:
    first = make_snapshot(win_cents=100_000)
    write(store, first, run_id="one")
    set_back = make_snapshot(poll=1, win_cents=200_000, polled_at=first.polling_timestamp - timedelta(minutes=1))
    assert write(store, set_back, run_id="two").row_counts.money_flow_history == 8
    rows = read_flow(database_url, 1)
    assert rows[1]["polling_timestamp"] - rows[0]["polling_timestamp"] == timedelta(microseconds=1)
    assert sum(row["incremental_win_amount"] for row in rows) == rows[-1]["win_pool_amount"] == 36_000
    write(store, make_snapshot(poll=2, win_cents=300_000), run_id="three")
    rows = read_flow(database_url, 1)
    assert sum(row["incremental_win_amount"] for row in rows) == rows[-1]["win_pool_amount"] == 54_000


def test_a_price_is_kept_only_when_it_changes(store: RaceStore, database_url: str) -> None:
    for poll, price in enumerate(["2.50", "2.50", "2.51", "2.51", "2.50"]):
        write(store, make_snapshot(poll=poll, odds={(1, "fixed_win"): price}), run_id=f"run-{poll}")
    kept = [row["odds"] for row in read_tables(database_url)["odds_history"]]
    assert kept == [Decimal("2.50"), Decimal("2.51"), Decimal("2.50")]


def test_less_than_a_cent_is_none(store: RaceStore) -> None:
    write(store, make_snapshot(odds={(1, "fixed_win"): "2.50"}), run_id="one")
    finer = make_snapshot(poll=1, odds={(1, "fixed_win"): "2.504"})
    assert write(store, finer, run_id="two").row_counts.odds_history == 0


def test_runners_and_kinds_of_odds_are_apart(store: RaceStore) -> None:
    kinds = ("fixed_win", "fixed_place", "pool_win", "pool_place")
    write(store, make_snapshot(odds={(number, kind): "3" for number in (1, 2) for kind in kinds}), run_id="one")
    moved = {(number, kind): "3" for number in (1, 2) for kind in kinds} | {(2, "pool_win"): "3.10"}
    assert write(store, make_snapshot(poll=1, odds=moved), run_id="two").row_counts.odds_history == 1


def test_a_poll_that_was_rolled_back_loses_no_change(store: RaceStore, database_url: str) -> None:
    write(store, make_snapshot(odds={(1, "fixed_win"): "2.50"}), run_id="one")
    with pytest.raises(Exception, match="not written"):
        write(
            store, make_snapshot(poll=1, odds={(1, "fixed_win"): "2.60"}, race={"total_prize_money": Decimal("1e20")})
        )
    write(store, make_snapshot(poll=2, odds={(1, "fixed_win"): "2.60"}), run_id="three")
    assert [row["odds"] for row in read_tables(database_url)["odds_history"]] == [Decimal("2.50"), Decimal("2.60")]


@pytest.mark.parametrize(("sql", "table"), [(ADD_MONEY_FLOW, "money_flow_history"), (ADD_ODDS, "odds_history")])
def test_the_previous_rows_are_found_by_index_in_one_partition(
    store: RaceStore, database_url: str, sql: str, table: str
) -> None:
    store.ensure_partitions([START.date() + timedelta(days=day) for day in range(-5, 5)])
    for number in range(30):
        write(store, make_snapshot(f"race-{number}"), run_id=f"run-{number}")
    snapshot = make_snapshot("race-7", poll=1)
    rows = snapshot.money_flow if table == "money_flow_history" else snapshot.odds
    values = {
        "racing_day": START.date(),
        "race_id": "race-7",
        "event_timestamp": snapshot.event_timestamp,
        "polling_timestamp": snapshot.polling_timestamp,
        "time_to_start_s": 600,
        "time_interval": Decimal(10),
        "interval_type": "2m",
        "starts": True,
        "only_changed": False,
        "rows": json.dumps([dump_row(row) for row in rows]),
    }
    with observe(database_url) as run:
        run(f"ANALYZE {table}")
        plan = "\n".join(line for (line,) in run(f"EXPLAIN (COSTS OFF) {sql}", values))
    assert "Index" in plan
    assert "Seq Scan" not in plan
    assert f"on {table}_2025_07_17" in plan
    assert "Append" not in plan
