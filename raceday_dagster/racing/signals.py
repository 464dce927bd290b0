"""What the market did: which runner's money, share or price moved by more than a threshold between two polls.

Pure functions of stored history. Money and share move in percentage points, the price in percent of what it was, and
its shortening counts as a rise. Ages are by our clock, as polls are; scratchings by the feed's, which dates them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import date, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from itertools import pairwise
from math import floor
from typing import Any, Literal, NamedTuple

from raceday_dagster.racing.cadence import LAST_MINUTES
from raceday_dagster.racing.records import Record

SignalKind = Literal["money", "share", "price"]

ARRIVES_WITHIN = timedelta(seconds=3)
"""Polls are due on a grid, and their answers arrive a moment later, one sooner than the other."""
PRICE_LOOK_BACK = timedelta(minutes=5)
TIERS = ((50, "50+"), (25, "25-50"), (20, "20-25"), (15, "15-20"), (10, "10-15"), (5, "5-10"), (0, "0-5"))
"""The least size of each tier, and its name; the largest first."""
EARLIEST_INTERVAL = Decimal(60)
"""The one interval without a beginning; of it, only the five minutes before the next count."""
EARLIEST_BEGIN_S = 65 * 60


class Thresholds(Record):
    """From which size a move is a signal, and how far apart polls may be."""

    money_points: float = 5
    share_points: float = 3
    share_strong_points: float = 6
    price_percent: float = 5
    share_look_back_s: int = 30
    longest_gap_s: int = 60
    last_minutes_gap_s: int = 45


class Seen(NamedTuple):
    """A runner at a poll."""

    share_hundredths: int
    """Its share of the money, in hundredths of a percent."""
    price_cents: int | None
    """Its fixed odds to win, in hundredths."""
    money_cents: int
    """What came in for it since the poll before, in both pools."""
    is_baseline: bool


class MarketPoll(NamedTuple):
    """The market of a race as one poll stored it."""

    polled_at: datetime
    generated_at: datetime
    """By the clock of the feed."""
    time_to_start_s: int
    time_interval: Decimal
    is_valid: bool
    """Whether the quality of the answer was."""
    runners: dict[str, Seen]
    """By the id of the entrant."""


class RunnerName(NamedTuple):
    """Who a signal is about."""

    number: int
    name: str


class Market(NamedTuple):
    """What a race's last poll is judged by."""

    race_id: str
    title: str
    racing_day: date
    polls: Sequence[MarketPoll]
    """The oldest first; the last is the one to judge."""
    runners: Mapping[str, RunnerName]
    """By the id of the entrant; neither scratched nor withdrawn ones."""
    scratchings: Sequence[datetime]
    """When others were scratched or withdrawn, by the clock of the feed."""


class Signal(Record):
    """One row of ``market_signals``, and the names of what it is about."""

    race_id: str
    race: str
    racing_day: date
    entrant_id: str
    runner_number: int
    runner: str
    kind: SignalKind
    polling_timestamp: datetime
    compared_with: datetime
    time_to_start_s: int
    time_interval: Decimal
    value_before: Decimal
    value_now: Decimal
    change: Decimal
    tier: str
    is_alert: bool
    is_strong: bool
    after_scratching: bool
    computed_from: dict[str, Any]


class Move(NamedTuple):
    """From what to what a runner moved, exactly."""

    entrant_id: str
    kind: SignalKind
    then: MarketPoll
    before: Fraction
    after: Fraction
    change: Fraction
    computed_from: dict[str, Any]


def choose_look_back(time_to_start: timedelta) -> timedelta:
    """How far back the polls of the present interval and the one before can lie: both are five minutes long until five
    minutes before the start, and a minute or half a minute after that."""
    if time_to_start >= timedelta(minutes=5):
        intervals = timedelta(minutes=10)
    elif time_to_start >= timedelta(minutes=4):
        intervals = timedelta(minutes=6)
    else:
        intervals = timedelta(minutes=2)
    return intervals + timedelta(seconds=75)  # a poll before them, and the feed's clock behind ours


def find_signals(market: Market, thresholds: Thresholds) -> list[Signal]:
    """The signals of a race's last poll, by runner number and kind.

    There are none where the poll, or what it is compared with, is of no valid quality, or came too long after the poll
    before it; and none of a runner whose row is a baseline.
    """
    if len(market.polls) < 2:
        return []
    now = market.polls[-1]
    if not now.is_valid or _is_far_apart(market.polls[-2], now, thresholds):
        return []
    moves = (
        *_find_money_moves(market, thresholds),
        *_find_share_moves(market, thresholds),
        *_find_price_moves(market, thresholds),
    )
    least = {
        "money": thresholds.money_points,
        "share": thresholds.share_points,
        "price": thresholds.price_percent,
    }
    signals = [_build_signal(market, move, thresholds) for move in moves if abs(move.change) >= least[move.kind]]
    return sorted(signals, key=lambda signal: (signal.runner_number, signal.entrant_id, signal.kind))


def choose_tier(change: Fraction) -> str:
    """The tier of a change by its size, the lower bound in and the upper out."""
    return next(name for least, name in TIERS if abs(change) >= least)


def find_interval_before(time_interval: Decimal) -> Decimal | None:
    """The interval that ends where this one begins; ``None`` before the first."""
    if time_interval >= EARLIEST_INTERVAL:
        return None
    if time_interval >= 5:
        return time_interval + 5
    if time_interval >= 0:
        return time_interval + 1
    return time_interval + (Decimal("0.5") if time_interval >= -5 else 1)


def _find_money_moves(market: Market, thresholds: Thresholds) -> Iterator[Move]:
    interval = market.polls[-1].time_interval
    before = find_interval_before(interval)
    polls = [poll for poll in market.polls if poll.time_interval == interval]
    polls_before = [
        poll for poll in market.polls if poll.time_interval == before and poll.time_to_start_s < EARLIEST_BEGIN_S
    ]
    if not polls_before or not _follow_closely(market.polls, (*polls_before, *polls), thresholds):
        return
    money, money_before = (_add_money(market, chosen) for chosen in (polls, polls_before))
    total, total_before = sum(money.values()), sum(money_before.values())
    if not total or not total_before:
        return
    for entrant_id in _list_runners(market):
        if entrant_id not in money or entrant_id not in money_before:
            continue
        if money[entrant_id] * total_before > money_before[entrant_id] * total:  # increases only
            part = Fraction(100 * money[entrant_id], total)
            part_before = Fraction(100 * money_before[entrant_id], total_before)
            computed_from = {
                "interval": {"before": float(polls_before[0].time_interval), "now": float(interval)},
                "money_cents": {"before": money_before[entrant_id], "now": money[entrant_id]},
                "all_money_cents": {"before": total_before, "now": total},
            }
            yield Move(entrant_id, "money", polls_before[-1], part_before, part, part - part_before, computed_from)


def _find_share_moves(market: Market, thresholds: Thresholds) -> Iterator[Move]:
    now = market.polls[-1]
    then = _find_poll(market.polls, now.polled_at - timedelta(seconds=thresholds.share_look_back_s))
    if then is None or not then.is_valid or _is_far_apart(then, now, thresholds):
        return
    for entrant_id in _list_runners(market):
        seen = then.runners.get(entrant_id)
        if seen and seen.share_hundredths != now.runners[entrant_id].share_hundredths:
            before, share = (Fraction(poll.runners[entrant_id].share_hundredths, 100) for poll in (then, now))
            computed_from = {"hold_percentage": {"before": float(before), "now": float(share)}}
            yield Move(entrant_id, "share", then, before, share, share - before, computed_from)


def _find_price_moves(market: Market, thresholds: Thresholds) -> Iterator[Move]:
    now = market.polls[-1]
    then = _find_poll(market.polls, now.polled_at - PRICE_LOOK_BACK)
    if then is None or not then.is_valid or _is_far_apart(then, now, thresholds, besides=PRICE_LOOK_BACK):
        return
    for entrant_id in _list_runners(market):
        price = now.runners[entrant_id].price_cents
        seen = then.runners.get(entrant_id)
        if price and seen and seen.price_cents and seen.price_cents != price:
            before, after = Fraction(seen.price_cents, 100), Fraction(price, 100)
            computed_from = {"fixed_win_odds": {"before": float(before), "now": float(after)}}
            yield Move(entrant_id, "price", then, before, after, 100 * (before - after) / before, computed_from)


def _list_runners(market: Market) -> list[str]:
    """Those of whom the last poll says something that is no baseline."""
    seen = market.polls[-1].runners
    return [entrant_id for entrant_id in market.runners if entrant_id in seen and not seen[entrant_id].is_baseline]


def _add_money(market: Market, polls: Iterable[MarketPoll]) -> dict[str, int]:
    """The cents that came in for each runner in some polls, baselines left out. A share that fell by more than the pool
    grew took money away: nothing came in then, and a part of the whole stays one."""
    money: dict[str, int] = {}
    for poll in polls:
        for entrant_id, seen in poll.runners.items():
            if entrant_id in market.runners and not seen.is_baseline:
                money[entrant_id] = money.get(entrant_id, 0) + seen.money_cents
    return {entrant_id: max(0, cents) for entrant_id, cents in money.items()}


def _follow_closely(polls: Sequence[MarketPoll], chosen: Sequence[MarketPoll], thresholds: Thresholds) -> bool:
    """Whether what came in by each of the chosen polls came since a poll shortly before it, and all are valid."""
    before = {later.polled_at: earlier for earlier, later in pairwise(polls)}
    for poll in chosen:
        earlier = before.get(poll.polled_at)
        if earlier is None:
            if not all(seen.is_baseline for seen in poll.runners.values()):
                return False
        elif _is_far_apart(earlier, poll, thresholds):
            return False
    return all(poll.is_valid for poll in chosen)


def _find_poll(polls: Sequence[MarketPoll], at: datetime) -> MarketPoll | None:
    """The newest poll that was not later than an instant, give or take when answers arrive."""
    return next((poll for poll in reversed(polls) if poll.polled_at <= at + ARRIVES_WITHIN), None)


def _is_far_apart(
    earlier: MarketPoll, later: MarketPoll, thresholds: Thresholds, *, besides: timedelta = timedelta(0)
) -> bool:
    is_last_minutes = later.time_to_start_s <= LAST_MINUTES.total_seconds()
    longest_s = thresholds.last_minutes_gap_s if is_last_minutes else thresholds.longest_gap_s
    return later.polled_at - earlier.polled_at > timedelta(seconds=longest_s) + besides + ARRIVES_WITHIN


def _build_signal(market: Market, move: Move, thresholds: Thresholds) -> Signal:
    now = market.polls[-1]
    # A scratching moves every share at the poll that first sees it, and at the next, which looks back two polls.
    since = market.polls[max(len(market.polls) - 3, 0)].generated_at
    runner = market.runners[move.entrant_id]
    return Signal(
        race_id=market.race_id,
        race=market.title,
        racing_day=market.racing_day,
        entrant_id=move.entrant_id,
        runner_number=runner.number,
        runner=runner.name,
        kind=move.kind,
        polling_timestamp=now.polled_at,
        compared_with=move.then.polled_at,
        time_to_start_s=now.time_to_start_s,
        time_interval=now.time_interval,
        value_before=_to_hundredths(move.before),
        value_now=_to_hundredths(move.after),
        change=_to_hundredths(move.change),
        tier=choose_tier(move.change),
        is_alert=move.kind != "price" or move.change > 0,
        is_strong=move.kind == "share" and abs(move.change) >= thresholds.share_strong_points,
        after_scratching=any(since < at <= now.generated_at for at in market.scratchings),
        computed_from=move.computed_from,
    )


def _to_hundredths(value: Fraction) -> Decimal:
    return Decimal(floor(100 * value + Fraction(1, 2))) / 100
