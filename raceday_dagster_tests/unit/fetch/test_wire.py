"""How an event answer becomes a record, oddity by oddity, and what is refused with which words."""

from __future__ import annotations

from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Any

import pytest

from raceday_dagster.fetch.event import parse_race_event
from raceday_dagster.fetch.wire import WireError
from raceday_dagster.racing.events import RaceEvent
from raceday_dagster_tests.payloads import (
    encode,
    event_payload,
    make_id,
    minimal_event_payload,
)
from raceday_dagster_tests.payloads.event import OPEN_START

RACE_ID = make_id("open race")
NOW = datetime(2025, 10, 9, 8, 58, 30, tzinfo=UTC)
DEEP = b'{"data": {"error": ' + b"[" * 900 + b"]" * 900 + b"}}"


def parse(payload: Any, race_id: str = RACE_ID) -> RaceEvent:
    return parse_race_event(encode(payload), race_id=race_id, received_at=NOW)


def parse_runner(**changes: Any) -> dict[str, Any]:
    """What the record of a runner with these changes carries."""
    payload = event_payload()
    payload["data"]["runners"][0].update(changes)
    return parse(payload).runners[0].carried()


def locate(payload: Any, path: str) -> tuple[Any, Any]:
    """The part of a payload that holds what the path names, and its key there."""
    *above, last = [int(part) if part.isdigit() else part for part in path.split(".")]
    for part in above:
        payload = payload[part]
    return payload, last


def finished_payload() -> Any:
    """A race with results and dividends."""
    payload = event_payload()
    payload["data"]["results"] = [{"position": place, "runner_number": place, "margin_length": 0} for place in (1, 2)]
    payload["data"]["dividends"] = [
        {"product_name": "Pool Win", "dividend": 2.5, "positions": [{"runner_number": 1, "position": 1}]}
    ]
    return payload


def refuse(body: bytes) -> str:
    with pytest.raises(WireError) as caught:
        parse_race_event(body, race_id=RACE_ID, received_at=NOW)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_an_open_race_carries_its_labels_and_its_text_as_sent() -> None:
    event = parse(event_payload())
    assert event.race_date_nz == date(2025, 10, 9)
    assert event.start_time_nz == time(22, 0)
    assert event.generated_at == datetime(2025, 10, 9, 8, 58, 0, 123456, tzinfo=UTC)
    assert event.received_at == NOW
    assert event.video_channels == ("Trackside1",)
    assert event.runners[0].runner_change == {"02/03/2024": "Gelding"}


def test_a_minimal_answer_leaves_every_optional_field_unset() -> None:
    race_id = make_id("minimal race")
    event = parse(minimal_event_payload(race_id), race_id)
    assert event.generated_at == NOW
    assert event.model_fields_set == {
        *("race_id", "meeting_id", "meeting_name", "name", "status", "category", "country", "start_time"),
        *("race_number", "generated_at", "received_at", "runners"),
    }
    assert event.tracker is None
    assert event.runners[0].model_fields_set == {"entrant_id", "runner_number", "name", "is_scratched"}


def test_absent_null_and_blank_stay_apart() -> None:
    assert parse_runner(jockey=None)["jockey"] is None
    assert "jockey" not in parse_runner(jockey="")
    assert "jockey" not in parse_runner(jockey=" \t")
    assert "barrier_position" not in parse_runner()
    assert parse_runner(is_emergency=False)["is_emergency"] is False
    assert "name" not in parse_runner(name="")
    event = parse(event_payload(weather="", description=" ", state=None, race_date_nz="", start_time_nz=None))
    assert not {"weather", "name", "race_date_nz"} & set(event.carried())
    assert event.carried()["state"] is None
    assert event.carried()["start_time_nz"] is None


def test_no_price_is_none_and_an_absent_price_is_unset() -> None:
    odds = parse_runner(odds={"fixed_win": 0, "fixed_place": 1, "pool_win": None})["odds"]
    assert odds.carried() == {"fixed_win": None, "fixed_place": Decimal(1), "pool_win": None}
    assert parse_runner(odds={})["odds"].carried() == {}
    assert "odds" not in parse_runner(odds=None)


def test_a_scratching_has_its_instant_and_its_deduction() -> None:
    runner = parse_runner(is_scratched=True, scratch_time=1_760_000_000, deduction={"win": 0.05, "place": 0})
    assert runner["scratched_at"] == datetime(2025, 10, 9, 8, 53, 20, tzinfo=UTC)
    assert (runner["deduction_win"], runner["deduction_place"]) == (Decimal("0.05"), Decimal(0))
    assert "scratched_at" not in parse_runner(is_scratched=True, scratch_time=0)
    assert "deduction_win" not in parse_runner(is_scratched=True, deduction={"place": 0.1})


def test_a_runner_that_is_back_has_neither_a_scratching_nor_a_deduction() -> None:
    runner = parse_runner(is_scratched=False, scratch_time=0)
    gone = ("scratched_at", "deduction_win", "deduction_place")
    assert {name: runner[name] for name in gone} == dict.fromkeys(gone)
    assert not set(gone) & set(parse_runner(is_scratched=False, scratch_time=None))


def test_a_silk_without_a_first_address_has_its_second() -> None:
    first, second = "https://silks.example/first.png", "https://silks.example/second.png"
    runner = parse_runner(
        silk_url_64x64="", alt_silk_url_64x64=second, silk_url_128x128=first, alt_silk_url_128x128=second
    )
    assert (runner["silk_url_64x64"], runner["silk_url_128x128"]) == (second, first)
    assert runner["alt_silk_url_128x128"] == second, "kept, in case the first is gone"
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


def test_the_flags_of_a_runner_count_and_the_favourite_object_does_not() -> None:
    payload = event_payload()
    payload["data"]["favourite"] = {**payload["data"]["runners"][1], "favourite": True}
    payload["data"]["runners"][2]["favourite"] = True
    assert [runner.favourite for runner in parse(payload).runners] == [False, False, True, False]


def test_lists_that_may_be_missing_are_none_and_empty_ones_are_empty() -> None:
    payload = event_payload()
    payload["data"].update(money_tracker=None, tote_pools=None, results=None, dividends=[])
    event = parse(payload)
    assert (event.tracker, event.tote_pools, event.results, event.dividends) == (None, None, None, ())


def test_an_abandoned_pool_two_doubles_and_a_pool_without_a_total_pass_as_they_are() -> None:
    payload = event_payload()
    payload["data"]["tote_pools"] = [
        {"product_type": "Place", "total": 1.17, "status": "ABANDONED"},
        {"product_type": "RunningDouble", "total": 10},
        {"product_type": "RunningDouble", "total": 20.5},
        {"status": "OPEN"},
    ]
    pools = parse(payload).tote_pools
    assert pools is not None
    assert [(pool.product_type, pool.total, pool.status) for pool in pools] == [
        ("Place", Decimal("1.17"), "ABANDONED"),
        ("RunningDouble", Decimal(10), None),
        ("RunningDouble", Decimal("20.5"), None),
        (None, None, "OPEN"),
    ]


@pytest.mark.parametrize("status", ["Open", "CLOSED", "Interim", "final", "Abandoned", "Photo Finish", ""])
def test_a_status_is_lower_case_text_known_or_not(status: str) -> None:
    assert parse(event_payload(status=status)).status == status.lower()


@pytest.mark.parametrize(
    ("path", "value", "complaint"),
    [
        ("data.race.event_id", make_id("other"), "is another race than the one asked for"),
        ("data.race.event_id", 7, "input should be a valid string"),
        ("data.race.meeting_id", "m" * 101, "string should have at most 100 characters"),
        ("data.race.meeting_id", "a\nb", "must not contain control characters"),
        ("data.race.status", None, "input should be a valid string"),
        ("data.race.type", "X", "input should be 'T', 'H' or 'G'"),
        ("data.race.country", "", "string should match pattern '^[A-Z]{2,3}$'"),
        ("data.race.advertised_start", 0, "input should be greater than or equal to 946684800"),
        ("data.race.advertised_start", "2025-07-17T00:50:00Z", "input should be a valid integer"),
        ("data.race.race_number", 2**31, "input should be less than or equal to 2147483647"),
        ("data.race.race_number", 1.5, "input should be a valid integer"),
        ("data.runners", None, "input should be a list"),
        ("data.race", 7, "input should be an object"),
        ("data.runners.1.entrant_id", make_id(RACE_ID, "runner", 1), "is there twice"),
        ("header.generated_time", "yesterday", "must be an ISO date and time"),
        ("header.generated_time", "2025-07-17T10:00:00", "must carry a time zone"),
        ("header.generated_time", "0001-01-01T00:00:00Z", "must be between the years 2000 and 2100"),
        ("header.generated_time", 1752713400, "input should be a valid string"),
    ],
)
def test_what_a_race_cannot_be_without_is_refused_with_its_path(path: str, value: Any, complaint: str) -> None:
    payload = event_payload()
    owner, last = locate(payload, path)
    owner[last] = value
    assert refuse(encode(payload)) == f"{path}: {complaint}"


@pytest.mark.parametrize("path", ["data", "data.race", "data.runners", "data.race.event_id"])
def test_a_missing_part_is_refused_with_its_path(path: str) -> None:
    payload = event_payload()
    owner, last = locate(payload, path)
    del owner[last]
    assert refuse(encode(payload)) == f"{path}: field required"


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("data.race.actual_start", 1),
        ("data.race.race_date_nz", "17/07/2025"),
        ("data.race.race_date_nz", "2025-02-30"),
        ("data.race.race_date_nz", "1999-12-31"),
        ("data.race.race_date_nz", "9999-01-01T00:00:00Z"),
        ("data.race.start_time_nz", "25:00:00 NZST"),
        ("data.race.description", "a\0b"),
        ("data.race.description", "a\ud800b"),
        ("data.race.meeting_name", None),
        ("data.race.prize_monies.total_value", "n/a"),
        ("data.race.video_channels.0", 7),
        ("data.runners.1.name", None),
        ("data.runners.3.odds.fixed_win", True),
        ("data.runners.3.odds.fixed_win", float("nan")),
        ("data.runners.3.odds.pool_win", float("inf")),
        ("data.runners.3.odds.pool_win", 100_000_000),
        ("data.runners.3.odds", "none"),
        ("data.runners.3.scratch_time", 10**18),
        ("data.runners.3.is_scratched", "false"),
        ("data.tote_pools.0.total", 1e13),
        ("data.tote_pools.0.total", "n/a"),
        ("data.tote_pools.0.total", 1.794449452290979e-296),
        ("data.runners.3.odds.fixed_win", 3.6e-73),
        ("data.tote_pools.0", "closed"),
        ("data.money_tracker", "none"),
        ("data.results.0.margin_length", "a nose"),
        ("data.dividends.0.dividend", "n/a"),
        ("data.dividends.0.positions.0", None),
    ],
)
def test_any_other_unreadable_value_is_dropped_with_its_path_and_costs_nothing_else(path: str, value: Any) -> None:
    payload, without = finished_payload(), finished_payload()
    owner, last = locate(payload, path)
    owner[last] = value
    owner, last = locate(without, path)
    del owner[last]
    event = parse(payload)
    assert event.warnings == (f"dropped={path}",)
    assert event.model_copy(update={"warnings": ()}).carried() == {"warnings": (), **parse(without).carried()}


@pytest.mark.parametrize(
    ("path", "gone"),
    [
        ("data.results.1.position", "data.results.1"),
        ("data.runners.1.entrant_id", "data.runners.1"),
        ("data.runners.1.runner_number", "data.runners.1"),
    ],
)
def test_a_row_without_what_it_cannot_be_without_costs_itself(path: str, gone: str) -> None:
    payload, without = finished_payload(), finished_payload()
    owner, last = locate(payload, path)
    owner[last] = None
    owner, last = locate(without, gone)
    del owner[last]
    event, expected = parse(payload), parse(without)
    assert event.warnings == (f"dropped={path}", f"dropped={gone}")
    assert (event.runners, event.results) == (expected.runners, expected.results)


def test_several_bad_rows_are_named_by_the_places_they_had() -> None:
    payload = event_payload()
    for number in (0, 2, 3):
        payload["data"]["runners"][number]["runner_number"] = -1
    payload["data"]["runners"][1]["barrier"] = "wide"
    event = parse(payload)
    assert [runner.runner_number for runner in event.runners] == [2]
    assert event.has_unreadable_runner
    assert set(event.warnings) == {
        "dropped=data.runners.1.barrier",
        *(f"dropped=data.runners.{number}{field}" for number in (0, 2, 3) for field in ("", ".runner_number")),
    }


def test_a_number_written_as_text_is_that_number() -> None:
    payload = event_payload(race_number="7", advertised_start=str(OPEN_START), prize_monies={"total_value": "17000.50"})
    payload["data"]["runners"][3]["odds"]["fixed_win"] = " 4.4 "
    event = parse(payload)
    assert not event.has_unreadable_runner
    assert (event.race_number, event.total_prize_money) == (7, Decimal("17000.5"))
    assert event.start_time.timestamp() == OPEN_START
    assert event.runners[3].odds.fixed_win == Decimal("4.4")
    assert event.warnings == ()


def test_an_unreadable_flag_of_a_scratching_is_taken_from_its_time() -> None:
    assert parse_runner(is_scratched="yes", scratch_time=OPEN_START)["is_scratched"] is True
    assert parse_runner(is_scratched="no", scratch_time=0)["is_scratched"] is False


@pytest.mark.parametrize("share", [None, "n/a", 1001, 600])
def test_an_entrant_with_an_unreadable_tracker_row_has_no_share_and_the_others_have_theirs(share: Any) -> None:
    payload = event_payload()
    rows = payload["data"]["money_tracker"]["entrants"]
    rows += [{**rows[0], "bet_percentage": share}, {**rows[0], "bet_percentage": 600}]
    event = parse(payload)
    assert [row.entrant_id for row in event.tracker or ()] == [row["entrant_id"] for row in rows[1:4]]
    assert f"unclear_share={rows[0]['entrant_id']}" in event.warnings


def test_runners_that_share_a_number_are_kept_apart_by_their_ids() -> None:
    payload = event_payload()
    payload["data"]["runners"][1]["runner_number"] = 1
    event = parse(payload)
    assert [runner.runner_number for runner in event.runners] == [1, 1, 3, 4]
    assert event.warnings == ("repeated_number=1",)


@pytest.mark.parametrize("part", ["data", "header"])
def test_an_error_beside_a_complete_race_is_a_warning_and_instead_of_one_a_failure_that_may_pass(part: str) -> None:
    payload = event_payload()
    payload[part]["error"] = "Failed fetching\ndata from PK"
    assert parse(payload).warnings == ("api_error: Failed fetching data from PK",)
    instead: tuple[dict[str, object], ...] = ({"race": None}, {"runners": []})
    for broken in instead:
        body = encode({**payload, "data": payload["data"] | broken})
        with pytest.raises(WireError, match=r"^the API says: Failed fetching data from PK$") as caught:
            parse_race_event(body, race_id=RACE_ID, received_at=NOW)
        assert caught.value.retryable


def test_many_dropped_fields_are_counted() -> None:
    payload = event_payload(runners=24)
    for runner in payload["data"]["runners"]:
        runner["jockey"] = 7
    warnings = parse(payload).warnings
    assert (len(warnings), warnings[-1]) == (21, "4 more")


def test_a_key_that_is_there_twice_is_dropped_unless_the_race_depends_on_it() -> None:
    body = encode(event_payload())
    event = parse_race_event(
        body.replace(b'"fixed_win": 5,', b'"fixed_win": 5, "fixed_win": 50,', 2), race_id=RACE_ID, received_at=NOW
    )
    assert [runner.odds.fixed_win for runner in event.runners] == [None, None, 5, 5]
    assert "fixed_win" not in event.runners[0].odds.carried()
    assert event.warnings == ("dropped=data.runners.1.odds.fixed_win", "dropped=data.runners.0.odds.fixed_win")
    unread = body.replace(b'"data": {', b'"data": {"error": "", "error": "", "live_bets": 1, "live_bets": 2, ', 1)
    assert parse_race_event(unread, race_id=RACE_ID, received_at=NOW).warnings == ()
    twice = body.replace(b'"status": "Open"', b'"status": "Open", "status": "Final"', 1)
    assert refuse(twice) == "data.race.status: the key is there twice"


@pytest.mark.parametrize(
    "body",
    [b"", b"null", b"[]", b'"text"', b"<html></html>", b'{"data"', b"[" * 100_000, b"\xff\xfe", b"9" * 10_000, DEEP],
    ids=lambda body: repr(body[:8]),
)
def test_what_is_no_answer_at_all_is_refused(body: bytes) -> None:
    assert refuse(body)


def test_a_hostile_key_cannot_break_the_line() -> None:
    payload = event_payload()
    payload["data"]["runners"][0]["runner_change"] = {"a\n\x1b[0m" + "k" * 1000: 1}
    (message,) = parse(payload).warnings
    assert "\x1b" not in message
    assert len(message) < 300


def test_unread_parts_may_hold_anything() -> None:
    payload = event_payload()
    payload["data"]["race"]["form_guide"] = {"deep": [float("nan"), "\0", 10**400]}
    payload["data"]["live_bets"] = "?"
    payload["data"]["derivatives"] = [{"entrant_id": "elsewhere", "runner_number": "not even valid"}]
    assert len(parse(payload).runners) == 4
