"""A simulated race through its life: stages, money, prices, results."""

from __future__ import annotations

from collections import Counter
from datetime import date, timedelta
from itertools import pairwise
from typing import Any

import pytest

from raceday_dagster.simulator.day import Race, RaceDay
from raceday_dagster.simulator.event import build_event
from raceday_dagster.simulator.market import open_market

DAY = RaceDay(5, date(2025, 7, 17))
WITH_TRACKER = {"with_money_tracker": "true"}
PLAIN = [race for race in DAY.races if not race.oddity and race.meeting.tote_number is not None]


def show(race: Race, minutes: float, query: dict[str, str] = WITH_TRACKER) -> dict[str, Any]:
    """`data` of the event so many minutes after its advertised start."""
    instant = race.starts_at + timedelta(minutes=minutes)
    data: dict[str, Any] = build_event(race, instant, query, "/")["data"]
    return data


def sum_holds(data: dict[str, Any]) -> Counter[str]:
    holds: Counter[str] = Counter()
    for row in data["money_tracker"]["entrants"]:
        holds[row["entrant_id"]] += row["hold_percentage"]
    return holds


def test_a_race_goes_from_open_over_closed_and_interim_to_final() -> None:
    for race in PLAIN:
        seen = [race.find_status(race.starts_at + timedelta(seconds=second)) for second in range(-600, 1200, 5)]
        stages = [seen[0], *(after for before, after in pairwise(seen) if before != after)]
        assert stages == ["Open", "Closed", "Interim", "Final"]
        assert race.find_status(race.closes_at + timedelta(minutes=1, seconds=59)) == "Closed"
        assert race.find_status(race.starts_at + timedelta(minutes=12)) == "Final"


def test_an_abandoned_race_is_abandoned_for_good_and_its_pools_with_it() -> None:
    race = next(race for race in DAY.races if race.oddity == "abandoned")
    assert show(race, -60)["race"]["status"] == "Open"
    for minutes in (-10, 0, 60):
        data = show(race, minutes)
        assert data["race"]["status"] == "Abandoned"
        assert "results" not in data
        assert {pool["status"] for pool in data["tote_pools"]} == {"ABANDONED"}


def test_results_and_dividends_are_absent_then_interim_then_both() -> None:
    race = next(race for race in PLAIN if len(open_market(race).runners) > 9)
    closed, interim, final = show(race, 2.6), show(race, 6.9), show(race, 12)
    assert "results" not in closed
    assert "dividends" not in closed
    assert len(interim["results"]) == 4
    assert {row["status"] for row in interim["dividends"]} == {"Interim"}
    assert len(final["results"]) == final["race"]["field_size"]
    paid = len(interim["dividends"])
    assert Counter(row["status"] for row in final["dividends"]) == {"Interim": paid, "Final": paid}
    assert {pool["win_investment"] for pool in closed["tote_pools"]} == {""}
    assert "" not in {pool["win_investment"] for pool in final["tote_pools"]}


def test_pools_grow_ever_faster_and_stop_at_the_close() -> None:
    race = PLAIN[3]
    market = open_market(race)
    totals = [market.pool_total("Win", race.starts_at + timedelta(minutes=minutes)) for minutes in range(-60, 1, 10)]
    steps = [after - before for before, after in pairwise(totals)]
    assert all(step > 0 for step in steps)
    assert steps[-1] > 5 * steps[0]
    assert len({market.pool_total("Win", race.closes_at + timedelta(minutes=m)) for m in (0, 5, 60)}) == 1


@pytest.mark.parametrize("race", PLAIN[::20], ids=lambda race: f"{race.meeting.slot.venue} {race.number}")
def test_late_money_is_seen_on_some_runner(race: Race) -> None:
    before, after = sum_holds(show(race, -6)), sum_holds(show(race, 0))
    assert max(abs(after[entrant] - before[entrant]) for entrant in before | after) >= 3


def test_the_same_instant_gives_the_same_answer_from_a_day_made_again() -> None:
    again = RaceDay(5, date(2025, 7, 17))
    for race in DAY.races[::15]:
        twin = again.find_race(race.race_id)
        assert twin is not None
        for minutes in (-20, 0, 20):
            instant = race.starts_at + timedelta(minutes=minutes)
            assert build_event(race, instant, WITH_TRACKER, "/") == build_event(twin, instant, WITH_TRACKER, "/")
