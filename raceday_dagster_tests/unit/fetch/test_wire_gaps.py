"""What an answer leaves blank, empty or odd: it costs neither the race nor anything that is stored."""

from __future__ import annotations

from decimal import Decimal

from raceday_dagster_tests.payloads import event_payload
from raceday_dagster_tests.unit.fetch.test_wire import parse, parse_runner


def test_a_runner_that_is_back_has_neither_a_scratching_nor_a_deduction() -> None:
    runner = parse_runner(is_scratched=False, scratch_time=0)
    gone = ("scratched_at", "deduction_win", "deduction_place")
    assert {name: runner[name] for name in gone} == dict.fromkeys(gone)
    assert not set(gone) & set(parse_runner(is_scratched=False, scratch_time=None))


def test_blank_names_are_not_set() -> None:
    event = parse(event_payload(description=" ", meeting_name=""))
    assert not {"name", "meeting_name"} & set(event.carried())
    assert "name" not in parse_runner(name="")


def test_a_silk_without_a_first_address_has_its_second() -> None:
    first, second = "https://silks.example/first.png", "https://silks.example/second.png"
    runner = parse_runner(
        silk_url_64x64="", alt_silk_url_64x64=second, silk_url_128x128=first, alt_silk_url_128x128=second
    )
    assert (runner["silk_url_64x64"], runner["silk_url_128x128"]) == (second, first)
    assert parse_runner(silk_url_64x64=None, alt_silk_url_64x64=second)["silk_url_64x64"] == second
    assert "silk_url_64x64" not in parse_runner(silk_url_64x64="", alt_silk_url_64x64="")


def test_one_odd_value_that_nothing_depends_on_does_not_cost_the_race() -> None:
    payload = event_payload()
    data = payload["data"]
    data["error"] = " "
    data["runners"][0]["odds"]["pool_place"] = 0.95
    data["runners"][0]["runner_change"] = []
    data["money_tracker"]["entrants"].append({"entrant_id": "", "hold_percentage": 3, "bet_percentage": 0})
    data["results"] = [{"position": 1, "runner_number": 1, "entrant_id": "", "margin_length": -0.2}]
    data["dividends"] = [{"product_name": "Pool Win", "positions": [{"runner_number": 0, "position": 1}]}]
    event = parse(payload)
    assert event.runners[0].odds.pool_place == Decimal("0.95")
    assert "runner_change" not in event.runners[0].carried()
    assert event.tracker is not None
    assert (event.tracker[-1].entrant_id, event.tracker[-1].hold_percentage) == ("", 3)
    assert event.results is not None
    assert event.results[0].carried() == {"position": 1, "runner_number": 1, "margin_length": Decimal("-0.2")}
    assert event.dividends is not None
    assert event.dividends[0].positions == ({"runner_number": 0, "position": 1},)


def test_a_finisher_keeps_its_margins_and_times() -> None:
    payload = event_payload()
    line = {"position": 1, "runner_number": 1, "positional_margin": "2-1/4L", "winning_time": 106.73, "time_ran": 106.7}
    payload["data"]["results"] = [line]
    (finisher,) = parse(payload).results or ()
    assert finisher.carried() == {**line, "winning_time": Decimal("106.73"), "time_ran": Decimal("106.7")}
