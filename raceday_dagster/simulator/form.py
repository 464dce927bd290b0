"""What the API sends about a runner that never changes during the day: people, silks, breeding, form.

Belongs here: the constant part of a runner on the wire, built once. Does not belong here: odds, scratchings,
flags (`payloads`). Keys that only New Zealand runners carry are absent for all others.
"""

from __future__ import annotations

from datetime import timedelta
from functools import lru_cache
from random import Random
from typing import Any

from raceday_dagster.simulator.fields import Runner
from raceday_dagster.simulator.names import pick_person, pick_runner_names, pick_silk_colours
from raceday_dagster.simulator.raceday import Race

_SILKS = "https://silks.simulator.invalid"
_SITUATIONS = ("first_up", "second_up", "track", "distance", "good", "soft", "heavy", "turf")


@lru_cache(maxsize=4096)
def write_card(race: Race, runner: Runner) -> dict[str, Any]:
    """The constant keys of one runner. Callers copy it; nobody changes it."""
    rng = race.random(f"card {runner.number}")
    slot = race.meeting.slot
    card: dict[str, Any] = {
        "entrant_id": runner.entrant_id,
        "market_name": "Final Field",
        "primary_market": True,
        "name": runner.name,
        "barrier": runner.barrier,
        "runner_number": runner.number,
        "prize_money": str(rng.randrange(0, 90_000, 25)),
        "age": rng.randint(2, 9),
        "sex": rng.choice("gmfhc"),
        "colour": rng.choice(("b", "br", "ch", "gr")),
        "silk_colours": "" if slot.category == "G" else pick_silk_colours(rng),
        **_link_silks(race, runner),
        "gear": rng.choice(("", "Blinkers", "Tongue Tie [Nose Band]")),
        "form_comment": None,
        "class_level": "",
        "jockey": "" if slot.category == "G" else pick_person(rng),
        "allowance_weight": rng.choice(("", "1", "2")),
        "owners": pick_person(rng),
        "trainer_name": pick_person(rng),
        "trainer_location": rng.choice(("", "Riverhead", "Pine Valley", "Stoney Ford")),
        "last_twenty_starts": "".join(rng.choice("123456789X0") for _ in range(rng.randint(0, 10))),
        "weight": {
            "allocated": f"{rng.randrange(520, 620, 5) / 10:g}",
            "total": f"{rng.randrange(520, 620, 5) / 10:g}",
        },
        "rating": "",
        "win_p": f"{rng.randint(0, 40)}%",
        "place_p": f"{rng.randint(0, 80)}%",
        "form_indicators": None,
        "past_performances": None,
        "last_starts": [_recall_start(rng) for _ in range(4 if race.meeting.is_nz else 2)],
        "overall": _count_starts(rng),
        "meta": None,
        "competitor_id": "",
    }
    if runner.barrier_position is not None:
        card["barrier_position"] = runner.barrier_position
    if race.meeting.is_nz:
        card |= _write_nz_only(rng, race, runner)
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


def _write_nz_only(rng: Random, race: Race, runner: Runner) -> dict[str, Any]:
    born = race.starts_nz.date() - timedelta(days=rng.randrange(900, 3200))
    changes = {f"{born:%d/%m/%Y}": "Gelding"}
    if rng.random() < 0.3:
        changes[f"{race.starts_nz.date() - timedelta(days=9):%d/%m/%Y}"] = f"Stable Change - {pick_person(rng)}"
    return {
        "is_emergency": runner.is_emergency,
        "first_start_indicator": rng.random() < 0.05,
        "emergency_position": "1" if runner.is_emergency else "",
        "runner_change": changes,
        "foaling_date": born.isoformat(),
        "handicap_rating": str(rng.randint(45, 90)),
        "apprentice_indicator": rng.choice(("", "", "A")),
        "country": "NZ",
        "sire": pick_runner_names(rng, 1)[0],
        "dam": pick_runner_names(rng, 1)[0],
        "horse_id": rng.randrange(100_000, 999_999),
        "speedmap": {"settling_lengths": rng.randint(1, 14), "entrant_id": runner.entrant_id},
        "jockey_past_performances": {"last_50_starts": _count_starts(rng), "trainer": _count_starts(rng)},
        **{key: _count_starts(rng) for key in _SITUATIONS},
        "last_12_months_prize_money": {"NZD": rng.randrange(0, 40_000, 5)},
    }


def _count_starts(rng: Random) -> dict[str, int]:
    starts = rng.randint(0, 30)
    return {
        "number_of_starts": starts,
        "number_of_wins": starts // 9,
        "number_of_placings": 0,
        "number_of_seconds": starts // 7,
        "number_of_thirds": starts // 6,
        "winning_distance": 0,
    }


def _recall_start(rng: Random) -> dict[str, str]:
    """An earlier race of the runner: everything in it is text."""
    winner, second, third = pick_runner_names(rng, 3)
    return {
        "barrier": str(rng.randint(1, 14)),
        "days_since": str(rng.randint(6, 90)),
        "distance": str(rng.randrange(1000, 2400, 50)),
        "finish": str(rng.randint(1, 14)),
        "jockey": pick_person(rng),
        "margin": f"{rng.randrange(0, 120) / 10:.2f}",
        "number_of_runners": str(rng.randint(6, 16)),
        "prize_money": str(rng.randrange(5000, 40_000, 500)),
        "winner": winner,
        "second": second,
        "third": third,
        "starting_price": f"{rng.randrange(15, 600) / 10:.2f}",
        "track_condition": rng.choice(("Good 4", "Soft 6", "Heavy 9", "Synthetic")),
        "stipes": "Began well, was taken back to midfield, and kept on to the line." if rng.random() < 0.5 else "",
    }
