"""What a race came to: the finishing order, the results and the dividends of the wire format."""

from __future__ import annotations

import math
from datetime import datetime
from functools import lru_cache
from typing import Any

from raceday_dagster.simulator.day import FINAL, INTERIM, Race, make_id
from raceday_dagster.simulator.field import Runner
from raceday_dagster.simulator.market import open_market

_TAKEOUT = 0.82
_MARGINS = ("NOSE", "HD", "NK", "LG NK", "1 L", "2 L")


@lru_cache(maxsize=512)
def run_race(race: Race) -> tuple[tuple[int, Runner], ...]:
    """(position, runner) in finishing order, drawn by the market's last shares. A dead heat repeats a position."""
    rng = race.random("finish")
    market = open_market(race)
    shares = market.shares(race.closes_at)
    runners = [runner for runner in market.runners if runner.number in shares]
    # A race between exponential clocks: the quicker clock wins in proportion to its share.
    times = {runner.number: rng.expovariate(1.0) / shares[runner.number] for runner in runners}
    runners.sort(key=lambda runner: times[runner.number])
    positions = list(range(1, len(runners) + 1))
    if race.oddity == "dead_heat":
        positions[3] = 3
    return tuple(zip(positions, runners, strict=True))


def build_results(race: Race, status: str) -> list[dict[str, Any]]:
    """The value of `data.results`: the first four while interim, everyone when final."""
    rng = race.random("margins")
    rows: list[dict[str, Any]] = []
    behind, last_position = 0.0, 0
    for position, runner in run_race(race):
        row: dict[str, Any] = {
            "position": position,
            "name": runner.name,
            "barrier": runner.barrier,
            "runner_number": runner.number,
            "entrant_id": runner.entrant_id,
        }
        step = rng.choice((0.1, 0.2, 0.5, 1.3, 2.4))
        behind += 0.0 if position in (1, last_position) else step
        last_position = position
        row["margin_length"] = round(behind, 1) or 0
        if position > 1:
            row["positional_margin"] = rng.choice(_MARGINS)
        elif race.meeting.is_nz:
            row["winning_time"] = row["time_ran"] = round(race.distance_m / 16.3, 2)
        rows.append(row)
    return rows[:4] if status == INTERIM else rows


def build_dividends(race: Race, status: str, instant: datetime) -> list[dict[str, Any]]:
    """The value of `data.dividends`: an interim row of everything paid, and its final twin once final."""
    if race.meeting.tote_number is None:
        return []
    rng = race.random("dividends")
    market = open_market(race)
    shares = market.shares(instant)
    kinds = (INTERIM, FINAL) if status == FINAL else (INTERIM,)
    rows: list[dict[str, Any]] = []
    for product, pool, places in _list_payouts(race):
        numbers = [runner.number for _, runner in places]
        chance = math.prod(shares[number] for number in numbers) * (2.2 if product == "Quinella" else 1.0)
        dividend = _TAKEOUT / (3 * chance if product == "Place" else chance)
        ids = [make_id(rng), make_id(rng)]
        rows += [
            {
                "id": ids[position],
                "tote": "NZ",
                "product_name": f"Pool {product}",
                "status": kind,
                "dividend": max(1.0, math.floor(dividend * 10) / 10),
                "pool_size": market.pool_total(pool, instant),
                "jackpot_size": 0,
                "positions": [
                    {"runner_number": runner.number, "position": 1 if product == "Place" else finished}
                    for finished, runner in places
                ],
                "description": ":".join(str(number) for number in numbers),
            }
            for position, kind in enumerate(kinds)
        ]
    # The order on the wire means nothing.
    race.random("dividend order").shuffle(rows)
    return rows


def _list_payouts(race: Race) -> list[tuple[str, str, list[tuple[int, Runner]]]]:
    """(product, pool it is paid from, placegetters) for every ticket that wins; dead heats pay more than once."""
    order = list(run_race(race))
    thirds = [entry for entry in order if entry[0] == 3]
    paid = 3 if len(order) >= 8 else 2
    payouts = [("Win", "Win", order[:1]), ("Quinella", "Quinella", order[:2])]
    if race.oddity != "four_runners":
        payouts += [("Place", "Place", [entry]) for entry in order if entry[0] <= paid]
    for third in thirds:
        others = [entry for entry in order[2:4] if entry is not third]
        payouts += [
            ("Trifecta", "Trifecta", [*order[:2], third]),
            ("First4", "FirstFour", [*order[:2], third, *others]),
        ]
    return payouts
