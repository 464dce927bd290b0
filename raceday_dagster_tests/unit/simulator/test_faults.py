"""Which request meets which fault, and what a broken answer says. Faults on the wire are shown over HTTP."""

from __future__ import annotations

from typing import Any

import pytest

from raceday_dagster.simulator.faults import FaultBook, FaultError, break_payload

EVENT: dict[str, Any] = {
    "header": {"title": "Event"},
    "params": {},
    "data": {
        "race": {"event_id": "r", "status": "Open", "description": "d"},
        "runners": [{"name": f"Runner {number}", "odds": {"fixed_win": 2.5}} for number in range(6)],
        "error": "",
    },
}


def test_a_rule_meets_only_its_path_and_only_so_often() -> None:
    book = FaultBook()
    book.add({"match": "race-1", "kind": "status", "code": 503, "times": 2})
    assert book.take("/racing/events/race-2") == []
    assert [len(book.take("/racing/events/race-1")) for _ in range(3)] == [1, 1, 0]
    assert book.describe()[0]["fired"] == 2


def test_pauses_come_before_the_first_other_fault_and_the_rest_is_left_alone() -> None:
    book = FaultBook()
    for kind in ("latency", "status", "reset"):
        book.add({"match": "", "kind": kind})
    assert [rule.kind for rule in book.take("/")] == ["latency", "status"]
    assert [rule["fired"] for rule in book.describe()] == [1, 1, 0]


def test_a_released_hold_holds_no_more() -> None:
    book = FaultBook()
    book.add({"match": "", "kind": "hold"})
    assert len(book.take("/")) == 1
    book.release()
    assert book.take("/") == []


@pytest.mark.parametrize(
    "wish",
    [
        {"match": ""},
        {"match": "", "kind": "earthquake"},
        {"match": 3, "kind": "reset"},
        {"match": "", "kind": "reset", "code": 500},
        {"match": "", "kind": "status", "code": "many"},
        {"match": "", "kind": "reset", "times": 0},
        {"match": "", "kind": "drip_body", "bytes_per_s": 0},
    ],
    ids=str,
)
def test_a_rule_that_makes_no_sense_is_refused(wish: dict[str, Any]) -> None:
    with pytest.raises(FaultError):
        FaultBook().add(wish)


def test_a_number_is_broken_in_the_field_that_is_named() -> None:
    broken = break_payload("wrong_type", {"field": "runners.2.odds.fixed_win", "value": "evens"}, EVENT)
    assert broken["data"]["runners"][2]["odds"]["fixed_win"] == "evens"
    assert EVENT["data"]["runners"][2]["odds"]["fixed_win"] == 2.5
    with pytest.raises(FaultError, match="has no field"):
        break_payload("wrong_type", {"field": "runners.9.name", "value": 1}, EVENT)
