"""One race as ``/racing/events/{id}`` sends it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import NAMESPACE_OID, uuid5

Payload = dict[str, Any]


def make_id(*words: object) -> str:
    """A UUID that is always the same for the same words."""
    return str(uuid5(NAMESPACE_OID, "/".join(map(str, words))))


OPEN_START = 1_760_000_400


def build_runner(race_id: str, number: int, name: str, odds: Payload | None = None, **changes: Any) -> Payload:
    """One runner as NZ gallops list it. ``changes`` replace fields."""
    runner: Payload = {
        "entrant_id": make_id(race_id, "runner", number),
        "market_name": "Final Field",
        "primary_market": True,
        "name": name,
        "is_scratched": False,
        "is_late_scratched": False,
        "is_emergency": False,
        "emergency_position": "",
        "runner_change": {"02/03/2024": "Gelding"},
        "odds": {"fixed_win": 5, "fixed_place": 1.8, "pool_win": 4.4, "pool_place": 1.5} if odds is None else odds,
        "flucs": [5.5, 5],
        "scratch_time": 0,
        "scr_time": None,
        "barrier": number,
        "runner_number": number,
        "prize_money": "12500",
        "silk_colours": "Grey, orange spots",
        "silk_url_64x64": f"https://silks.example/{number}_64x64.png",
        "silk_url_128x128": f"https://silks.example/{number}_128x128.png",
        "form_comment": None,
        "jockey": f"Rider {number}",
        "allowance_weight": "",
        "trainer_name": f"Trainer {number}",
        "weight": {"allocated": "56.5", "total": "56.5"},
        "favourite": False,
        "mover": False,
        "win_p": "12%",
    }
    return {**runner, **changes}


def event_payload(race_id: str | None = None, *, runners: int = 4, **changes: Any) -> Payload:
    """An open NZ gallops race two minutes before its start. ``changes`` replace fields of ``data.race``."""
    race_id = race_id or make_id("open race")
    generated = datetime.fromtimestamp(OPEN_START, UTC) - timedelta(minutes=2)
    share = 100 // runners
    listed = [build_runner(race_id, number, f"Runner {number}") for number in range(1, runners + 1)]
    data = {
        "race": {**build_race(race_id, OPEN_START, runners), **changes},
        "favourite": {"entrant_id": "", "name": "", "odds": {"fixed_win": 0, "fixed_place": 0}},
        "runners": listed,
        "derivatives": None,
        "mover": {"entrant_id": "", "name": "", "odds": {"fixed_win": 0, "fixed_place": 0}},
        "big_bets": None,
        "money_tracker": {
            "entrants": [
                {"entrant_id": runner["entrant_id"], "hold_percentage": share, "bet_percentage": share}
                for runner in listed
            ]
        },
        "tote_pools": [build_pool("Place", 400.5, "OPEN"), build_pool("Win", 1000.25, "OPEN")],
        "error": "",
    }
    return wrap(race_id, f"{generated:%Y-%m-%dT%H:%M:%S}.1234567Z", data)


def minimal_event_payload(race_id: str | None = None) -> Payload:
    """The least the API may send: every optional key absent, one runner."""
    race_id = race_id or make_id("minimal race")
    race = {
        "event_id": race_id,
        "meeting_id": make_id("meeting"),
        "meeting_name": "Tin Shed Downs",
        "description": "MAIDEN PACE",
        "status": "Open",
        "advertised_start": OPEN_START,
        "race_number": 1,
        "type": "H",
        "country": "AUS",
    }
    runner = {
        "entrant_id": make_id(race_id, "runner", 1),
        "runner_number": 1,
        "name": "Runner 1",
        "is_scratched": False,
    }
    return {"data": {"race": race, "runners": [runner]}}


def wrap(race_id: str, generated_time: str, data: Payload) -> Payload:
    """The envelope of every event answer."""
    return {
        "header": {
            "title": f"Event Details: {race_id}",
            "generated_time": generated_time,
            "url": f"/affiliates/v1/racing/events/{race_id}",
        },
        "params": {"enc": "json", "id": race_id, "with_money_tracker": True, "bets_limit": 10},
        "data": data,
    }


def build_race(race_id: str, start: int, runners: int) -> Payload:
    """``data.race`` of an open NZ gallops race that starts at ``start`` (epoch seconds)."""
    start_at = datetime.fromtimestamp(start, UTC)
    return {
        "event_id": race_id,
        "meeting_name": "Kauri Flat Synthetic",
        "display_meeting_name": "Kauri Flat",
        "meeting_id": make_id("meeting"),
        "status": "Open",
        "description": "TEAPOT HANDICAP 1700",
        "advertised_start": start,
        "actual_start": start,
        "advertised_start_string": f"{start_at:%Y-%m-%d %H:%M:%S} +0000 UTC",
        "race_date_nz": "2025-10-09",
        "start_time_nz": "22:00:00 NZDT",
        "race_number": 1,
        "type": "T",
        "start_type": "",
        "country": "NZ",
        "state": "NZ",
        "distance": 1700,
        "weather": "Overcast",
        "track_condition": "Synthetic",
        "track_direction": "Left",
        "track_surface": "Synthetic",
        "rail_position": "True",
        "silk_base_url": "silks.example",
        "silk_url": "https://silks.example/sprite.png",
        "entrant_count": runners,
        "field_size": runners,
        "positions_paid": 3,
        "video_channels": ["Trackside1"],
        "video_channels_meta": {"Trackside1": {"RaceNo": 1}},
        "prize_monies": {"1st": 9000, "2nd": 3500, "total_value": 17000},
        "class": "Open",
    }


def build_pool(product: str, total: float, status: str) -> Payload:
    """One tote pool, ``total`` in dollars."""
    return {
        "product_type": product,
        "total": total,
        "status": status,
        "guarantee": 0,
        "brought_forward": 0,
        "jackpot": 0,
        "leg": 0,
        "is_commingled": True,
        "win_investment": "" if status == "OPEN" else "4200",
    }
