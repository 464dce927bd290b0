"""The runners of a race on the wire, with what the API repeats of them.

Belongs here: `data.runners`, `data.favourite`, `data.mover`, `data.derivatives`. Does not belong here: the
constant part of a runner (`form`), or how prices come about (`market`).
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from raceday_dagster.simulator.fields import Runner
from raceday_dagster.simulator.form import write_card
from raceday_dagster.simulator.instants import write_instant
from raceday_dagster.simulator.lifecycle import closes_at
from raceday_dagster.simulator.market import Market, open_market
from raceday_dagster.simulator.raceday import Race, make_id
from raceday_dagster.simulator.tracker import find_strangers

_FLUC_MINUTES = (1500, 400, 90, 30, 10, 3)

_WireRunner = dict[str, Any]
_Prices = dict[int, tuple[float, float]]


def build_runners(race: Race, at: datetime) -> tuple[list[_WireRunner], _WireRunner | None, _WireRunner | None]:
    """The runners in cloth order, the favourite among them, and the mover. At most one flag of each is true."""
    market = open_market(race)
    fixed, pool = market.fixed_odds(at), market.pool_odds(at)
    history = _recall_prices(market, at)
    runners = [
        _build_runner(race, runner, at, fixed, pool) | _build_flucs(runner, history) for runner in market.runners
    ]
    return runners, *_mark_favourite_and_mover(race, runners, at)


def _build_runner(race: Race, runner: Runner, at: datetime, fixed: _Prices, pool: _Prices) -> _WireRunner:
    is_scratched = runner.is_scratched(at)
    win, place = fixed.get(runner.number, (0.0, 0.0))
    odds = {"fixed_win": _plain(win), "fixed_place": _plain(place)}
    if runner.number in pool:
        odds |= {"pool_win": _plain(pool[runner.number][0]), "pool_place": _plain(pool[runner.number][1])}
    body = write_card(race, runner) | {
        "is_scratched": is_scratched,
        "odds": odds,
        "scratch_time": 0,
        "scr_time": None,
        "favourite": False,
        "mover": False,
    }
    if race.meeting.is_nz:
        body["is_late_scratched"] = is_scratched and runner.is_late_scratched
    if is_scratched and runner.scratched_at is not None:
        body["scratch_time"] = int(runner.scratched_at.timestamp())
        body["scr_time"] = f"{runner.scratched_at:%Y-%m-%dT%H:%M:%SZ}"
        if runner.is_late_scratched:
            body["deduction"] = {"win": 0.07, "place": 0.05}
    return body


def _recall_prices(market: Market, at: datetime) -> list[tuple[str, _Prices]]:
    """Fixed prices at up to six earlier instants, oldest first."""
    instants = [closes_at(market.race) - timedelta(minutes=minutes) for minutes in _FLUC_MINUTES]
    return [(write_instant(then), market.fixed_odds(then)) for then in instants if then <= at]


def _build_flucs(runner: Runner, history: list[tuple[str, _Prices]]) -> _WireRunner:
    """Earlier win prices twice: bare, and with the instant of each."""
    stamped: list[dict[str, Any]] = [
        {"timestamp": stamp, "fluc": _plain(prices[runner.number][0])}
        for stamp, prices in history
        if prices.get(runner.number, (0.0, 0.0))[0]
    ]
    if not stamped:
        return {"flucs": []}
    ranked = sorted(stamped, key=lambda entry: float(entry["fluc"]))
    ends = {"open": stamped[0], "high": ranked[-1], "low": ranked[0], "nine_am": stamped[0]}
    return {"flucs": [entry["fluc"] for entry in stamped], "flucs_with_timestamp": {"last_six": stamped, **ends}}


def _mark_favourite_and_mover(
    race: Race, runners: list[_WireRunner], at: datetime
) -> tuple[_WireRunner | None, _WireRunner | None]:
    """Set at most one flag of each kind and return the two runners."""
    priced = [runner for runner in runners if not runner["is_scratched"] and runner["odds"]["fixed_win"]]
    favourite = min(priced, key=lambda runner: float(runner["odds"]["fixed_win"]), default=None)
    shortened = [runner for runner in priced if runner["flucs"] and runner["flucs"][0] > runner["odds"]["fixed_win"]]
    mover = max(shortened, key=lambda runner: float(runner["flucs"][0] / runner["odds"]["fixed_win"]), default=None)
    if race.oddity == "no_mover":
        mover = None
    if open_market(race).minutes_left(at) > 1200:
        favourite = None
    for flag, runner in (("favourite", favourite), ("mover", mover)):
        if runner is not None:
            runner[flag] = True
    return favourite, mover


def repeat_runner(runner: _WireRunner | None) -> _WireRunner:
    """The runner again, with its flags false; an empty one where there is nobody."""
    if runner is not None:
        return runner | {"favourite": False, "mover": False}
    return {
        "entrant_id": "",
        "market_name": "",
        "primary_market": False,
        "name": "",
        "is_scratched": False,
        "odds": {},
        "scratch_time": 0,
        "barrier": 0,
        "runner_number": 0,
        "favourite": False,
        "mover": False,
    }


def build_derivatives(race: Race) -> list[_WireRunner] | None:
    """Entrants of other markets hung on the event: the ids that turn up in the tracker without being runners."""
    strangers, _ = find_strangers(race)
    if not strangers:
        return None
    names = ("Odds Vs Evens", "Locals vs Field", "")
    rng = race.random("derivatives")
    return [
        repeat_runner(None)
        | {
            "entrant_id": stranger if place else make_id(rng),
            "name": names[place % 3],
            "runner_number": place + 1,
            "odds": {"fixed_win": 1.9, "fixed_place": 0},
        }
        for place, stranger in enumerate(strangers)
    ]


def _plain(price: float) -> float:
    """Whole prices are sent as integers."""
    return int(price) if price == int(price) else price
