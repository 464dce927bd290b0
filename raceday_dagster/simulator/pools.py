"""The tote pools of a race on the wire, with their trends.

Belongs here: `data.tote_pools`. Does not belong here: how much money there is (`market`).
"""

from __future__ import annotations

from datetime import datetime
from typing import Any
from xml.sax.saxutils import escape

from raceday_dagster.simulator.lifecycle import ABANDONED, FINAL, INTERIM, OPEN, betting_instant
from raceday_dagster.simulator.market import open_market
from raceday_dagster.simulator.raceday import Race
from raceday_dagster.simulator.tracker import split_exactly

_TREND_TYPES = {"Trifecta": ("TFA", 3), "FirstFour": ("FT4", 4)}


def build_tote_pools(race: Race, status: str, instant: datetime, *, with_trends: bool) -> list[dict[str, Any]]:
    """The value of `data.tote_pools`; empty where there is no tote. `with_trends` adds the XML of the trends."""
    if race.meeting.tote_number is None:
        return []
    pools = [_build_pool(race, product, status, instant) for product in ("Win", "Place", "Quinella")]
    for product in ("Trifecta", "FirstFour"):
        pool = _build_pool(race, product, status, instant)
        gross = round(pool["total"] * 1.05 if pool["is_commingled"] else pool["total"] / 0.75, 2)
        pool["tote_trends"] = {"pool_total": gross}
        if with_trends:
            pool["tote_trends"]["tote_trends_data"] = _write_trends(race, product, gross, instant)
        pools.append(pool)
    pools += _build_multi_leg_pools(race, status, instant)
    race.random("pool order").shuffle(pools)
    return pools


def _build_pool(race: Race, product: str, status: str, instant: datetime) -> dict[str, Any]:
    is_commingled = product != "Trifecta" or race.meeting.is_nz
    is_void = status == ABANDONED or (product == "Place" and race.oddity == "four_runners")
    is_settled = status in (INTERIM, FINAL)
    total = open_market(race).pool_total(product, instant)
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
        "win_investment": str(int(total * 7)) if is_settled else "",
        "will_pay_live_units": 0,
        "will_pay_current_leg": 0,
    }
    if is_settled:
        pool["is_final"] = status == FINAL
    if product == "Quinella":
        pool["qla_odds"] = _build_quinella_odds(race, instant)
    return pool


def _build_multi_leg_pools(race: Race, status: str, instant: datetime) -> list[dict[str, Any]]:
    """A multi-leg pool hangs on its first leg; a running double hangs on both, so a race may carry two."""
    meeting = race.meeting
    legs_of: list[tuple[str, str, list[int]]] = [
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
        pool = _build_pool(race, product, status, instant)
        pool.pop("is_final", None)
        pool |= {
            key: legs,
            "is_commingled": False,
            "commingled_info": False,
            "will_pays": [
                {"odds": max(1.0, round(0.8 / share, 1)), "sel": number}
                for number, share in open_market(race).shares(instant).items()
            ],
            "tote_trends": {"pool_total": pool["total"]},
        }
        if product == "RunningDouble" and legs[1] == race.number:
            # The pool that began in the race before is older, so it holds other money.
            pool["total"] = pool["tote_trends"]["pool_total"] = round(pool["total"] * 1.31, 2)
        pools.append(pool)
    return pools


def _build_quinella_odds(race: Race, instant: datetime) -> list[dict[str, Any]]:
    market = open_market(race)
    shares = market.shares(instant)
    ranks = {number: rank for rank, number in enumerate(sorted(shares, key=lambda n: -shares[n]), start=1)}
    rows = []
    for runner in market.runners:
        cells = [
            "-" if other is runner
            else "scr" if other.number not in shares or runner.number not in shares
            else f"{0.4 / (shares[runner.number] * shares[other.number]):.2f}"
            for other in market.runners
        ]  # fmt: skip
        rows.append({"favouritism": ranks.get(runner.number, 0), "sel": runner.number, "oddsString": "|".join(cells)})
    return rows


def _write_trends(race: Race, product: str, gross: float, instant: datetime) -> str:
    """Dollars on each runner in each position; every column adds up to the pool exactly."""
    kind, columns = _TREND_TYPES[product]
    market = open_market(race)
    shares = {
        place: market.shares(betting_instant(race, instant), evenness=place / (columns + 2)) for place in range(columns)
    }
    live = list(shares[0])
    cents = {
        place: dict(zip(live, split_exactly(round(gross * 100), [shares[place][n] for n in live]), strict=True))
        for place in range(columns)
    }
    meeting = race.meeting
    lines = [
        "<meetings>",
        f"  <date>{meeting.racing_day}</date>",
        f'  <meeting meeting_number="{meeting.tote_number}" meeting_type="R">',
        f'    <meet_ID meet_mnem="{meeting.slot.venue[:4].upper()}" NetSet_Name="{meeting.slot.venue}" Club=""/>',
        f'    <race race_number="{race.number}">',
        "      <bet_types>",
        f'        <bet_type type="{kind}">',
        f"          <pool_total>{gross:.2f}</pool_total>",
        f'          <runners race_number="{race.number}">',
    ]
    for runner in market.runners:
        lines += [
            f'            <runner runner_number="{runner.number}">',
            f"              <runner_scratched>{runner.number not in live}</runner_scratched>",
            f"              <runner_name>{escape(runner.name)}</runner_name>",
        ]
        for place in range(columns):
            dollars = cents[place].get(runner.number, 0) / 100
            tag = f"runner_investment{place + 1}"
            lines.append(f"              <{tag}>{dollars:.2f}</{tag}>")
        lines.append("            </runner>")
    lines += ["          </runners>", "        </bet_type>", "      </bet_types>", "    </race>", "  </meeting>"]
    return "\r\n".join([*lines, "</meetings>", ""])
