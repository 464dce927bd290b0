"""The tote pools of a race on the wire."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from raceday_dagster.simulator.day import ABANDONED, FINAL, INTERIM, OPEN, Race
from raceday_dagster.simulator.market import open_market


def build_tote_pools(race: Race, status: str, at: datetime) -> list[dict[str, Any]]:
    """The value of `data.tote_pools`; empty where there is no tote. `at`: until when money came in."""
    if race.meeting.tote_number is None:
        return []
    singles = ("Win", "Place", "Quinella", "Trifecta", "FirstFour")
    pools = [_build_pool(race, product, status, at) for product in singles]
    pools += _build_multi_leg_pools(race, status, at)
    race.random("pool order").shuffle(pools)
    return pools


def _build_pool(race: Race, product: str, status: str, at: datetime) -> dict[str, Any]:
    is_commingled = product != "Trifecta" or race.meeting.is_nz
    is_void = status == ABANDONED or (product == "Place" and race.oddity == "four_runners")
    has_results = status in (INTERIM, FINAL)
    total = open_market(race).pool_total(product, at)
    pool: dict[str, Any] = {
        "product_type": product,
        "total": 1.17 if is_void and status != ABANDONED else total,
        "status": "ABANDONED" if is_void else "OPEN" if status == OPEN else "CLOSED",
        "guarantee": 5000 if product == "FirstFour" and race.meeting.is_nz else 0,
        "brought_forward": 0,
        "terminating": False,
        "jackpot": 0,
        "leg": 0,
        "is_commingled": is_commingled,
        "commingled_info": is_commingled,
        "is_concession": False,
        "win_investment": str(int(total * 7)) if has_results else "",
        "will_pay_live_units": 0,
        "will_pay_current_leg": 0,
    }
    return pool | ({"is_final": status == FINAL} if has_results else {})


def _build_multi_leg_pools(race: Race, status: str, at: datetime) -> list[dict[str, Any]]:
    """A multi-leg pool hangs on its first leg; a running double hangs on both, so a race may carry two."""
    meeting = race.meeting
    legs_of = [
        (product, key, meeting.quaddies[key])
        for product, key in (("Quadrella", "quaddie"), ("EarlyQuadrella", "early_quaddie"))
        if meeting.quaddies[key][0] == race.number
    ]
    legs_of += [
        ("RunningDouble", "tote_running_double", pair) for pair in meeting.running_doubles if race.number in pair
    ]
    if meeting.is_nz and race.number == 2:
        legs_of.append(("Treble", "tote_treble", [2, 3, 4]))
    pools = []
    for product, key, legs in legs_of:
        pool = _build_pool(race, product, status, at) | {key: legs, "is_commingled": False, "commingled_info": False}
        pool.pop("is_final", None)
        if product == "RunningDouble" and legs[1] == race.number:
            # The pool that began in the race before is older, so it holds other money.
            pool["total"] = round(pool["total"] * 1.31, 2)
        pools.append(pool)
    return pools
