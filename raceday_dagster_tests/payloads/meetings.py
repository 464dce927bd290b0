"""The meetings of a day as ``/racing/meetings`` sends them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from raceday_dagster_tests.payloads.event import Payload, make_id


def list_race(meeting: str, number: int, **changes: Any) -> Payload:
    """One race of a meeting's ``races``; by default they start half an hour apart, from 04:30 UTC."""
    minutes = 240 + 30 * number
    race: Payload = {
        "id": make_id(meeting, "race", number),
        "race_number": number,
        "name": f"Teapot Stakes {number}",
        "start_time": f"2025-07-17T{minutes // 60:02}:{minutes % 60:02}:00Z",
        "tote_start_time": f"{minutes // 60 + 12:02}:{minutes % 60:02}:00",
        "track_condition": "Good4",
        "distance": 1200,
        "weather": "FINE",
        "country": "NZ",
        "state": "NZ",
        "status": "Open",
    }
    return {**race, **changes}


def list_meeting(name: str = "Kauri Flat", *, races: int = 2, **changes: Any) -> Payload:
    """One meeting of ``data.meetings``, NZ gallops unless changed."""
    meeting: Payload = {
        "meeting": make_id("meeting", name),
        "name": name,
        "date": "2025-07-17T00:00:00Z",
        "track_condition": "Good4",
        "category": "T",
        "category_name": "Thoroughbred Horse Racing",
        "country": "NZ",
        "state": "NZ",
        "races": [list_race(name, number) for number in range(1, races + 1)],
        "tote_meeting_number": 4,
        "tote_raceday_date": "2025-07-17",
        "tote_status": "Open",
        "video_channels": ["Trackside2", "Trackside1"],
        "quaddie": [5, 6, 7, 8],
    }
    return {**meeting, **changes}


def meetings_payload(meetings: Iterable[Payload]) -> Payload:
    """A page of the day's list."""
    return {
        "header": {
            "title": "Race Meetings",
            "generated_time": "2025-07-17T10:48:11.805562713Z",
            "url": "/affiliates/v1/racing/meetings",
        },
        "params": {"enc": "json", "limit": 200, "offset": 0, "type": " ", "country": " "},
        "data": {"meetings": list(meetings)},
    }
