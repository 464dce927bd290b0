"""The money tracker: several rows a runner, integer shares of one whole, with rows for ids that are not runners."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from random import Random

from raceday_dagster.simulator.day import Race, make_id
from raceday_dagster.simulator.market import open_market


def _split_exactly(total: int, parts: list[float]) -> list[int]:
    """Whole numbers in proportion to `parts` that add up to `total`: what rounding leaves over is carried on."""
    whole = sum(parts)
    numbers, reached, given = [], 0.0, 0
    for part in parts:
        reached += part
        number = round(total * reached / whole) - given
        numbers.append(number)
        given += number
    return numbers


@lru_cache(maxsize=512)
def find_strangers(race: Race) -> tuple[tuple[str, ...], float]:
    """Ids in the tracker that are no runner of the race, and their share of the money held."""
    rng = race.random("strangers")
    count = rng.choice((0, 1, 2, 3))
    return tuple(make_id(rng) for _ in range(count)), rng.uniform(0.02, 0.09) if count else 0.0


@dataclass(frozen=True)
class _Plan:
    """(entrant id, weight) of each row, the order they are sent in, and what is over or short of a hundred."""

    rows: tuple[tuple[str, float], ...]
    order: tuple[int, ...]
    hold_over: int
    bet_over: int


@lru_cache(maxsize=512)
def _plan_rows(race: Race) -> _Plan:
    rng = race.random("tracker")
    rows: list[tuple[str, float]] = []
    for runner in open_market(race).runners:
        # A runner without a fixed price has attracted nothing: it has no row at all.
        if not runner.is_unpriced:
            rows += [(runner.entrant_id, weight) for weight in _weigh_rows(rng)]
    strangers, _ = find_strangers(race)
    rows += [(stranger, 1.0) for stranger in strangers]
    order = rng.sample(range(len(rows)), len(rows))
    return _Plan(tuple(rows), tuple(order), rng.choice((-2, -1, 0, 1, 1, 2)), rng.choice((-1, 0, 1, 2)))


def _weigh_rows(rng: Random) -> list[float]:
    """Eight to ten parts of one: a few large, the last ones nothing."""
    parts = [rng.uniform(0.8, 1.4), rng.uniform(0.3, 0.8), rng.uniform(0.1, 0.4), rng.uniform(0.02, 0.15)]
    parts += [0.0] * rng.randint(4, 6)
    whole = sum(parts)
    return [part / whole for part in parts]


def build_money_tracker(race: Race, at: datetime) -> dict[str, object]:
    """The value of `data.money_tracker`: hold and bet in whole per cent, each summing to 98..102 over all rows.

    `at`: until when money came in.
    """
    plan, market = _plan_rows(race), open_market(race)
    hold_shares, bet_shares = market.shares(at), market.shares(at, evenness=0.3)
    hold, bet = {}, {}
    for runner in market.runners:
        # Money on a runner scratched late is still counted for it.
        left = 0.015 if runner.is_late_scratched else 0.0
        hold[runner.entrant_id] = hold_shares.get(runner.number, left)
        bet[runner.entrant_id] = bet_shares.get(runner.number, left)
    strangers, strange_share = find_strangers(race)
    hold |= dict.fromkeys(strangers[:1], strange_share)
    holds = _split_exactly(100 + plan.hold_over, [hold.get(owner, 0.0) * weight for owner, weight in plan.rows])
    bets = _split_exactly(100 + plan.bet_over, [bet.get(owner, 0.0) * weight for owner, weight in plan.rows])
    rows = [
        {"entrant_id": owner, "hold_percentage": held, "bet_percentage": placed}
        for (owner, _), held, placed in zip(plan.rows, holds, bets, strict=True)
    ]
    return {"entrants": [rows[place] for place in plan.order]}
