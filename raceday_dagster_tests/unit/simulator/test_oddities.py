"""Every oddity of the real API turns up somewhere in a simulated day."""

from __future__ import annotations

import re
from collections import Counter
from datetime import date, timedelta
from typing import Any

import pytest

from raceday_dagster.simulator.day import RaceDay
from raceday_dagster.simulator.event import build_event


@pytest.fixture(scope="module")
def events() -> list[dict[str, Any]]:
    """`data` of every race five minutes before its start and a quarter of an hour after."""
    day = RaceDay(1, date(2025, 7, 17))
    return [
        build_event(race, race.starts_at + timedelta(minutes=minutes), {"with_money_tracker": "true"}, "/")["data"]
        for race in day.races
        for minutes in (-5, 15)
    ]


@pytest.fixture(scope="module")
def runners(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [runner for event in events for runner in event["runners"]]


def test_scratched_runners_keep_stale_odds_and_carry_the_epoch(runners: list[dict[str, Any]]) -> None:
    scratched = [runner for runner in runners if runner["is_scratched"]]
    assert scratched
    assert any(runner["odds"]["fixed_win"] > 1 for runner in scratched)
    assert all(runner["scratch_time"] > 1_700_000_000 for runner in scratched)
    assert any("deduction" in runner for runner in scratched)
    assert all(runner["scratch_time"] == 0 for runner in runners if not runner["is_scratched"])


def test_gates_are_missing_or_spelled_in_every_way_of_harness_racing(events: list[dict[str, Any]]) -> None:
    seen = set()
    for event in events:
        for runner in event["runners"]:
            assert ("barrier_position" in runner) == (event["race"]["type"] == "H")
            seen.add(re.sub(r"\d+", "#", runner.get("barrier_position", "")))
    assert seen >= {"Fr#", "Sr#", "Fr-", "FT", "#m"}
    assert any(row["barrier"] == 0 and row.get("is_emergency") for event in events for row in event["runners"])


def test_no_price_is_zero_and_pool_prices_may_be_absent(runners: list[dict[str, Any]]) -> None:
    assert any(runner["odds"]["fixed_win"] == 0 and not runner["is_scratched"] for runner in runners)
    assert any("pool_win" not in runner["odds"] for runner in runners)


def test_silks_are_missing_for_greyhounds_and_only_alternative_for_some_trotters(
    events: list[dict[str, Any]],
) -> None:
    for event in events:
        if event["race"]["type"] == "G":
            assert all(not row["silk_url_64x64"] and "alt_silk_url_64x64" not in row for row in event["runners"])
            assert all(row["jockey"] == "" for row in event["runners"])
    trotters = [row for event in events if event["race"]["type"] == "H" for row in event["runners"]]
    assert any(not row["silk_url_64x64"] and row["alt_silk_url_64x64"] for row in trotters)


def test_keys_of_new_zealand_are_absent_elsewhere(events: list[dict[str, Any]]) -> None:
    for event in events:
        is_nz = event["race"]["country"] == "NZ"
        assert ("track_surface" in event["race"]) == is_nz
        for row in event["runners"]:
            assert ("runner_change" in row) == is_nz
            assert ("is_late_scratched" in row) == is_nz


def test_the_tracker_has_several_rows_a_runner_and_rows_of_strangers(events: list[dict[str, Any]]) -> None:
    strangers, rowless = 0, 0
    for event in events:
        counts = Counter(row["entrant_id"] for row in event["money_tracker"]["entrants"])
        own = {runner["entrant_id"] for runner in event["runners"]}
        strangers += len(counts.keys() - own)
        rowless += len(own - counts.keys())
        assert all(8 <= counts[entrant] <= 10 for entrant in own & counts.keys())
    assert strangers > 0
    assert rowless > 0


def test_favourite_and_mover_are_flagged_once_and_repeated_with_the_flags_down(
    events: list[dict[str, Any]],
) -> None:
    for event in events:
        for flag in ("favourite", "mover"):
            flagged = [runner for runner in event["runners"] if runner[flag]]
            assert len(flagged) <= 1
            assert event[flag]["entrant_id"] == (flagged[0]["entrant_id"] if flagged else "")
            assert not event[flag]["favourite"]
            assert not event[flag]["mover"]
    assert any(event["mover"]["entrant_id"] == "" for event in events)


def test_pools_come_twice_or_abandoned(events: list[dict[str, Any]]) -> None:
    products = [Counter(pool["product_type"] for pool in event["tote_pools"]) for event in events]
    assert any(count["RunningDouble"] == 2 for count in products)
    assert {product for count in products for product in count} == {
        *("Win", "Place", "Quinella", "Trifecta", "FirstFour"),
        *("EarlyQuadrella", "Quadrella", "RunningDouble", "Treble"),
    }
    normal_with_void_place = [
        event
        for event in events
        if event["race"]["status"] == "Final"
        for pool in event["tote_pools"]
        if pool["product_type"] == "Place" and pool["status"] == "ABANDONED" and pool["total"] == 1.17
    ]
    assert normal_with_void_place
    assert any(event["tote_pools"] == [] for event in events)


def test_a_dead_heat_repeats_a_position_and_skips_the_next(events: list[dict[str, Any]]) -> None:
    positions = [[row["position"] for row in event.get("results", [])] for event in events]
    dead_heats = [places for places in positions if len(set(places)) < len(places)]
    assert dead_heats
    assert all(places[:5] == [1, 2, 3, 3, 5] for places in dead_heats)


def test_a_race_after_midnight_has_the_next_calendar_date(events: list[dict[str, Any]]) -> None:
    dates = {event["race"]["race_date_nz"] for event in events}
    assert dates == {"2025-07-17", "2025-07-18"}
    assert all(event["race"]["start_time_nz"].endswith(" NZST") for event in events)


def test_protests_substitutions_and_derivatives_turn_up(events: list[dict[str, Any]]) -> None:
    assert any(event["race"].get("protest") for event in events)
    assert any(event.get("substitutions") for event in events)
    assert {event["derivatives"] is None for event in events} == {False, True}
