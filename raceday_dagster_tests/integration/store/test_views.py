"""The views that people and models read: what they say of a race, how they find it, and the page that says so."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from raceday_dagster.racing.snapshots import RaceSnapshot
from raceday_dagster.store.engine import build_engine
from raceday_dagster.store.race_store import Poll, PollRun, RaceStore
from raceday_dagster.store.schema.documentation import describe_views
from raceday_dagster.store.schema.partitions import name_partition
from raceday_dagster_tests.integration.store.store_fixture import hear, observe, write
from raceday_dagster_tests.integration.store.test_ledger import make_failure
from raceday_dagster_tests.write_snapshots import HOLDS, START, make_results, make_snapshot, name_entrant

DOCUMENTATION = Path(__file__).parents[3] / "docs" / "data.md"
RACE_VIEWS = (
    "race_card",
    "race_grid",
    "money_flow_timeline",
    "odds_timeline",
    "odds_at_start",
    "race_result",
    "poll_freshness",
)


def ask(database_url: str, view: str, race_id: str = "race-1", order: str = "1") -> list[dict[str, Any]]:
    with observe(database_url) as run:
        names = [name for (name,) in run(NAMES, {"view": view})]
        rows = run(f"SELECT * FROM {view} WHERE race_id = %(race_id)s ORDER BY {order}", {"race_id": race_id})
    return [dict(zip(names, row, strict=True)) for row in rows]


NAMES = "SELECT attname FROM pg_attribute WHERE attrelid = %(view)s::regclass AND attnum > 0 ORDER BY attnum"


def poll(number: int, interval: str = "10", **changes: Any) -> RaceSnapshot:
    return make_snapshot(poll=number, **changes).model_copy(update={"time_interval": Decimal(interval)})


def test_race_card_shows_a_race_with_its_meeting_its_runners_and_its_pools(store: RaceStore, database_url: str) -> None:
    write(store, make_snapshot(), run_id="one")
    write(store, make_snapshot(poll=1, holds={number: HOLDS[number] for number in range(1, 8)}), run_id="two")
    (card,) = ask(database_url, "race_card")
    assert (card["meeting_name"], card["race_number"], card["status"], card["is_over"]) == ("Awapuni", 1, "open", False)
    assert card["runners"] == 7  # the eighth is listed no more
    assert (card["win_pool_total"], card["place_pool_total"]) == (915_138, 392_351)
    assert card["start_time"] == START
    assert card["seconds_to_start"] < 0 < card["seconds_since_answer"]


def test_race_grid_keeps_a_withdrawn_runner_without_its_prices(store: RaceStore, database_url: str) -> None:
    write(store, make_snapshot(), run_id="one")
    write(store, make_snapshot(poll=1, holds={number: HOLDS[number] for number in range(1, 8)}), run_id="two")
    grid = ask(database_url, "race_grid", order="runner_number")
    assert [row["runner_number"] for row in grid] == list(HOLDS)
    assert [row["is_runner"] for row in grid] == [True] * 7 + [False]
    assert grid[0]["fixed_win_odds"] == Decimal("2.50")
    assert (grid[7]["fixed_win_odds"], grid[7]["withdrawn_at"] is None) == (None, False)


def test_money_flow_timeline_adds_increments_by_interval_and_leaves_baselines_out(
    store: RaceStore, database_url: str
) -> None:
    for number, (interval, cents) in enumerate([("10", 100_000), ("10", 150_000), ("5", 300_000), ("5", 280_000)]):
        write(store, poll(number, interval, win_cents=cents, place_cents=0), run_id=f"run-{number}")
    lines = ask(database_url, "money_flow_timeline", order="runner_number, time_interval DESC")
    first = [line for line in lines if line["entrant_id"] == name_entrant("race-1", 1)]
    assert [(line["time_interval"], line["win_money"], line["polls"]) for line in first] == [
        (Decimal("10.0"), 9_000, 2),  # 18 % of 50,000: the first poll is the baseline
        (Decimal("5.0"), 23_400, 2),  # 27,000 came and 3,600 went
    ]
    assert {line["hold_percentage"] for line in first} == {Decimal("18.00")}
    assert len(lines) == 2 * len(HOLDS)


def test_odds_timeline_has_every_price_and_odds_at_start_the_last_one_before_it(
    store: RaceStore, database_url: str
) -> None:
    prices = {-20: "3.00", -1: "2.80", 30: "9.00"}
    for number, (seconds, price) in enumerate(prices.items()):
        at = START + timedelta(seconds=seconds)
        snapshot = make_snapshot(generated_at=at, odds={(1, "fixed_win"): price})
        write(store, snapshot, run_id=f"run-{number}")
    timeline = ask(database_url, "odds_timeline", order="quoted_at")
    assert [(row["seconds_to_start"], row["odds"]) for row in timeline] == [
        (-seconds, Decimal(price)) for seconds, price in prices.items()
    ]
    at_start = ask(database_url, "odds_at_start", order="runner_number")
    assert (at_start[0]["fixed_win_odds"], at_start[1]["fixed_win_odds"]) == (Decimal("2.80"), None)
    with observe(database_url) as run:
        run("UPDATE races SET actual_start = start_time + interval '1 minute'")
    assert ask(database_url, "odds_at_start", order="runner_number")[0]["fixed_win_odds"] == Decimal("9.00")


def test_race_result_gives_both_runners_of_a_dead_heat_their_dividends(store: RaceStore, database_url: str) -> None:
    placed = [(1, 2), (1, 5), (3, 1)]
    dividends = [("Pool Win", 2, "3.30"), ("Pool Win", 5, "4.40"), ("Pool Place", 2, "1.50"), ("Pool Quinella", 2, "9")]
    results = make_results("final").model_copy(
        update={
            "results": tuple(
                {"position": position, "runner_number": number, "name": f"Runner {number}", "margin_length": None}
                for position, number in placed
            ),
            "dividends": tuple(
                {"product_name": product, "dividend": paid, "positions": [{"runner_number": number, "position": 1}]}
                for product, number, paid in dividends
            ),
        }
    )
    write(store, make_snapshot(race={"status": "final"}, results=results))
    rows = ask(database_url, "race_result", order="position, runner_number")
    assert [(row["position"], row["runner_number"], row["win_dividend"], row["place_dividend"]) for row in rows] == [
        (1, 2, Decimal("3.30"), Decimal("1.50")),
        (1, 5, Decimal("4.40"), None),
        (3, 1, None, None),
    ]
    assert rows[0]["fixed_win_odds"] == Decimal("6.50")


def test_poll_freshness_names_the_newest_poll_its_lane_and_its_delay(store: RaceStore, database_url: str) -> None:
    snapshot = make_snapshot()
    due_at = snapshot.polling_timestamp - timedelta(milliseconds=450)
    store.write_race(snapshot, Poll(run_id="live", lane="live", due_at=due_at, fetch_ms=300))
    (fresh,) = ask(database_url, "poll_freshness")
    assert (fresh["race"], fresh["lane"], fresh["due_at"], fresh["late_ms"]) == ("Awapuni R1", "live", due_at, 450)
    assert (fresh["poll_status"], fresh["error"], fresh["fetch_ms"], fresh["interval_s"]) == ("success", None, 300, 30)
    store.record_poll(make_failure("race-1", polled_at=START, message="503"), PollRun(run_id="by hand"))
    (failing,) = ask(database_url, "poll_freshness")
    assert (failing["poll_status"], failing["error"], failing["lane"]) == ("failed", "503", None)
    assert failing["answered_at"] == fresh["polled_at"]
    assert not failing["is_late"]  # it started long ago: nobody follows it any more
    with observe(database_url) as run:
        run("UPDATE races SET start_time = now() + interval '1 minute'")
        assert run("SELECT is_late FROM poll_freshness WHERE race_id = 'race-1'") == [(True,)]
        run("UPDATE race_polls SET polled_at = now() WHERE status = 'success'")
        assert run("SELECT is_late FROM poll_freshness WHERE race_id = 'race-1'") == [(False,)]


def test_pool_history_has_a_row_for_each_poll_that_changed_a_total(store: RaceStore, database_url: str) -> None:
    for number, cents in enumerate([100, 100, 250]):
        write(store, make_snapshot(poll=number, win_cents=cents, place_cents=0), run_id=f"run-{number}")
    with observe(database_url) as run:
        totals = run("SELECT win_pool_total, total_race_pool FROM pool_history ORDER BY polling_timestamp")
    assert totals == [(100, 100), (250, 250)]


def test_a_listener_hears_of_each_poll_once_and_only_when_it_is_committed(store: RaceStore, database_url: str) -> None:
    with hear(database_url) as heard:
        write(store, make_snapshot(), run_id="one")
        for _ in range(2):
            store.record_poll(make_failure("race-9"), PollRun(run_id="one"))
        told = [(poll["race_id"], poll["status"]) for poll in heard()]
    assert told == [("race-1", "success"), ("race-9", "failed")]


@pytest.mark.parametrize("view", RACE_VIEWS)
def test_a_view_finds_one_race_through_indexes_in_one_partition(store: RaceStore, database_url: str, view: str) -> None:
    for days in range(3):
        day = START.date() - timedelta(days=days)
        start = START - timedelta(days=days)
        race = {"race_date_nz": day, "start_time": start, "status": "final"}
        for number in range(3):
            race_id = f"race-{days}-{number}"
            write(store, make_snapshot(race_id, meeting_id=f"m-{days}", race=race, results=make_results("final")))
    with observe(database_url) as run:
        run("ANALYZE; SET enable_seqscan = off")  # the tables of a test are small: there it would be cheaper
        plan = "\n".join(
            line for (line,) in run(f"EXPLAIN (ANALYZE, TIMING off) SELECT * FROM {view} WHERE race_id = 'race-0-1'")
        )
    assert "Seq Scan" not in plan, plan
    looked_at = [line for line in plan.splitlines() if "_history_20" in line and "never executed" not in line]
    assert all("2025_07_17" in line for line in looked_at), plan
    assert bool(looked_at) == view.startswith(("money", "odds"))


@pytest.mark.parametrize("view", ["odds_timeline", "odds_at_start"])
def test_a_view_is_planned_for_each_partition_of_the_prices_once(
    store: RaceStore, database_url: str, view: str
) -> None:
    days = [START.date() + timedelta(days=ahead) for ahead in range(30)]
    store.ensure_partitions(days)
    with observe(database_url) as run:
        plan = "\n".join(line for (line,) in run(f"EXPLAIN SELECT * FROM {view} WHERE race_id = 'race-0-1'"))
    assert [plan.count(f" on {name_partition('odds_history', day)} ") for day in days] == [1] * len(days), plan


def test_every_view_and_column_says_what_it_is_and_the_page_says_the_same(database_url: str) -> None:
    engine = build_engine(database_url, pool_max=1)
    with engine.connect() as connection:
        page = describe_views(connection)
    engine.dispose()
    assert "None" not in page
    assert [view for view in RACE_VIEWS if f"## {view}\n" not in page] == []
    assert DOCUMENTATION.read_text("utf-8") == page, "make docs"
