"""Pools in cents: which product counts where, and what the score says."""

from __future__ import annotations

from decimal import Decimal

import pytest

from raceday_dagster.racing.events import Dividend, TotePool
from raceday_dagster.racing.snapshots import PoolsRow
from raceday_dagster.transform.tote_pools import read_pools


def pool(product: str | None, total: str | None, status: str | None = "OPEN") -> TotePool:
    return TotePool(product_type=product, total=None if total is None else Decimal(total), status=status)


def dividend(product: str, size: str | None, status: str = "Final", tote: str = "NZ") -> Dividend:
    return Dividend(tote=tote, product_name=product, status=status, pool_size=None if size is None else Decimal(size))


def read(*pools: TotePool, dividends: tuple[Dividend, ...] | None = None) -> PoolsRow:
    row = read_pools(pools, dividends).row
    assert row is not None
    return row


WIN, PLACE = pool("Win", "100"), pool("Place", "50")


@pytest.mark.parametrize("name", ["FirstFour", "First4", "First 4", "First Four", "FIRST FOUR", "firstfour"])
def test_a_product_is_known_by_any_of_its_names(name: str) -> None:
    row = read(WIN, PLACE, pool(name, "12.34"))
    assert row.first4_pool_total == 1234
    assert (row.data_quality_score, row.extracted_pools) == (100, 3)


def test_half_a_cent_is_rounded_up() -> None:
    assert read(pool("Win", "0.125"), PLACE).win_pool_total == 13


def test_two_running_doubles_are_summed_apart_from_the_race() -> None:
    row = read(WIN, PLACE, pool("RunningDouble", "10"), pool("RunningDouble", "20.5"), pool("Treble", "1"))
    assert (row.multi_leg_pool_total, row.total_race_pool, row.extracted_pools) == (3150, 15000, 2)


def test_an_abandoned_pool_does_not_count() -> None:
    row = read(WIN, pool("Place", "1.17", "ABANDONED"))
    assert (row.carried()["place_pool_total"], row.extracted_pools, row.data_quality_score) == (0, 1, 70)


def test_a_product_that_is_not_listed_is_not_set() -> None:
    row = read(WIN, pool("Trifecta", None), pool("Treble", "3", "ABANDONED"))
    totals = {name: value for name, value in row.carried().items() if name.endswith("_total")}
    assert totals == {"win_pool_total": 10000, "multi_leg_pool_total": 0}
    assert row.total_race_pool == 10000


def test_without_a_win_and_a_place_pool_the_score_is_0() -> None:
    pools = read_pools([pool("Win", "0"), pool("Quinella", "5")], None)
    assert pools.row is not None
    assert pools.row.data_quality_score == 0
    assert "pools_score=0" in pools.warnings


@pytest.mark.parametrize("unknown", ["Sweepstake", None, ""])
def test_an_unknown_product_costs_5_points_and_no_money(unknown: str | None) -> None:
    pools = read_pools([WIN, PLACE, pool(unknown, "99")], None)
    assert pools.row is not None
    assert (pools.row.data_quality_score, pools.row.total_race_pool) == (95, 15000)
    assert pools.warnings == (f"unknown_pool={unknown or ''}",)


def test_a_missing_win_pool_costs_30_points() -> None:
    pools = read_pools([PLACE, pool("Quinella", "5")], None)
    assert pools.row is not None
    assert pools.row.data_quality_score == 70
    assert "place_pool_above_twice_win_pool" in pools.warnings


def test_a_score_never_falls_below_0() -> None:
    row = read(*(pool(f"Unknown {number}", "1") for number in range(30)))
    assert row.data_quality_score == 0


@pytest.mark.parametrize("pools", [None, (), (pool("Win", "0"), pool("Place", None))])
def test_without_money_in_any_pool_the_dividends_are_read(pools: tuple[TotePool, ...] | None) -> None:
    row = read_pools(pools, (dividend("Pool Win", "10"), dividend("Pool Place", "4"))).row
    assert row is not None
    assert (row.source, row.win_pool_total, row.place_pool_total, row.data_quality_score) == (
        "dividends",
        1000,
        400,
        90,
    )


def test_a_final_dividend_wins_over_an_interim_one_and_a_dead_heat_does_not_add() -> None:
    row = read(
        dividends=(
            dividend("Pool Win", "12", "Interim"),
            dividend("Pool Win", "10"),
            dividend("Pool Win", "11"),
            dividend("Pool Place", "4", "Interim"),
            dividend("Pool Place", "99", tote="VIC"),
            dividend("Pool Quinella", None),
            dividend("Pool Early Quadrella", "7"),
        )
    )
    assert (row.win_pool_total, row.place_pool_total, row.multi_leg_pool_total) == (1100, 400, 700)
    assert row.extracted_pools == 2


@pytest.mark.parametrize("dividends", [None, (), (dividend("Pool Win", None),)])
def test_with_nothing_to_read_there_is_no_row(dividends: tuple[Dividend, ...] | None) -> None:
    assert read_pools((), dividends).row is None
