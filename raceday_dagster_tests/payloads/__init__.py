"""Synthetic answers of the API, in its own wire format: dicts ready for ``encode``, with invented names and ids.

The shapes and the oddities are the API's; no name, id or sentence is. Each call builds fresh dicts, so a test may
change what it gets. What the simulator serves is made elsewhere, on purpose.
"""

from __future__ import annotations

import json
from typing import Any

from raceday_dagster_tests.payloads.event import (
    build_runner,
    event_payload,
    make_id,
    minimal_event_payload,
)
from raceday_dagster_tests.payloads.golden import GOLDEN_RACE_ID, golden_event_payload
from raceday_dagster_tests.payloads.meetings import list_meeting, list_race, meetings_payload

__all__ = [
    "GOLDEN_RACE_ID",
    "build_runner",
    "encode",
    "event_payload",
    "golden_event_payload",
    "list_meeting",
    "list_race",
    "make_id",
    "meetings_payload",
    "minimal_event_payload",
]


def encode(payload: Any) -> bytes:
    """The bytes the API would send. ``NaN`` comes out as the API's bad days write it: bare."""
    return json.dumps(payload).encode()
