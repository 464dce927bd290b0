"""One race event on the wire, and the envelope that all answers share."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from raceday_dagster.simulator.clock import write_instant
from raceday_dagster.simulator.day import ABANDONED, FINAL, INTERIM, OPEN, Race
from raceday_dagster.simulator.results import build_dividends, build_results, run_race
from raceday_dagster.simulator.runners import build_derivatives, build_runners, repeat_runner
from raceday_dagster.simulator.tote_pools import build_tote_pools
from raceday_dagster.simulator.tracker import build_money_tracker


def wrap(title: str, url: str, params: Mapping[str, Any], data: Mapping[str, Any], instant: datetime) -> dict[str, Any]:
    """The three top-level keys of every good answer."""
    header = {"title": title, "generated_time": write_instant(instant), "url": url}
    return {"header": header, "params": {"enc": "json", **params}, "data": dict(data)}


def wrap_error(error: str, code: int, url: str, instant: datetime) -> dict[str, Any]:
    """The envelope of an answer that is not 200."""
    header = {"title": "Error", "generated_time": write_instant(instant), "url": url}
    return {"header": header | {"error": error, "error_code": str(code)}, "params": {}, "data": {}}


def build_event(race: Race, instant: datetime, query: Mapping[str, str], url: str) -> dict[str, Any]:
    """The whole answer for one race at an instant. Results and dividends are absent until there are any."""
    status, at = race.find_status(instant), race.find_betting_instant(instant)
    with_tracker = query.get("with_money_tracker", "").lower() in ("true", "1")
    runners, favourite, mover = build_runners(race, at)
    data: dict[str, Any] = {"race": _build_race(race, status, runners)}
    if status in (INTERIM, FINAL):
        data["results"] = build_results(race, status)
        data["dividends"] = build_dividends(race, status, at)
        data["substitutions"] = [
            {"entrant_id": run_race(race)[-1][1].entrant_id, "tote": "NZ", "product_name": "Pool Win"}
        ]
    data |= {
        "favourite": repeat_runner(favourite),
        "runners": runners,
        "derivatives": build_derivatives(race),
        "mover": repeat_runner(mover),
        "big_bets": None,
        "money_tracker": build_money_tracker(race, at) if with_tracker else None,
        "tote_pools": build_tote_pools(race, status, at),
        "error": "",
    }
    params = {"id": race.race_id, "with_money_tracker": with_tracker, "bets_limit": 10}
    return wrap(f"Event Details: {race.race_id}", url, params, data, instant)


def _build_race(race: Race, status: str, runners: list[dict[str, Any]]) -> dict[str, Any]:
    meeting, slot = race.meeting, race.meeting.slot
    late = timedelta(0) if status in (OPEN, ABANDONED) else race.delay
    field_size = sum(not runner["is_scratched"] for runner in runners)
    body: dict[str, Any] = {
        "event_id": race.race_id,
        "meeting_name": slot.venue,
        "display_meeting_name": slot.venue,
        "meeting_id": meeting.meeting_id,
        "status": status,
        "description": race.name,
        "advertised_start": int(race.starts_at.timestamp()),
        "actual_start": int((race.starts_at + late).timestamp()),
        "advertised_start_string": f"{race.starts_at:%Y-%m-%d %H:%M:%S} +0000 UTC",
        "actual_start_string": f"{race.starts_at + late:%Y-%m-%d %H:%M:%S} +0000 UTC",
        "race_date_nz": race.starts_nz.date().isoformat(),
        "start_time_nz": f"{race.starts_nz:%H:%M:%S %Z}",
        "race_number": race.number,
        "type": slot.category,
        "start_type": slot.start_type,
        "country": slot.country,
        "state": slot.state,
        "distance": race.distance_m,
        "weather": meeting.weather,
        "form_guide": "",
        "comment": "",
        "silk_base_url": "silks.simulator.invalid",
        "track_condition": meeting.track_condition,
        "track_direction": "Left" if race.number % 2 else "",
        "silk_url": "" if slot.category == "G" else f"https://silks.simulator.invalid/{race.race_id[:8]}/sprite.png",
        "entrant_count": len(runners),
        "field_size": field_size,
        "positions_paid": 3 if field_size >= 8 else 2 if field_size >= 5 else 1,
        "video_channels": ["Trackside1"] if meeting.tote_number else [],
        "video_channels_meta": {"Live1": {"RaceNo": race.number, "VenueName": slot.venue}},
        "tips": [runner["entrant_id"] for runner in runners[:3]],
        "rail_position": "True" if slot.category == "T" else "",
        "group": "",
        "prize_monies": _share_prizes(race.first_prize_dollars),
    }
    if meeting.is_nz:
        # New Zealand races alone carry these and a dozen more keys that nobody here reads.
        body |= {"track_surface": "Grass", "track_circumference": 1600, "class": race.name.rsplit(" ", 1)[-1]}
    if race.oddity == "protest" and status in (INTERIM, FINAL):
        body |= {"protest": True, "protest_reason": "Interference near the 300m"}
    return body


def _share_prizes(first: int) -> dict[str, int]:
    prizes = {"1st": first, "2nd": first // 3, "3rd": first // 6, "4th": first // 12}
    return prizes | {"total_value": sum(prizes.values())}
