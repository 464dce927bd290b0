"""What a snapshot carries, and above all what it leaves unset so that nothing stored is erased."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from raceday_dagster.racing.events import Dividend, Finisher, Odds, RaceEvent, TotePool
from raceday_dagster.racing.snapshots import EntrantRow
from raceday_dagster.transform.race import transform_race
from raceday_dagster_tests.unit.transform.golden_race import START, entrant, golden_event, open_event

SHARE_COLUMNS = {
    "hold_percentage",
    "bet_percentage",
    "win_pool_percentage",
    "place_pool_percentage",
    "win_pool_amount",
    "place_pool_amount",
}


def changed(**fields: Any) -> RaceEvent:
    return open_event().model_copy(update=fields)


def with_runner(**fields: Any) -> RaceEvent:
    """The open race with its first runner changed."""
    event = open_event()
    return event.model_copy(update={"runners": (event.runners[0].model_copy(update=fields), event.runners[1])})


def first_entrant(event: RaceEvent) -> EntrantRow:
    return transform_race(event).entrants[0]


def test_fields_the_answer_did_not_carry_stay_unset() -> None:
    snapshot = transform_race(open_event())
    assert snapshot.meeting.carried() == {
        "meeting_id": "meeting",
        "meeting_name": "Kowhai Downs",
        "country": "AUS",
        "category": "H",
        "race_type": "harness",
    }
    assert set(snapshot.race.carried()) == {
        "race_id",
        "meeting_id",
        "name",
        "race_number",
        "start_time",
        "type",
        "status",
    }
    assert set(snapshot.entrants[0].carried()) - SHARE_COLUMNS == {
        "entrant_id",
        "race_id",
        "runner_number",
        "name",
        "is_scratched",
    }


def test_a_field_carried_as_none_stays_none() -> None:
    snapshot = transform_race(changed(weather=None, track_condition="Good"))
    assert snapshot.race.carried()["weather"] is None
    assert snapshot.meeting.carried()["weather"] is None
    assert snapshot.race.track_condition == snapshot.meeting.track_condition == "Good"


@pytest.mark.parametrize(
    ("status", "delay_s", "is_set"),
    [
        ("open", 0, False),
        ("open", 60, False),
        ("abandoned", 60, False),
        ("closed", 0, False),
        ("closed", 60, True),
        ("interim", 0, True),
        ("final", 60, True),
    ],
)
def test_an_actual_start_counts_only_when_it_is_one(status: str, delay_s: int, is_set: bool) -> None:
    actual_start = START + timedelta(seconds=delay_s)
    race = transform_race(changed(status=status, actual_start=actual_start)).race
    assert ("actual_start" in race.carried()) is is_set
    assert race.actual_start == (actual_start if is_set else None)


def test_an_unknown_status_is_not_set_and_said_so() -> None:
    snapshot = transform_race(changed(status="running"))
    assert "status" not in snapshot.race.carried()
    assert "unknown_status=running" in snapshot.quality.warnings


def test_prices_not_carried_stay_and_prices_gone_are_erased() -> None:
    row = first_entrant(with_runner(odds=Odds(fixed_win=None, pool_win=Decimal(0), pool_place=Decimal("1.04"))))
    assert {name: value for name, value in row.carried().items() if name.endswith("_odds")} == {
        "fixed_win_odds": None,
        "pool_win_odds": None,
        "pool_place_odds": Decimal("1.04"),
    }


def test_candidates_are_the_prices_that_exist_and_one_below_1_is_impossible() -> None:
    odds = Odds(fixed_win=Decimal("0.95"), fixed_place=None, pool_win=Decimal("2.505"), pool_place=Decimal(1))
    snapshot = transform_race(with_runner(odds=odds))
    assert [(row.type, row.odds) for row in snapshot.odds] == [
        ("pool_win", Decimal("2.51")),
        ("pool_place", Decimal("1.00")),
    ]
    assert "impossible_odds=1" in snapshot.quality.warnings
    assert "fixed_win_odds" not in snapshot.entrants[0].carried()
    assert snapshot.money_flow[0].fixed_win_odds is None
    assert snapshot.money_flow[0].pool_win_odds == Decimal("2.51")


@pytest.mark.parametrize("tracker", [None, ()])
def test_without_a_tracker_no_share_column_is_set(tracker: tuple[()] | None) -> None:
    snapshot = transform_race(changed(tracker=tracker))
    assert snapshot.money_flow == ()
    assert not SHARE_COLUMNS & set(snapshot.entrants[0].carried())


def test_a_runner_without_a_tracker_row_keeps_what_is_stored() -> None:
    event = open_event()
    snapshot = transform_race(event.model_copy(update={"tracker": event.tracker[:1] if event.tracker else None}))
    assert [row.entrant_id for row in snapshot.money_flow] == [entrant(1)]
    assert set(snapshot.entrants[0].carried()) >= SHARE_COLUMNS
    assert not SHARE_COLUMNS & set(snapshot.entrants[1].carried())


def test_without_pools_the_shares_are_set_and_the_amounts_are_not() -> None:
    snapshot = transform_race(changed(tote_pools=None))
    assert snapshot.pools is None
    assert SHARE_COLUMNS & set(snapshot.entrants[0].carried()) == {"hold_percentage", "bet_percentage"}
    flow = snapshot.money_flow[0]
    assert flow.win_pool_amount is flow.total_pool_amount is flow.win_pool_percentage is None


def test_a_scratched_runner_has_money_flow_and_prices_but_no_result_prices() -> None:
    event = with_runner(is_scratched=True, odds=Odds(fixed_win=Decimal(4)))
    snapshot = transform_race(event.model_copy(update={"results": (Finisher(position=1, runner_number=2),)}))
    assert snapshot.money_flow[0].entrant_id == entrant(1)
    assert snapshot.results is not None
    assert "fixed_odds" not in snapshot.results.carried()


def test_result_prices_are_those_the_answer_carried() -> None:
    event = with_runner(odds=Odds(fixed_win=Decimal(4), fixed_place=None, pool_win=Decimal(9)))
    results = transform_race(event.model_copy(update={"results": (Finisher(position=1, runner_number=2),)})).results
    assert results is not None
    assert results.carried()["fixed_odds"] == {"1": {"fixed_win": "4.00", "fixed_place": None}}


def test_without_a_place_pool_the_place_columns_of_an_entrant_are_not_set() -> None:
    snapshot = transform_race(changed(tote_pools=(TotePool(product_type="Win", total=Decimal(100)),)))
    carried, flow = snapshot.entrants[0].carried(), snapshot.money_flow[0]
    assert SHARE_COLUMNS - set(carried) == {"place_pool_amount", "place_pool_percentage"}
    assert carried["win_pool_amount"] == 6000
    assert flow.place_pool_amount is flow.place_pool_percentage is flow.total_pool_amount is None


def test_an_empty_pool_is_known_and_sets_its_columns() -> None:
    pools = (TotePool(product_type="Win", total=Decimal(100)), TotePool(product_type="Place", total=Decimal(0)))
    carried = first_entrant(changed(tote_pools=pools)).carried()
    assert (carried["place_pool_amount"], carried["place_pool_percentage"]) == (0, None)


def test_a_barrier_of_0_and_a_handicap_are_kept_as_they_came() -> None:
    row = first_entrant(with_runner(barrier=0, barrier_position="10m", runner_change={"01/02/2025": "gear"}))
    assert (row.barrier, row.barrier_position, row.runner_change) == (0, "10m", {"01/02/2025": "gear"})


@pytest.mark.parametrize(
    ("status", "protest", "result_status"),
    [
        ("interim", None, "interim"),
        ("interim", True, "protest"),
        ("final", True, "final"),
        ("closed", False, "interim"),
    ],
)
def test_a_result_is_under_protest_until_it_is_final(status: str, protest: bool | None, result_status: str) -> None:
    event = changed(status=status, results=(Finisher(position=1, runner_number=1),), protest=protest)
    results = transform_race(event).results
    assert results is not None
    assert (results.result_status, results.protest_lodged) == (result_status, bool(protest))
    assert results.result_time == event.generated_at


def test_dead_heats_and_decimals_survive_in_the_results() -> None:
    finishers = tuple(
        Finisher(position=position, runner_number=number, margin_length=Decimal("0.20"))
        for position, number in ((1, 1), (1, 2))
    )
    results = transform_race(changed(status="final", results=finishers)).results
    assert results is not None
    assert [line["position"] for line in results.results] == [1, 1]
    assert results.results[0] == {"position": 1, "runner_number": 1, "margin_length": "0.20"}


def test_dividends_alone_are_results_too_and_empty_lists_are_none() -> None:
    assert transform_race(changed(results=(), dividends=())).results is None
    assert transform_race(changed(dividends=(Dividend(product_name="Pool Win"),))).results is not None


@pytest.mark.parametrize(
    ("fields", "document"),
    [
        ({"results": (Finisher(position=1, runner_number=1),)}, "results"),
        ({"results": (), "dividends": (Dividend(product_name="Pool Win"),)}, "dividends"),
    ],
)
@pytest.mark.parametrize("protest", [None, False, True])
def test_of_a_result_only_what_the_answer_carried_is_set(
    fields: dict[str, Any], document: str, protest: bool | None
) -> None:
    results = transform_race(changed(**fields, protest=protest)).results
    assert results is not None
    said = set() if protest is None else {"protest_lodged"}
    assert set(results.carried()) == {document, "result_status", "result_time", *said}


def test_runners_that_share_a_number_are_all_stored_and_none_has_result_prices_under_it() -> None:
    event = golden_event()
    first, second, *others = event.runners
    shared = second.model_copy(update={"runner_number": first.runner_number})
    merged = event.model_copy(update={"runners": (first, shared, *others), "warnings": ("repeated_number=1",)})
    snapshot, before = transform_race(merged), transform_race(event)
    assert [row.entrant_id for row in snapshot.entrants] == [row.entrant_id for row in before.entrants]
    assert "repeated_number=1" in snapshot.quality.warnings
    assert (snapshot.quality.score, snapshot.money_flow) == (before.quality.score, before.money_flow)
    assert snapshot.results is not None
    assert str(first.runner_number) not in snapshot.results.fixed_odds


def test_an_empty_race_is_poor_but_not_an_error() -> None:
    snapshot = transform_race(changed(runners=(), tracker=None, tote_pools=None))
    assert snapshot.entrants == snapshot.money_flow == snapshot.odds == ()
    assert snapshot.quality.score == 100 - 25 - 10 - 15 - 10
