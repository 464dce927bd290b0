"""The lists on the wire: the meetings of a day, one meeting, the races of a day.

Belongs here: `/racing/meetings`, `/racing/meetings/{id}`, `/racing/list`, and which query picks what.
Does not belong here: one race event (`payloads`).
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Mapping
from datetime import date, datetime, timedelta
from random import Random
from typing import Any

from raceday_dagster.simulator.lifecycle import INTERIM, OPEN, find_status, settled_at
from raceday_dagster.simulator.payloads import wrap
from raceday_dagster.simulator.raceday import Meeting, Race, RaceDay, make_id

_MAX_LIMIT = 200
_CATEGORY_NAMES = {"T": "Thoroughbred Horse Racing", "H": "Harness Horse Racing", "G": "Greyhound Racing"}


class BadQueryError(ValueError):
    """A parameter the API answers with 400; the text says which."""


def list_meetings(day: RaceDay, instant: datetime, query: Mapping[str, str], url: str) -> dict[str, Any]:
    """`/racing/meetings`: filtered by day, category and country, then cut by offset and limit."""
    limit, offset = _read_number(query, "limit", 100), _read_number(query, "offset", 0)
    limit = min(limit, _MAX_LIMIT)
    category, country, ids = query.get("category", ""), query.get("country", ""), query.get("ids", "")
    found = [
        meeting
        for meeting in day.meetings
        if _includes(query, day.racing_day, instant)
        and category.strip() in ("", meeting.slot.category)
        and country.strip() in ("", meeting.slot.country)
        and (not ids or meeting.meeting_id in ids.split(","))
    ]
    params = {
        "enc": "json",
        "ids": ids or None,
        "date_from": query.get("date_from", "today"),
        "date_to": query.get("date_to", "today"),
        "type": category or " ",
        "country": country or " ",
        "limit": limit,
        "offset": offset,
        "futures": False,
        "meeting_numbers": None,
    }
    page = [_build_meeting(meeting, instant) for meeting in found[offset : offset + limit]]
    return wrap("Race Meetings", url, params, {"meetings": page}, instant)


def show_meeting(meeting: Meeting, instant: datetime, url: str) -> dict[str, Any]:
    """`/racing/meetings/{id}`: a list of one, with a few fields more."""
    jetbet = {
        "jetbet_club_name": "",
        "jetbet_track_name": meeting.slot.venue,
        "sell_date": meeting.racing_day.isoformat(),
        "meeting_date": meeting.racing_day.isoformat(),
        "is_fob_meeting": False,
        "meeting_type": "",
    }
    params = {"enc": "json", "id": meeting.meeting_id}
    return wrap("Get meeting by id", url, params, {"meetings": [_build_meeting(meeting, instant) | jetbet]}, instant)


def list_races(day: RaceDay, instant: datetime, query: Mapping[str, str], url: str) -> dict[str, Any]:
    """`/racing/list`: races by start, a page at a time, among them one without a number for each NZ meeting."""
    limit = min(_read_number(query, "limit", 100), _MAX_LIMIT)
    offset = _read_page_token(query.get("page_token", ""))
    entries: Iterable[dict[str, Any]] = ()
    if _includes(query, day.racing_day, instant):
        meetings = [meeting for meeting in day.meetings if _is_listed(meeting, query)]
        extras = [_build_extra(meeting) for meeting in meetings if meeting.is_nz]
        entries = [*extras, *(_build_list_race(race, instant) for meeting in meetings for race in meeting.races)]
    ordered = sorted(entries, key=lambda entry: str(entry["advertised_start"]))
    reached = offset + limit
    params = {
        "enc": "json",
        "limit": limit,
        "countries": query.get("countries"),
        "meet_types": query.get("meet_types"),
        "date_from": query.get("date_from", "today"),
        "date_to": query.get("date_to", "today"),
        "order_by": 1,
        "page_token": query.get("page_token", ""),
    }
    token = base64.urlsafe_b64encode(str(reached).encode()).decode() if reached < len(ordered) else ""
    return wrap("List Races", url, params, {"races": ordered[offset:reached], "next_page_token": token}, instant)


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
        "races": [_build_meeting_race(race, instant) for race in meeting.races],
    }
    if meeting.tote_number is None:
        return body
    is_over = instant > meeting.races[-1].starts_at
    body |= {
        "video_channels": ["Trackside1"],
        **meeting.quaddies,
        "tote_meeting_number": meeting.tote_number,
        "tote_raceday_date": meeting.racing_day.isoformat(),
        "tote_status": "Closed" if is_over else "Open",
    }
    if meeting.running_doubles:
        body |= {"tote_running_double": meeting.running_doubles, "tote_treble": [[2, 3, 4]]}
    return body


def _build_meeting_race(race: Race, instant: datetime) -> dict[str, Any]:
    meeting = race.meeting
    status = find_status(race, instant)
    body: dict[str, Any] = {
        "id": race.race_id,
        "race_number": race.number,
        "name": race.name,
        "start_time": f"{race.starts_at:%Y-%m-%dT%H:%M:%SZ}",
    }
    if meeting.tote_number is not None:
        body["tote_start_time"] = write_tote_clock(race)
    body |= {
        "track_condition": meeting.track_condition,
        "distance": race.distance_m,
        "weather": meeting.weather,
        "country": meeting.slot.country,
        "state": meeting.slot.state,
        "status": status,
    }
    if race.oddity == "protest" and instant >= settled_at(race, INTERIM):
        body |= {"protest": True, "protest_reason": "Interference near the 300m"}
    return body


def write_tote_clock(race: Race) -> str:
    """The tote's clock runs past midnight: one in the morning of the next day is 25:00:00."""
    local = race.starts_nz
    hours = local.hour + 24 * (local.date() - race.meeting.racing_day).days
    return f"{hours:02d}:{local:%M:%S}"


def _build_list_race(race: Race, instant: datetime) -> dict[str, Any]:
    is_off = find_status(race, instant) != OPEN and race.abandoned_at is None
    return {
        "id": race.race_id,
        "name": race.name,
        "number": race.number,
        "meeting_id": race.meeting.meeting_id,
        "advertised_start": f"{race.starts_at:%Y-%m-%dT%H:%M:%SZ}",
        "actual_start": f"{race.starts_at + (race.delay if is_off else timedelta(0)):%Y-%m-%dT%H:%M:%SZ}",
    }


def _build_extra(meeting: Meeting) -> dict[str, Any]:
    """A pseudo-race for the novelty bets of a meeting: it has no number and starts with the last race."""
    return {
        "id": make_id(Random(meeting.meeting_id)),
        "name": f"{meeting.slot.venue} ({meeting.slot.category})",
        "meeting_id": meeting.meeting_id,
        "advertised_start": f"{meeting.races[-1].starts_at:%Y-%m-%dT%H:%M:%SZ}",
        "actual_start": f"{meeting.races[0].starts_at:%Y-%m-%dT%H:%M:%SZ}",
    }


def _is_listed(meeting: Meeting, query: Mapping[str, str]) -> bool:
    countries, categories = query.get("countries", ""), query.get("meet_types", "")
    return (not countries or meeting.slot.country in countries.split(",")) and (
        not categories or meeting.slot.category in categories.split(",")
    )


def _includes(query: Mapping[str, str], racing_day: date, instant: datetime) -> bool:
    first, last = query.get("date_from", "today"), query.get("date_to", query.get("date_from", "today"))
    return _read_date(first, instant)[0] <= racing_day <= _read_date(last, instant)[1]


def _read_date(text: str, instant: datetime) -> tuple[date, date]:
    """The first and the last day a date parameter stands for. `today` is the server's, so it is counted in UTC."""
    today = instant.date()
    spans = {"today": 0, "week": 7, "month": 31}
    if text == "all":
        return date.min, date.max
    if text in spans:
        return today, today + timedelta(days=spans[text])
    try:
        day = date.fromisoformat(text)
    except ValueError as error:
        raise BadQueryError(f"invalid date {text!r}, want YYYY-MM-DD") from error
    if day.isoformat() != text:
        raise BadQueryError(f"invalid date {text!r}, want YYYY-MM-DD")
    return day, day


def _read_number(query: Mapping[str, str], name: str, default: int) -> int:
    text = query.get(name, str(default))
    if not text.isascii() or not text.isdigit():
        raise BadQueryError(f"invalid {name} {text!r}, want a whole number")
    return int(text)


def _read_page_token(token: str) -> int:
    try:
        return int(base64.urlsafe_b64decode(token)) if token else 0
    except (ValueError, binascii.Error) as error:
        raise BadQueryError(f"invalid page_token {token!r}") from error
