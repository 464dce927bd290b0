"""What counts as a move of the market: the worked examples, and where there is none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raceday_dagster.racing.signals import (
    Market,
    MarketPoll,
    RunnerName,
    Seen,
    Signal,
    Thresholds,
    choose_tier,
    find_interval_before,
    find_signals,
)
from raceday_dagster.transform.timing import choose_time_interval

START = datetime(2026, 9, 26, 3, 0, tzinfo=UTC)
DEFAULTS = Thresholds()


def see(share: float = 25, price: str | None = "4.00", money_cents: int = 0, *, is_baseline: bool = False) -> Seen:
    price_cents = None if price is None else int(100 * Decimal(price))
    return Seen(int(100 * Decimal(str(share))), price_cents, money_cents, is_baseline)


def make_poll(to_start_s: int, runners: Mapping[int, Seen], *, is_valid: bool = True) -> MarketPoll:
    """A poll so many seconds before the start."""
    at = START - timedelta(seconds=to_start_s)
    return MarketPoll(
        polled_at=at + timedelta(milliseconds=300),
        generated_at=at,
        time_to_start_s=to_start_s,
        time_interval=choose_time_interval(Fraction(to_start_s)),
        is_valid=is_valid,
        runners={f"entrant-{number}": seen for number, seen in runners.items()},
    )


def make_market(*polls: MarketPoll, scratchings: Sequence[datetime] = (), runners: int = 4) -> Market:
    return Market(
        race_id="race-1",
        title="Awapuni R1",
        racing_day=date(2026, 9, 26),
        polls=polls,
        runners={f"entrant-{number}": RunnerName(number, f"Runner {number}") for number in range(1, runners + 1)},
        scratchings=scratchings,
    )


def find(*polls: MarketPoll, scratchings: Sequence[datetime] = ()) -> list[Signal]:
    return find_signals(make_market(*polls, scratchings=scratchings), DEFAULTS)


def see_money(*cents: int, is_baseline: bool = False) -> dict[int, Seen]:
    return {number: see(money_cents=money, is_baseline=is_baseline) for number, money in enumerate(cents, 1)}


def see_shares(*shares: float) -> dict[int, Seen]:
    return {number: see(share) for number, share in enumerate(shares, 1)}


def poll_twice(before: Mapping[int, Seen], now: Mapping[int, Seen], *, age_s: int = 30) -> list[MarketPoll]:
    return [make_poll(600 + age_s, before), make_poll(600, now)]


def test_money_of_the_worked_example_is_a_signal_of_tier_15_to_20() -> None:
    first = see_money(0, 0, 0, 0, is_baseline=True)
    (signal,) = find(
        make_poll(960, first), make_poll(900, see_money(100, 80, 60, 40)), make_poll(870, see_money(100, 80, 60, 100))
    )
    assert (signal.kind, signal.runner_number) == ("money", 4)
    assert (signal.value_before, signal.value_now, signal.change) == (
        Decimal("14.29"),
        Decimal("29.41"),
        Decimal("15.13"),
    )
    assert (signal.tier, signal.is_alert, signal.is_strong) == ("15-20", True, False)
    assert signal.computed_from == {
        "interval": {"before": 15.0, "now": 10.0},
        "money_cents": {"before": 40, "now": 100},
        "all_money_cents": {"before": 280, "now": 340},
    }


def test_a_price_from_12_to_7_is_a_shortening_of_41_67_percent() -> None:
    (signal,) = find(
        make_poll(900, {1: see(price="12.00")}),
        make_poll(630, {1: see(price="9.00")}),
        make_poll(600, {1: see(price="7.00")}),
    )
    assert (signal.kind, signal.change, signal.tier, signal.is_alert) == ("price", Decimal("41.67"), "25-50", True)
    assert signal.compared_with == START - timedelta(seconds=900) + timedelta(milliseconds=300)


def test_a_drifting_price_is_reported_and_no_alert() -> None:
    (signal,) = find(
        make_poll(900, {1: see(price="4.00")}),
        make_poll(630, {1: see(price="4.00")}),
        make_poll(600, {1: see(price="5.00")}),
    )
    assert (signal.kind, signal.change, signal.is_alert) == ("price", Decimal("-25.00"), False)


@pytest.mark.parametrize(("now", "before"), [(None, "4.00"), ("4.00", None)])
def test_a_runner_without_a_price_has_none_that_moved(now: str | None, before: str | None) -> None:
    assert not find(
        make_poll(900, {1: see(price=before)}), make_poll(630, {1: see()}), make_poll(600, {1: see(price=now)})
    )


@pytest.mark.parametrize(
    ("share", "is_strong"),
    [(14.99, None), (15, False), (17.99, False), (18, True), (9.01, None), (9, False), (6, True)],
)
def test_a_share_moves_both_ways_from_three_points_and_strongly_from_six(share: float, is_strong: bool | None) -> None:
    signals = find(*poll_twice(see_shares(12), see_shares(share)))
    assert [signal.is_strong for signal in signals] == ([] if is_strong is None else [is_strong])
    assert all((signal.kind, signal.is_alert) == ("share", True) for signal in signals)


def test_a_share_is_compared_with_two_polls_ago_in_the_last_minutes() -> None:
    polls = [make_poll(to_start_s, see_shares(share)) for to_start_s, share in ((90, 5), (75, 12), (60, 15), (45, 18))]
    (signal,) = find(*polls)
    assert (signal.value_before, signal.value_now, signal.is_strong) == (12, 18, True)
    assert signal.compared_with == polls[1].polled_at


@pytest.mark.parametrize(
    ("to_start_s", "gap_s", "fires"),
    [(600, 60, True), (600, 75, False), (240, 45, True), (240, 60, False), (-60, 60, False)],
)
def test_polls_too_far_apart_are_not_compared(to_start_s: int, gap_s: int, *, fires: bool) -> None:
    signals = find(make_poll(to_start_s + gap_s, see_shares(12)), make_poll(to_start_s, see_shares(20)))
    assert bool(signals) is fires


def test_a_first_poll_and_a_baseline_row_have_no_signal() -> None:
    assert not find(make_poll(600, see_shares(20)))
    assert not find(*poll_twice({1: see(12)}, {1: see(20, is_baseline=True)}))


@pytest.mark.parametrize("doubtful", [0, 1])
def test_a_poll_of_no_valid_quality_is_not_judged_nor_compared_with(doubtful: int) -> None:
    polls = poll_twice(see_shares(12), see_shares(20))
    polls[doubtful] = polls[doubtful]._replace(is_valid=False)
    assert not find(*polls)


def test_money_needs_the_runner_and_some_money_in_both_intervals() -> None:
    first = make_poll(960, see_money(0, 0, 0, 0, is_baseline=True))
    now = make_poll(870, see_money(10, 10, 10, 100))
    assert not find(first, make_poll(900, see_money(0, 0, 0, 0)), now)
    (signal,) = find(first, make_poll(900, {1: see(money_cents=100), 4: see(money_cents=50)}), now)
    assert signal.runner_number == 4


def test_money_after_a_gap_is_of_no_interval() -> None:
    polls = [
        make_poll(1200, see_money(0, 0, 0, 0, is_baseline=True)),
        make_poll(900, see_money(100, 80, 60, 40)),
        make_poll(870, see_money(100, 80, 60, 100)),
    ]
    assert not find(*polls)


def test_only_an_increase_of_money_is_a_signal() -> None:
    signals = find(
        make_poll(960, see_money(0, 0, is_baseline=True)),
        make_poll(900, see_money(50, 50)),
        make_poll(870, see_money(80, 20)),
    )
    assert [(signal.runner_number, signal.change) for signal in signals] == [(1, 30)]


def test_a_signal_within_two_polls_of_a_scratching_is_marked() -> None:
    polls = [make_poll(to_start_s, see_shares(10 + step)) for step, to_start_s in enumerate((120, 105, 90, 75))]
    polls += [make_poll(60, see_shares(20)), make_poll(45, see_shares(20)), make_poll(30, see_shares(26))]
    scratching = START - timedelta(seconds=62)
    marked = [find(*polls[:end], scratchings=[scratching])[0].after_scratching for end in (5, 6, 7)]
    assert marked == [True, True, False]


def test_scratched_runners_have_no_signal_and_no_part_of_the_money() -> None:
    polls = [
        make_poll(960, see_money(0, 0, 0, is_baseline=True)),
        make_poll(900, see_money(50, 50, 0)),
        make_poll(870, see_money(50, 50, -900)),
    ]
    assert not find_signals(make_market(*polls, runners=2), DEFAULTS)


@pytest.mark.parametrize(
    ("change", "tier"),
    [
        *(("3", "0-5"), ("5", "5-10"), ("9.99", "5-10"), ("-10", "10-15"), ("15", "15-20"), ("20", "20-25")),
        *(("25", "25-50"), ("49.99", "25-50"), ("50", "50+"), ("-400", "50+")),
    ],
)
def test_a_tier_takes_its_lower_bound_and_not_its_upper(change: str, tier: str) -> None:
    assert choose_tier(Fraction(change)) == tier


@given(st.integers(-3_600, 5_000))
def test_the_interval_before_is_the_one_that_ends_where_this_begins(to_start_s: int) -> None:
    interval = choose_time_interval(Fraction(to_start_s))
    earlier = (choose_time_interval(Fraction(second)) for second in range(to_start_s, to_start_s + 400))
    assert find_interval_before(interval) == next((other for other in earlier if other != interval), None)


shares = st.lists(st.integers(0, 100), min_size=4, max_size=4)


@given(shares, shares)
def test_share_signals_mirror_when_time_runs_backwards(before: list[int], now: list[int]) -> None:
    there = find(*poll_twice(see_shares(*before), see_shares(*now)))
    back = find(*poll_twice(see_shares(*now), see_shares(*before)))
    assert [(signal.entrant_id, signal.change) for signal in there] == [
        (signal.entrant_id, -signal.change) for signal in back
    ]
    assert all(abs(signal.change) >= 3 for signal in there)


@given(st.lists(st.integers(-100, 100), min_size=8, max_size=8))
def test_parts_of_the_money_are_never_more_than_the_whole_nor_less_than_nothing(cents: list[int]) -> None:
    signals = find(
        make_poll(960, see_money(0, 0, 0, 0, is_baseline=True)),
        make_poll(900, see_money(*cents[:4])),
        make_poll(870, see_money(*cents[4:])),
    )
    assert all(0 <= signal.value_before < signal.value_now <= 100 for signal in signals)


@given(st.lists(st.integers(1, 10**9), min_size=4, max_size=4), st.integers(1, 1_000))
def test_money_that_comes_in_as_before_is_no_signal(cents: list[int], factor: int) -> None:
    polls = [
        make_poll(960, see_money(0, 0, 0, 0, is_baseline=True)),
        make_poll(900, see_money(*cents)),
        make_poll(870, see_money(*(factor * money for money in cents))),
    ]
    assert not find(*polls)
