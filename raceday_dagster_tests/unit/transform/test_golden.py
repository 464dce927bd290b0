"""Every figure of the golden race, from the bytes of the answer to the rows."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from raceday_dagster.racing.snapshots import RaceSnapshot
from raceday_dagster.transform.race import transform_race
from raceday_dagster_tests.unit.transform.golden_race import entrant, golden_event

POOLS = {
    "win_pool_total": 915138,
    "place_pool_total": 392351,
    "quinella_pool_total": 534106,
    "trifecta_pool_total": 797624,
    "first4_pool_total": 461792,
    "exacta_pool_total": 0,
    "total_race_pool": 3101011,
    "extracted_pools": 5,
}
FLOW = [  # runner, hold, bet, win, place and total amount in cents
    (1, 18, 14, 164725, 70623, 235348),
    (2, 13, 14, 118968, 51006, 169974),
    (3, 5, 9, 45757, 19618, 65374),
    (4, 16, 17, 146422, 62776, 209198),
    (5, 16, 17, 146422, 62776, 209198),
    (6, 19, 19, 173876, 74547, 248423),
    (7, 4, 8, 36606, 15694, 52300),
    (8, 2, 3, 18303, 7847, 26150),
]


@pytest.fixture(scope="module")
def snapshot() -> RaceSnapshot:
    return transform_race(golden_event())


def test_pools_come_from_the_tote_pools_without_the_multi_leg_ones(snapshot: RaceSnapshot) -> None:
    assert snapshot.pools is not None
    pools = snapshot.pools.model_dump()
    assert {name: pools[name] for name in POOLS} == POOLS
    assert "exacta_pool_total" not in snapshot.pools.carried()
    assert (pools["multi_leg_pool_total"], pools["source"], pools["data_quality_score"]) == (812661, "tote_pools", 100)


@pytest.mark.parametrize("tote_pools", [None, ()])
def test_pools_come_from_the_dividends_when_the_tote_pools_are_gone(tote_pools: tuple[()] | None) -> None:
    pools = transform_race(golden_event().model_copy(update={"tote_pools": tote_pools})).pools
    assert pools is not None
    assert {name: getattr(pools, name) for name in POOLS} == POOLS
    assert (pools.multi_leg_pool_total, pools.source, pools.data_quality_score) == (0, "dividends", 90)


@pytest.mark.parametrize(("number", "hold", "bet", "win", "place", "total"), FLOW)
def test_a_runner_has_its_share_of_the_pools(
    snapshot: RaceSnapshot, number: int, hold: int, bet: int, win: int, place: int, total: int
) -> None:
    row = next(row for row in snapshot.money_flow if row.entrant_id == entrant(number))
    assert (row.hold_percentage, row.bet_percentage) == (hold, bet)
    assert (row.win_pool_amount, row.place_pool_amount, row.total_pool_amount) == (win, place, total)
    assert (row.win_pool_percentage, row.place_pool_percentage) == (hold, hold)
    assert str(row.win_pool_percentage) == f"{hold}.00"
    stored = next(row for row in snapshot.entrants if row.entrant_id == entrant(number))
    assert (stored.hold_percentage, stored.bet_percentage) == (hold, bet)
    assert (stored.win_pool_amount, stored.place_pool_amount) == (win, place)


def test_only_runners_get_money_flow_and_it_adds_up(snapshot: RaceSnapshot) -> None:
    assert len(snapshot.money_flow) == 8
    assert sum(row.hold_percentage for row in snapshot.money_flow) == 93
    assert sum(row.bet_percentage for row in snapshot.money_flow) == 101
    assert sum(row.win_pool_amount or 0 for row in snapshot.money_flow) == 851079
    assert sum(row.place_pool_amount or 0 for row in snapshot.money_flow) == 364887
    assert sum(row.total_pool_amount or 0 for row in snapshot.money_flow) == 1215965


def test_the_time_is_the_feeds_and_not_the_days(snapshot: RaceSnapshot) -> None:
    assert snapshot.time_to_start_s == -37619
    assert snapshot.time_interval == -626
    assert snapshot.interval_type == "live"
    assert snapshot.event_timestamp == datetime(2025, 7, 17, 11, 16, 59, 189000, tzinfo=UTC)
    assert snapshot.polling_timestamp == golden_event().received_at


def test_each_of_8_runners_has_4_prices(snapshot: RaceSnapshot) -> None:
    assert len(snapshot.odds) == 32
    assert len({(row.entrant_id, row.type) for row in snapshot.odds}) == 32


def test_the_quality_is_100_and_names_the_money_on_strangers(snapshot: RaceSnapshot) -> None:
    assert (snapshot.quality.score, snapshot.quality.valid) == (100, True)
    assert snapshot.quality.warnings == ("unmatched_hold=8",)


def test_the_race_row_is_final_with_its_real_start(snapshot: RaceSnapshot) -> None:
    race = snapshot.race
    assert race.status == "final"
    assert race.actual_start is not None
    assert race.actual_start - race.start_time == timedelta(seconds=166)
    assert race.total_prize_money == Decimal("17000.00")
    assert (race.entrant_count, race.field_size, race.positions_paid) == (8, 8, 3)


def test_results_and_dividends_are_kept(snapshot: RaceSnapshot) -> None:
    assert snapshot.results is not None
    assert snapshot.results.result_status == "final"
    assert [line["runner_number"] for line in snapshot.results.results][:4] == [2, 4, 7, 6]
    assert [row.runner_number for row in snapshot.entrants if row.favourite] == [4]
    assert len(snapshot.results.dividends) == 14
    assert snapshot.results.dividends[0]["dividend"] == "6.6"


def test_the_same_answer_gives_the_same_snapshot(snapshot: RaceSnapshot) -> None:
    assert transform_race(golden_event()) == snapshot
    over_the_border = RaceSnapshot.model_validate_json(snapshot.model_dump_json(exclude_unset=True))
    assert over_the_border == snapshot
