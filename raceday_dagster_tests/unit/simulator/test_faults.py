"""Which request meets which fault, and what a spoilt answer says. Faults on the wire are shown over HTTP."""

from __future__ import annotations

import gzip
import json
import math
from typing import Any

import pytest

from raceday_dagster.simulator.delivery import encode_payload
from raceday_dagster.simulator.faults import KINDS, FaultBook, FaultError, parse_header
from raceday_dagster.simulator.sabotage import spoil_body, spoil_payload

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
    assert book.take("/racing/events/race-2", None) == []
    assert [len(book.take("/racing/events/race-1", None)) for _ in range(3)] == [1, 1, 0]
    assert book.describe()[0]["fired"] == 2


def test_pauses_come_before_the_first_other_fault_and_the_rest_is_left_alone() -> None:
    book = FaultBook()
    for kind in ("latency", "status", "reset"):
        book.add({"match": "", "kind": kind})
    assert [rule.kind for rule in book.take("/", None)] == ["latency", "status"]
    assert [rule["fired"] for rule in book.describe()] == [1, 1, 0]


def test_a_header_spoils_one_request_and_wins_over_the_rules() -> None:
    book = FaultBook()
    book.add({"match": "", "kind": "reset"})
    [rule] = book.take("/", "status=429;retry_after=2")
    assert (rule.kind, rule.params) == ("status", {"code": 429, "retry_after": "2"})
    assert book.describe()[0]["fired"] == 0


def test_a_released_hold_holds_no_more() -> None:
    book = FaultBook()
    book.add({"match": "", "kind": "hold"})
    assert len(book.take("/", None)) == 1
    book.release()
    assert book.take("/", None) == []


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


def test_every_kind_can_be_asked_for_by_its_name_alone() -> None:
    assert all(parse_header(kind).params == KINDS[kind] for kind in KINDS)


def test_numbers_are_spoilt_in_the_field_that_is_named() -> None:
    nan = spoil_payload("nan", {"field": ""}, EVENT)
    assert math.isnan(nan["data"]["runners"][0]["odds"]["fixed_win"])
    assert b"NaN" in encode_payload(nan)
    wrong = spoil_payload("wrong_type", {"field": "runners.2.odds.fixed_win", "value": "evens"}, EVENT)
    assert wrong["data"]["runners"][2]["odds"]["fixed_win"] == "evens"
    assert EVENT["data"]["runners"][0]["odds"]["fixed_win"] == 2.5


def test_a_payload_loses_its_race_or_gains_an_error() -> None:
    assert "race" not in spoil_payload("missing_race", {}, EVENT)["data"]
    assert spoil_payload("data_error", {"message": "no"}, EVENT)["data"]["error"] == "no"


def test_names_become_hostile() -> None:
    assert "\x00" in spoil_payload("nul", {}, EVENT)["data"]["runners"][0]["name"]
    names = [runner["name"] for runner in spoil_payload("hostile", {}, EVENT)["data"]["runners"]]
    assert any("DROP TABLE" in name for name in names)
    assert max(map(len, names)) == 10_000


def test_a_repeated_key_contradicts_itself() -> None:
    body = spoil_body("duplicate_keys", {}, encode_payload(EVENT))
    assert body.count(b'"status":') == 2
    assert json.loads(body)["data"]["race"]["status"] == "Abandoned"


def test_huge_answers_are_valid_json_beyond_the_size_asked_for() -> None:
    body = spoil_body("huge", {"bytes": 10_000}, encode_payload(EVENT))
    assert len(body) > 10_000
    assert json.loads(body)["data"] == EVENT["data"]
    bomb = spoil_body("gzip_bomb", {"bytes": 2_500_000}, encode_payload(EVENT))
    assert len(bomb) < 20_000
    assert len(json.loads(gzip.decompress(bomb))["padding"]) == 2_500_000
