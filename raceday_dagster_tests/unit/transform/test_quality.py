"""The quality score: what costs how much, and that it is only ever a figure."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from raceday_dagster.racing.events import RaceEvent, TotePool, TrackerRow
from raceday_dagster.racing.snapshots import IntervalType, Quality
from raceday_dagster.transform.money_flow import RaceMoney, follow_money
from raceday_dagster.transform.quality import assess_quality
from raceday_dagster.transform.tote_pools import read_pools
from raceday_dagster_tests.unit.transform.golden_race import entrant, open_event


def assess(event: RaceEvent, *, time_to_start_s: int = 60, interval_type: IntervalType = "30s") -> Quality:
    pools = read_pools(event.tote_pools, event.dividends)
    money = follow_money([runner.entrant_id for runner in event.runners], event.tracker, pools.row)
    return assess_quality(event, pools, money, time_to_start_s=time_to_start_s, interval_type=interval_type)


def tracker(hold: str, bet: str) -> tuple[TrackerRow, ...]:
    return (TrackerRow(entrant_id=entrant(1), hold_percentage=Decimal(hold), bet_percentage=Decimal(bet)),)


def win_and_place(win: int, place: int) -> tuple[TotePool, ...]:
    totals = (("Win", win), ("Place", place), ("Quinella", 1))
    return tuple(TotePool(product_type=product, total=Decimal(total)) for product, total in totals)


def test_a_sound_answer_scores_100() -> None:
    assert assess(open_event()) == Quality(score=100, valid=True, warnings=())


CASES: list[tuple[dict[str, Any], int, str]] = [
    ({"tracker": tracker("105", "95")}, 100, ""),
    ({"tracker": tracker("105.01", "100")}, 80, "hold_total=105.01"),
    ({"tracker": tracker("100", "94.9")}, 90, "bet_total=94.9"),
    ({"tracker": tracker("0", "0")}, 70, "hold_total=0"),
    ({"tracker": None}, 90, "no_money_flow"),
    ({"tote_pools": None}, 75, "no_pools"),
    ({"tote_pools": win_and_place(0, 0)}, 85, "no_win_or_place_pool"),
    ({"tote_pools": win_and_place(10, 31)}, 100, "place_pool_above_three_times_win_pool"),
    ({"meeting_name": " "}, 95, "no_meeting"),
    ({"runners": open_event().runners[:1], "tracker": tracker("100", "100")}, 85, "runners=1"),
    ({"tracker": None, "tote_pools": None}, 65, "no_pools"),
]


@pytest.mark.parametrize(("changes", "score", "warning"), CASES)
def test_a_shortcoming_costs_its_points(changes: dict[str, Any], score: int, warning: str) -> None:
    quality = assess(open_event().model_copy(update=changes))
    assert quality.score == score
    assert quality.valid is (score >= 80)
    assert warning in (*quality.warnings, "")


def test_only_unscratched_runners_count() -> None:
    event = open_event()
    scratched = event.runners[0].model_copy(update={"is_scratched": True})
    assert assess(event.model_copy(update={"runners": (scratched, event.runners[1])})).score == 85


def test_live_before_the_start_is_inconsistent() -> None:
    assert assess(open_event(), time_to_start_s=1, interval_type="live").score == 90
    assert assess(open_event(), time_to_start_s=0, interval_type="live").score == 100


def test_everything_wrong_at_once_is_still_a_score() -> None:
    event = open_event().model_copy(
        update={"runners": (), "tote_pools": None, "meeting_id": "", "tracker": tracker("1", "1")}
    )
    quality = assess(event, interval_type="live")
    assert (quality.score, quality.valid) == (0, False)
    assert "unmatched_hold=1" in quality.warnings
    assert "unmatched_bet=1" in quality.warnings


def test_warnings_of_earlier_steps_are_passed_on() -> None:
    event = open_event()
    quality = assess_quality(
        event,
        read_pools(event.tote_pools, None),
        RaceMoney(tracked=False, columns={}),
        time_to_start_s=1,
        interval_type="30s",
        warnings=["impossible_odds=2"],
    )
    assert quality.warnings == ("no_money_flow", "impossible_odds=2")
