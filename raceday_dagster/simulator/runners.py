"""The runners of a race on the wire, with what the API repeats of them.

Keys that only New Zealand runners carry are absent for all others.
"""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any

from raceday_dagster.simulator.day import Race, make_id
from raceday_dagster.simulator.field import Runner
from raceday_dagster.simulator.market import open_market
from raceday_dagster.simulator.names import pick_person, pick_silk_colours
from raceday_dagster.simulator.tracker import find_strangers

_NONE = (0.0, 0.0)
_SILKS = "https://silks.simulator.invalid"

# What the pipeline does not read is there for the size of an answer, the same for every runner.
_UNREAD = json.loads("""{
    "prize_money": "41250", "age": 5, "sex": "g", "colour": "br", "gear": "Tongue Tie [Nose Band]", "rating": "",
    "form_comment": null, "class_level": "", "allowance_weight": "2", "owners": "Esme Inskip", "meta": null,
    "trainer_location": "Pine Valley", "last_twenty_starts": "3X1745", "competitor_id": "", "win_p": "12%",
    "weight": {"allocated": "56.5", "total": "54"}, "place_p": "41%", "form_indicators": null, "past_performances": null
}""")
_UNREAD_IN_NZ = json.loads("""{
    "first_start_indicator": false, "emergency_position": "", "foaling_date": "2021-10-02", "handicap_rating": "68",
    "apprentice_indicator": "", "country": "NZ"
}""")
_PAST_START = json.loads("""{
    "barrier": "7", "days_since": "21", "distance": "1600", "finish": "4", "jockey": "Hemi Tregear", "margin": "2.75",
    "number_of_runners": "12", "prize_money": "14500", "winner": "Amber Anchor", "second": "Copper Compass",
    "third": "Tōtara Sonnet", "starting_price": "8.40", "track_condition": "Soft 6",
    "stipes": "Began well, was taken back to midfield, and kept on to the line."
}""")

_WireRunner = dict[str, Any]
_Prices = dict[int, tuple[float, float]]


def build_runners(race: Race, at: datetime) -> tuple[list[_WireRunner], _WireRunner | None, _WireRunner | None]:
    """The runners in cloth order, the favourite among them, and the mover. At most one flag of each is true."""
    market = open_market(race)
    fixed, pool = market.fixed_odds(at), market.pool_odds(at)
    history = [market.fixed_odds(then) for then in _list_fluc_instants(race) if then <= at]
    runners = [
        _build_runner(race, runner, at, fixed, pool)
        | {"flucs": [_plain(prices[runner.number][0]) for prices in history if prices.get(runner.number, _NONE)[0]]}
        for runner in market.runners
    ]
    return runners, *_mark_favourite_and_mover(race, runners, at)


def _build_runner(race: Race, runner: Runner, at: datetime, fixed: _Prices, pool: _Prices) -> _WireRunner:
    is_scratched = runner.is_scratched(at)
    win, place = fixed.get(runner.number, _NONE)
    odds = {"fixed_win": _plain(win), "fixed_place": _plain(place)}
    if runner.number in pool:
        odds |= {"pool_win": _plain(pool[runner.number][0]), "pool_place": _plain(pool[runner.number][1])}
    body = _write_card(race, runner) | {
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


def _list_fluc_instants(race: Race) -> list[datetime]:
    """When the earlier prices that are shown with a runner were seen, the oldest first."""
    return [race.closes_at - timedelta(minutes=minutes) for minutes in (1500, 400, 90, 30, 10, 3)]


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


@lru_cache(maxsize=4096)
def _write_card(race: Race, runner: Runner) -> dict[str, Any]:
    """The constant keys of one runner. Callers copy it; nobody changes it."""
    rng = race.random(f"card {runner.number}")
    is_greyhound = race.meeting.slot.category == "G"
    card: dict[str, Any] = _UNREAD | {
        "entrant_id": runner.entrant_id,
        "market_name": "Final Field",
        "primary_market": True,
        "name": runner.name,
        "barrier": runner.barrier,
        "runner_number": runner.number,
        "silk_colours": "" if is_greyhound else pick_silk_colours(rng),
        **_link_silks(race, runner),
        "jockey": "" if is_greyhound else pick_person(rng),
        "trainer_name": pick_person(rng),
        "last_starts": [_PAST_START] * (18 if race.meeting.is_nz else 5),
    }
    if runner.barrier_position is not None:
        card["barrier_position"] = runner.barrier_position
    if race.meeting.is_nz:
        changes = {f"{race.starts_nz.date() - timedelta(days=900):%d/%m/%Y}": "Gelding"}
        if rng.random() < 0.3:
            changes[f"{race.starts_nz.date() - timedelta(days=9):%d/%m/%Y}"] = f"Stable Change - {pick_person(rng)}"
        card |= _UNREAD_IN_NZ | {"is_emergency": runner.is_emergency, "runner_change": changes}
    return card


def _link_silks(race: Race, runner: Runner) -> dict[str, str]:
    """Greyhounds have none and lack the alternative keys; a few harness runners have only the alternative ones."""
    if race.meeting.slot.category == "G":
        return {"silk_url_64x64": "", "silk_url_128x128": ""}
    stem = f"{_SILKS}/{race.race_id[:8]}/{runner.number}"
    has_main = not runner.has_only_alt_silks
    return {
        "silk_url_64x64": f"{stem}_64x64.png" if has_main else "",
        "silk_url_128x128": f"{stem}_128x128.png" if has_main else "",
        "alt_silk_url_64x64": f"{stem}_alt_64x64.png",
        "alt_silk_url_128x128": f"{stem}_alt_128x128.png",
    }


def _plain(price: float) -> float:
    """Whole prices are sent as integers."""
    return int(price) if price == int(price) else price
