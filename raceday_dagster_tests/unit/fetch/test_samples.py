"""Real answers, where somebody keeps them beside the project: they may not be part of it."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime
from pathlib import Path

import pytest

from raceday_dagster.fetch.event import parse_race_event
from raceday_dagster.fetch.meetings import build_racing_day, parse_meetings_page

SAMPLES = Path(__file__).parents[4] / "shared" / "samples"
NOW = datetime(2025, 7, 17, 12, tzinfo=UTC)

pytestmark = pytest.mark.skipif(
    not SAMPLES.is_dir(), reason="no real answers beside the project (../shared/samples); their licence keeps them out"
)


def test_a_real_event_is_read_in_full() -> None:
    body = (SAMPLES / "race-event-full-response.json").read_bytes()
    race_id = json.loads(body)["data"]["race"]["event_id"]
    event = parse_race_event(body, race_id=race_id, received_at=NOW)
    assert (len(event.runners), len(event.tracker or ()), len(event.dividends or ())) == (8, 76, 14)
    assert all(len(runner.odds.carried()) == 4 for runner in event.runners)


@pytest.mark.parametrize(
    ("name", "meetings", "races"),
    [("meetings-list-response", 76, 748), ("meeting-detail-response", 1, None)],
)
def test_real_meetings_are_read_without_a_rejection(name: str, meetings: int, races: int | None) -> None:
    body = (SAMPLES / f"{name}.json").read_bytes()
    day = build_racing_day(date(2025, 7, 17), [parse_meetings_page(body, received_at=NOW)])
    assert len(day.meetings) == meetings
    assert races in (None, len(day.races))
    assert day.rejected == ()
