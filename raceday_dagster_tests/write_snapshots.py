"""Snapshots for the tests of the write stage: a race of any number of runners, made from a few words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from raceday_dagster.racing.snapshots import (
    EntrantRow,
    MeetingRow,
    MoneyFlowRow,
    OddsRow,
    PoolsRow,
    Quality,
    RaceRow,
    RaceSnapshot,
    ResultsRow,
)

START = datetime(2025, 7, 17, 3, 0, tzinfo=UTC)
FIRST_POLL = START - timedelta(minutes=10)
HOLDS = {1: 18, 2: 13, 3: 5, 4: 16, 5: 16, 6: 19, 7: 4, 8: 2}
"""Percent of the money on each runner; not 100 together, as in the feed."""
WIN_CENTS, PLACE_CENTS = 915_138, 392_351


def name_entrant(race_id: str, runner_number: int) -> str:
    return f"{race_id}-{runner_number:02}"


def share_of(cents: int, percent: int | Decimal) -> int:
    """Half-up, as the transform rounds."""
    return int((Decimal(cents) * percent / 100 + Decimal("0.5")).to_integral_value("ROUND_FLOOR"))


def make_snapshot(
    race_id: str = "race-1",
    *,
    poll: int = 0,
    meeting_id: str = "meeting-1",
    holds: Mapping[int, int] = HOLDS,
    win_cents: int | None = WIN_CENTS,
    place_cents: int | None = PLACE_CENTS,
    odds: Mapping[tuple[int, str], str] | None = None,
    pools: bool = True,
    results: ResultsRow | None = None,
    generated_at: datetime | None = None,
    polled_at: datetime | None = None,
    race: Mapping[str, Any] | None = None,
    meeting: Mapping[str, Any] | None = None,
    entrant: Mapping[str, Any] | None = None,
) -> RaceSnapshot:
    """Poll number ``poll`` of a race, fifteen seconds after the one before; ``race``, ``meeting`` and ``entrant``
    override or add carried columns."""
    made_at = generated_at or FIRST_POLL + timedelta(seconds=15 * poll)
    asked_at = polled_at or made_at + timedelta(milliseconds=400)
    prices = (
        {(number, kind): "2.50" for number in holds for kind in ("fixed_win", "pool_place")} if odds is None else odds
    )
    return RaceSnapshot(
        race_id=race_id,
        event_timestamp=made_at,
        polling_timestamp=asked_at,
        time_to_start_s=int((START - made_at).total_seconds()),
        time_interval=Decimal(10),
        interval_type="2m",
        meeting=MeetingRow(
            **{
                "meeting_id": meeting_id,
                "meeting_name": "Awapuni",
                "country": "NZ",
                "category": "T",
                "race_type": "thoroughbred",
                "weather": "FINE",
                **(meeting or {}),
            }
        ),
        race=RaceRow(
            **{
                "race_id": race_id,
                "meeting_id": meeting_id,
                "name": "Maiden",
                "race_number": 1,
                "start_time": START,
                "type": "T",
                "status": "open",
                "distance": 1400,
                "video_channels": ("Trackside1",),
                "race_date_nz": START.date(),
                **(race or {}),
            }
        ),
        entrants=tuple(_make_entrant(race_id, number, hold, entrant or {}) for number, hold in holds.items()),
        pools=_make_pools(win_cents, place_cents) if pools else None,
        results=results,
        money_flow=tuple(
            _make_money_flow(race_id, number, hold, win_cents, place_cents) for number, hold in holds.items()
        ),
        odds=tuple(
            OddsRow(entrant_id=name_entrant(race_id, number), type=kind, odds=Decimal(price))
            for (number, kind), price in prices.items()
        ),
        quality=Quality(score=100, valid=True),
    )


def make_results(status: str = "interim", winner: int = 2) -> ResultsRow:
    return ResultsRow(
        result_status=status,
        results=({"position": 1, "runner_number": winner},),
        dividends=({"product_name": "Pool Win", "dividend": "6.60"},),
        fixed_odds={str(winner): {"fixed_win": "6.50"}},
        protest_lodged=False,
        result_time=START + timedelta(minutes=3),
    )


def without(record: Any, *names: str) -> Any:
    """The same record as if the payload had not carried these fields."""
    return type(record)(**{name: value for name, value in record.carried().items() if name not in names})


def with_entrants(snapshot: RaceSnapshot, entrants: Sequence[EntrantRow]) -> RaceSnapshot:
    return snapshot.model_copy(update={"entrants": tuple(entrants)})


def _make_entrant(race_id: str, number: int, hold: int, added: Mapping[str, Any]) -> EntrantRow:
    fields = {
        "entrant_id": name_entrant(race_id, number),
        "race_id": race_id,
        "runner_number": number,
        "name": f"Runner {number}",
        "is_scratched": False,
        "barrier": number,
        "jockey": "A Rider",
        "fixed_win_odds": Decimal("2.50"),
        "hold_percentage": Decimal(hold),
        "runner_change": {"17/07/2025": "Blinkers on"},
        **added,
    }
    return EntrantRow(**fields)


def _make_pools(win_cents: int | None, place_cents: int | None) -> PoolsRow:
    win, place = win_cents or 0, place_cents or 0
    return PoolsRow(
        win_pool_total=win,
        place_pool_total=place,
        total_race_pool=win + place,
        source="tote_pools",
        data_quality_score=100,
        extracted_pools=2,
    )


def _make_money_flow(
    race_id: str, number: int, hold: int, win_cents: int | None, place_cents: int | None
) -> MoneyFlowRow:
    win = None if win_cents is None else share_of(win_cents, hold)
    place = None if place_cents is None else share_of(place_cents, hold)
    total = None if win is None or place is None else share_of(win_cents + place_cents, hold)
    return MoneyFlowRow(
        entrant_id=name_entrant(race_id, number),
        hold_percentage=Decimal(hold),
        bet_percentage=Decimal(hold),
        win_pool_amount=win,
        place_pool_amount=place,
        total_pool_amount=total,
        win_pool_percentage=None if win is None else Decimal(hold),
        place_pool_percentage=None if place is None else Decimal(hold),
        fixed_win_odds=Decimal("2.50"),
        fixed_place_odds=None,
        pool_win_odds=None,
        pool_place_odds=None,
    )
