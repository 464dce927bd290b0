"""Rounding, shares and amounts: exact for whatever numbers come."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raceday_dagster.racing.events import TrackerRow
from raceday_dagster.racing.snapshots import PoolsRow
from raceday_dagster.transform.money_flow import follow_money
from raceday_dagster.transform.rounding import round_half_up, to_cents, to_hundredths

percentages = st.decimals(min_value=-50, max_value=150, places=3, allow_nan=False, allow_infinity=False)
cents = st.integers(min_value=0, max_value=10**17)


def pools(win: int, place: int) -> PoolsRow:
    return PoolsRow(
        win_pool_total=win, place_pool_total=place, source="tote_pools", data_quality_score=100, extracted_pools=2
    )


def row(entrant_id: str, hold: object, bet: object = 0) -> TrackerRow:
    return TrackerRow(entrant_id=entrant_id, hold_percentage=Decimal(str(hold)), bet_percentage=Decimal(str(bet)))


@pytest.mark.parametrize(
    ("value", "rounded"),
    [("0.5", 1), ("1.5", 2), ("2.5", 3), ("2.4999", 2), ("-0.5", -1), ("-2.5", -3), ("-2.4999", -2), ("0", 0)],
)
def test_halves_round_away_from_zero(value: str, rounded: int) -> None:
    assert round_half_up(Fraction(value)) == rounded


@given(st.fractions())
def test_rounding_is_never_off_by_more_than_a_half_and_mirrors_around_zero(value: Fraction) -> None:
    assert abs(round_half_up(value) - value) <= Fraction(1, 2)
    assert round_half_up(-value) == -round_half_up(value)


@given(st.decimals(min_value=-(10**12), max_value=10**12, places=2))
def test_dollars_with_cents_become_cents_exactly(dollars: Decimal) -> None:
    assert Fraction(to_cents(dollars), 100) == Fraction(dollars)


@given(percentages)
def test_hundredths_are_within_half_a_hundredth(value: Decimal) -> None:
    assert abs(to_hundredths(Fraction(value)) - value) <= Decimal("0.005")


@given(st.lists(percentages, min_size=1, max_size=10), cents, cents)
def test_an_amount_is_the_nearest_cent_of_the_summed_share(shares: list[Decimal], win: int, place: int) -> None:
    money = follow_money(["a"], [row("a", share) for share in shares], pools(win, place))
    share = sum((Fraction(share) for share in shares), Fraction(0))
    columns = money.columns["a"]
    for name, pool in (("win", win), ("place", place), ("total", win + place)):
        assert type(columns[f"{name}_pool_amount"]) is int
        assert abs(columns[f"{name}_pool_amount"] - pool * share / 100) <= Fraction(1, 2)
    assert money.total.hold == share


@given(st.lists(st.tuples(st.sampled_from("abcxyz"), percentages, percentages), max_size=40))
def test_matched_and_unmatched_shares_add_up_to_the_tracker(rows: list[tuple[str, Decimal, Decimal]]) -> None:
    money = follow_money(["a", "b", "c", "d"], [row(*values) for values in rows], None)
    assert set(money.columns) == {entrant for entrant, _, _ in rows} & {"a", "b", "c"}
    unmatched = sum((Fraction(hold) for entrant, hold, _ in rows if entrant in "xyz"), Fraction(0))
    assert money.unmatched.hold == unmatched
    assert money.total.hold == sum((Fraction(hold) for _, hold, _ in rows), Fraction(0))
    assert money.total.bet == sum((Fraction(bet) for _, _, bet in rows), Fraction(0))


def test_the_total_is_split_on_its_own_and_not_added_up() -> None:
    columns = follow_money(["a"], [row("a", 5)], pools(915138, 392351)).columns["a"]
    assert (columns["win_pool_amount"], columns["place_pool_amount"]) == (45757, 19618)
    assert columns["total_pool_amount"] == 65374


def test_a_share_of_0_is_an_observation_and_no_row_is_none() -> None:
    money = follow_money(["a", "b"], [row("a", 0), row("a", 0)], pools(1000, 500))
    assert set(money.columns) == {"a"}
    assert money.columns["a"]["hold_percentage"] == 0
    assert money.columns["a"]["win_pool_amount"] == 0
