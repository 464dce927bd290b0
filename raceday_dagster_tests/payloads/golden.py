"""The race whose figures were calculated by hand: the golden example, under invented names."""

from __future__ import annotations

from raceday_dagster_tests.payloads.event import Payload, build_pool, build_race, build_runner, make_id, wrap

GOLDEN_RACE_ID = "golden-race"
GOLDEN_START = 1752713400  # 2025-07-17T00:50:00Z
# number, name, (fixed win, fixed place, pool win, pool place), hold and bet share, tracker rows
GOLDEN_RUNNERS = (
    (1, "Copper Kettle", (4.8, 1.75, 4.4, 1.5), 18, 14, 9),
    (2, "Windmill Lane", (7.2, 2.25, 6.6, 1.7), 13, 14, 10),
    (3, "Second Breakfast", (6.8, 2.15, 9.9, 2.9), 5, 9, 8),
    (4, "Plum Duff", (4.1, 1.6, 4.8, 1.9), 16, 17, 10),
    (5, "Harbour Pilot", (5, 1.8, 3.8, 1.6), 16, 17, 9),
    (6, "Paper Lantern", (5.6, 1.95, 6.6, 1.8), 19, 19, 10),
    (7, "Old Tin Whistle", (13, 3.4, 15.6, 3.6), 4, 8, 9),
    (8, "Mothball", (42, 7.6, 35.4, 9.1), 2, 3, 8),
)
GOLDEN_POOLS = (
    ("Quinella", 5341.06),
    ("EarlyQuadrella", 8126.61),
    ("Win", 9151.38),
    ("FirstFour", 4617.92),
    ("Place", 3923.51),
    ("Trifecta", 7976.24),
)
GOLDEN_DIVIDENDS = (
    ("Pool Win", 6.6, 9151.38, (2,)),
    ("Pool Place", 1.7, 3923.51, (2,)),
    ("Pool Place", 1.9, 3923.51, (4,)),
    ("Pool Place", 3.6, 3923.51, (7,)),
    ("Pool Quinella", 14.1, 5341.06, (2, 4)),
    ("Pool Trifecta", 402.5, 7976.24, (2, 4, 7)),
    ("Pool First4", 1377.2, 4617.92, (2, 4, 7, 6)),
)
GOLDEN_ORDER = ((2, 0), (4, 0.3), (7, 2.1), (6, 2.2), (5, 4.4), (1, 4.6), (8, 6.3), (3, 7))


def golden_event_payload() -> Payload:
    """A final race with the figures of the golden calculation.

    Pools in cents: Win 915138, Place 392351, Quinella 534106, Trifecta 797624, First4 461792, EarlyQuadrella 812661.
    Tracker: 76 rows, hold and bet add up to 101 each; three ids that are not runners hold 8 and bet 0. The last row of
    every runner is 0/0. Eight runners with four prices each. Fourteen dividends: seven interim, seven final.
    """
    runners = [
        build_runner(
            GOLDEN_RACE_ID,
            number,
            name,
            dict(zip(("fixed_win", "fixed_place", "pool_win", "pool_place"), odds, strict=True)),
            favourite=number == 4,
            mover=number == 1,
        )
        for number, name, odds, *_ in GOLDEN_RUNNERS
    ]
    race = {
        **build_race(GOLDEN_RACE_ID, GOLDEN_START, len(runners)),
        "status": "Final",
        "actual_start": GOLDEN_START + 166,
        "race_date_nz": "2025-07-17",
        "start_time_nz": "12:50:00 NZST",
    }
    data = {
        "race": race,
        "results": _build_golden_results(),
        "dividends": _build_golden_dividends(),
        "substitutions": [{"entrant_id": _golden_id(5), "tote": "NZ", "product_name": "Pool Win"}],
        "favourite": {**runners[3], "favourite": False},
        "runners": runners,
        "derivatives": None,
        "mover": {**runners[0], "mover": False},
        "money_tracker": {"entrants": _build_golden_tracker()},
        "tote_pools": [build_pool(product, total, "CLOSED") for product, total in GOLDEN_POOLS],
        "error": "",
    }
    return wrap(GOLDEN_RACE_ID, "2025-07-17T11:16:59.18900000Z", data)


def _golden_id(number: int) -> str:
    return make_id(GOLDEN_RACE_ID, "runner", number)


def _split(total: int, rows: int) -> list[int]:
    """``total`` in parts that fall by half, ended by zeros."""
    parts: list[int] = []
    for _ in range(rows - 1):
        parts.append((total - sum(parts) + 1) // 2)
    parts[0] += total - sum(parts)
    return [*parts, 0]


def _build_golden_tracker() -> list[Payload]:
    by_runner = [
        [
            {"entrant_id": _golden_id(number), "hold_percentage": hold, "bet_percentage": bet}
            for hold, bet in zip(_split(hold_total, rows), _split(bet_total, rows), strict=True)
        ]
        for number, _, _, hold_total, bet_total, rows in GOLDEN_RUNNERS
    ]
    unmatched = [
        {"entrant_id": make_id(GOLDEN_RACE_ID, "elsewhere", which), "hold_percentage": hold, "bet_percentage": 0}
        for which, hold in enumerate((0, 8, 0))
    ]
    longest = max(map(len, by_runner))
    mixed = [rows[turn] for turn in range(longest) for rows in by_runner if turn < len(rows)]
    return [*mixed[:20], unmatched[0], *mixed[20:50], unmatched[1], *mixed[50:70], unmatched[2], *mixed[70:]]


def _build_golden_dividends() -> list[Payload]:
    return [
        {
            "id": make_id(GOLDEN_RACE_ID, "dividend", product, numbers, status),
            "tote": "NZ",
            "product_name": product,
            "status": status,
            "dividend": dividend,
            "pool_size": pool_size,
            "jackpot_size": 0,
            "positions": [
                {"runner_number": number, "position": place} for place, number in enumerate(numbers, start=1)
            ],
            "description": ":".join(map(str, numbers)),
        }
        for status in ("Interim", "Final")
        for product, dividend, pool_size, numbers in GOLDEN_DIVIDENDS
    ]


def _build_golden_results() -> list[Payload]:
    names = {number: name for number, name, *_ in GOLDEN_RUNNERS}
    results: list[Payload] = [
        {
            "position": position,
            "name": names[number],
            "barrier": number,
            "runner_number": number,
            "margin_length": margin,
            "entrant_id": _golden_id(number),
        }
        for position, (number, margin) in enumerate(GOLDEN_ORDER, start=1)
    ]
    results[0].update(winning_time=106.21, time_ran=106.21)
    return results
