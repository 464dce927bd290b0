"""A racing day's list for the tests of the write stage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from raceday_dagster.racing.events import ListedMeeting, ListedRace, RacingDay
from raceday_dagster_tests.write_snapshots import FIRST_POLL, START


def make_list(
    race_ids: Sequence[str] = ("race-1",),
    *,
    poll: int = 0,
    meeting_id: str = "meeting-1",
    meeting: Mapping[str, Any] | None = None,
    race: Mapping[str, Any] | None = None,
) -> RacingDay:
    """The list as it was when the poll of that number was made: one meeting, its races twenty minutes apart."""
    day = START.date()
    return RacingDay(
        racing_day=day,
        generated_at=FIRST_POLL + timedelta(seconds=15 * poll),
        meetings=(
            ListedMeeting(
                **{
                    "meeting_id": meeting_id,
                    "meeting_name": "Awapuni",
                    "racing_day": day,
                    "category": "T",
                    "country": "NZ",
                    "category_name": "Thoroughbred Horse Racing",
                    "tote_meeting_number": 4,
                    **(meeting or {}),
                }
            ),
        ),
        races=tuple(
            ListedRace(
                **{
                    "race_id": race_id,
                    "meeting_id": meeting_id,
                    "racing_day": day,
                    "name": "Maiden",
                    "race_number": number,
                    "start_time": START + timedelta(minutes=20 * (number - 1)),
                    "category": "T",
                    "tote_start_time": "25:38:00",
                    **(race or {}),
                }
            )
            for number, race_id in enumerate(race_ids, start=1)
        ),
    )
