"""One race whose every figure is known: eight runners after the finish, pools, a money tracker, results, dividends.

Names and ids are invented; the numbers are those of a race that was checked by hand.
"""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

from raceday_dagster.racing.events import Dividend, Finisher, Odds, RaceEvent, Runner, TotePool, TrackerRow

START = datetime(2025, 7, 17, 0, 50, tzinfo=UTC)
GENERATED = datetime(2025, 7, 17, 11, 16, 59, 189000, tzinfo=UTC)
RECEIVED = datetime(2025, 7, 17, 11, 17, 0, 20000, tzinfo=UTC)

POOL_DOLLARS = {
    "Win": "9151.38",
    "Place": "3923.51",
    "Quinella": "5341.06",
    "Trifecta": "7976.24",
    "FirstFour": "4617.92",
}
MULTI_LEG_DOLLARS = (("RunningDouble", "1200.50"), ("RunningDouble", "2500.11"), ("Quadrella", "4426.00"))

# runner number: hold, bet, tracker rows, tote win price
SHARES = {
    1: (18, 14, 9, "4.4"),
    2: (13, 14, 9, "6.6"),
    3: (5, 9, 8, "9.9"),
    4: (16, 17, 8, "4.8"),
    5: (16, 17, 9, "3.8"),
    6: (19, 19, 8, "6.6"),
    7: (4, 8, 8, "15.6"),
    8: (2, 3, 8, "35.4"),
}
UNMATCHED = {"stranger-a": (8, 4), "stranger-b": (0, 3), "stranger-c": (0, 2)}


def entrant(number: int) -> str:
    """The id of a runner."""
    return f"entrant-{number}"


def _spread(total: int, rows: int) -> list[int]:
    """``total`` over ``rows``, the last rows 0 as in the feed."""
    return [total - rows + 1 if row == 0 and total >= rows else int(row < total) for row in range(rows)]


def _tracker() -> tuple[TrackerRow, ...]:
    rows = [
        TrackerRow(entrant_id=entrant(number), hold_percentage=Decimal(hold), bet_percentage=Decimal(bet))
        for number, (hold_sum, bet_sum, count, _) in SHARES.items()
        for hold, bet in zip(_spread(hold_sum, count), _spread(bet_sum, count), strict=True)
    ]
    strangers = [
        TrackerRow(entrant_id=stranger, hold_percentage=Decimal(hold), bet_percentage=Decimal(0))
        for stranger, (hold_sum, count) in UNMATCHED.items()
        for hold in _spread(hold_sum, count)
    ]
    everything = rows + strangers
    # A runner's rows do not stand together in the feed.
    return tuple(row for start in range(7) for row in everything[start::7])


def _dividends() -> tuple[Dividend, ...]:
    declared = [
        ("Win", "6.60", "2"),
        ("Place", "2.10", "2"),
        ("Place", "1.70", "6"),
        ("Place", "1.90", "5"),
        ("Quinella", "14.30", "2:6"),
        ("Trifecta", "88.10", "2:6:5"),
        ("FirstFour", "310.40", "2:6:5:4"),
    ]
    return tuple(
        Dividend(
            tote="NZ",
            product_name="Pool " + product.replace("FirstFour", "First4"),
            status=status,
            dividend=Decimal(dividend),
            pool_size=Decimal(POOL_DOLLARS[product]),
            positions=tuple({"runner_number": int(part), "position": 1} for part in text.split(":")),
            description=text,
        )
        for status in ("Interim", "Final")
        for product, dividend, text in declared
    )


def golden_event() -> RaceEvent:
    """The answer."""
    return RaceEvent(
        race_id="golden-race",
        meeting_id="golden-meeting",
        meeting_name="Kowhai Downs",
        name="The Golden Maiden",
        status="final",
        category="T",
        country="NZ",
        state="NZ",
        start_time=START,
        race_number=1,
        generated_at=GENERATED,
        received_at=RECEIVED,
        actual_start=datetime(2025, 7, 17, 0, 52, 46, tzinfo=UTC),
        total_prize_money=Decimal("17000"),
        entrant_count=8,
        field_size=8,
        positions_paid=3,
        runners=tuple(
            Runner(
                entrant_id=entrant(number),
                runner_number=number,
                name=f"Runner {number}",
                is_scratched=False,
                odds=Odds(
                    fixed_win=Decimal(number) + Decimal("1.55"),
                    fixed_place=Decimal("1.25"),
                    pool_win=Decimal(price),
                    pool_place=Decimal("1"),
                ),
            )
            for number, (_, _, _, price) in SHARES.items()
        ),
        tracker=_tracker(),
        tote_pools=tuple(
            TotePool(product_type=product, total=Decimal(total), status="CLOSED")
            for product, total in (*MULTI_LEG_DOLLARS, *POOL_DOLLARS.items())
        ),
        dividends=_dividends(),
        results=tuple(
            Finisher(position=position, runner_number=number, entrant_id=entrant(number))
            for position, number in enumerate((2, 6, 5, 4, 1, 3, 7, 8), start=1)
        ),
    )


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
