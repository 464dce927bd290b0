"""Answers for the transform: the golden race, whose figures were checked by hand, and a small open race."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

from raceday_dagster.fetch.event import parse_race_event
from raceday_dagster.racing.events import RaceEvent, Runner, TotePool, TrackerRow
from raceday_dagster_tests.payloads import GOLDEN_RACE_ID, encode, golden_event_payload, make_id

START = datetime(2025, 7, 17, 0, 50, tzinfo=UTC)
RECEIVED = datetime(2025, 7, 17, 11, 17, 0, 20000, tzinfo=UTC)


def entrant(number: int) -> str:
    """The id of a runner."""
    return make_id(GOLDEN_RACE_ID, "runner", number)


def golden_event() -> RaceEvent:
    """The golden race after the finish: eight runners, pools, a money tracker, results, dividends."""
    return parse_race_event(encode(golden_event_payload()), race_id=GOLDEN_RACE_ID, received_at=RECEIVED)


def open_event(race_id: str = "race", name: str = "A race") -> RaceEvent:
    """A small answer for an open race: two runners, pools and a tracker."""
    return RaceEvent(
        race_id=race_id,
        meeting_id="meeting",
        meeting_name="Kowhai Downs",
        name=name,
        status="open",
        category="H",
        country="AUS",
        start_time=START,
        race_number=3,
        generated_at=START,
        received_at=START,
        runners=tuple(
            Runner(entrant_id=entrant(number), runner_number=number, name=f"Runner {number}", is_scratched=False)
            for number in (1, 2)
        ),
        tracker=(
            TrackerRow(entrant_id=entrant(1), hold_percentage=Decimal(60), bet_percentage=Decimal(50)),
            TrackerRow(entrant_id=entrant(2), hold_percentage=Decimal(40), bet_percentage=Decimal(50)),
        ),
        tote_pools=(
            TotePool(product_type="Win", total=Decimal(100), status="OPEN"),
            TotePool(product_type="Place", total=Decimal(50), status="OPEN"),
        ),
    )
