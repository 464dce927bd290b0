"""The meetings of a day with their races, as `/racing/meetings` lists them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, datetime
from typing import Any

from raceday_dagster.simulator.day import Meeting, Race, RaceDay
from raceday_dagster.simulator.event import wrap

_MAX_LIMIT = 200
_CATEGORY_NAMES = {"T": "Thoroughbred Horse Racing", "H": "Harness Horse Racing", "G": "Greyhound Racing"}


class BadQueryError(ValueError):
    """A parameter the API answers with 400; the text says which."""


def list_meetings(day: RaceDay, instant: datetime, query: Mapping[str, str], url: str) -> dict[str, Any]:
    """The meetings between `date_from` and `date_to`, cut by `offset` and `limit`. Without dates it is the UTC day."""
    limit, offset = min(_read_number(query, "limit", 100), _MAX_LIMIT), _read_number(query, "offset", 0)
    first, last = (_read_date(query.get(name) or instant.date().isoformat()) for name in ("date_from", "date_to"))
    found = day.meetings if first <= day.racing_day <= last else []
    params = {
        "date_from": query.get("date_from", "today"),
        "date_to": query.get("date_to", "today"),
        "type": " ",
        "country": " ",
        "limit": limit,
        "offset": offset,
    }
    page = [_build_meeting(meeting, instant) for meeting in found[offset : offset + limit]]
    return wrap("Race Meetings", url, params, {"meetings": page}, instant)


def _build_meeting(meeting: Meeting, instant: datetime) -> dict[str, Any]:
    slot = meeting.slot
    body: dict[str, Any] = {
        "meeting": meeting.meeting_id,
        "name": slot.venue,
        "date": f"{meeting.racing_day}T00:00:00Z",
        "track_condition": meeting.track_condition,
        "category": slot.category,
        "category_name": _CATEGORY_NAMES[slot.category],
        "country": slot.country,
        "state": slot.state,
        "races": [_build_race(race, instant) for race in meeting.races],
    }
    if meeting.tote_number is None:
        return body
    return body | {
        "video_channels": ["Trackside1"],
        **meeting.quaddies,
        "tote_running_double": meeting.running_doubles,
        "tote_meeting_number": meeting.tote_number,
        "tote_raceday_date": meeting.racing_day.isoformat(),
        "tote_status": "Closed" if instant > meeting.races[-1].starts_at else "Open",
    }


def _build_race(race: Race, instant: datetime) -> dict[str, Any]:
    meeting = race.meeting
    body: dict[str, Any] = {
        "id": race.race_id,
        "race_number": race.number,
        "name": race.name,
        "start_time": f"{race.starts_at:%Y-%m-%dT%H:%M:%SZ}",
        "track_condition": meeting.track_condition,
        "distance": race.distance_m,
        "weather": meeting.weather,
        "country": meeting.slot.country,
        "state": meeting.slot.state,
        "status": race.find_status(instant),
    }
    if meeting.tote_number is not None:
        body["tote_start_time"] = write_tote_clock(race)
    if race.oddity == "protest" and instant >= race.interim_at:
        body |= {"protest": True, "protest_reason": "Interference near the 300m"}
    return body


def write_tote_clock(race: Race) -> str:
    """The tote's clock runs past midnight: one in the morning of the next day is 25:00:00."""
    local = race.starts_nz
    hours = local.hour + 24 * (local.date() - race.meeting.racing_day).days
    return f"{hours:02d}:{local:%M:%S}"


def _read_date(text: str) -> date:
    try:
        day = date.fromisoformat(text)
    except ValueError as error:
        raise BadQueryError(f"invalid date {text!r}, want YYYY-MM-DD") from error
    if day.isoformat() != text:
        raise BadQueryError(f"invalid date {text!r}, want YYYY-MM-DD")
    return day


def _read_number(query: Mapping[str, str], name: str, default: int) -> int:
    text = query.get(name, str(default))
    if not text.isascii() or not text.isdigit():
        raise BadQueryError(f"invalid {name} {text!r}, want a whole number")
    return int(text)
